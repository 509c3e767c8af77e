"""`ehrseq features`: a table of features for each label, of counts, last, least and greatest value and trend by window.

For people who want columns with values in their own units, of any timeline. Only what was knowable at the prediction
time counts: events with `time` at or before it, and those true for life. (The baselines of a run see the same in
tokens, with normalised values and sparse: `ehrseq.models.prefix_features`.)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import ConfigError
from ehrseq.core.executor import run_tasks
from ehrseq.core.manifest import Account
from ehrseq.core.parquet import write_parquet
from ehrseq.timeline.meds import scan_events, shards, splits
from ehrseq.timeline.schema import Event
from ehrseq.tokens.packing import Ints, count_until

type Floats = NDArray[np.float64]

WINDOWS_HOURS = (24.0, 720.0, float("inf"))  # a day, 30 days, all history
KINDS = ("count", "last", "min", "max", "trend")
_KEY = ["subject_id", "prediction_time"]
_CELLS = 1_000_000  # labels x codes at a time
_US_PER_HOUR, _US_PER_DAY = 3_600_000_000, 86_400_000_000
_STATIC = int(np.iinfo(np.int64).min)


@dataclass(frozen=True, slots=True)
class _Job:
    shard: Path
    labels: Path
    out: Path
    codes: tuple[str, ...]
    valued: tuple[str, ...]
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
    the prediction, its far end included; `count` is 0 and the others, which codes with values have, are null where
    there is nothing; `trend` is the least-squares slope a day, null with fewer than two times. Memory: 20 bytes a
    label of the largest bucket for each code and window.

    Raises: ConfigError for a window of no length; SchemaError if a folder is not what it should be.
    """
    if not windows_hours or not all(hours > 0 for hours in windows_hours):
        raise ConfigError(f"windows_hours is {tuple(windows_hours)}; expected lengths above 0.")
    if codes < 1:
        raise ConfigError(f"codes is {codes}; expected 1 or more.")
    timeline, folder = Path(timeline), Path(labels)
    config = {"windows_hours": [str(hours) for hours in windows_hours], "codes": codes}
    inputs = [input_of("timeline", timeline), input_of("labels", Path(labels))]
    with Build(Path(out), kind="features", config=config, inputs=inputs, force=force) as build:
        if not build.unchanged:
            chosen, valued = common_codes(timeline, codes)
            names = [Path("data") / shard.name for shard in shards(timeline)]
            jobs = [
                _Job(
                    timeline / name,
                    folder / name,
                    build.path(name.as_posix()),
                    chosen,
                    valued,
                    tuple(windows_hours),
                )
                for name in names
            ]
            made = run_tasks(_write_shard, jobs, workers=workers, what="features")
            for name, rows in zip(names, made, strict=True):
                build.enter(name.as_posix(), rows=rows, sorted_by=_KEY)
            build.account("labels", Account(sum(made), sum(made), made={"rows": sum(made)}))
            build.made("rows", sum(made))
            build.made("columns", (len(chosen) + len(valued) * (len(KINDS) - 1)) * len(windows_hours))
    return build.result


