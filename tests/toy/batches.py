"""Batches of invented patients, placed by hand."""

import numpy as np

from ehrseq.models.config import Inputs

INPUTS = Inputs(codes=12, bins=4, units=3, modalities=2, tasks=("a", "b"), kinds=3)
ROWS, LENGTH, SEATS = 2, 24, 6

type Arrays = dict[str, np.ndarray]


def events(length: int, seed: int) -> Arrays:
    """One subject's tokens, as a segment of its own."""
    random = np.random.default_rng(seed)
    time = np.cumsum(random.integers(0, 5, length)) / 24
    return {
        "code": random.integers(1, INPUTS.codes, length),
        "bin": random.integers(0, INPUTS.bins + 1, length),
        "unit": random.integers(0, INPUTS.units, length),
        "modality": random.integers(0, 2, length),
        "value": np.where(random.random(length) < 0.5, random.normal(size=length), np.nan),
        "time": time - time[0],
        "age": 20_000 + time,
        "clock": 3_000.3 + time,
        "position": np.arange(length),
    }


def empty(rows: int = ROWS) -> Arrays:
    """A batch of nothing but padding."""
    ints = ("code", "bin", "unit", "modality", "segment", "position")
    batch: Arrays = {name: np.zeros((rows, LENGTH), np.int32) for name in ints}
    batch |= {name: np.full((rows, LENGTH), np.nan, np.float32) for name in ("value", "age", "clock")}
    batch["time"] = np.zeros((rows, LENGTH), np.float32)
    batch["before"], batch["after"] = np.full((rows, LENGTH), -1), np.full((rows, LENGTH), LENGTH)
    batch |= {name: np.zeros((rows, SEATS), np.int32) for name in ("label_at", "label_task")}
    batch |= {
        name: np.zeros((rows, SEATS), np.float32) for name in ("label_value", "label_weight", "label_time")
    }
    return batch


def place(batch: Arrays, row: int, column: int, segment: int, tokens: Arrays, seat: int) -> None:
    """Put a segment into a batch, with a label at its last token."""
    length = len(tokens["code"])
    where = slice(column, column + length)
    for name, values in tokens.items():
        batch[name][row, where] = values
    batch["segment"][row, where] = segment
    for i in range(length):
        alike = np.flatnonzero(tokens["code"] == tokens["code"][i])
        batch["before"][row, column + i] = max((column + j for j in alike if j < i), default=-1)
        batch["after"][row, column + i] = min((column + j for j in alike if j > i), default=LENGTH)
    batch["label_at"][row, seat] = column + length - 1
    batch["label_task"][row, seat] = seat % 2
    batch["label_time"][row, seat] = tokens["time"][-1] + 1
    batch["label_weight"][row, seat] = 1
