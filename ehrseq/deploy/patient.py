"""One patient's timeline as a page: a heading for each day with age and stay, a line for each event."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import ConfigError, SchemaError
from ehrseq.core.manifest import read_manifest
from ehrseq.deploy.trace import check_lineage, readable, subject_index, value_of

_ROW = "_row"
_WIDE = 110  # columns of a terminal from which on the codes themselves are shown
_PLAIN = {"MEDS_BIRTH": "birth", "MEDS_DEATH": "death"}


@dataclass(frozen=True)
class Stay:
    """An Encounter that is no part of another one. `end` is None while it lasts, or if it is not recorded."""

    id: str
    name: str
    start: datetime
    end: datetime | None

    def day(self, day: date) -> int | None:
        """The day of the stay, from 1; None if `day` is outside."""
        if day < self.start.date() or (self.end and day > self.end.date()):
            return None
        return (day - self.start.date()).days + 1


@dataclass(frozen=True)
class PatientPage:
    """A subject's events in timeline order. `names`: code -> description; `tokens`: event's row -> first token."""

    subject: int
    events: pl.DataFrame
    names: Mapping[str, str]
    tokens: Mapping[int, int]
    rows: int
    where: Path

    def summary(self) -> dict[str, Any]:
        """For `--json`: the first `rows` events as they stand in the timeline."""
        shown = self.events.head(self.rows)
        events: list[dict[str, Any]] = shown.select(pl.exclude(_ROW, "^span_.*$")).to_dicts()
        for event, row in zip(events, shown[_ROW], strict=True):
            event["description"] = self.names.get(event["code"])
            if self.tokens:
                event["token"] = self.tokens.get(row)
        return {"subject_id": self.subject, "count": self.events.height, "events": events}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Who, then day by day, then what was left out and how to see more."""
        yield Text(self._who(), style="bold")
        stays = _stays(self.events, self.names)
        birth = self._time_of("MEDS_BIRTH")
        shown = self.events.head(self.rows).to_dicts()
        for day, group in groupby(shown, key=lambda event: event["time"] and event["time"].date()):
            yield Text()
            yield Text(_heading(day, birth, stays), style="bold cyan")
            yield self._table(list(group), wide=options.max_width >= _WIDE)
        yield Text()
        if left := self.events.height - len(shown):
            yield Text(f"… {left:,} more events (--rows {self.events.height} shows all)", style="dim")
        if self.tokens:
            yield Text(
                f"A token's source row: ehrseq show {self.where} --subject {self.subject} --token N",
                style="dim", no_wrap=True, overflow="fold",
            )  # fmt: skip

    def _who(self) -> str:
        times = self.events["time"].drop_nulls()
        born, died = self._time_of("MEDS_BIRTH"), self._time_of("MEDS_DEATH")
        known = times.filter(times != born) if born else times
        parts = [f"Patient {self.subject}", f"{self.events.height:,} events"]
        if len(known):
            parts.append(f"{known[0]:%Y-%m-%d} to {known[-1]:%Y-%m-%d}")
        if born:
            parts.append(f"born {born:%Y-%m-%d}")
        if died:
            parts.append(f"died {died:%Y-%m-%d}" + (f" at {_age(born, died.date())}" if born else ""))
        return ", ".join(parts)

    def _time_of(self, code: str) -> datetime | None:
        times: list[datetime | None] = self.events.filter(pl.col("code") == code)["time"].to_list()
        return times[0] if times else None

    def _table(self, events: list[dict[str, Any]], *, wide: bool) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False, expand=True)
        table.add_column(width=5, no_wrap=True)
        if self.tokens:
            table.add_column(width=6, no_wrap=True, justify="right", style="dim")
        table.add_column(width=20, no_wrap=True, overflow="ellipsis", style="dim")
        table.add_column(ratio=5, overflow="fold")
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        table.add_column(width=2, no_wrap=True, style="bold yellow")
        if wide:
            table.add_column(ratio=4, no_wrap=True, overflow="ellipsis", style="dim")
        clock = None
        for event, flags in _with_flags(events):
            time = event["time"] and f"{event['time']:%H:%M}"
            cells: list[Any] = [time if time != clock else ""]
            if self.tokens:
                token = self.tokens.get(event[_ROW])
                cells.append("" if token is None else str(token))
            cells += [Text(event["code"].split("//")[0]), Text(name_of(event["code"], self.names))]
            cells += [Text(value_of(event)), ",".join(flags)]
            if wide:
                cells.append(Text(event["code"].partition("//")[2]))
            table.add_row(*cells)
            clock = time
        return table


