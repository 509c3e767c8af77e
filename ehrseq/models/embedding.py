"""One event, one vector: the sum of what (code, unit, modality, bag), how much (value) and when (time)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ehrseq.core.errors import ShapeError
from ehrseq.models.config import Inputs

type Batch = dict[str, Array]

UNKNOWN_CODE = 1
_SCALE = 0.02  # of every table: small, so that what is learnt soon outgrows what was drawn
_DAYS_PER_YEAR = 365.25
_HOURS = 24.0
_AGE_PERIODS_YEARS = (2.0, 200.0)
_AGE_WAVES = 8
_CLOCK_PERIODS_DAYS = (
    0.5,
    1.0,
    3.5,
    7.0,
    365.2425,
)  # day and week with a second wave each, as they are no sines
EMBEDDED_FEATURES = 8 + 5 + 2 * _AGE_WAVES  # of value and time, that go through a product
_LARGEST = 1e6  # days, and any value: a store's values are within 5, an infinite one is an error upstream


class EventEmbedding(nnx.Module):
    """Embeds the events of a batch; padding gives exact zeros.

    A value speaks four ways: its quantile bin (any shape of effect, shared by all codes), a curve of the
    normalised value (shared), a slope of its own code (creatinine up is bad, haemoglobin up is good), and a slope
    of its change since the event of the same code before it. Codes of a bag (attributes, pieces of text) are added by
    their weights, vectors of a side array through a projection of that array. What a batch does not have costs nothing.
    """

    def __init__(self, inputs: Inputs, dim: int, rngs: nnx.Rngs) -> None:
        def table(rows: int) -> nnx.Param[Array]:
            return nnx.Param(_SCALE * jax.random.normal(rngs.params(), (rows, dim)))

        self.code = table(inputs.codes)
        self.slope = table(inputs.codes)
        self.change = table(inputs.codes)
        self.bin = table(inputs.bins + 1)
        self.unit = table(inputs.units)
        self.modality = table(inputs.modalities)
        self.curve = table(8)
        self.when = table(5 + 2 * _AGE_WAVES)
        self.clock = table(2 * len(_CLOCK_PERIODS_DAYS))
        for name, width in inputs.dense:
            draw = jax.random.normal(rngs.params(), (width, dim))
            setattr(self, f"dense_{name}", nnx.Param(_SCALE / np.sqrt(width) * draw))
        self.dense = tuple(name for name, _ in inputs.dense)

    def __call__(self, batch: Batch) -> Array:
        """[B, T] fields of a loader's batch -> [B, T, dim] float32.

        `gate` [B, T] float32, where the batch has one, scales what an event says and not when it stands: at 0 it is a
        bare tick of time. Attribution follows it from 0 to 1.
        """
        value, known = finite(batch["value"])
        again, change = repeats(batch)
        shape = [known, value, value * value, jnp.tanh(3 * value), change, jnp.tanh(3 * change)]
        curve = jnp.concatenate([jnp.stack(shape, axis=-1), again], axis=-1)
        said = (
            self.code[batch["code"]]
            + self.slope[batch["code"]] * value[..., None]
            + self.change[batch["code"]] * change[..., None]
            + self.bin[batch["bin"]]
            + self.unit[batch["unit"]]
            + self.modality[batch["modality"]]
            + curve @ self.curve[...]
        )
        if "bag_at" in batch:
            said += placed(
                self.code[batch["bag_code"]] * batch["bag_weight"][..., None], batch["bag_at"], said
            )
        for name in self.dense:
            if f"dense.{name}" in batch:
                vectors = batch[f"dense.{name}"] @ getattr(self, f"dense_{name}")[...]
                said += placed(vectors, batch[f"dense_at.{name}"], said)
        if "gate" in batch:
            said = said * batch["gate"][..., None]
        event = said + time_features(batch) @ self.when[...]
        if "clock" in batch:
            event += calendar_features(batch["clock"]) @ self.clock[...]
        return event * (batch["segment"] > 0)[..., None]


def placed(vectors: Array, at: Array, like: Array) -> Array:
    """Sum vectors [B, M, dim] at their positions [B, M], sorted in each row; [B, T, dim] as `like`. At T: left out."""

    def row(vectors: Array, at: Array) -> Array:
        summed: Array = jax.ops.segment_sum(vectors, at, like.shape[1], indices_are_sorted=True)
        return summed

    return jax.vmap(row)(vectors, at)


def calendar_features(clock: Array) -> Array:
    """Hour of day, day of week and season as sines and cosines: local days [B, T] float32 -> [B, T, 10] float32.

    NaN (no clock) gives zeros.
    """
    days, known = finite(clock)
    turn = jnp.stack(
        [2 * np.pi * (jnp.mod(days, period) / period) for period in _CLOCK_PERIODS_DAYS], axis=-1
    )
    return jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], axis=-1) * known[..., None]


def repeats(batch: Batch) -> tuple[Array, Array]:
    """What the event of the same code before this one tells.

    Returns (has one, log time since) [B, T, 2] float32 and the change of value [B, T] float32 (0 = unknown).
    """
    has = batch["before"] >= 0
    before = jnp.maximum(batch["before"], 0)
    hours = (batch["time"] - jnp.take_along_axis(batch["time"], before, axis=1)) * _HOURS
    since = jnp.where(has, jnp.log1p(jnp.maximum(hours, 0)) / 4, 0)
    change, known = finite(batch["value"] - jnp.take_along_axis(batch["value"], before, axis=1))
    return jnp.stack([has.astype(jnp.float32), since], axis=-1), change * known * has


def time_features(batch: Batch) -> Array:
    """When: log gap to the event before, log time since the window's start, age. [B, T, 5 + 16] float32.

    Always float32: minutes over decades need more than 8 bits.
    """
    time, age_days = batch["time"], batch["age"]
    gap = jnp.diff(time, axis=1, prepend=time[:, :1])
    gap = jnp.where(batch["position"] > 0, jnp.maximum(gap, 0), 0)
    years, known = finite(age_days / _DAYS_PER_YEAR)
    years = jnp.maximum(years, 0)
    plain = jnp.stack(
        [jnp.log1p(gap * _HOURS) / 4, jnp.log1p(time * _HOURS) / 8, known, years / 50, jnp.log1p(years) / 4],
        axis=-1,
    )
    return jnp.concatenate([plain, encode_age(years) * known[..., None]], axis=-1)


def encode_age(years: Array, waves: int = _AGE_WAVES) -> Array:
    """Sinusoidal code of age: years [B, T] float32 -> [B, T, 2 * waves] float32.

    Raises: ShapeError if `waves` is below 1.
    Source: Vaswani et al. 2017, section 3.5, with years instead of positions.
    """
    if waves < 1:
        raise ShapeError(f"encode_age: {waves} waves; at least 1 is needed.")
    turn = years[..., None] * jnp.asarray(2 * np.pi / np.geomspace(*_AGE_PERIODS_YEARS, waves), jnp.float32)
    return jnp.concatenate([jnp.sin(turn), jnp.cos(turn)], axis=-1)


def finite(x: Array) -> tuple[Array, Array]:
    """(x with NaN as 0 and within +-1e6, 1.0 where x is not NaN), both float32."""
    known = ~jnp.isnan(x)
    return jnp.clip(jnp.where(known, x, 0), -_LARGEST, _LARGEST).astype(jnp.float32), known.astype(
        jnp.float32
    )
