"""Labels become windows, windows become rows: the plan of an epoch, made from lengths alone.

A label of a subject at prefix length p looks at the window [0, p) if p <= context, else at [p - context, p).
Labels with the same window share it, and so do all labels with p <= context (a causal model at position p - 1
of [0, max p) has seen exactly [0, p)). So a prediction never depends on what was recorded later.

Rows are planned on the histogram of lengths: one greedy pattern of lengths ("256 + 200 + 40 + 16") is repeated as
often as the counts allow, so planning costs patterns, not windows. Which window fills which slot of its length,
and the order of the rows, are drawn anew from (seed, epoch).
Source: Krell et al. 2021, *Efficient sequence packing without cross-contamination*, section 3 (histogram packing).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import TokenError

Ints = NDArray[np.int64]
SPLITS = ("train", "tuning", "held_out")


@dataclass(frozen=True, slots=True, eq=False)
class Several:
    """Tasks of several outputs (all discharge diagnoses): which outputs there are, and which are true of each label.

    L labels over n tasks with O outputs in all; a task that is a single yes or no is its own output.
    """

    outputs: NDArray[np.str_]  # [O] `task`, or `task.output` where it has several; in the order of the tasks
    first: Ints  # [n + 1] outputs of task t: first[t]:first[t + 1]
    offsets: Ints  # [L + 1] true outputs of label i: true[offsets[i]:offsets[i + 1]]
    true: NDArray[np.int32]  # numbers within `outputs`, ascending for each label

    def take(self, rows: Ints) -> Self:
        """The same outputs, the labels `rows` alone."""
        counts = np.diff(self.offsets)[rows]
        true = self.true[ranges(self.offsets[:-1][rows], counts)]
        return replace(self, offsets=np.append(0, np.cumsum(counts)), true=true)

    def dense(self, rows: Ints, task: int) -> NDArray[np.bool_]:
        """Which outputs of `task` are true of the labels `rows`, all of that task: [len(rows), outputs]."""
        mine = self.take(rows)
        out = np.zeros((len(rows), int(self.first[task + 1] - self.first[task])), bool)
        out[np.repeat(np.arange(len(rows)), np.diff(mine.offsets)), mine.true - self.first[task]] = True
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Labels as arrays: what training reads (`examples.npz`). L labels over n tasks.

    `value` of a task with several outputs says whether any is true; `several` is None where no task has several.
    """

    subject: Ints  # [L] index into the store's subjects
    position: Ints  # [L] number of the subject's tokens visible at the prediction, >= 1
    task: NDArray[np.int32]  # [L] index into `tasks`
    value: NDArray[np.float32]  # [L] 0 or 1; NaN = no label is known (prediction only)
    split: NDArray[np.int8]  # [L] 0 train, 1 tuning, 2 held_out
    prediction_time: Ints  # [L] microseconds since 1970 UTC
    tasks: NDArray[np.str_]  # [n] names
    several: Several | None = None

    def __len__(self) -> int:
        return len(self.subject)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read `examples.npz`, or the file of that name in a folder.

        Raises: TokenError if the file is missing, damaged, or lacks an array.
        """
        file = path / "examples.npz" if path.is_dir() else path
        if not file.is_file():
            raise TokenError(f"{file}: no such file. Expected examples (labels as arrays).")
        try:
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError, AttributeError, BadZipFile) as error:
            raise TokenError(f"{file}: damaged ({type(error).__name__}). Label again.") from error
        missing = [name for name in _ARRAYS if name not in found]
        if missing:
            raise TokenError(f"{file}: has no array {missing[0]!r}; found {', '.join(found)}.")
        more = {name: found[name] for name in _SEVERAL if name in found}
        return cls(**{name: found[name] for name in _ARRAYS}, several=Several(**more) if more else None)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, as `examples.npz` holds them."""
        mine = {name: getattr(self, name) for name in _ARRAYS}
        return mine | {name: getattr(self.several, name) for name in _SEVERAL if self.several}

    @property
    def outputs(self) -> NDArray[np.str_]:
        """[O] names of what a model predicts: the tasks, and of one with several outputs these."""
        return self.tasks if self.several is None else self.several.outputs

    def first_output(self) -> Ints:
        """[n + 1] where the outputs of each task begin."""
        return np.arange(len(self.tasks) + 1) if self.several is None else self.several.first

    def single(self) -> NDArray[np.bool_]:
        """[n] which tasks are a single yes or no."""
        mine: NDArray[np.bool_] = self.outputs[self.first_output()[:-1]] == self.tasks
        return mine

    def take(self, rows: Ints) -> Self:
        """The labels `rows` alone, of the same tasks and outputs."""
        mine = {name: getattr(self, name)[rows] for name in _ARRAYS if name != "tasks"}
        return replace(self, **mine, several=self.several.take(rows) if self.several else None)

    def rows(self, split: str | None = None) -> Ints:
        """Row numbers of a split, in order; all rows for None.

        Raises: TokenError for an unknown split.
        """
        if split is None:
            return np.arange(len(self))
        if split not in SPLITS:
            raise TokenError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}.")
        return np.flatnonzero(self.split == SPLITS.index(split))


