"""Windows on a shard: where each starts and ends for every candidate, and what they hold.

A *moment* is a subject and a time with the number of events of each predicate then. Counts in a window are
differences of running sums, found with as-of joins: no loop over patients or events.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    Repeat,
    Task,
    Window,
)

SUBJECT, TIME = "subject_id", "time"


def candidates(
    task: Task, events: pl.DataFrame, codes: Mapping[str, Sequence[str]]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Moments [subject_id, time, one UInt32 count a predicate], and candidates [subject_id, trigger]; both sorted.

    `events` (with those without a time) must hold each subject's first and last event if the task asks where the
    record starts or ends. Patients without the task's static traits are no candidates.
    """
    plain = {name: one for name, one in task.predicates.items() if isinstance(one, Plain)}
    moments = (
        events.lazy()
        .select(SUBJECT, TIME, *(holds(one, codes[name]).alias(name) for name, one in plain.items()))
        .group_by(SUBJECT, TIME)
        .agg(pl.col(*plain).sum())
        .sort(SUBJECT, TIME)
        .collect()
    )
    traits, moments = moments.filter(pl.col(TIME).is_null()), moments.filter(pl.col(TIME).is_not_null())
    edges = {name: edge for name, edge in _edges().items() if name in task.names}
    moments = moments.with_columns(pl.lit(1, pl.UInt32).alias(ANY_EVENT), **edges)
    moments = moments.with_columns(pl.lit(1, pl.UInt32).alias(name) for name in task.static if name in plain)
    traits = traits.with_columns(pl.lit(0, pl.UInt32).alias(name) for name in (ANY_EVENT, *edges))
    for name, one in task.predicates.items():
        if isinstance(one, Derived):
            moments = moments.with_columns(_combined(one).alias(name))
            traits = traits.with_columns(_combined(one).alias(name))
    rows = moments.filter(pl.col(task.trigger) > 0).select(SUBJECT, pl.col(TIME).alias(TRIGGER))
    if task.static:
        able = traits.filter(pl.all_horizontal(pl.col(name) > 0 for name in task.static))
        rows = rows.join(able.select(SUBJECT), on=SUBJECT, how="semi", maintain_order="left")
    return moments, rows


def repeated(rows: pl.DataFrame, moments: pl.DataFrame, repeat: Repeat) -> pl.DataFrame:
    """Candidates at the trigger and every so often after it, before the next `until`; none where it never comes."""
    ends = moments.filter(pl.col(repeat.until) > 0).select(SUBJECT, TIME, pl.col(TIME).alias("_until"))
    rows = _asof(rows, ends, TRIGGER, strategy="forward", exact=False).filter(pl.col("_until").is_not_null())
    times = pl.datetime_ranges(TRIGGER, pl.col("_until"), interval=repeat.every, closed="left")
    return rows.select(SUBJECT, times.alias(TRIGGER)).explode(TRIGGER).unique().sort(SUBJECT, TRIGGER)


def _edges() -> dict[str, pl.Expr]:
    """Whether a moment is its subject's first, and last; moments are sorted."""
    subject = pl.col(SUBJECT)
    return {
        RECORD_START: (subject != subject.shift(1)).fill_null(True).cast(pl.UInt32),
        RECORD_END: (subject != subject.shift(-1)).fill_null(True).cast(pl.UInt32),
    }


def holds(predicate: Plain, codes: Sequence[str]) -> pl.Expr:
    """Whether an event is one of a predicate whose codes in this timeline are `codes`."""
    value, holds = pl.col("numeric_value"), pl.col("code").is_in(list(codes))
    if predicate.at_least is not None:
        bound = pl.lit(predicate.at_least, pl.Float32)  # 0.7 as float32 is less than 0.7 as float64
        holds &= (value >= bound) if predicate.least_inclusive else (value > bound)
    if predicate.at_most is not None:
        bound = pl.lit(predicate.at_most, pl.Float32)
        holds &= (value <= bound) if predicate.most_inclusive else (value < bound)
    for column, wanted in predicate.columns:
        holds &= pl.col(column) == pl.lit(wanted)
    return holds.fill_null(False)


def _combined(derived: Derived) -> pl.Expr:
    parts = [pl.col(name) > 0 for name in derived.of]
    return (pl.all_horizontal(parts) if derived.operator == "and" else pl.any_horizontal(parts)).cast(
        pl.UInt32
    )


