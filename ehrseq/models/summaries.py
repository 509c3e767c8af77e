"""Summary features: every statistic of every series in every window before the prediction, one column each.

A window (a, b) is the time from b to a hours before the prediction, b not included; (0, inf) is all history.
Vectorised over (label, token) pairs in pieces of bounded size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.models.prefix_features import Floats, Pairs, pieces
from ehrseq.models.series import Series, series_pairs
from ehrseq.tokens.packing import Examples, Ints

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

STATISTICS = ("last", "first", "min", "max", "mean", "median", "std", "trend", "count", "hours_since")
"""`trend`: least-squares slope per day. `std`: population's. All but `count` (0) are NaN without a value."""


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to `stop` hours before the prediction, and which statistics are taken of it."""

    start: float
    stop: float
    statistics: tuple[str, ...] = STATISTICS

    @property
    def name(self) -> str:
        """As in a column's name: `0-24h`, `all`."""
        return "all" if (self.start, self.stop) == (0, np.inf) else f"{self.start:g}-{self.stop:g}h"


def summary_names(series: Sequence[Series], windows: Sequence[Window]) -> list[str]:
    """Names of the columns of `summaries`: `series | window | statistic`."""
    return [
        f"{one.name} | {window.name} | {statistic}"
        for window in windows
        for one in series
        for statistic in window.statistics
    ]


def summaries(
    store: "TokenStore",
    examples: Examples,
    rows: Ints,
    series: Sequence[Series],
    windows: Sequence[Window],
    values: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Features [len(rows), columns] float32 in the order of `summary_names`.

    `values` [N] are the numbers of the store's tokens as read; None = the store's normalised ones.
    """
    out = np.empty((len(rows), len(summary_names(series, windows))), np.float32)
    for piece, pairs in pieces(store, examples, rows, values):
        labels = piece.stop - piece.start
        found = series_pairs(pairs, series)
        column = 0
        for window in windows:
            inside = found.take((found.hours >= window.start) & (found.hours < window.stop))
            block = _window(inside, labels, len(series), window.statistics)
            out[piece, column : column + block.shape[1]] = block
            column += block.shape[1]
    return out


def _window(pairs: Pairs, labels: int, series: int, statistics: tuple[str, ...]) -> Floats:
    """[labels, series * statistics]; `pairs.code` is the number of the series."""
    out = np.full((labels * series, len(statistics)), np.nan)
    if "count" in statistics:
        out[:, statistics.index("count")] = 0
    group = pairs.label * series + pairs.code
    order = np.argsort(group, kind="stable")  # keeps the order of time
    if len(order):
        group = group[order]
        found = _statistics(group, pairs.value[order], pairs.hours[order])
        there = group[np.append(True, group[1:] != group[:-1])]
        for number, name in enumerate(statistics):
            out[there, number] = found[name]
    return out.reshape(labels, -1)


def _statistics(group: Ints, value: Floats, hours: Floats) -> dict[str, Floats]:
    """Each statistic of each run of equal `group`, in time order: [groups]."""
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    last = np.append(first[1:], len(group)) - 1
    count = last - first + 1

    def mean(x: Floats) -> Floats:
        return np.add.reduceat(x, first) / count

    middle = mean(value)
    away = value - np.repeat(middle, count)
    days = -hours / 24
    centred = days - np.repeat(mean(days), count)
    spread = mean(centred * centred)
    with np.errstate(invalid="ignore", divide="ignore"):
        trend = np.where(spread > 1e-12, mean(centred * away) / spread, np.nan)
    ranked = value[np.lexsort((value, group))]
    return {
        "last": value[last],
        "first": value[first],
        "min": np.minimum.reduceat(value, first),
        "max": np.maximum.reduceat(value, first),
        "mean": middle,
        "median": (ranked[first + (count - 1) // 2] + ranked[first + count // 2]) / 2,
        "std": np.sqrt(mean(away * away)),
        "trend": trend,
        "count": count.astype(np.float64),
        "hours_since": hours[last],
    }
