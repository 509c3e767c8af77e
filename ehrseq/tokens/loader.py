"""The loader: token store + labels -> batches of packed rows, a stream that can stop and go on anywhere.

A batch is a dict of arrays with fixed shapes: B rows of T positions, at most K labels a row. Segments (one window
each) stand one after the other from the left; padding is at the row's end only and has segment 0.
The stream is a function of (seed, epoch, row) and nothing else. Of n hosts, host i takes rows i::n of the one
global stream, so n hosts see together what one host would see alone.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import TokenError
from ehrseq.tokens.beside_rows import bags_and_vectors, seats
from ehrseq.tokens.packing import Examples, Ints, Packing, Rows, Windows, count_until, plan_windows, ranges

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

Batch = dict[str, NDArray[Any]]

_US_PER_DAY = 86_400_000_000.0
_DAYS_PER_US = 1 / _US_PER_DAY
_UNKNOWN_BIRTH = np.iinfo(np.int64).min
_DAYS_PER_QUARTER = 1 / 96  # of an hour
_CALENDAR_DAYS = 10_227  # 28 years: the same weekdays and, but for century years, the same dates
LONGEST_ROW = 1 << 16


@dataclass(frozen=True, slots=True)
class LoaderState:
    """Where a stream stands: `row` counts the rows of this epoch already given, over all hosts."""

    seed: int
    epoch: int = 0
    row: int = 0

    def to_json(self) -> dict[str, int]:
        """As a plain dict; `LoaderState(**d)` reads it back."""
        return asdict(self)


class Loader:
    """Batches of packed rows for the labels `rows` of `examples`.

    Arguments: `context` tokens at most per window; `row_length` T; `batch_rows` B over all hosts; `row_labels`
    a wish for K (raised if one window needs more); `shuffle` False gives the planned order, for prediction.

    A batch holds, per position [B, T]: `code` `bin` `unit` `modality` `segment` `position` (in the segment)
    int32; `value` float32 (NaN = none); `time` float32, days since the segment's first event that is not static
    (0 before); `age` float32, days since birth (NaN = unknown); `before` and `after` int32, the positions in the
    row of the segment's event of the same code before and after this one (-1 and at least T: none).
    If the store knows the zone of the clocks, also `clock` float32 [B, T]: local days since 1970 modulo 28 years.
    Beside positions, and only if any window has such: `bag_code` int32, `bag_weight` float32 and `bag_at` int32 [B, M],
    codes to be added to the code of position `bag_at`, by position (T = none, weight 0); and for each side array
    `dense.<name>` float32 [B, S, d], vectors in units of their root mean square, with `dense_at.<name>` int32 [B, S].
    Per label [B, K]: `label_at` int32 (position in the row), `label_task` int32, `label_value`
    `label_weight` float32 (0 = no label here), `label_time` float32 (days, as `time`, of the prediction), `label_row`
    int32 (row in the examples, -1 = none). `label_task` counts outputs. Where a task has several, `label_outputs`
    int32 [B, K] says how many from there on are asked, and `label_true` int32 [B, K, P] which of all outputs are true
    (-1 = no more).

    Raises: TokenError if labels and store do not belong together, or sizes do not fit.
    """

    def __init__(
        self,
        store: "TokenStore",
        examples: Examples,
        rows: Ints,
        *,
        context: int = 256,
        row_length: int = 512,
        batch_rows: int = 8,
        row_labels: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        host: int = 0,
        hosts: int = 1,
    ) -> None:
        if row_length < context:
            raise TokenError(f"row_length {row_length} is shorter than context {context}.")
        if row_length > LONGEST_ROW:
            raise TokenError(f"row_length {row_length}, at most {LONGEST_ROW} are possible.")
        if batch_rows % hosts or not 0 <= host < hosts:
            raise TokenError(
                f"batch_rows {batch_rows} must divide by hosts {hosts}, and host {host} be below it."
            )
        names = ("code", "time", "value", "bin", "unit", "modality", "zone", "previous", "birth")
        self._field = {name: np.asarray(getattr(store, name)) for name in names}
        self._examples = examples
        self._first = examples.first_output()
        if examples.several is not None:
            self._most_true = max(int(np.diff(examples.several.take(rows).offsets).max(initial=0)), 1)
        self._windows = plan_windows(examples, rows, store.offsets, context)
        self._origin = _origins(self._field["time"], self._windows, self._field["birth"])
        birth = self._field["birth"]
        self._birth_days = np.where(birth == _UNKNOWN_BIRTH, np.nan, birth * _DAYS_PER_US)
        self._origin_days = self._origin * _DAYS_PER_US
        self._clock = _clocks(self._origin) if store.timezone is not None else None
        labels, self._beside = np.diff(self._windows.offsets), bags_and_vectors(store, self._windows)
        counts = [beside.count for beside in self._beside]
        self._packing = Packing(self._windows.length, labels, row_length, row_labels, counts)
        self._row_length, self._batch_rows, self._shuffle = row_length, batch_rows, shuffle
        self._host, self._hosts = host, hosts
        self.state = LoaderState(seed)

    @property
    def batches(self) -> int:
        """Batches in an epoch; the last may hold empty rows."""
        return -(-self._packing.count // self._batch_rows)

    @property
    def labels(self) -> int:
        """Labels in an epoch: each is given exactly once."""
        return len(self._windows.label)

    @property
    def tokens(self) -> int:
        """Tokens in an epoch, padding not counted."""
        return int(self._windows.length.sum())

    def epoch(self) -> Iterator[Batch]:
        """Yield what is left of the current epoch, then stand at the start of the next.

        `state` is already that of the *next* batch when a batch is handed out: save it after using the batch.
        """
        seed = self.state.seed if self._shuffle else None
        plan = self._packing.rows(seed, self.state.epoch)
        while (row := self.state.row) < len(plan):
            self.state = LoaderState(self.state.seed, self.state.epoch, row + self._batch_rows)
            yield self._batch(plan, row)
        self.state = LoaderState(self.state.seed, self.state.epoch + 1)

    def _batch(self, plan: Rows, row: int) -> Batch:
        mine = np.arange(row + self._host, min(row + self._batch_rows, len(plan)), self._hosts)
        windows_per_row = plan.offsets[mine + 1] - plan.offsets[mine]
        slots = ranges(plan.offsets[mine], windows_per_row)
        window, column = plan.window[slots], plan.column[slots]
        local_row = np.repeat(np.arange(len(mine)), windows_per_row)
        empty = np.zeros(self._batch_rows // self._hosts - len(mine), np.int64)
        batch = self._tokens(window, np.append(windows_per_row, empty))
        shape = (self._batch_rows // self._hosts, self._row_length)
        start = self._windows.start[window] - column
        for beside, bound in zip(self._beside, self._packing.row_beside, strict=True):
            if bound:
                batch |= beside.batch(window, start, local_row, shape, bound)
        return batch | self._labels(window, local_row, column)

    def _tokens(self, window: Ints, windows_per_row: Ints) -> Batch:
        """Copy windows, those of the first row first, into rows; what is left of a row is a block of padding."""
        rows, width = len(windows_per_row), self._row_length
        padding = np.cumsum(windows_per_row + 1) - 1  # blocks: the windows of a row, then its padding
        block = np.delete(np.arange(len(window) + rows), padding)

        def blocks(of_window: NDArray[Any], of_padding: Any) -> NDArray[Any]:
            out: NDArray[Any] = np.empty(len(window) + rows, of_window.dtype)
            out[block], out[padding] = of_window, of_padding
            return out

        filled = np.bincount(np.repeat(np.arange(rows), windows_per_row), self._windows.length[window], rows)
        length = blocks(self._windows.length[window], width - filled.astype(np.int64))
        begin = np.cumsum(length) - length
        place = np.arange(rows * width)
        source = place + np.repeat(blocks(self._windows.start[window], 0) - begin, length)
        tail = ranges(begin[padding], length[padding])

        def finish(values: NDArray[Any], dtype: type, empty: float = 0) -> NDArray[Any]:
            out: NDArray[Any] = values.astype(dtype, copy=False)
            out[tail] = empty
            return out.reshape(rows, width)

        def take(name: str) -> NDArray[Any]:
            taken: NDArray[Any] = np.take(self._field[name], source, mode="clip")  # "clip": unchecked, faster
            return taken

        days = take("time") * _DAYS_PER_US
        since = (days - np.repeat(blocks(self._origin_days[window], 0), length)).astype(np.float32)
        np.maximum(since, 0, out=since)
        age = days - np.repeat(blocks(self._birth_days[self._windows.subject[window]], np.nan), length)
        position = (place - np.repeat(begin, length)).astype(np.int32)
        segment = ranges(np.ones(rows, np.int64), windows_per_row + 1).astype(np.int32)
        batch = {name: finish(take(name), np.int32) for name in ("code", "bin", "unit", "modality")}
        batch |= {
            "value": finish(take("value"), np.float32, np.nan),
            "time": finish(since, np.float32),
            "age": finish(age, np.float32, np.nan),
            "segment": finish(np.repeat(segment, length), np.int32),
            "position": finish(position, np.int32),
        }
        if self._clock is not None:
            clock = take("zone") * np.float32(_DAYS_PER_QUARTER) + since
            clock += np.repeat(blocks(self._clock[window], np.nan), length)
            batch["clock"] = finish(clock, np.float32, np.nan)
        back = take("previous")
        back[(back > position) | (batch["segment"].reshape(-1) == 0)] = 0
        return batch | _same_code(back.reshape(rows, width))

    def _labels(self, window: Ints, local_row: Ints, column: Ints) -> Batch:
        first = self._windows.offsets[window]
        counts = self._windows.offsets[window + 1] - first
        entry = ranges(first, counts)
        row = np.repeat(local_row, counts)
        label = self._windows.label[entry]
        shape = (self._batch_rows // self._hosts, self._packing.row_labels)
        seat = seats(row, shape[0])
        value = self._examples.value[label]
        asked = self._examples.prediction_time[label] - np.repeat(self._origin[window], counts)

        def put(values: NDArray[Any], dtype: type, empty: float = 0) -> NDArray[Any]:
            out: NDArray[Any] = np.full(shape, empty, dtype)
            out[row, seat] = values
            return out

        task = self._examples.task[label]
        return self._several(label, task, row, seat, shape) | {
            "label_at": put(self._windows.at[entry] + np.repeat(column, counts), np.int32),
            "label_task": put(self._first[task], np.int32),
            "label_value": put(np.nan_to_num(value), np.float32),
            "label_weight": put(~np.isnan(value), np.float32),
            "label_time": put(np.maximum(asked, 0) / _US_PER_DAY, np.float32),
            "label_row": put(label, np.int32, -1),
        }

    def _several(
        self, label: Ints, task: NDArray[np.int32], row: Ints, seat: Ints, shape: tuple[int, int]
    ) -> Batch:
        """How many outputs each label asks, and which are true; nothing where each task has one."""
        if self._examples.several is None:
            return {}
        mine = self._examples.several.take(label)
        many = np.diff(mine.offsets)
        asked, true = np.zeros(shape, np.int32), np.full((*shape, self._most_true), -1, np.int32)
        asked[row, seat] = np.diff(self._first)[task]
        true[np.repeat(row, many), np.repeat(seat, many), ranges(np.zeros_like(many), many)] = mine.true
        return {"label_outputs": asked, "label_true": true}


def _clocks(origin: Ints) -> NDArray[np.float32]:
    """Days since 1970 [W] of the windows' origins, modulo 28 years, so that a float32 holds minutes."""
    return np.mod(origin / _US_PER_DAY, _CALENDAR_DAYS).astype(np.float32)


def _origins(time: NDArray[np.int64], windows: Windows, birth: NDArray[np.int64]) -> Ints:
    """Microseconds [W] from which the time of a window counts: its first event after birth, else its first."""
    last = windows.start + windows.length - 1
    moved = windows.start + count_until(time, windows.start, last + 1, birth[windows.subject])
    return np.asarray(time[np.where(moved <= last, moved, windows.start)], np.int64)


def _same_code(back: NDArray[np.int32]) -> Batch:
    """Columns of the event of the same code before and after each, from how many columns back it stands; all [B, T].

    >>> {name: columns.tolist() for name, columns in _same_code(np.array([[0, 0, 2]], np.int32)).items()}
    {'before': [[-1, -1, 0]], 'after': [[2, 3, 3]]}
    """
    rows, width = back.shape
    column = np.arange(width, dtype=np.int32)
    before = np.where(back > 0, column - back, np.int32(-1))
    after = np.full(rows * width, width, np.int32)
    place = np.flatnonzero(back)
    after[place - back.reshape(-1)[place]] = place % width
    return {"before": before, "after": after.reshape(rows, width)}
