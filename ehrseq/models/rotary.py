"""Rotary encoding of where and when: half of each head turns with the position, half with the time.

A rotation's effect on a score depends on differences alone: "40 events ago" and "6 hours ago" both stay
meaningful, whatever came before the window. Periods of time are spaced evenly in their logarithm, from an hour to
a century, as clinical gaps are.
Source: Su et al. 2021 (RoFormer), with time beside position.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from ehrseq.core.errors import ShapeError

_POSITION_PERIODS = (4.0, 4096.0)  # events
_TIME_PERIODS_DAYS = (1 / 12, 36_525.0)  # two hours to a century


def angles(position: Array, time_days: Array, width: int) -> Array:
    """Angles of a head of `width`. position [B, T] int, time_days [B, T] float32 -> [B, T, width / 2] float32.

    Raises: ShapeError if `width` is not a multiple of 4.
    """
    if width % 4:
        raise ShapeError(f"rotary: head width {width} must be a multiple of 4. Change `dim` or `heads`.")
    by_position = position.astype(jnp.float32)[..., None] * _frequencies(_POSITION_PERIODS, width // 4)
    by_time = time_days[..., None] * _frequencies(_TIME_PERIODS_DAYS, width // 4)
    return jnp.concatenate([by_position, by_time], axis=-1)


def rotate(x: Array, turn: Array) -> Array:
    """Turn each pair (i, i + D / 2) of x [B, T, H, D] by the angles `turn` [B, T, D / 2]; dtype of x."""
    cos, sin = jnp.cos(turn)[:, :, None], jnp.sin(turn)[:, :, None]
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], axis=-1).astype(x.dtype)


def _frequencies(periods: tuple[float, float], count: int) -> Array:
    return jnp.asarray(2 * np.pi / np.geomspace(*periods, count), jnp.float32)
