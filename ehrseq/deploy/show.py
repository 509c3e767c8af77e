"""`ehrseq show`: a dataset at a glance, one patient's timeline, and the way of a token back to its source row."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import ConfigError, SchemaError
from ehrseq.core.manifest import Manifest, read_manifest, read_run


@dataclass(frozen=True)
class Shown:
    """Something to look at in a terminal."""

    parts: list[Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The parts, one below the other."""
        yield Group(*self.parts)


def show(data: Path, *, subject: int | None = None, token: int | None = None, rows: int = 40) -> Shown:
    """Show what stands at `data`: a run's folder, a FHIR store, a timeline, a token store or any dataset.

    A timeline (or a run) shows the patient `subject`, default the first. With `token`, a run's folder shows
    where that token of the patient came from: event, FHIR resource, file and row.
    Raises: SchemaError if `data` is none of these; ConfigError if the subject or token is not there.
    """
    data = Path(data)
    if not (data / "manifest.json").is_file() and (data / "timeline" / "manifest.json").is_file():
        if token is not None:
            return Shown(_trace(data, subject, token))
        return Shown(_patient(data / "timeline", subject, rows))
    manifest = read_manifest(data)
    if token is not None:
        raise ConfigError(
            f"{data}: --token needs the folder of a whole run, which holds tokens, timeline and fhir."
        )
    match manifest.kind:
        case "timeline":
            return Shown(_patient(data, subject, rows))
        case "tokens":
            return Shown(_tokens(data, subject, rows))
        case _:
            return Shown(_dataset(data, manifest))


def _dataset(folder: Path, manifest: Manifest) -> list[Any]:
    """Kind, shards, books."""
    from ehrseq.console import accounting_table

    run = read_run(folder)
    size = sum(shard.bytes for shard in manifest.shards)
    head = Text.assemble(
        (str(folder), "bold"), f"  {manifest.kind}, {len(manifest.shards)} files, {size / 2**20:.1f} MiB, "
        f"made by ehrseq {manifest.code_version} in {run.get('seconds', 0):.1f} s",
    )  # fmt: skip
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column("made")
    made.add_column("count", justify="right")
    for name, count in manifest.made.items():
        made.add_row(name, f"{count:,}")
    return [head, Text(), made, Text(), accounting_table(manifest.sources)]


def _patient(timeline: Path, subject: int | None, rows: int) -> list[Any]:
    """The events of one patient, a heading for each day."""
    events, number = _events(timeline, subject)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("time", no_wrap=True)
    table.add_column("code", ratio=3, overflow="fold")
    table.add_column("value", ratio=2, overflow="ellipsis", no_wrap=True)
    table.add_column("from", style="dim", ratio=2, overflow="ellipsis", no_wrap=True)
    day = None
    for event in events.head(rows).iter_rows(named=True):
        time = event["time"]
        if time is not None and time.date() != day:
            day = time.date()
            table.add_row(Text(str(day), style="bold"), "", "", "")
        clock = "static" if time is None else f"  {time:%H:%M}"
        source = f"{event['resource_type'] or ''}/{event['resource_id'] or ''}"
        table.add_row(clock, Text(event["code"]), Text(_value(event)), Text(source))
    left = events.height - min(rows, events.height)
    more = [Text(f"… {left:,} more events (--rows)", style="dim")] if left else []
    days = events["time"].drop_nulls().dt.to_string("%Y-%m-%d")
    over = f", {days[0]} to {days[-1]}" if len(days) else ""
    return [Text(f"Patient {number}: {events.height:,} events{over}", style="bold"), Text(), table, *more]


def _value(event: dict[str, Any]) -> str:
    if event["numeric_value"] is not None:
        return f"{event['numeric_value']:g} {event['unit'] or ''}".strip()
    return " ".join((event["text_value"] or "").split())


def _events(timeline: Path, subject: int | None) -> tuple[pl.DataFrame, int]:
    """Events of a subject (default: the first) in timeline order."""
    read_manifest(timeline, "timeline")
    events = pl.scan_parquet(timeline / "data/*.parquet")
    if subject is None:
        first = events.select(pl.col("subject_id").min()).collect().item()
        if first is None:
            raise SchemaError(f"{timeline}: holds no events.")
        subject = int(first)
    found = events.filter(pl.col("subject_id") == subject).collect()
    if found.is_empty():
        raise ConfigError(f"{timeline}: has no subject {subject}. Without --subject the first one is shown.")
    return found, subject


