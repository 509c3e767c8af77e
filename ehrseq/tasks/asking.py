"""When a task would ask about whom, in a timeline whose outcomes are not known yet."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from ehrseq.tasks.definition import load_task
from ehrseq.tasks.language import Plain, Task
from ehrseq.tasks.matching import matching
from ehrseq.tasks.windows import SUBJECT, TIME, candidates, lay_out_index, repeated
from ehrseq.timeline.meds import CODES, scan_events, shards
from ehrseq.timeline.schema import Event

ASKED = pl.Schema({"subject_id": pl.Int64(), "prediction_time": pl.Datetime("us")})


def ask(task: str | Path, timeline: Path, *, now: datetime | None = None) -> pl.DataFrame:
    """Prediction times of `task` in `timeline` (columns of `ASKED`, sorted), as `ehrseq label` would find them.

    Only what is at or before a prediction time decides whether it is one. `now` (UTC; None = the timeline's last event)
    is when we stand: nothing is asked at a later time. A stay that lasts is asked about until then.

    Raises: TaskError if the file is wrong; SchemaError if `timeline` is none.
    """
    definition = load_task(task)
    have = pl.read_parquet(timeline / CODES, columns=["code"])["code"]
    plain = {name: one for name, one in definition.predicates.items() if isinstance(one, Plain)}
    codes = {name: matching(one, have) for name, one in plain.items()}
    end = now or scan_events(timeline).select(pl.col(Event.time).max()).collect().item()
    if end is None:
        return pl.DataFrame(schema=ASKED)
    parts = [_of_shard(definition, path, codes, end) for path in shards(timeline)]
    found = pl.concat([pl.DataFrame(schema=ASKED), *parts])
    return found.filter(pl.col("prediction_time") <= end).unique().sort("subject_id", "prediction_time")


def _of_shard(task: Task, shard: Path, codes: dict[str, list[str]], now: datetime) -> pl.DataFrame:
    plain = [one for one in task.predicates.values() if isinstance(one, Plain)]
    extra = sorted({column for one in plain for column, _ in one.columns})
    wanted = sorted({code for found in codes.values() for code in found})
    time = pl.col(Event.time)
    edges = (time == time.min().over(SUBJECT)) | (time == time.max().over(SUBJECT))
    columns = dict.fromkeys([Event.subject_id, Event.time, Event.code, Event.numeric_value, *extra])
    visible = pl.scan_parquet(shard).filter(time.is_null() | (time <= now))
    events = visible.filter(pl.col(Event.code).is_in(wanted) | edges).select(*columns).collect()
    if not task.static:
        events = events.filter(time.is_not_null())
    if events.is_empty():
        return pl.DataFrame(schema=ASKED)
    moments, rows = candidates(task, events, codes)
    if task.repeat:
        rows = repeated(rows, _ending(moments, task.repeat.until, now), task.repeat)
    if rows.is_empty():
        return pl.DataFrame(schema=ASKED)
    placed = lay_out_index(task, moments, rows)
    return placed.select(pl.col(SUBJECT), pl.col(task.index).cast(pl.Datetime("us")).alias("prediction_time"))


def _ending(moments: pl.DataFrame, until: str, now: datetime) -> pl.DataFrame:
    """Moments with one more a subject, just after `now`, at which `until` holds: what lasts, lasts until then."""
    just_after = pl.lit(now + timedelta(microseconds=1)).cast(pl.Datetime("us"))
    last = moments.select(SUBJECT).unique().with_columns(just_after.alias(TIME))
    counts = [pl.lit(int(name == until), pl.UInt32).alias(name) for name in moments.columns[2:]]
    return pl.concat([moments, last.with_columns(counts).select(moments.columns)]).sort(SUBJECT, TIME)
