"""What a stretch of a timeline looks like, in counts: how often each code, in which unit, with which values.

One row a code and unit. The unit of account for "how many have it" is the subject-month (a subject in a calendar month
in which anything is recorded), so that a month can be compared with years.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema
from ehrseq.timeline.meds import scan_events
from ehrseq.timeline.schema import Event

RARE = "<rare>"
LEAST_SUBJECTS = 5  # a row of fewer subjects is added to RARE: it would speak of persons


class Row(Schema):
    """One code in one unit."""

    code = Required(pl.String)
    unit = Required(pl.String)  # "" = none
    events = Required(pl.Int64)
    subjects = Required(pl.Int64)
    subject_months = Required(pl.Int64)  # in which the code occurs, in whatever unit
    values = Required(pl.Int64)
    low = Nullable(pl.Float64)  # quartiles of the values; null = none
    median = Nullable(pl.Float64)
    high = Nullable(pl.Float64)


@dataclass(frozen=True)
class Profile:
    """`rows` (schema `Row`) and totals of a period."""

    rows: pl.DataFrame
    events: int
    subjects: int
    subject_months: int

    def save(self, path: Path) -> None:
        """Write as one Parquet file; the totals are the row `<all>`."""
        total = {"code": "<all>", "unit": "", "events": self.events, "subjects": self.subjects}
        last = pl.DataFrame([{**total, "subject_months": self.subject_months, "values": 0}])
        pl.concat([self.rows, last.cast({name: self.rows.schema[name] for name in last.columns})],
                  how="diagonal").write_parquet(path, compression="zstd")  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "Profile":
        """Read what `save` wrote."""
        whole = pl.read_parquet(path)
        total = whole.filter(code="<all>").row(0, named=True)
        rows = whole.filter(pl.col("code") != "<all>")
        return cls(rows, total["events"], total["subjects"], total["subject_months"])


def profile(
    timeline: Path,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    subjects: Sequence[int] | None = None,
) -> Profile:
    """Profile of the events with `start` <= time < `end` (UTC; None = open), of all subjects or of some.

    Raises: SchemaError if `timeline` is none.
    """
    time = pl.col(Event.time)
    events = scan_events(timeline).filter(time.is_not_null(), pl.col(Event.code) != "MEDS_BIRTH")
    if start is not None:
        events = events.filter(time >= start)
    if end is not None:
        events = events.filter(time < end)
    if subjects is not None:
        events = events.filter(pl.col(Event.subject_id).is_in(list(subjects)))
    value = pl.col(Event.numeric_value).cast(pl.Float64)
    whole = events.select(
        Event.subject_id, Event.code, pl.col(Event.unit).fill_null("").alias("unit"),
        value=pl.when(value.is_finite()).then(value), month=time.dt.truncate("1mo"),
    )  # fmt: skip
    months = (
        whole.select(Event.code, Event.subject_id, "month").unique().group_by(Event.code)
        .agg(subject_months=pl.len().cast(pl.Int64))
    )  # fmt: skip
    rows = whole.group_by(Event.code, "unit").agg(
        events=pl.len().cast(pl.Int64), subjects=pl.col(Event.subject_id).n_unique().cast(pl.Int64),
        values=pl.col("value").count().cast(pl.Int64), low=pl.col("value").quantile(0.25),
        median=pl.col("value").median(), high=pl.col("value").quantile(0.75),
    ).join(months, on=Event.code, how="left")  # fmt: skip
    totals = whole.select(
        events=pl.len(), subjects=pl.col(Event.subject_id).n_unique(),
        subject_months=pl.struct(Event.subject_id, "month").n_unique(),
    )  # fmt: skip
    table, total = pl.collect_all([rows, totals])
    return Profile(_without_rare(table), *(int(number) for number in total.row(0)))


def _without_rare(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of few subjects as one."""
    rare = pl.col("subjects") < LEAST_SUBJECTS
    kept, few = rows.filter(~rare), rows.filter(rare)
    if few.height:
        counts = few.select(pl.col("events", "subjects", "subject_months").sum(), values=pl.lit(0, pl.Int64))
        kept = pl.concat([kept, counts.with_columns(code=pl.lit(RARE), unit=pl.lit(""))], how="diagonal")
    return kept.select(*Row.polars_schema()).sort("code", "unit")
