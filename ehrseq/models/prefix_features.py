"""What a baseline sees: one row of counts and summaries per label, from the tokens visible at its prediction time.

Everything is vectorised over (label, token) pairs, in pieces of bounded size; the whole history counts, not only
the model's context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.tokens.packing import Examples, Ints, ranges

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    from ehrseq.tokens.store import TokenStore

Floats = NDArray[np.float64]

_US_PER_HOUR = 3_600_000_000.0
_HOURS_PER_YEAR = 8766.0
_PAIRS_AT_ONCE = 4_000_000
SUMMARIES = ("last", "min", "max", "mean", "trend", "hours_since")


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Visible tokens of some labels: P pairs, sorted by label and time."""

    label: Ints  # [P] 0..n-1 within the piece
    code: NDArray[np.int32]  # [P]
    value: Floats  # [P], NaN = none
    hours: Floats  # [P] from the event to the prediction

    def take(self, which: NDArray[Any]) -> "Pairs":
        """Some of the pairs: a mask [P] or positions."""
        return Pairs(self.label[which], self.code[which], self.value[which], self.hours[which])


def pieces(
    store: "TokenStore", examples: Examples, rows: Ints, values: NDArray[Any] | None = None
) -> Iterator[tuple[slice, Pairs]]:
    """Split the labels into pieces whose visible tokens fit in memory.

    `values` [N] stand in for the store's normalised ones (NaN = none).
    """
    ends = np.cumsum(examples.position[rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, side="right")))
        yield slice(start, stop), _pairs(store, examples, rows[start:stop], values)
        start = stop


def _pairs(store: "TokenStore", examples: Examples, rows: Ints, values: NDArray[Any] | None) -> Pairs:
    visible = examples.position[rows]
    token = ranges(np.asarray(store.offsets)[examples.subject[rows]], visible)
    asked = np.repeat(examples.prediction_time[rows], visible)
    return Pairs(
        label=np.repeat(np.arange(len(rows)), visible),
        code=np.asarray(store.code)[token],
        value=np.asarray(store.value if values is None else values)[token].astype(np.float64),
        hours=np.maximum(asked - np.asarray(store.time)[token], 0) / _US_PER_HOUR,
    )


def log_counts(
    store: "TokenStore", examples: Examples, rows: Ints, windows_hours: tuple[float, ...], codes: int
) -> "csr_matrix":
    """log(1 + count) of each code in each look-back window (inf = all history).

    Returns a sparse [len(rows), len(windows_hours) * codes + 2] float64 matrix; the last two columns are age in
    half-centuries and whether it is known.
    """
    from scipy import sparse  # type: ignore[import-untyped]

    blocks = []
    for _, pairs in pieces(store, examples, rows):
        labels = int(pairs.label[-1]) + 1
        shape = (labels, codes)
        found = []
        for hours in windows_hours:
            near = pairs.hours <= hours
            ones = np.ones(int(near.sum()))
            counts = sparse.coo_matrix((ones, (pairs.label[near], pairs.code[near])), shape).tocsr()
            counts.data = np.log1p(counts.data)
            found.append(counts)
        blocks.append(sparse.hstack(found))
    age = sparse.csr_matrix(_age_columns(store, examples, rows))
    return sparse.hstack([sparse.vstack(blocks), age]).tocsr()


def ages(store: "TokenStore", examples: Examples, rows: Ints) -> Floats:
    """Age in years at the prediction [n]; NaN = birth unknown."""
    birth = np.asarray(store.birth)[examples.subject[rows]]
    years = (examples.prediction_time[rows] - birth.astype(np.float64)) / _US_PER_HOUR / _HOURS_PER_YEAR
    return np.where(birth == np.iinfo(np.int64).min, np.nan, years)


def _age_columns(store: "TokenStore", examples: Examples, rows: Ints) -> Floats:
    years = ages(store, examples, rows)
    return np.stack([np.nan_to_num(years) / 50, ~np.isnan(years)], axis=1)


def value_summaries(store: "TokenStore", examples: Examples, rows: Ints, codes: Ints) -> Floats:
    """SUMMARIES of the values of each of `codes` [m]: [len(rows), m * 6] float64, NaN where there is no value.

    `trend` is the least-squares slope of the (normalised) value per day; NaN with fewer than two times.
    """
    out = np.full((len(rows), len(codes), len(SUMMARIES)), np.nan)
    for piece, pairs in pieces(store, examples, rows):
        column = _columns_of(pairs.code, codes)
        use = (column >= 0) & ~np.isnan(pairs.value)
        group = pairs.label[use] * len(codes) + column[use]
        order = np.argsort(group, kind="stable")
        if len(order):
            group = group[order]
            summary = _summarise(group, pairs.value[use][order], pairs.hours[use][order])
            flat = out[piece].reshape(-1, len(SUMMARIES))  # a view: pieces are contiguous
            flat[np.unique(group)] = summary
    return out.reshape(len(rows), -1)


def _columns_of(code: NDArray[np.int32], codes: Ints) -> Ints:
    """Column of each code, -1 for codes that are not asked for."""
    highest = np.maximum(code.max(initial=0), codes.max(initial=0))
    table = np.full(int(highest) + 1, -1)
    table[codes] = np.arange(len(codes))
    return table[code]


def _summarise(group: Ints, value: Floats, hours: Floats) -> Floats:
    """SUMMARIES of each run of equal `group`, in time order: [groups, 6]."""
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    last = np.append(first[1:], len(group)) - 1
    count = last - first + 1

    def mean(x: Floats) -> Floats:
        return np.add.reduceat(x, first) / count

    days = -hours / 24
    centred = days - np.repeat(mean(days), count)
    spread = mean(centred * centred)
    with np.errstate(invalid="ignore", divide="ignore"):
        trend = np.where(spread > 1e-12, mean(centred * value) / spread, np.nan)
    columns: list[Any] = [
        value[last],
        np.minimum.reduceat(value, first),
        np.maximum.reduceat(value, first),
        mean(value),
        trend,
        hours[last],
    ]
    return np.stack(columns, axis=1)
