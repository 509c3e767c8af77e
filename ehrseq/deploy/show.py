"""`ehrseq show`: a dataset at a glance, one patient's timeline, and the way of a token back to its source row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import ConfigError
from ehrseq.core.manifest import Manifest, read_manifest, read_run
from ehrseq.deploy.patient import PatientPage, patient_page
from ehrseq.deploy.tokens_page import TokensPage, tokens_page
from ehrseq.deploy.trace import Origin, origin

__all__ = ["DatasetPage", "Origin", "PatientPage", "TokensPage", "origin", "show"]

_MOST = 8


def show(
    data: Path,
    *,
    subject: int | None = None,
    token: int | None = None,
    tokens: bool = False,
    rows: int = 40,
) -> "DatasetPage | PatientPage | TokensPage | Origin":
    """Show what stands at `data`: a run's folder, a FHIR store, a timeline, a token store or any dataset.

    A timeline (or a run) shows the patient `subject`, default the first. With `token`, a run's folder shows
    where that token of the patient came from: event, FHIR resource, file and row; with `tokens`, what the model sees
    of the patient, as the token store by itself does.
    Raises: SchemaError if `data` is none of these; ConfigError if the subject or token is not there.
    """
    data = Path(data)
    if rows < 1:
        raise ConfigError(f"--rows is {rows}, expected 1 or more.")
    if not (data / "manifest.json").is_file() and (data / "timeline" / "manifest.json").is_file():
        if token is not None:
            return origin(data, subject, token)
        if tokens:
            return tokens_page(data / "tokens", subject, rows)
        return patient_page(data / "timeline", subject, rows, run=data)
    manifest = read_manifest(data)
    if token is not None:
        raise ConfigError(
            f"{data}: --token needs the folder of a whole run, which holds tokens, timeline and fhir."
        )
    if tokens and manifest.kind != "tokens":
        raise ConfigError(f"{data}: --tokens needs a token store, or the folder of a whole run.")
    match manifest.kind:
        case "timeline":
            return patient_page(data, subject, rows)
        case "tokens":
            return tokens_page(data, subject, rows)
    if subject is not None:
        raise ConfigError(
            f"{data}: holds a dataset of kind {manifest.kind!r}; --subject needs a timeline, a token store or the "
            "folder of a run."
        )
    return DatasetPage(data, manifest, read_run(data))


@dataclass(frozen=True)
class DatasetPage:
    """A dataset: what it is, what it cost, what was made from what, and its books."""

    folder: Path
    manifest: Manifest
    run: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        manifest = self.manifest
        return {
            "out": str(self.folder), "kind": manifest.kind, "rows": manifest.rows, "made": manifest.made,
            "files": [shard.path for shard in manifest.shards], "notes": manifest.notes,
            **{key: self.run.get(key) for key in ("seconds", "cpu_seconds", "peak_rss_bytes")},
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Kind and size, inputs, what was made (or its files), the books."""
        from ehrseq.console import accounting_table

        manifest = self.manifest
        files = f"{len(manifest.shards)} file{'' if len(manifest.shards) == 1 else 's'}"
        size = _size(sum(shard.bytes for shard in manifest.shards))
        yield Text(str(self.folder), style="bold")
        yield Text(
            f"{manifest.kind}, {files}, {size}, made by ehrseq {manifest.code_version} in "
            f"{self.run.get('seconds', 0):.1f} s"
        )
        if len(manifest.inputs) > _MOST:
            yield Text(f"from {len(manifest.inputs)} inputs")
        elif manifest.inputs:
            yield Text("from " + ", ".join(f"{item.name} {item.sha256[:12]}" for item in manifest.inputs))
        for name, value in manifest.notes.items():
            if isinstance(value, int | float | str):
                yield Text(f"{name.replace('_', ' ')}: {' '.join(str(value).split())}")
        yield Text()
        if manifest.made:
            yield _counts("made", manifest.made)
        else:
            yield _counts("rows of", {shard.path: shard.rows for shard in manifest.shards[:_MOST]})
        if manifest.sources:
            yield Text()
            yield accounting_table(manifest.sources)


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"


def _counts(title: str, counts: dict[str, int]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    table.add_column("count", justify="right")
    for name, count in counts.items():
        table.add_row(name, f"{count:,}")
    return table
