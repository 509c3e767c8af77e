"""Windows on a shard: where each starts and ends for every candidate, and what they hold.

A *moment* is a subject and a time with the number of events of each predicate then. Counts in a window are
differences of running sums, found with as-of joins: no loop over patients or events.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import polars as pl

from ehrseq.tasks.language import (
    ANY_EVENT,
    RECORD_END,
    RECORD_START,
    TRIGGER,
    Derived,
    Endpoint,
    Plain,
    Task,
    Window,
)

SUBJECT, TIME = "subject_id", "time"


def candidates(
    task: Task, events: pl.DataFrame, codes: Mapping[str, Sequence[str]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Moments [subject_id, time, one UInt32 count a predicate], and candidates [subject_id, trigger]; both sorted.

    `events` must hold each subject's first and last event if the task asks where the record starts or ends.
    """
    flags = [
        _holds(one, codes[name]).alias(name)
        for name, one in task.predicates.items()
        if isinstance(one, Plain)
    ]
    moments = (
        events.with_columns(*flags)
        .group_by(SUBJECT, TIME)
        .agg(pl.col(*codes).sum())
        .sort(SUBJECT, TIME)
        .with_columns(pl.lit(1, pl.UInt32).alias(ANY_EVENT), *_edges())
    )
    for name, one in task.predicates.items():
        if isinstance(one, Derived):
            moments = moments.with_columns(_combined(one).alias(name))
    rows = moments.filter(pl.col(task.trigger) > 0).select(SUBJECT, pl.col(TIME).alias(TRIGGER))
    return moments, rows


def _edges() -> tuple[pl.Expr, pl.Expr]:
    """Whether a moment is its subject's first, and last."""
    time = pl.col(TIME)
    return (
        (time == time.min().over(SUBJECT)).cast(pl.UInt32).alias(RECORD_START),
        (time == time.max().over(SUBJECT)).cast(pl.UInt32).alias(RECORD_END),
    )


def _holds(predicate: Plain, codes: Sequence[str]) -> pl.Expr:
    value, holds = pl.col("numeric_value"), pl.col("code").is_in(list(codes))
    if predicate.at_least is not None:
        bound = pl.lit(predicate.at_least, pl.Float32)  # 0.7 as float32 is less than 0.7 as float64
        holds &= (value >= bound) if predicate.least_inclusive else (value > bound)
    if predicate.at_most is not None:
        bound = pl.lit(predicate.at_most, pl.Float32)
        holds &= (value <= bound) if predicate.most_inclusive else (value < bound)
    return holds.fill_null(False)


def _combined(derived: Derived) -> pl.Expr:
    parts = [pl.col(name) > 0 for name in derived.of]
    return (pl.all_horizontal(parts) if derived.operator == "and" else pl.any_horizontal(parts)).cast(
        pl.UInt32
    )


def lay_out(task: Task, moments: pl.DataFrame, rows: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Add a column for each endpoint and `label`, the label's count; returns who stayed, and why others left."""
    left: Counter[str] = Counter()
    placed: set[str] = set()
    for name in task.endpoints:
        window, side = name.split(".")
        rows = _place(rows, moments, task.windows[window], side)
        endpoint: Endpoint = getattr(task.windows[window], side)
        found = rows.filter(pl.col(name).is_not_null())
        left[_absent(endpoint)] += rows.height - found.height
        rows = found
        placed.add(name)
        if {f"{window}.start", f"{window}.end"} <= placed:
            rows = _check(rows, moments, task.windows[window], left)
    rows = (
        rows.with_columns(label=pl.lit(0))
        if rows.is_empty()
        else _count(rows, moments, task.windows[task.label[0]], task.label[1], "label")
    )
    return rows, left


def _absent(endpoint: Endpoint) -> str:
    """Why a candidate has no such moment."""
    match endpoint.predicate:
        case str(name) if name == RECORD_START:
            return f"the record starts after {endpoint.reference}"
        case str(name) if name == RECORD_END:
            return f"the record ends before {endpoint.reference}"
    return f"no {endpoint.predicate} {'before' if endpoint.backward else 'after'} {endpoint.reference}"


def _place(rows: pl.DataFrame, moments: pl.DataFrame, window: Window, side: str) -> pl.DataFrame:
    """Column `<window>.<side>`: a time, or null if there is no such event."""
    endpoint: Endpoint = getattr(window, side)
    name = f"{window.name}.{side}"
    if endpoint.predicate is None:
        return rows.with_columns((pl.col(endpoint.reference) + pl.lit(endpoint.offset)).alias(name))
    # as es-aces does: an event at the reference itself is the one looked for if this end of the window is inclusive
    # and the reference is the window's other end
    inclusive = window.end_inclusive if side == "end" else window.start_inclusive
    events = moments.filter(pl.col(endpoint.predicate) > 0).select(SUBJECT, TIME, pl.col(TIME).alias(name))
    return _asof(
        rows, events, endpoint.reference,
        strategy="backward" if endpoint.backward else "forward",
        exact=inclusive and endpoint.reference.startswith(f"{window.name}."),
    )  # fmt: skip


def _asof(
    rows: pl.DataFrame, right: pl.DataFrame, on: str, *, strategy: Literal["backward", "forward"], exact: bool
) -> pl.DataFrame:
    """Left join on subject and the nearest `time` to column `on`."""
    return (
        rows.with_columns(pl.col(on).alias("_on"))
        .sort("_on", nulls_last=True, maintain_order=True)
        .join_asof(
            right.sort(TIME, maintain_order=True), left_on="_on", right_on=TIME, by=SUBJECT,
            strategy=strategy, allow_exact_matches=exact, check_sortedness=False,
        )
        .drop("_on", TIME, strict=False)
        .sort(SUBJECT, TRIGGER, maintain_order=True)
    )  # fmt: skip


def _check(rows: pl.DataFrame, moments: pl.DataFrame, window: Window, left: Counter[str]) -> pl.DataFrame:
    for predicate, (least, most) in window.has.items():
        rows = _count(rows, moments, window, predicate, "_n")
        enough = rows.filter(pl.col("_n") >= (least or 0))
        left[f"{window.name}: too few {predicate}"] += rows.height - enough.height
        rows = enough if most is None else enough.filter(pl.col("_n") <= most)
        left[f"{window.name}: has {predicate}" if most == 0 else f"{window.name}: too many {predicate}"] += (
            enough.height - rows.height
        )
        rows = rows.drop("_n")
    return rows


def _count(
    rows: pl.DataFrame, moments: pl.DataFrame, window: Window, predicate: str, alias: str
) -> pl.DataFrame:
    """Column `alias`: events of `predicate` within the window, never below 0."""
    running = moments.select(
        SUBJECT, TIME, pl.col(predicate).cast(pl.Int64).cum_sum().over(SUBJECT).alias("_sum")
    )
    for side, exact in (("start", not window.start_inclusive), ("end", window.end_inclusive)):
        rows = _asof(rows, running, f"{window.name}.{side}", strategy="backward", exact=exact)
        rows = rows.rename({"_sum": f"_{side}"})
    count = pl.col("_end").fill_null(0) - pl.col("_start").fill_null(0)
    return rows.with_columns(count.clip(lower_bound=0).alias(alias)).drop("_start", "_end")
