"""The way of a token back to where it came from: event, FHIR resource, mapping, source row."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ehrseq.core.dataset import verify
from ehrseq.core.errors import ConfigError, SchemaError
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import read_manifest

_LONGEST = 300  # characters of a text inside a resource that a screen shows
_CHAIN = (("tokens", "timeline"), ("timeline", "fhir"))


@dataclass(frozen=True)
class Origin:
    """Where a token came from, station by station. `row` counts the data rows of `file` from 1."""

    subject_id: int
    token: int
    code: str
    event: dict[str, Any]
    resource: dict[str, Any]
    mapping: str
    file: str
    row: int

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The stations, one a line, then the resource."""
        event = self.event
        steps = [
            ("token", f"{self.token} of patient {self.subject_id}: {self.code}"),
            (
                "event",
                "  ".join(filter(None, [str(event["time"] or "static"), event["code"], value_of(event)])),
            ),
            ("resource", f"{event['resource_type']}/{event['resource_id']}"),
            ("mapping", f"{self.mapping}.yaml"),
            ("source row", f"{self.file}, data row {self.row:,}"),
        ]
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for name, text in steps:
            table.add_row(name, Text(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"))
        shown = json.dumps(_shortened(self.resource), indent=1, ensure_ascii=False)
        yield Group(table, Text(), Syntax(shown, "json", background_color="default", word_wrap=True))


def value_of(event: dict[str, Any]) -> str:
    """An event's value for a reader: number with comparator and unit, or its text in one line.

    >>> value_of({"numeric_value": 0.5, "text_value": "<", "unit": "mg/dL"})
    '<0.5 mg/dL'
    """
    text = " ".join((event["text_value"] or "").split())
    if event["numeric_value"] is None:
        return text
    comparator = text if text in ("<", "<=", ">", ">=") else ""
    return f"{comparator}{float(event['numeric_value']):.6g} {event['unit'] or ''}".strip()


def origin(run: Path, subject: int | None, token: int) -> Origin:
    """Follow a token of a subject (None: the first) back to its event, FHIR resource and source row.

    `run` is the folder of a whole run; `token` counts the subject's tokens from 0. Raises: ConfigError if the
    subject has no such token; SchemaError if a dataset is damaged, or they were not made from one another.
    """
    from ehrseq.fhir.json_columns import JSON
    from ehrseq.fhir.json_text import json_text
    from ehrseq.tokens.store import TokenStore

    check_lineage(run)
    store = TokenStore.open(run / "tokens")
    index = subject_index(store, run / "tokens", subject)
    where = store.rows(index)
    if not 0 <= token < where.stop - where.start:
        raise ConfigError(f"--token {token}: the subject has tokens 0 to {where.stop - where.start - 1}.")
    position = where.start + token
    bucket = f"{int(store.shard[index]):04d}.parquet"
    with readable(run / "timeline"):
        row = int(store.event[position])
        event = pl.scan_parquet(run / "timeline/data" / bucket).slice(row, 1).collect().row(0, named=True)
    with readable(run / "fhir"):
        resources = pl.scan_parquet(run / "fhir" / str(event["resource_type"]) / bucket)
        found = resources.filter(pl.col("id") == event["resource_id"]).collect()
    if found.height != 1 or event["subject_id"] != int(store.subject_id[index]):
        for name in ("fhir", "timeline", "tokens"):
            verify(run / name)
        raise SchemaError(f"{run}: tokens, timeline and fhir do not belong together. Run `ehrseq run` again.")
    code = store.vocabulary["codes"][store.code[position]]
    mapping, file, line = found.select("_mapping", "_file", "_row").row(0)
    kind = str(event["resource_type"])
    imported = JSON in found.columns
    text = found[JSON][0] if imported else json_text(found.select(pl.exclude("^_.*$")), kind)[0]
    resource = json.loads(text)
    return Origin(int(store.subject_id[index]), token, code, event, resource, mapping, file, line)


def check_lineage(run: Path) -> None:
    """Check that the tokens of a run were made from its timeline, and this from its FHIR store.

    Raises: SchemaError naming the two that do not fit.
    """
    for made, source in _CHAIN:
        manifest = read_manifest(run / made, made)
        read_manifest(run / source, source)
        known = {item.name: item.sha256 for item in manifest.inputs}
        if known.get(source) != sha256_file(run / source / "manifest.json"):
            raise SchemaError(f"{run / made}: was not made from {run / source} as it stands. Make it again.")


def subject_index(store: Any, tokens: Path, subject: int | None) -> int:
    """Index of a subject in a token store; None is the one with the smallest id.

    Raises: ConfigError if it has no such subject; SchemaError if it has none at all.
    """
    if store.subjects == 0:
        raise SchemaError(f"{tokens}: holds no subjects.")
    found = int(store.subject_id[:].argmin()) if subject is None else int(store.index_of([subject])[0])
    if found < 0:
        raise ConfigError(f"{tokens}: has no subject {subject}. Without --subject the first one is shown.")
    return found


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn a missing or damaged file of a dataset into a SchemaError that names it."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        verify(folder)
        raise SchemaError(f"{folder}: cannot be read ({type(error).__name__}). Make it again.") from error


def _shortened(value: Any) -> Any:
    """The same JSON with long texts (notes, attachments) cut, and their length said."""
    match value:
        case dict():
            return {key: _shortened(item) for key, item in value.items()}
        case list():
            return [_shortened(item) for item in value]
        case str() if len(value) > _LONGEST:
            return f"{value[:_LONGEST]} … ({len(value):,} characters)"
    return value
