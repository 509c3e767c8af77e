"""A table of features for each label: counts, last, least and greatest value, and trend of each code, by window.

For people who want columns, and for any model that wants a matrix. Only what was knowable at the prediction time
counts: events with `time` at or before it, and those true for life.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import ConfigError
from ehrseq.core.executor import run_tasks
from ehrseq.core.manifest import Account
from ehrseq.core.parquet import write_parquet
from ehrseq.tasks.extract import label_folders
from ehrseq.timeline.meds import scan_events, shards, splits
from ehrseq.timeline.schema import Event

WINDOWS_HOURS = (24.0, 720.0, float("inf"))  # a day, 30 days, all history
KINDS = ("count", "last", "min", "max", "trend")
_ROW, _KEY = "_row", ["subject_id", "prediction_time"]


@dataclass(frozen=True, slots=True)
class _Job:
    shard: Path
    labels: Path
    out: Path
    codes: tuple[str, ...]
    windows_hours: tuple[float, ...]


def features(
    timeline: Path,
    labels: Path,
    out: Path,
    *,
    windows_hours: Sequence[float] = WINDOWS_HOURS,
    codes: int = 200,
    workers: int = 1,
    force: bool = False,
) -> Result:
    """Write one row a label to `out/data/<bucket>.parquet`: the label's columns, then `<code>|<window>|<kind>`.

    `codes`: how many, those that most training patients have. A window is "24h", "720h" or "all", looking back from
    the prediction, its far end included; `count` is 0 and the others null where there is nothing; `trend` is the
    least-squares slope a day, null with fewer than two times. Of a task with several labels the first one's are kept.

    Raises: ConfigError for a window of no length; SchemaError if a folder is not what it should be.
    """
    if not windows_hours or min(windows_hours) <= 0:
        raise ConfigError(f"windows_hours is {tuple(windows_hours)}; expected lengths above 0.")
    timeline, folder = Path(timeline), label_folders(Path(labels))[0]
    config = {"windows_hours": [str(hours) for hours in windows_hours], "codes": codes}
    inputs = [input_of("timeline", timeline), input_of("labels", Path(labels))]
    with Build(Path(out), kind="features", config=config, inputs=inputs, force=force) as build:
        if not build.unchanged:
            chosen = common_codes(timeline, codes)
            names = [Path("data") / shard.name for shard in shards(timeline)]
            jobs = [
                _Job(
                    timeline / name, folder / name, build.path(name.as_posix()), chosen, tuple(windows_hours)
                )
                for name in names
            ]
            made = run_tasks(_write_shard, jobs, workers=workers, what="features")
            for name, rows in zip(names, made, strict=True):
                build.enter(name.as_posix(), rows=rows, sorted_by=_KEY)
            build.account("labels", Account(sum(made), sum(made), made={"rows": sum(made)}))
            build.made("rows", sum(made))
            build.made("columns", len(chosen) * len(windows_hours) * len(KINDS))
    return build.result


def common_codes(timeline: Path, most: int) -> tuple[str, ...]:
    """The codes that most training patients have, by name. Raises: SchemaError if not a timeline."""
    train = splits(timeline).filter(split="train").select(Event.subject_id).lazy()
    counted = (
        scan_events(timeline).select(Event.subject_id, Event.code).join(train, on=Event.subject_id, how="semi")
        .group_by(Event.code).agg(patients=pl.col(Event.subject_id).n_unique())
    )  # fmt: skip
    top = counted.sort("patients", Event.code, descending=[True, False]).head(most).collect()
    return tuple(top[Event.code].sort())


def table(
    events: pl.LazyFrame,
    labels: pl.LazyFrame,
    codes: Sequence[str],
    windows_hours: Sequence[float] = WINDOWS_HOURS,
) -> pl.DataFrame:
    """One row a label, in the order of `labels` (subject_id, prediction_time, …): see `features`.

    All windows and kinds of all codes come out of one grouping of the (label, event) pairs.
    """
    asked = labels.with_row_index(_ROW)
    hours = ((pl.col("prediction_time") - pl.col(Event.time)).dt.total_microseconds() / 3.6e9).fill_null(
        float("inf")
    )
    pairs = (
        events.filter(pl.col(Event.code).is_in(list(codes)))
        .select(
            Event.subject_id,
            Event.time,
            Event.code,
            pl.col(Event.numeric_value).cast(pl.Float64).alias("_value"),
        )
        .join(asked.select(_ROW, *_KEY), on=Event.subject_id)
        .filter(pl.col(Event.time).is_null() | (pl.col(Event.time) <= pl.col("prediction_time")))
        .with_columns(_hours=hours)
        .sort(Event.time, nulls_last=False, maintain_order=True)
    )
    long = pairs.group_by(_ROW, Event.code).agg(
        expression.alias(f"{_window(length)}|{kind}")
        for length in windows_hours
        for kind, expression in _summaries(pl.col("_hours") <= length).items()
    )
    both = pl.collect_all([asked, long])
    return _wide(both[0], both[1], codes, windows_hours).drop(_ROW)


def _summaries(within: pl.Expr) -> dict[str, pl.Expr]:
    value = pl.col("_value").filter(within & pl.col("_value").is_not_null())
    days = (-pl.col("_hours") / 24).filter(
        within & pl.col("_value").is_not_null() & pl.col("_hours").is_finite()
    )
    timed = pl.col("_value").filter(within & pl.col("_value").is_not_null() & pl.col("_hours").is_finite())
    spread = ((days - days.mean()) ** 2).sum()
    slope = ((days - days.mean()) * timed).sum() / spread
    return {
        "count": within.sum().cast(pl.UInt32),
        "last": value.last(),
        "min": value.min(),
        "max": value.max(),
        "trend": pl.when(spread > 1e-12).then(slope),
    }


def _wide(
    asked: pl.DataFrame, long: pl.DataFrame, codes: Sequence[str], windows_hours: Sequence[float]
) -> pl.DataFrame:
    out = [asked]
    parts = long.partition_by(Event.code, as_dict=True, include_key=False)
    names = [f"{_window(length)}|{kind}" for length in windows_hours for kind in KINDS]
    for code in codes:
        part = parts.get((code,), long.clear().drop(Event.code))
        joined = asked.select(_ROW).join(part, on=_ROW, how="left", maintain_order="left").select(names)
        out.append(
            joined.select(
                (pl.col(name).fill_null(0) if name.endswith("count") else pl.col(name)).alias(
                    f"{code}|{name}"
                )
                for name in names
            )
        )
    return pl.concat(out, how="horizontal")


def _window(hours: float) -> str:
    return "all" if hours == float("inf") else f"{hours:g}h"


def _write_shard(job: _Job) -> int:
    found = table(pl.scan_parquet(job.shard), pl.scan_parquet(job.labels), job.codes, job.windows_hours)
    write_parquet(found, job.out)
    return found.height
