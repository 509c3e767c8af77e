"""What stands beside tokens, in batches: codes of bags and vectors of side arrays, each at its position in the row.

Only positions that have such entries cost anything; a batch holds as many places as its fullest row may need.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.spans import SpanArray
from ehrseq.tokens.packing import Ints, Windows, ranges

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

Batch = dict[str, NDArray[Any]]
Put = Callable[[NDArray[Any], Any], NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class _Beside:
    """Entries beside tokens, sorted by token. Those of window w: `first[w] : first[w] + count[w]`."""

    token: Ints  # [G] counted in the whole store
    first: Ints  # [W]
    count: Ints  # [W]

    def batch(self, window: Ints, start: Ints, local_row: Ints, shape: tuple[int, int], bound: int) -> Batch:
        """Arrays [B, bound, ...] for windows [w] in rows `local_row` [w]; `start` [w]: token at the row's column 0."""
        counts = self.count[window]
        entry = ranges(self.first[window], counts)
        ends = np.cumsum(np.bincount(local_row, counts, shape[0]).astype(np.int64))

        def put(values: NDArray[Any], empty: Any) -> NDArray[Any]:
            """Entries [g, ...] come row by row: [B, bound, ...]."""
            out: NDArray[Any] = np.full((shape[0], bound, *values.shape[1:]), empty, values.dtype)
            for row, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                out[row, : last - first] = values[first:last]
            return out

        at = (self.token[entry] - np.repeat(start, counts)).astype(np.int32)
        return self.filled(entry, put(at, shape[1]), put)

    def filled(self, entry: Ints, at: NDArray[np.int32], put: Put) -> Batch:
        """Arrays of `entry` [g]; `at` [B, bound]: position in the row, T = none."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, eq=False)
class _Bag(_Beside):
    code: NDArray[np.int32]  # [G]
    weight: NDArray[np.float32]  # [G]

    def filled(self, entry: Ints, at: NDArray[np.int32], put: Put) -> Batch:
        return {"bag_at": at, "bag_code": put(self.code[entry], 0), "bag_weight": put(self.weight[entry], 0)}


@dataclass(frozen=True, slots=True, eq=False)
class _Vectors(_Beside):
    name: str
    row: Ints  # [G] in the side array
    array: SpanArray
    rms: float

    def filled(self, entry: Ints, at: NDArray[np.int32], put: Put) -> Batch:
        vectors = self.array.read(self.row[entry]) / np.float32(self.rms)
        return {f"dense_at.{self.name}": at, f"dense.{self.name}": put(vectors, 0)}


def bags_and_vectors(store: "TokenStore", windows: Windows) -> list[_Beside]:
    """What stands beside the tokens of `windows`: bags first, even if there are none, then side arrays."""
    bag = np.asarray(store.bag_token)
    found: list[_Beside] = [
        _Bag(bag, *_within(bag, windows), np.asarray(store.bag_code), np.asarray(store.bag_weight))
    ]
    array, token = np.asarray(store.dense_array), np.asarray(store.dense_token)
    for number in np.unique(array):
        mine, scale = np.flatnonzero(array == number), store.vocabulary["spans"][number]
        first, count = _within(token[mine], windows)
        rows, vectors = np.asarray(store.dense_row)[mine], store.spans(scale["name"])
        found.append(_Vectors(token[mine], first, count, scale["name"], rows, vectors, scale["rms"]))
    return found


def _within(token: Ints, windows: Windows) -> tuple[Ints, Ints]:
    """First entry of each window and how many it has."""
    first = np.searchsorted(token, windows.start)
    return first, np.searchsorted(token, windows.start + windows.length) - first


def seats(row: Ints, rows: int) -> Ints:
    """Place of each entry [g] within its row, from 0; entries come row by row.

    >>> seats(np.asarray([0, 0, 2]), 3).tolist()
    [0, 1, 0]
    """
    per_row = np.bincount(row, minlength=rows)
    place: Ints = np.arange(len(row)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
    return place
