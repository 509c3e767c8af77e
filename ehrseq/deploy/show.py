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
from ehrseq.deploy.trace import Origin, origin, subject_index

__all__ = ["DatasetPage", "Origin", "PatientPage", "TokensPage", "origin", "show"]

_US_A_YEAR = 31_556_952e6
_MOST = 8


def show(
    data: Path, *, subject: int | None = None, token: int | None = None, rows: int = 40
) -> "DatasetPage | PatientPage | TokensPage | Origin":
    """Show what stands at `data`: a run's folder, a FHIR store, a timeline, a token store or any dataset.

    A timeline (or a run) shows the patient `subject`, default the first. With `token`, a run's folder shows
    where that token of the patient came from: event, FHIR resource, file and row.
    Raises: SchemaError if `data` is none of these; ConfigError if the subject or token is not there.
    """
    data = Path(data)
    if rows < 1:
        raise ConfigError(f"--rows is {rows}, expected 1 or more.")
    if not (data / "manifest.json").is_file() and (data / "timeline" / "manifest.json").is_file():
        if token is not None:
            return origin(data, subject, token)
        return patient_page(data / "timeline", subject, rows, run=data)
    manifest = read_manifest(data)
    if token is not None:
        raise ConfigError(
            f"{data}: --token needs the folder of a whole run, which holds tokens, timeline and fhir."
        )
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


@dataclass(frozen=True)
class TokensPage:
    """The tokens of a subject as the model sees them: one row a token, `count` in all."""

    subject: int
    count: int
    tokens: list[dict[str, Any]]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"subject_id": self.subject, "count": self.count, "tokens": self.tokens}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line a token."""
        yield Text(f"Patient {self.subject}: {self.count:,} tokens", style="bold")
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("token", "age", "bin", "value"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        table.add_column("code", overflow="fold")
        for item in self.tokens:
            age = "" if item["age_years"] is None else f"{item['age_years']:.2f} y"
            value = "" if item["value"] is None else f"{item['value']:+.2f}"
            table.add_row(
                str(item["token"]), age, str(item["bin"] or ""), value, Text(item["unit"]), Text(item["code"])
            )
        yield table
        if left := self.count - len(self.tokens):
            yield Text(f"… {left:,} more tokens (--rows {self.count} shows all)", style="dim")


def tokens_page(tokens: Path, subject: int | None, rows: int) -> TokensPage:
    """The first `rows` tokens of a subject (None: the first). Raises: TokenError, ConfigError."""
    from ehrseq.tokens.store import UNKNOWN_BIRTH, TokenStore

    store = TokenStore.open(tokens)
    index = subject_index(store, tokens, subject)
    where = store.rows(index)
    birth = int(store.birth[index])
    found = []
    for at in range(where.start, min(where.stop, where.start + rows)):
        value = float(store.value[at])
        found.append(
            {
                "token": at - where.start,
                "age_years": None if birth == UNKNOWN_BIRTH else (int(store.time[at]) - birth) / _US_A_YEAR,
                "code": store.vocabulary["codes"][store.code[at]],
                "bin": int(store.bin[at]),
                "value": None if value != value else value,
                "unit": store.vocabulary["units"][store.unit[at]],
            }
        )
    return TokensPage(int(store.subject_id[index]), where.stop - where.start, found)
