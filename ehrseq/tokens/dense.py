"""Dense spans: events that stand for vectors in a side array of the timeline (core/spans.py)."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import TokenError
from ehrseq.core.spans import SpanArray
from ehrseq.timeline.schema import Event
from ehrseq.tokens.packing import ranges

SPAN_SUMS = pl.Schema({
    "name": pl.String(), "encoder": pl.String(), "dim": pl.Int64(), "patients": pl.Int64(), "numbers": pl.Int64(),
    "squares": pl.Float64(),
})  # fmt: skip
_READ = 1 << 16  # vectors in memory at a time


@dataclass(frozen=True, slots=True)
class SpanScale:
    """A side array that the vocabulary knows. Its vectors are divided by `rms`; another encoder's mean nothing."""

    name: str
    dim: int
    encoder: str
    rms: float  # root mean square of all numbers of the training split


def span_sums(timeline: Path, events: pl.DataFrame) -> pl.DataFrame:
    """SPAN_SUMS of one shard's events: patients, numbers and their squares for each side array."""
    found = []
    for name, rows in _by_array(events):
        array = SpanArray.open(timeline, name)
        wanted = span_rows(rows, array)
        parts = (
            array.read(wanted[at : at + _READ]).astype(np.float64) for at in range(0, len(wanted), _READ)
        )
        squares = fsum(float(np.square(part).sum()) for part in parts)
        patients, dim = rows[Event.subject_id].n_unique(), array.header.dim
        found.append((name, array.header.encoder, dim, patients, len(wanted) * dim, squares))
    return pl.DataFrame(found, schema=SPAN_SUMS, orient="row")


def fit_spans(sums: pl.DataFrame, min_patients: int) -> tuple[SpanScale, ...]:
    """The side arrays that enough training patients have, by name."""
    kept = []
    for (name,), part in sums.sort(list(SPAN_SUMS)).group_by("name", maintain_order=True):
        if part["patients"].sum() >= min_patients:
            mean = fsum(part["squares"]) / max(int(part["numbers"].sum()), 1)
            kept.append(SpanScale(str(name), part["dim"][0], part["encoder"][0], sqrt(mean) or 1.0))
    return tuple(kept)


def span_rows(events: pl.DataFrame, array: SpanArray) -> NDArray[np.int64]:
    """Rows of the side array that `events` refer to, one event after the other.

    Raises: TokenError if they lie outside it.
    """
    start = events[Event.span_start].fill_null(-1).to_numpy().astype(np.int64)
    length = events[Event.span_length].fill_null(0).to_numpy().astype(np.int64)
    if len(start) and (start.min() < 0 or length.min() < 1 or (start + length).max() > array.header.rows):
        raise TokenError(
            f"{array.path}: has {array.header.rows} rows, events refer to rows outside it. Make the timeline again."
        )
    return ranges(start, length)


def check_encoders(timeline: Path, known: tuple[SpanScale, ...]) -> tuple[str, ...]:
    """Names of the `known` side arrays that the timeline has.

    Raises: TokenError if one was made by another encoder: its vectors would be read as something else.
    """
    there = []
    for scale in known:
        if not (timeline / "spans" / f"{scale.name}.json").is_file():
            continue
        header = SpanArray.open(timeline, scale.name).header
        if (header.encoder, header.dim) != (scale.encoder, scale.dim):
            raise TokenError(
                f"{timeline}/spans/{scale.name}.json: encoder {header.encoder!r}, dim {header.dim}; the vocabulary was "
                f"fitted on {scale.encoder!r}, dim {scale.dim}. Encode with that, or fit a new vocabulary."
            )
        there.append(scale.name)
    return tuple(there)


def place_spans(
    timeline: Path, events: pl.DataFrame, known: tuple[SpanScale, ...]
) -> tuple[NDArray[np.int64], dict[str, NDArray[Any]]]:
    """Vectors of each event [n] int64 (0 = none), and of each vector its event, its array and its row there [d]."""
    numbers = {scale.name: index for index, scale in enumerate(known)}
    lengths = np.zeros(events.height, np.int64)
    parts = [{"event": np.zeros(0, np.int64), "array": np.zeros(0, np.int8), "row": np.zeros(0, np.int64)}]
    for name, part in _by_array(events):
        if name in numbers:
            row = span_rows(part, SpanArray.open(timeline, name))
            at, length = part["_at"].to_numpy().astype(np.int64), part[Event.span_length].to_numpy()
            lengths[at] = length
            array = np.full(len(row), numbers[name], np.int8)
            parts.append({"event": np.repeat(at, length), "array": array, "row": row})
    dense = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(dense["event"], kind="stable")
    return lengths, {name: values[order] for name, values in dense.items()}


def _by_array(events: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Events with spans, one side array after the other by name; `_at` is their row in `events`."""
    if events[Event.span_array].null_count() == events.height:
        return
    found = events.with_row_index("_at").filter(pl.col(Event.span_array).is_not_null())
    for name in sorted(found[Event.span_array].unique()):
        yield name, found.filter(pl.col(Event.span_array) == name)