def lay_out(task: Task, moments: pl.DataFrame, rows: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Add a column for each endpoint and `label.<predicate>`, its count; returns who stayed, and why others left."""
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
    window, predicates = task.label
    return _count(rows, moments, task.windows[window], predicates, "label."), left


def lay_out_index(task: Task, moments: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Candidates with the column `task.index`, for asking before the outcome is known.

    What lies after the index is not looked at: neither the label's window and those that hang on it, nor what another
    window holds behind the index.
    """
    later = {task.label[0]} if not task.index.startswith(f"{task.label[0]}.") else set()
    for name in task.endpoints:
        window, side = name.split(".")
        endpoint: Endpoint = getattr(task.windows[window], side)
        if window in later or endpoint.reference.split(".")[0] in later:
            later.add(window)
            continue
        rows = _place(rows, moments, task.windows[window], side)
        if endpoint.backward or name == task.index:
            rows = rows.filter(pl.col(name).is_not_null())
    for name in task.windows.keys() - later:
        past = (pl.col(f"{name}.end") <= pl.col(task.index)).fill_null(False)
        kept = _check(rows.filter(past), moments, task.windows[name], Counter())
        rows = pl.concat([kept, rows.filter(~past)])
    return rows.sort(SUBJECT, TRIGGER)


def visible_outcomes(
    task: Task, moments: pl.DataFrame, rows: pl.DataFrame
) -> dict[str, tuple[int, int, int]]:
    """By label predicate: true labels with an event of it in the label's window that is visible at the prediction; at
    the same time as the prediction, within the window or not, unless it is the trigger itself; all true labels. What
    `ehrseq.tasks.audit` judges."""
    window, names = task.windows[task.label[0]], task.label[1]
    upto = rows.with_columns(pl.min_horizontal(task.index, f"{window.name}.end").alias(f"{window.name}.end"))
    inclusive = replace(window, end_inclusive=True)
    early = _count(upto, moments, inclusive, names, "early.")
    now = rows.join(
        moments.select(SUBJECT, TIME, *(pl.col(name).alias(f"now.{name}") for name in names)),
        left_on=[SUBJECT, task.index], right_on=[SUBJECT, TIME], how="left", maintain_order="left",
    )  # fmt: skip
    found = {}
    for name in names:
        true = rows[f"label.{name}"] > 0
        again = (rows[task.index] == rows[TRIGGER]) & (task.trigger in _parts(task, name))
        sides = (early[f"early.{name}"] > 0, (now[f"now.{name}"] > 0) & ~again, true)
        found[name] = tuple(int((true & side).sum() or 0) for side in sides)
    return found  # type: ignore[return-value]


def _parts(task: Task, name: str) -> set[str]:
    """A predicate and all that its expression names."""
    one = task.predicates.get(name)
    return {name}.union(*(_parts(task, part) for part in one.of)) if isinstance(one, Derived) else {name}


def _absent(endpoint: Endpoint) -> str:
    """Why a candidate has no such moment."""
    match endpoint.predicate:
        case str(name) if name == RECORD_START:
            return f"{endpoint.reference.split('.')[0]}: no record yet"
        case str(name) if name == RECORD_END:
            return f"{endpoint.reference.split('.')[0]}: the record is over"
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
    """Left join on subject and the nearest `time` to column `on`.

    Nothing has to be sorted for it: each subject's moments are in order of time, its rows in that of their triggers,
    and so of `on`, as no window's end moves back when the trigger moves on.
    """
    return (
        rows.with_columns(pl.col(on).alias("_on"))
        .join_asof(
            right, left_on="_on", right_on=TIME, by=SUBJECT, strategy=strategy, allow_exact_matches=exact,
            check_sortedness=False,
        )
        .drop("_on", TIME, strict=False)
    )  # fmt: skip


def _check(rows: pl.DataFrame, moments: pl.DataFrame, window: Window, left: Counter[str]) -> pl.DataFrame:
    for predicate, (least, most) in window.has.items():
        if least is None and most is None:
            continue
        rows = _count(rows, moments, window, [predicate], "_n.").rename({f"_n.{predicate}": "_n"})
        enough = rows.filter(pl.col("_n") >= (least or 0))
        left[f"{window.name}: {'no' if least == 1 else 'too few'} {predicate}"] += rows.height - enough.height
        rows = enough if most is None else enough.filter(pl.col("_n") <= most)
        left[f"{window.name}: has {predicate}" if most == 0 else f"{window.name}: too many {predicate}"] += (
            enough.height - rows.height
        )
        rows = rows.drop("_n")
    return rows


def _count(
    rows: pl.DataFrame, moments: pl.DataFrame, window: Window, predicates: Sequence[str], prefix: str
) -> pl.DataFrame:
    """Columns `<prefix><predicate>`: events of each predicate within the window, never below 0."""
    running = moments.select(
        SUBJECT, TIME, pl.col(*predicates).cast(pl.Int64).cum_sum()
    )  # over all: differences count
    first = (pl.col(SUBJECT) != pl.col(SUBJECT).shift(1)).fill_null(True)
    own = moments.filter(first).select(pl.col(*predicates).cast(pl.Int64))
    before = running.filter(first).select(SUBJECT, *(pl.col(name) - own[name] for name in predicates))
    base = rows.select(SUBJECT).join(before, on=SUBJECT, how="left", maintain_order="left")
    totals = []
    for side, exact in (("start", not window.start_inclusive), ("end", window.end_inclusive)):
        sought = rows.select(SUBJECT, TRIGGER, f"{window.name}.{side}")
        found = _asof(sought, running, f"{window.name}.{side}", strategy="backward", exact=exact)
        totals.append(found)
    start, end = totals
    counts = [
        (end[name].fill_null(base[name]) - start[name].fill_null(base[name])).clip(0).alias(f"{prefix}{name}")
        for name in predicates
    ]
    return rows.with_columns(counts)
