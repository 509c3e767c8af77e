"""What `ehrseq models` shows: registries, one version, and what differs between two."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.deploy.fitting import MODEL
from ehrseq.deploy.registry import Registry
from ehrseq.deploy.version import ModelVersion

_UNTOLD = {"manifest.json", "run.json", "card.md", "card.json"}  # they differ because the others do


@dataclass(frozen=True)
class ModelsPage:
    """Registries with their versions, aliases and latest changes."""

    models: Path
    registries: list[Registry]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"models": {registry.name: registry.to_json() for registry in self.registries}}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line a version; below, the last change of each alias."""
        if not self.registries:
            yield Text(f"{self.models}: no models yet. Register a run's: ehrseq models add RUN --name NAME")
        for registry in self.registries:
            yield Text(registry.name, style="bold")
            for version in registry.versions:
                names = [alias for alias, at in registry.aliases.items() if at == version]
                yield Text(f"  {version}  {', '.join(names)}")
            for entry in registry.history[-3:]:
                before = f" (was {entry['from']})" if entry["from"] else ""
                yield Text(
                    f"  {entry['at']}  {entry['alias']} = {entry['version']}{before}: {entry['why']}",
                    style="dim",
                )


@dataclass(frozen=True)
class VersionPage:
    """One version whose files were checked."""

    version: ModelVersion
    registry: Registry

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        version = self.version
        return {
            "out": str(version.folder), "name": version.name, "version": version.version, "sha256": version.sha256,
            "aliases": [alias for alias, at in self.registry.aliases.items() if at == version.version],
            "tasks": list(version.tasks), "files": len(version.manifest.shards),
            "results": json.loads((version.folder / "metrics.json").read_text())["results"],
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Name, files, tasks with their AUROC, what it was made of."""
        told, version = self.summary(), self.version
        names = f" ({', '.join(told['aliases'])})" if told["aliases"] else ""
        yield Text(f"{version.label}{names}", style="bold")
        yield Text(
            f"{version.folder}: {told['files']} files, all as they were written (manifest {version.sha256[:12]})"
        )
        table = Table("task", "AUROC", "95 % interval", "n", box=None, pad_edge=False, header_style="bold")
        for row in told["results"]:
            if row["metric"] == "auroc" and row["model"] == MODEL:
                interval = "none" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
                table.add_row(row["task"], f"{row['value']:.3f}", interval, f"{row['n']:,}")
        yield table
        for stage, one in version.lineage.items():
            yield Text(f"{stage:<32} {one['sha256'][:12]}", style="dim")
        yield Text(f"Model card: {version.folder / 'card.md'}")


@dataclass(frozen=True)
class Difference:
    """What differs: by file and key, the left and the right value; equal files are only counted."""

    left: str
    right: str
    changed: dict[str, tuple[Any, Any]]
    metrics: list[dict[str, Any]]
    equal: int

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "left": self.left, "right": self.right, "equal_files": self.equal, "metrics": self.metrics,
            "changed": {key: list(pair) for key, pair in self.changed.items()},
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What changed, then the metrics side by side."""
        yield Text(f"{self.left} -> {self.right}", style="bold")
        table = Table("what", self.left, self.right, box=None, pad_edge=False, header_style="bold")
        for key, (left, right) in self.changed.items():
            table.add_row(key, _short(left), _short(right))
        yield table
        scores = Table("task", "metric", self.left, self.right, box=None, pad_edge=False, header_style="bold")
        for row in self.metrics:
            scores.add_row(row["task"], row["metric"], _short(row["left"]), _short(row["right"]))
        yield scores
        yield Text(f"{self.equal} files are equal.", style="dim")


def difference(left: ModelVersion, right: ModelVersion) -> Difference:
    """Compare two versions: settings and lineage key by key, other files by their hash, metrics side by side."""
    changed: dict[str, tuple[Any, Any]] = {}
    for name, where in (
        ("model.json", "model/model.json"),
        ("lineage", "lineage.json"),
        ("environment", "environment.json"),
    ):
        one, other = (
            _flat(json.loads((version.folder / where).read_text()), name) for version in (left, right)
        )
        for key in sorted(set(one) | set(other)):
            if one.get(key) != other.get(key) and ".inputs" not in key and ".chosen" not in key:
                changed[key] = (one.get(key), other.get(key))
    hashes = [{shard.path: shard.sha256 for shard in version.manifest.shards} for version in (left, right)]
    equal = sum(hashes[0].get(path) == sha for path, sha in hashes[1].items())
    for path in sorted((set(hashes[0]) | set(hashes[1])) - _UNTOLD):
        if path.startswith(("tasks/", "views/")) and hashes[0].get(path) != hashes[1].get(path):
            changed[path] = (hashes[0].get(path), hashes[1].get(path))
    return Difference(left.label, right.label, changed, _metrics(left, right), equal)


def _metrics(left: ModelVersion, right: ModelVersion) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for side, version in (("left", left), ("right", right)):
        for row in json.loads((version.folder / "metrics.json").read_text())["results"]:
            if row["metric"] in ("auroc", "brier") and row["model"] == MODEL:
                key = (row["task"], row["metric"])
                empty = {"task": row["task"], "metric": row["metric"], "left": None, "right": None}
                found.setdefault(key, empty)[side] = row["value"]
    return list(found.values())


def _flat(value: Any, prefix: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            key: one for name, part in value.items() for key, one in _flat(part, f"{prefix}.{name}").items()
        }
    return {prefix: value}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:40]} …"
