"""What every model reads: the arrays of a batch, in one place.

Rows are packed: segments (one window of one patient each) stand one after the other from the left, padding at the
row's end only. B rows, T positions, K seats for labels. `ehrseq.tokens.loader` makes such batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehrseq.core.errors import ShapeError, closest


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a batch."""

    axes: str  # "BT": per position, "BK": per label
    dtype: str
    padding: float  # what stands where there is no event or no label
    meaning: str


_NAN = float("nan")
FIELDS = {
    "segment": Field("BT", "int32", 0, "1, 2, ... from the left; 0 = padding"),
    "position": Field("BT", "int32", 0, "number of the event in its segment, from 0"),
    "code": Field("BT", "int32", 0, "index in the vocabulary; 0 = padding, 1 = unknown"),
    "value": Field("BT", "float32", _NAN, "number, normalised within its code and unit; NaN = none"),
    "bin": Field("BT", "int32", 0, "quantile bin of the value, from 1; 0 = no value"),
    "unit": Field("BT", "int32", 0, "index in the vocabulary's units; 0 = none"),
    "modality": Field("BT", "int32", 0, "record, note, image, ...: index in the vocabulary's modalities"),
    "time": Field("BT", "float32", 0, "days since the segment's first event that is not static; 0 before"),
    "age": Field("BT", "float32", _NAN, "days since birth; NaN = unknown"),
    "before": Field("BT", "int32", -1, "position in the row of the same code's event before; -1 = none"),
    "after": Field("BT", "int32", 1 << 16, "position in the row of the same code's next event; >= T = none"),
    "label_at": Field("BK", "int32", 0, "position in the row of the last event the label may see"),
    "label_task": Field("BK", "int32", 0, "index of the task"),
    "label_time": Field("BK", "float32", 0, "when the prediction is made, in days as `time`"),
    "label_value": Field("BK", "float32", 0, "0 or 1, or the number of a regression"),
    "label_weight": Field("BK", "float32", 0, "of this label in the loss; 0 = no label in this seat"),
}
"""What every batch has."""

OPTIONAL_FIELDS = {
    "clock": Field("BT", "float32", _NAN, "local days since 1970 modulo 28 years; NaN = unknown"),
    "bag_code": Field("BM", "int32", 0, "codes beside an event: attributes, pieces of text"),
    "bag_weight": Field("BM", "float32", 0, "of each in the event's sum"),
    "bag_at": Field("BM", "int32", 1 << 16, "position of the event; T = nothing here"),
    "dense.<name>": Field("BSd", "float32", 0, "vectors of the side array <name>: images, variants"),
    "dense_at.<name>": Field("BS", "int32", 1 << 16, "position of the event; T = nothing here"),
    "label_row": Field("BK", "int32", -1, "row in the examples, for the host alone; -1 = no label"),
}
"""What a batch has only if the store has it."""


def check_batch(batch: Mapping[str, Any]) -> None:
    """Look at shapes and dtypes, not at values; cheap, and usable while tracing.

    Raises: ShapeError naming the array that is missing or does not fit.
    """
    for name, field in FIELDS.items():
        if name not in batch:
            near = closest(name, batch)
            raise ShapeError(f"the batch has no array {name!r}.{near} Needed: {', '.join(FIELDS)}.")
        anchor, found = "segment" if field.axes == "BT" else "label_at", batch[name]
        if anchor not in batch or found.shape != batch[anchor].shape or found.ndim != 2:
            raise ShapeError(
                f"batch array {name!r} has shape {found.shape}; expected [{field.axes}], as {anchor!r}."
            )
        if found.dtype.kind != ("i" if field.dtype == "int32" else "f"):
            raise ShapeError(f"batch array {name!r} is {found.dtype}; expected {field.dtype}.")


def at_every_position(batch: Mapping[str, Any], first: Any, count: int) -> dict[str, Any]:
    """The batch with seats at positions first..first + count - 1 instead of its labels, predictions made there."""
    import jax.numpy as jnp
    from jax import lax

    rows = batch["segment"].shape[0]
    at = jnp.broadcast_to(first + jnp.arange(count, dtype=jnp.int32), (rows, count))
    time = lax.dynamic_slice_in_dim(batch["time"], first, count, axis=1)
    zeros = jnp.zeros((rows, count), jnp.float32)
    return dict(batch) | {
        "label_at": at, "label_time": time, "label_task": jnp.zeros_like(at),
        "label_value": zeros, "label_weight": zeros,
    }  # fmt: skip