def common_codes(timeline: Path, most: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The codes that most training patients have, by name, and those of them that have values there.

    Raises: SchemaError if not a timeline.
    """
    train = splits(timeline).filter(split="train").select(Event.subject_id).lazy()
    counted = (
        scan_events(timeline).select(Event.subject_id, Event.code, Event.numeric_value)
        .join(train, on=Event.subject_id, how="semi").group_by(Event.code)
        .agg(patients=pl.col(Event.subject_id).n_unique(), valued=pl.col(Event.numeric_value).is_not_null().any())
    )  # fmt: skip
    top = counted.sort("patients", Event.code, descending=[True, False]).head(most).collect().sort(Event.code)
    return tuple(top[Event.code]), tuple(top.filter("valued")[Event.code])


def table(
    events: pl.LazyFrame,
    labels: pl.LazyFrame,
    codes: Sequence[str],
    windows_hours: Sequence[float] = WINDOWS_HOURS,
    valued: Sequence[str] | None = None,
) -> pl.DataFrame:
    """One row a label, in the order of `labels` (subject_id, prediction_time, …): see `features`. `valued`: those of
    `codes` that have values; None = all.

    With a subject's events of one code side by side in time, what a label sees of it in a window is a range of rows:
    the ends of all ranges are found by bisection together, and each kind is one reduction over them.
    """
    asked = labels.collect()
    valued = codes if valued is None else valued
    subjects = asked[Event.subject_id].unique().sort()
    every = _runs(events, subjects, codes)
    with_values = _runs(events.filter(pl.col(Event.numeric_value).is_not_null()), subjects, valued)
    counts = np.zeros((len(codes), len(windows_hours), asked.height), np.uint32)
    values = np.full((len(valued), len(windows_hours), len(KINDS) - 1, asked.height), np.nan, np.float32)
    step = max(_CELLS // max(len(codes), 1), 1)
    for piece in (slice(start, start + step) for start in range(0, asked.height, step)):
        subject = np.searchsorted(every.subjects, asked[Event.subject_id].to_numpy()[piece])
        time = asked["prediction_time"].to_physical().to_numpy()[piece]
        for place, hours in enumerate(windows_hours):
            first, end = every.ranges(subject, time, hours)
            counts[:, place, piece] = (end - first).reshape(-1, len(codes)).T
            for kind, found in enumerate(_summaries(with_values, *with_values.ranges(subject, time, hours))):
                values[:, place, kind, piece] = found.reshape(-1, len(valued)).T
    return asked.with_columns(
        _columns(codes, windows_hours, KINDS[:1], counts[:, :, None])
        + _columns(valued, windows_hours, KINDS[1:], values)
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Events of S subjects and C codes, those of one subject and code side by side, those true for life first.

    The run of subject s and code c is rows offsets[s * C + c]:offsets[s * C + c + 1].
    """

    subjects: Ints  # [S] sorted
    codes: int
    offsets: Ints  # [S * C + 1]
    time: Ints  # microseconds; _STATIC = true for life
    day: NDArray[
        np.longdouble
    ]  # since the run's first event with a time: minutes over decades need over 53 bits
    value: Floats

    def ranges(self, subject: Ints, asked: Ints, hours: float) -> tuple[Ints, Ints]:
        """First row and end of what n labels see of each code, both [n * C]."""
        run = (subject[:, None] * self.codes + np.arange(self.codes)).reshape(-1)
        first, stop, limit = self.offsets[run], self.offsets[run + 1], np.repeat(asked, self.codes)
        end = first + count_until(self.time, first, stop, limit)
        if np.isfinite(hours):
            first = first + count_until(self.time, first, stop, limit - int(hours * _US_PER_HOUR) - 1)
        return first, end


def _runs(events: pl.LazyFrame, subjects: pl.Series, codes: Sequence[str]) -> _Runs:
    """The events of these subjects (sorted) and codes."""
    order = pl.DataFrame({Event.code: list(codes)}, schema={Event.code: pl.String}).with_row_index("_code")
    rows = (
        events.select(Event.subject_id, Event.time, Event.code, Event.numeric_value)
        .join(order.lazy(), on=Event.code, maintain_order="left")
        .filter(pl.col(Event.subject_id).is_in(subjects.implode()))
        .with_columns(pl.col(Event.time).to_physical().fill_null(_STATIC))
        .sort(Event.subject_id, "_code", Event.time, maintain_order=True)
        .collect()
    )
    known = subjects.to_numpy()
    run = np.searchsorted(known, rows[Event.subject_id].to_numpy()) * len(codes) + rows["_code"].to_numpy()
    offsets = np.searchsorted(run, np.arange(len(known) * len(codes) + 1))
    time = rows[Event.time].to_numpy()
    static = time == _STATIC
    timed_from = offsets[:-1] + np.bincount(run, static, len(offsets) - 1).astype(np.int64)
    origin = np.append(time, 0)[timed_from][run]
    day = np.where(static, 0, time - origin).astype(np.longdouble) / _US_PER_DAY
    value = rows[Event.numeric_value].cast(pl.Float64).fill_null(0).to_numpy()
    return _Runs(known, len(codes), offsets, time, day, value)


def _summaries(runs: _Runs, first: Ints, end: Ints) -> Iterator[Floats]:
    """Last, least and greatest value and trend of each range of rows [m]; NaN where there is none."""
    some = np.flatnonzero(end > first)
    begin, last = first[some], end[some] - 1
    found = (
        runs.value[last],
        _reduced(np.minimum, runs.value, begin, last),
        _reduced(np.maximum, runs.value, begin, last),
        _trend(runs, begin, last),
    )
    for values in found:
        out = np.full(len(first), np.nan)
        out[some] = values
        yield out


def _reduced(how: np.ufunc, values: NDArray[Any], begin: Ints, last: Ints) -> NDArray[Any]:
    """`how` over values[begin:last + 1] of each pair [m]; what lies between two pairs is reduced too, and dropped."""
    ends = np.stack([begin, last + 1], axis=1).reshape(-1)
    found: NDArray[Any] = how.reduceat(np.append(values, 0), ends)[::2] if len(ends) else values[:0]
    return found


def _trend(runs: _Runs, begin: Ints, last: Ints) -> Floats:
    """Least-squares slope of the values a day [m]; NaN with fewer than two times."""
    static = np.cumsum(runs.time == _STATIC)
    begin = begin + static[last] - static[begin] + (runs.time[begin] == _STATIC)
    two = np.flatnonzero(begin < last)
    two = two[runs.time[begin[two]] < runs.time[last[two]]]
    ends, out = (begin[two], last[two]), np.full(len(begin), np.nan)
    n = (ends[1] - ends[0] + 1).astype(np.longdouble)
    days, squares, values, products = (
        _reduced(np.add, of, *ends)
        for of in (runs.day, runs.day * runs.day, runs.value.astype(np.longdouble), runs.day * runs.value)
    )
    out[two] = (products - days * values / n) / (squares - days * days / n)
    return out


def _columns(
    codes: Sequence[str], windows_hours: Sequence[float], kinds: Sequence[str], values: NDArray[Any]
) -> list[pl.Series]:
    """A column for each code, window and kind of `values` [codes, windows, kinds, n]."""
    return [
        pl.Series(f"{name}|{_window(hours)}|{kind}", values[code, place, number], nan_to_null=True)
        for code, name in enumerate(codes)
        for place, hours in enumerate(windows_hours)
        for number, kind in enumerate(kinds)
    ]


def read_windows(text: str) -> tuple[float, ...]:
    """Hours from `24,720,inf`. Raises: ConfigError.

    >>> read_windows("24, inf")
    (24.0, inf)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"windows are `{text}`; expected hours with commas, as in 24,720,inf.") from error


def _window(hours: float) -> str:
    return "all" if hours == float("inf") else f"{hours:g}h"


def _write_shard(job: _Job) -> int:
    found = table(
        pl.scan_parquet(job.shard), pl.scan_parquet(job.labels), job.codes, job.windows_hours, job.valued
    )
    write_parquet(found, job.out)
    return found.height
