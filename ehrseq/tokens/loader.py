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
from ehrseq.tokens.packing import Examples, Ints, Packing, Rows, plan_windows, ranges

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

Batch = dict[str, NDArray[Any]]

_US_PER_DAY = 86_400_000_000.0
_NEVER = np.iinfo(np.int64).max
_UNKNOWN_BIRTH = np.iinfo(np.int64).min


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
    Per label [B, K]: `label_at` int32 (position in the row), `label_task` int32, `label_value`
    `label_weight` float32 (0 = no label here), `label_time` float32 (days, as `time`, of the prediction), `label_row`
    int32 (row in the examples, -1 = none).

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
        if batch_rows % hosts or not 0 <= host < hosts:
            raise TokenError(
                f"batch_rows {batch_rows} must divide by hosts {hosts}, and host {host} be below it."
            )
        names = ("code", "time", "value", "bin", "unit", "modality", "birth")
        self._field = {name: np.asarray(getattr(store, name)) for name in names}
        self._examples = examples
        self._windows = plan_windows(examples, rows, store.offsets, context)
        labels = np.diff(self._windows.offsets)
        self._packing = Packing(self._windows.length, labels, row_length, row_labels)
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
        slots_per_row = plan.offsets[mine + 1] - plan.offsets[mine]
        slots = ranges(plan.offsets[mine], slots_per_row)
        window, column = plan.window[slots], plan.column[slots]
        local_row = np.repeat(np.arange(len(mine)), slots_per_row)
        segment = ranges(np.ones(len(mine), np.int64), slots_per_row)
        start = local_row * self._row_length + column
        batch, anchor = self._tokens(window, start, segment)
        return batch | self._labels(window, local_row, column, anchor)

    def _tokens(self, window: Ints, start: Ints, segment: Ints) -> tuple[Batch, Ints]:
        """Copy the windows to flat places `start` [n]; also the time origin [n] of each, in microseconds."""
        lengths, shape = self._windows.length[window], (self._batch_rows // self._hosts, self._row_length)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        source = ranges(self._windows.start[window], lengths)
        place = ranges(start, lengths)
        birth = self._field["birth"][self._windows.subject[window]]
        time = self._field["time"][source]
        births = np.repeat(birth, lengths)
        moved = np.where(time > births, time, _NEVER)
        anchor = np.minimum.reduceat(moved, starts) if len(starts) else starts
        anchor = np.where(anchor == _NEVER, time[starts], anchor)
        age = np.where(births == _UNKNOWN_BIRTH, np.nan, (time - births) / _US_PER_DAY)

        def put(values: NDArray[Any], dtype: type, empty: float = 0) -> NDArray[Any]:
            out: NDArray[Any] = np.full(shape, empty, dtype)
            out.reshape(-1)[place] = values
            return out

        batch = {
            name: put(self._field[name][source], np.int32) for name in ("code", "bin", "unit", "modality")
        }
        batch["value"] = put(self._field["value"][source], np.float32, np.nan)
        since = np.maximum(time - np.repeat(anchor, lengths), 0) / _US_PER_DAY
        batch["time"] = put(since, np.float32)
        batch["age"] = put(age, np.float32, np.nan)
        batch["segment"] = put(np.repeat(segment, lengths), np.int32)
        batch["position"] = put(np.arange(len(source)) - np.repeat(starts, lengths), np.int32)
        segment_of = np.repeat(np.arange(len(window)), lengths)
        before, after = _same_code(segment_of, self._field["code"][source], place % self._row_length)
        batch["before"], batch["after"] = put(before, np.int32, -1), put(after, np.int32, self._row_length)
        return batch, anchor

    def _labels(self, window: Ints, local_row: Ints, column: Ints, anchor: Ints) -> Batch:
        first = self._windows.offsets[window]
        counts = self._windows.offsets[window + 1] - first
        entry = ranges(first, counts)
        row = np.repeat(local_row, counts)
        label = self._windows.label[entry]
        shape = (self._batch_rows // self._hosts, self._packing.row_labels)
        per_row = np.bincount(row, minlength=shape[0])
        seat = np.arange(len(entry)) - np.repeat(np.cumsum(per_row) - per_row, per_row)
        value = self._examples.value[label]
        asked = self._examples.prediction_time[label] - np.repeat(anchor, counts)

        def put(values: NDArray[Any], dtype: type, empty: float = 0) -> NDArray[Any]:
            out: NDArray[Any] = np.full(shape, empty, dtype)
            out[row, seat] = values
            return out

        return {
            "label_at": put(self._windows.at[entry] + np.repeat(column, counts), np.int32),
            "label_task": put(self._examples.task[label], np.int32),
            "label_value": put(np.nan_to_num(value), np.float32),
            "label_weight": put(~np.isnan(value), np.float32),
            "label_time": put(np.maximum(asked, 0) / _US_PER_DAY, np.float32),
            "label_row": put(label, np.int32, -1),
        }


def _same_code(segment: Ints, code: NDArray[Any], column: Ints) -> tuple[Ints, Ints]:
    """Columns of the previous and the next event with the same segment and code; all arguments [n].

    >>> before, after = _same_code(np.array([0, 0, 0]), np.array([7, 8, 7]), np.array([0, 1, 2]))
    >>> before.tolist(), after.tolist()
    ([-1, -1, 0], [2, 1073741824, 1073741824])
    """
    key = segment.astype(np.int64) << 32 | code.astype(np.int64)
    order = np.argsort(key, kind="stable")
    same = key[order[1:]] == key[order[:-1]]
    earlier, later = order[:-1][same], order[1:][same]
    before, after = np.full(len(key), -1), np.full(len(key), 1 << 30)
    before[later], after[earlier] = column[earlier], column[later]
    return before, after
