"""Rows of a view → events of one kind: a code, a knowable time, values; and for rows that give none, the reason."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from ehrseq.timeline import dates
from ehrseq.timeline.attributes import attributes_of
from ehrseq.timeline.concepts import PARENTS, Concepts, parents, with_codes
from ehrseq.timeline.knowable import UPDATED, Kind, Source
from ehrseq.timeline.schema import Event

NO_PATIENT, NO_CODE, NO_DATE = "no patient", "no code", "no date"
UNREADABLE, NOT_YET, RETRACTED = "unreadable date", "not knowable yet", "retracted before it was known"
REASONS = (NO_PATIENT, NO_CODE, UNREADABLE, NO_DATE, NOT_YET, RETRACTED)
WITHDRAWN = "was_retracted"  # column of a view: whether its resource turned out to be wrong, at `updated`

# beside the columns of Event while events are made and sorted
RANK, ORDER, SOURCE, DESCRIPTION = "_rank", "_order", "_source", "_description"
EARLIEST, LATEST = (
    "@earliest",
    "@latest",
)  # behind the name of a column of dates: the instants that it may mean
MAPPING = "_mapping"  # of a row, where a mapping has rules of its own

MADE = pl.Schema({
    **Event.polars_schema(), RANK: pl.UInt16(), ORDER: pl.UInt16(),
    SOURCE: pl.UInt8(), DESCRIPTION: pl.String(),
})  # fmt: skip

_SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Made:
    """`events`: Event rows with `_rank`, `_order`, `_source` (which of the kind's sources its time is from),
    `_description`. `missed`: resource_id and reason of
    each row that gave none. `parents`: code and parent, for codes.parquet."""

    events: pl.DataFrame
    missed: pl.DataFrame
    parents: pl.DataFrame


_NOTHING = Made(
    pl.DataFrame(schema=MADE),
    pl.DataFrame(schema={"resource_id": pl.String(), "reason": pl.String()}),
    pl.DataFrame(schema=PARENTS),
)


def make_events(
    kind: Kind,
    rows: pl.DataFrame,
    joined: Mapping[str, pl.DataFrame],
    *,
    order: tuple[int, int],
    concepts: Concepts,
    timezone: str,
) -> Made:
    """Make the events of `kind` from the rows of its view.

    `rows`: the view's columns and `subject_id`. `joined`: rows of the views that the kind joins, by view, unique by
    resource_id. `order` ranks the kind among events of the same moment: that of its group, then its own.
    """
    if kind.when and not rows[kind.when].any():
        return _NOTHING
    frame = rows.filter(pl.col(kind.when)) if kind.when else rows
    for view, key in kind.join:
        other = joined[view].rename(lambda column, view=view: f"{view}.{column}")  # type: ignore[misc]
        frame = frame.join(
            other, left_on=key, right_on=f"{view}.resource_id", how="left", maintain_order="left"
        )
    frame = with_codes(with_instants(frame, kind.dates, timezone), kind, concepts)
    named, about = pl.col(Event.code).is_not_null(), pl.col(Event.subject_id).is_not_null()
    missed = [_NOTHING.missed]
    coded = frame if frame.select((named & about).all()).item() else frame.filter(named & about)
    if coded.height < frame.height:
        missed += [_missed(frame, ~about, NO_PATIENT), _missed(frame, about & ~named, NO_CODE)]
    clock = _Clock(coded.schema)
    timed = coded.lazy().with_columns(*clock.times(kind)).collect()
    if kind.when != WITHDRAWN and WITHDRAWN in coded.columns and coded[WITHDRAWN].any():
        seen = ~pl.col(WITHDRAWN) | (pl.col(Event.time) < clock.latest([UPDATED]))
        missed.append(_missed(timed, pl.col(Event.time).is_not_null() & ~seen, RETRACTED))
        timed = timed.filter(seen | pl.col(Event.time).is_null())
    known = timed if kind.time is None else timed.filter(pl.col(Event.time).is_not_null())
    if known.height < timed.height:
        late = timed.filter(pl.col(Event.time).is_null())
        missed.append(late.lazy().select("resource_id", reason=clock.reason(kind)).collect())
    if known.is_empty():
        return Made(pl.DataFrame(schema=MADE), pl.concat(missed), pl.DataFrame(schema=PARENTS))
    more = attributes_of(kind.attributes, known).alias(Event.attributes)
    events = known.lazy().select(_columns(kind, clock, order, more)).select(_finished()).collect()
    return Made(events, pl.concat(missed), parents(known, kind, concepts))


def with_instants(frame: pl.DataFrame, columns: Iterable[str], timezone: str) -> pl.DataFrame:
    """Add the earliest and latest instants that these columns of dates may mean, where they are not there already."""
    made = []
    for column in columns:
        if column in frame.columns and column + LATEST not in frame.columns:
            earliest, latest = dates.edges(frame[column].cast(pl.String), timezone)
            made += [earliest.alias(column + EARLIEST), latest.alias(column + LATEST)]
    return frame.with_columns(made)


def _read(columns: Sequence[str], edge: str) -> pl.Expr:
    """The instant of the first column that has a text; null if that is unreadable, whatever the others say."""
    *others, last = columns
    read = pl.col(last + edge)
    for column in reversed(others):
        read = pl.when(pl.col(column).is_not_null()).then(pl.col(column + edge)).otherwise(read)
    return read


def _missed(frame: pl.DataFrame, when: pl.Expr, reason: str) -> pl.DataFrame:
    return frame.lazy().filter(when).select("resource_id", reason=pl.lit(reason)).collect()


@dataclass(frozen=True)
class _Clock:
    """Reads times from the date columns of one frame."""

    schema: pl.Schema

    def latest(self, columns: Sequence[str]) -> pl.Expr:
        return _read(columns, LATEST)

    def earliest(self, columns: Sequence[str]) -> pl.Expr:
        return _read(columns, EARLIEST)

    def times(self, kind: Kind) -> tuple[pl.Expr, pl.Expr]:
        """`time`, and which of the kind's sources it is from: both null where no source has a time."""
        nothing = pl.lit(None, dtype=pl.Datetime("us")), pl.lit(None, dtype=pl.UInt8)
        time, source = self.first_of(kind.time, 0) if kind.time else nothing
        number = len(kind.time or ())
        for mapping, sources in kind.overrides:
            made_by = pl.col(MAPPING) == mapping
            own_time, own_source = self.first_of(sources, number)
            time = pl.when(made_by).then(own_time).otherwise(time)
            source = pl.when(made_by).then(own_source).otherwise(source)
            number += len(sources)
        return time.alias(Event.time), source.alias(SOURCE)

    def first_of(self, sources: Sequence[Source], number: int) -> tuple[pl.Expr, pl.Expr]:
        """The time of the first source that has one, and its number; the first source has `number`."""
        times = [self.read(source) for source in sources]
        which = [
            pl.when(time.is_not_null()).then(pl.lit(place, dtype=pl.UInt8))
            for place, time in enumerate(times, number)
        ]
        return pl.coalesce(times), pl.coalesce(which)

    def read(self, source: Source) -> pl.Expr:
        read = self.latest if source.edge == "end" else self.earliest
        parts = [read(columns) for columns in source.parts]
        usable = [part.is_not_null() for part in parts] if len(parts) > 1 else []
        if source.clock:
            usable += [dates.has_clock(_first(columns)) for columns in source.parts]
        usable += [~self.there(column) for column in source.unless]
        time = pl.max_horizontal(parts) if len(parts) > 1 else parts[0]
        if source.after:
            time = time.dt.offset_by(source.after)
        return pl.when(pl.all_horizontal(usable)).then(time) if usable else time

    def there(self, column: str) -> pl.Expr:
        """Whether a column has something, or says true."""
        if self.schema[column] == pl.Boolean:
            return pl.col(column).fill_null(False)
        return pl.col(column).is_not_null()

    def reason(self, kind: Kind) -> pl.Expr:
        """Why a row has no time."""
        parts = [columns for source in kind.sources for columns in source.parts]
        written = pl.any_horizontal(_first(columns).is_not_null() for columns in parts)
        read = pl.any_horizontal(self.latest(columns).is_not_null() for columns in parts)
        waits = [self.there(column) for source in kind.sources for column in source.unless]
        awaited = pl.any_horizontal([written, *waits])
        why = pl.when(written & ~read).then(pl.lit(UNREADABLE)).when(awaited).then(pl.lit(NOT_YET))
        return why.otherwise(pl.lit(NO_DATE))


def _columns(kind: Kind, clock: _Clock, order: tuple[int, int], attributes: pl.Expr) -> list[pl.Expr]:
    """The columns of Event, from what the table names for this kind."""
    time, text = pl.Datetime("us"), _first(kind.text) if kind.text else pl.lit(None, dtype=pl.String)
    note = pl.lit(None, dtype=pl.String)
    if kind.note:
        note = _decoded(*kind.note)
    value, unit = _number(kind, clock), _first(kind.unit) if kind.unit else pl.lit(None, dtype=pl.String)
    return [
        pl.col(Event.subject_id),
        pl.col(Event.time),
        pl.col(Event.code),
        value.alias(Event.numeric_value),
        pl.coalesce(note, text).alias(Event.text_value),
        (clock.earliest(kind.clinical_time) if kind.clinical_time else pl.lit(None, dtype=time)).alias(
            Event.clinical_time
        ),
        (clock.latest(kind.end_time) if kind.end_time else pl.lit(None, dtype=time)).alias(Event.end_time),
        pl.when(value.is_not_null()).then(pl.lit("d") if kind.elapsed else unit).alias(Event.unit),
        attributes,
        (_first(kind.encounter) if kind.encounter else pl.lit(None, dtype=pl.String)).alias(
            Event.encounter_id
        ),
        pl.col(Event.resource_type),
        pl.col(Event.resource_id),
        pl.when(note.is_not_null())
        .then(pl.lit("note"))
        .otherwise(pl.lit(kind.modality))
        .alias(Event.modality),
        pl.lit(None, dtype=pl.String).alias(Event.span_array),
        pl.lit(None, dtype=pl.Int64).alias(Event.span_start),
        pl.lit(None, dtype=pl.Int32).alias(Event.span_length),
        pl.lit(order[0], dtype=pl.UInt16).alias(RANK),
        pl.lit(order[1], dtype=pl.UInt16).alias(ORDER),
        pl.col(SOURCE),
        pl.col(DESCRIPTION),
    ]


def _finished() -> list[pl.Expr]:
    """Blank what repeats `time`, and an end that was not known yet at `time`."""
    clinical, end, time = pl.col(Event.clinical_time), pl.col(Event.end_time), pl.col(Event.time)
    return [
        pl.all().exclude(Event.clinical_time, Event.end_time),
        pl.when(clinical != time).then(clinical).alias(Event.clinical_time),
        pl.when(end <= time).then(end).alias(Event.end_time),
    ]


def _first(columns: Sequence[str]) -> pl.Expr:
    return pl.col(columns[0]) if len(columns) == 1 else pl.coalesce(columns)


def _number(kind: Kind, clock: _Clock) -> pl.Expr:
    if kind.elapsed:
        start, end = kind.elapsed
        lasted = clock.latest([end]) - clock.earliest([start])
        return (lasted.dt.total_seconds() / _SECONDS_PER_DAY).cast(pl.Float32)
    if not kind.value:
        return pl.lit(None, dtype=pl.Float32)
    return pl.coalesce(pl.col(column).cast(pl.Float64) for column in kind.value).cast(pl.Float32)


def _decoded(data: str, media_type: str) -> pl.Expr:
    """Text of a base64 attachment; null for what is not text, or not UTF-8."""
    raw = pl.when(pl.col(media_type).str.to_lowercase().str.starts_with("text/")).then(pl.col(data))
    return raw.str.decode("base64", strict=False).cast(pl.String, strict=False)