def patient_page(timeline: Path, subject: int | None, rows: int, run: Path | None = None) -> PatientPage:
    """The page of a subject (None: the first); with the folder of a `run`, tokens are numbered.

    Raises: SchemaError if `timeline` is none or is damaged; ConfigError if it has no such subject.
    """
    manifest = read_manifest(timeline, "timeline")
    shards = [timeline / shard.path for shard in manifest.shards if shard.path.startswith("data/")]
    if not shards:
        raise SchemaError(f"{timeline}: holds no events.")
    with readable(timeline):
        events = pl.scan_parquet(shards, include_file_paths="_path")
        if subject is None:
            subject = int(events.select(pl.col("subject_id").min()).collect().item())
        mine = pl.col("subject_id") == subject
        paths = events.filter(mine).select(pl.col("_path").unique()).collect()["_path"]
        if not len(paths):
            raise ConfigError(
                f"{timeline}: has no subject {subject}. Without --subject the first one is shown."
            )
        found = pl.scan_parquet(paths[0], row_index_name=_ROW).filter(mine).collect()
        codes = pl.read_parquet(timeline / "metadata/codes.parquet", columns=["code", "description"])
    wanted = codes.filter(
        pl.col("description").is_not_null() & pl.col("code").is_in(found["code"].unique().implode())
    )
    names = dict(wanted.iter_rows())
    return PatientPage(subject, found, names, _tokens(run, subject) if run else {}, rows, run or timeline)


def name_of(code: str, names: Mapping[str, str]) -> str:
    """What a reader calls a code: its description, else what stands behind its system.

    >>> name_of("Encounter.end//ActCode//IMP//home", {"Encounter.end//ActCode//IMP//home": "inpatient encounter"})
    'inpatient encounter, home'
    >>> name_of("Encounter.part.start//mimic-careunit//Medicine", {})
    'Medicine'
    """
    parts = code.split("//")
    if code in names:
        return ", ".join([names[code], *parts[3:]])
    return _PLAIN.get(code, ", ".join(parts[2:] or parts[-1:]))


def _tokens(run: Path, subject: int) -> dict[int, int]:
    """The first token of each event of a subject, by the event's row in its shard."""
    from ehrseq.core.errors import EhrseqError
    from ehrseq.tokens.store import TokenStore

    if not (run / "tokens" / "manifest.json").is_file():
        return {}
    try:
        check_lineage(run)
        store = TokenStore.open(run / "tokens")
        where = store.rows(subject_index(store, run / "tokens", subject))
    except EhrseqError:
        return {}  # tokens of another timeline number nothing here
    rows = store.event[where].tolist()
    return {row: token for token, row in reversed(list(enumerate(rows)))}


def _stays(events: pl.DataFrame, names: Mapping[str, str]) -> list[Stay]:
    kind = pl.col("code").str.split("//").list.first()
    marks = events.filter(kind.is_in(["Encounter.start", "Encounter.end"]), pl.col("time").is_not_null())
    started: dict[str, Stay] = {}
    for code, time, stay in marks.select("code", "time", "resource_id").iter_rows():
        if code.startswith("Encounter.start"):
            started[stay] = Stay(stay, name_of(code, names), time, None)
        elif stay in started:
            started[stay] = Stay(stay, started[stay].name, started[stay].start, time)
    return list(started.values())


def _heading(day: date | None, birth: datetime | None, stays: list[Stay]) -> str:
    if day is None:
        return "true for life"
    parts = [str(day)]
    if birth and day > birth.date():
        parts.append(_age(birth, day))
    parts += [f"day {number} of {stay.name} {stay.id}" for stay in stays if (number := stay.day(day))]
    return ", ".join(parts)


def _age(birth: datetime | None, day: date) -> str:
    if birth is None:
        return ""
    days = (day - birth.date()).days
    if days < 31:
        return f"{days} days old"
    return f"{days // 30} months" if days < 731 else f"{int(days / 365.2425)} years"


def _with_flags(events: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Events, an interpretation ("A" for abnormal) that follows its value beside it instead of on its own line."""
    waiting: dict[str, Any] | None = None
    flags: list[str] = []
    for event in events:
        kind, *parts = event["code"].split("//")
        same = waiting is not None and waiting["resource_id"] == event["resource_id"]
        if (
            same
            and waiting is not None
            and kind.endswith(".interpretation")
            and parts[:-1] == _coded(waiting)
        ):
            flags.append(parts[-1])
            continue
        if waiting is not None:
            yield waiting, flags
        waiting, flags = event, []
    if waiting is not None:
        yield waiting, flags


def _coded(event: dict[str, Any]) -> list[str]:
    parts: list[str] = event["code"].split("//")[1:]
    return parts