_SEVERAL = tuple(field.name for field in fields(Several))
_ARRAYS = tuple(field.name for field in fields(Examples) if field.name != "several")


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """W windows of tokens, sorted by (subject, start), and the labels that look at them.

    The labels of window w are entries `offsets[w]:offsets[w + 1]` of `label` and `at`.
    """

    subject: Ints  # [W] index into the store's subjects
    start: Ints  # [W] first token, counted in the whole store
    length: Ints  # [W] tokens, 1..context
    offsets: Ints  # [W + 1]
    label: Ints  # [L] row number in the examples
    at: Ints  # [L] position in the window of the last visible token


def plan_windows(examples: Examples, rows: Ints, offsets: ArrayLike, context: int) -> Windows:
    """Windows of the labels `rows`. `offsets` [S + 1]: the store's first token of each subject.

    Raises: TokenError if a label points outside the store (labels and tokens of different runs).
    """
    first = np.asarray(offsets, np.int64)
    subject, position = examples.subject[rows], examples.position[rows]
    if len(rows) and (subject.min() < 0 or subject.max() >= len(first) - 1):
        raise TokenError(
            f"examples name subject {subject.max()}, the store has {len(first) - 1}. Label again."
        )
    available = first[subject + 1] - first[subject]
    if np.any((position < 1) | (position > available)):
        count = int(np.sum((position < 1) | (position > available)))
        raise TokenError(f"{count} examples have a prefix outside their subject's tokens. Label again.")
    start = np.maximum(position - context, 0)
    order = np.lexsort((position, start, subject))
    subject, start, position = subject[order], start[order], position[order]
    new = np.ones(len(rows), bool)
    new[1:] = (subject[1:] != subject[:-1]) | (start[1:] != start[:-1])
    bounds = np.append(np.flatnonzero(new), len(rows))
    head, last = bounds[:-1], bounds[1:] - 1
    return Windows(
        subject=subject[head],
        start=first[subject[head]] + start[head],
        length=position[last] - start[head],
        offsets=bounds,
        label=np.asarray(rows)[order],
        at=position - 1 - start,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """R rows of slots, and which window fills each slot. Slots of row r: `offsets[r]:offsets[r + 1]`."""

    window: Ints  # [W]
    column: Ints  # [W] where in its row the window starts
    offsets: Ints  # [R + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Packing:
    """Rows of `row_length` tokens and at most `row_labels` labels for windows of given length and label count.

    The shape of the plan is fixed; `rows(seed, epoch)` fills it. `row_labels` None: a 32nd of the row, or
    what the richest window needs, rounded up to 8. `beside` are counts [W] of what else windows bring: entries
    of bags, vectors of a side array. A row has room for four times the average, or for the richest window; `row_beside`
    says what the fullest row of the plan may hold, whichever windows fill it.

    >>> packing = Packing([3, 5, 5, 2], [1, 1, 1, 1], row_length=8)
    >>> packing.count, packing.row_labels
    (2, 8)
    >>> packing.rows().column.tolist()
    [0, 5, 0, 5]
    """

    def __init__(
        self,
        lengths: ArrayLike,
        labels: ArrayLike,
        row_length: int,
        row_labels: int | None = None,
        beside: Sequence[ArrayLike] = (),
    ) -> None:
        lengths, labels = np.asarray(lengths, np.int64), np.asarray(labels, np.int64)
        if len(lengths) and lengths.max() > row_length:
            raise TokenError(f"a window of {lengths.max()} tokens does not fit rows of {row_length}.")
        richest = int(labels.max(initial=1))
        self.row_labels = -(-max(row_labels or row_length // 32, richest) // 8) * 8
        needs = np.stack([labels, *(np.asarray(counts, np.int64) for counts in beside)])
        mean = needs[1:].sum(axis=1) / max(lengths.sum(), 1)
        room = np.maximum(needs[1:].max(axis=1, initial=0), np.ceil(4 * mean * row_length).astype(np.int64))
        present, self._kind = np.unique(_kinds(lengths, needs[1:]), return_inverse=True)
        most = np.zeros(
            (len(needs), len(present)), np.int64
        )  # of a kind's richest window: right for any fill
        for need, row in zip(needs, most, strict=True):
            np.maximum.at(row, self._kind, need)
        kinds = _Kinds(present // _STEPS, np.bincount(self._kind, minlength=len(present)), most)
        patterns = list(_patterns(kinds, row_length, [self.row_labels, *room.tolist()]))
        slots = [np.tile(np.asarray(pattern), times) for pattern, times in patterns]
        sizes = [np.full(times, len(pattern)) for pattern, times in patterns]
        self._slots = np.concatenate([np.zeros(0, np.int64), *slots])
        self._offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
        ends = np.cumsum(kinds.length[self._slots])
        before = np.repeat(np.append(0, ends)[self._offsets[:-1]], np.diff(self._offsets))
        self._column = ends - kinds.length[self._slots] - before
        sums = np.cumsum(np.pad(most[1:, self._slots], ((0, 0), (1, 0))), axis=1)[:, self._offsets]
        self.row_beside = [-(-int(full) // 64) * 64 for full in np.diff(sums, axis=1).max(axis=1, initial=0)]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self._offsets) - 1

    def rows(self, seed: int | None = None, epoch: int = 0) -> Rows:
        """The rows of an epoch; with `seed` None in planned order (prediction)."""
        if seed is None:
            return self._fill(np.argsort(self._kind, kind="stable"), np.arange(self.count))
        random = np.random.default_rng((seed, epoch))
        shuffled = random.permutation(len(self._kind))
        by_kind = shuffled[np.argsort(self._kind[shuffled], kind="stable")]
        return self._fill(by_kind, random.permutation(self.count))

    def _fill(self, by_kind: Ints, row_order: Ints) -> Rows:
        window = np.empty(len(self._slots), np.int64)
        window[np.argsort(self._slots, kind="stable")] = by_kind
        sizes = np.diff(self._offsets)[row_order]
        slots = ranges(self._offsets[row_order], sizes)
        return Rows(window[slots], self._column[slots], np.append(0, np.cumsum(sizes)))


@dataclass(frozen=True, slots=True, eq=False)
class _Kinds:
    """Windows that may fill each other's slots, shorter ones first."""

    length: Ints  # [K]
    count: Ints  # [K] windows
    needs: Ints  # [n, K] labels and what stands beside, of the richest window


_STEPS = 64  # of what stands beside, per length


def _kinds(lengths: Ints, beside: Ints) -> Ints:
    """Number of each window's kind [W]: its length, and the power of two that holds its vectors (`beside[1:]` [n, W]).

    Vectors are heavy and rare, so windows with and without them must not share slots; bags are light and common.
    """
    steps = np.ceil(np.log2(np.maximum(beside[1:].sum(axis=0), 0.5))).astype(np.int64) + 1
    kinds: Ints = lengths * _STEPS + steps
    return kinds


def previous_of(code: NDArray[np.int32], lengths: Ints) -> NDArray[np.int32]:
    """How many tokens ago the same subject had the code of each token [n] (0 = never); `lengths` [s] of the subjects.

    Sorting numbers that end in their place is several times faster than sorting their order.

    >>> previous_of(np.asarray([7, 8, 7, 7], np.int32), np.asarray([3, 1])).tolist()
    [0, 0, 2, 0]
    """
    bits = len(code).bit_length()
    subject = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
    kinds = int(code.max(initial=0)) + 1
    if len(lengths) * kinds >= 1 << (63 - bits):
        raise TokenError(f"{len(code)} tokens of {len(lengths)} subjects in one shard. Use more buckets.")
    key = ((subject * kinds + code) << bits) + np.arange(len(code))
    key.sort()
    place = key & ((1 << bits) - 1)
    same = np.diff(key >> bits) == 0
    back = np.zeros(len(code), np.int32)
    back[place[1:][same]] = np.diff(place)[same]
    return back


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """Concatenate `range(start, start + length)` of all pairs.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


def count_until(time: Ints, first: Ints, stop: Ints, limit: Ints) -> Ints:
    """How many of the sorted `time[first:stop]` are not after `limit`, for n slices: all arguments but time [n].

    One binary search for all slices together: as many steps as the longest needs, each on whole arrays.

    >>> count_until(np.array([1, 3, 3, 9]), np.array([0, 1]), np.array([4, 4]), np.array([3, 0])).tolist()
    [3, 0]
    """
    low, high = np.array(first, np.int64), np.array(stop, np.int64)
    while (searching := np.flatnonzero(low < high)).size:
        middle = (low[searching] + high[searching]) // 2
        seen = time[middle] <= limit[searching]
        low[searching] = np.where(seen, middle + 1, low[searching])
        high[searching] = np.where(seen, high[searching], middle)
    return low - first


def _patterns(kinds: _Kinds, space: int, capacity: list[int]) -> Iterable[tuple[list[int], int]]:
    """Yield (kinds of one row, number of such rows) until every window has a slot. `capacity` [n]: for each need."""
    number, left = list(range(len(kinds.length))), kinds.count.tolist()
    sizes, costs = kinds.length.tolist(), kinds.needs.T.tolist()
    while sizes:
        room, seats, pattern, taken = space, list(capacity), [], {}
        index = len(sizes) - 1
        while index >= 0:
            take = min(left[index], room // sizes[index])
            for free, cost in zip(seats, costs[index], strict=True):
                if cost * take > free:
                    take = free // cost
            if take:
                pattern += [number[index]] * take
                taken[index] = take
                room -= take * sizes[index]
                seats = [free - take * cost for free, cost in zip(seats, costs[index], strict=True)]
            index = min(index, bisect_right(sizes, room)) - 1
        times = min(left[index] // take for index, take in taken.items())
        yield pattern, times
        for index, take in taken.items():
            left[index] -= take * times
        keep = [index for index, count in enumerate(left) if count]
        if len(keep) < len(sizes):
            number, sizes, left, costs = (
                [column[index] for index in keep] for column in (number, sizes, left, costs)
            )
