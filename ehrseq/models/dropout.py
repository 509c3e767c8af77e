"""Dropout as a pure function: randomness is an argument, and no key means no dropout."""

import jax
import jax.numpy as jnp
from jax import Array

from ehrseq.models.embedding import UNKNOWN_CODE


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Set entries of x to 0 with probability `rate` and scale the rest up; x itself without a key."""
    if key is None or rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0).astype(x.dtype)


def hide_events(batch: dict[str, Array], rate: float, key: Array | None) -> dict[str, Array]:
    """Make events unknown and valueless with probability `rate`; they keep their place and time.

    What stands beside a hidden event (bags, vectors) is hidden with it.
    """
    if key is None or rate == 0:
        return batch
    hidden = jax.random.bernoulli(key, rate, batch["code"].shape) & (batch["segment"] > 0)
    shown = jnp.pad(~hidden, ((0, 0), (0, 1)))  # and nothing at T, where no entry stands

    def kept(at: Array) -> Array:
        return jnp.take_along_axis(shown, at, axis=1)

    beside = {"bag_weight": kept(batch["bag_at"]) * batch["bag_weight"]} if "bag_at" in batch else {}
    for name in batch:
        if name.startswith("dense."):
            beside[name] = kept(batch[f"dense_at.{name[6:]}"])[..., None] * batch[name]
    return (
        batch
        | beside
        | {
            "code": jnp.where(hidden, UNKNOWN_CODE, batch["code"]),
            "value": jnp.where(hidden, jnp.nan, batch["value"]),
            "bin": jnp.where(hidden, 0, batch["bin"]),
            "unit": jnp.where(hidden, 0, batch["unit"]),
        }
    )


def keys(key: Array | None, count: int) -> list[Array | None]:
    """Split a key; no key gives no keys."""
    return [None] * count if key is None else list(jax.random.split(key, count))