def _tokens(tokens: Path, subject: int | None, rows: int) -> list[Any]:
    """The tokens of a subject as the model sees them."""
    from ehrseq.tokens.store import TokenStore

    store = TokenStore.open(tokens)
    index = _subject_index(store, tokens, subject)
    where = store.rows(index)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("position", "age", "code", "bin", "value", "unit"):
        table.add_column(name, justify="right" if name not in ("code", "unit") else "left")
    birth = int(store.birth[index])
    for position in range(where.start, min(where.stop, where.start + rows)):
        code, unit = (
            store.vocabulary["codes"][store.code[position]],
            store.vocabulary["units"][store.unit[position]],
        )
        age = "" if birth < -(2**62) else f"{(int(store.time[position]) - birth) / 31_556_952e6:.2f} y"
        value = float(store.value[position])
        number = "" if value != value else f"{value:+.2f}"
        level = int(store.bin[position])
        table.add_row(
            f"{position - where.start}", age, Text(code), f"{level or ''}", number, Text(unit if unit else "")
        )
    count = where.stop - where.start
    return [Text(f"Patient {int(store.subject_id[index])}: {count:,} tokens", style="bold"), Text(), table]


def _subject_index(store: Any, tokens: Path, subject: int | None) -> int:
    if subject is None:
        return 0
    found = (store.subject_id == subject).nonzero()[0]
    if len(found) == 0:
        raise ConfigError(f"{tokens}: has no subject {subject}. Without --subject the first one is shown.")
    return int(found[0])


@dataclass(frozen=True)
class Origin:
    """Where a token came from, station by station."""

    subject_id: int
    code: str
    event: dict[str, Any]
    resource: dict[str, Any]
    mapping: str
    file: str
    row: int


def origin(run: Path, subject: int | None, token: int) -> Origin:
    """Follow a token of a subject back to its event, FHIR resource and source row.

    Raises: ConfigError if the subject has no such token; SchemaError if the datasets do not belong together.
    """
    from ehrseq.fhir.json_text import json_text
    from ehrseq.tokens.store import TokenStore

    store = TokenStore.open(run / "tokens")
    index = _subject_index(store, run / "tokens", subject)
    where = store.rows(index)
    if not 0 <= token < where.stop - where.start:
        raise ConfigError(f"--token {token}: the subject has tokens 0 to {where.stop - where.start - 1}.")
    position = where.start + token
    shard = run / f"timeline/data/{int(store.shard[index]):04d}.parquet"
    event = pl.read_parquet(shard).row(int(store.event[position]), named=True)
    resources = pl.scan_parquet(run / "fhir" / str(event["resource_type"]) / "*.parquet")
    found = resources.filter(pl.col("id") == event["resource_id"]).collect()
    if found.height != 1 or event["subject_id"] != int(store.subject_id[index]):
        raise SchemaError(f"{run}: tokens, timeline and fhir do not belong together. Run `ehrseq run` again.")
    code = store.vocabulary["codes"][store.code[position]]
    mapping, file, row = found.select("_mapping", "_file", "_row").row(0)
    resource = json.loads(json_text(found.select(pl.exclude("^_.*$")), str(event["resource_type"]))[0])
    return Origin(int(store.subject_id[index]), code, event, resource, mapping, file, row)


def _trace(run: Path, subject: int | None, token: int) -> list[Any]:
    found = origin(run, subject, token)
    event = {name: value for name, value in found.event.items() if value is not None}
    steps = [
        ("token", f"{token} of patient {found.subject_id}: {found.code}"),
        ("event", f"{event.get('time', 'static')}  {event['code']}  {_value(found.event)}"),
        ("resource", f"{event['resource_type']}/{event['resource_id']}"),
        ("mapping", found.mapping),
        ("source row", f"{found.file}, data row {found.row}"),
    ]
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, text in steps:
        table.add_row(Text(name, style="bold"), Text(text))
    text = json.dumps(found.resource, indent=1, ensure_ascii=False)
    return [table, Text(), Syntax(text, "json", background_color="default")]
