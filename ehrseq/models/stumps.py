"""Rajkomar's boosted time stumps as a network: predicates of the past, each embedded, then a small network.

The predicates come from `boosting` and stay as they are: they ride in the parameters as vectors whose gradient is
exactly zero, so that a saved model is whole. A stump asks about the latest event that matches, and events stand in
the order of their time, so one running maximum along the row answers it for every position.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, lax

from ehrseq.models.boosting import Stumps
from ehrseq.models.config import Inputs
from ehrseq.models.dropout import dropout, keys
from ehrseq.models.embedding import time_features
from ehrseq.models.families import StumpsConfig
from ehrseq.models.layers import GatedMLP, RMSNorm, weight
from ehrseq.models.transformer import mlp_flops
from ehrseq.models.work import Work, product

_AT_ONCE = 64  # stumps of a strip: memory is rows x positions x strip
_ANY = -1e30  # instead of -inf, which an average of weights would turn into NaN
_TIMES = 5 + 16  # width of time_features


class StumpNetwork(nnx.Module):
    """The trunk of family "stumps"; it reads the batch itself, not the embedded events."""

    reads_events = False

    def __init__(self, config: StumpsConfig, inputs: Inputs, rngs: nnx.Rngs) -> None:
        dim, count = config.dim, config.stumps
        self.code_s, self.sign_s, self.level_s, self.days_s = (nnx.Param(jnp.zeros(count)) for _ in range(4))
        self.embedding_sd = weight(rngs, count, dim, fan_in=16)
        self.when = weight(rngs, _TIMES, dim, fan_in=_TIMES, gain=0.3)
        self.bias = nnx.Param(jnp.zeros(dim))
        self.layers = nnx.List(
            [GatedMLP(dim, config.mlp_ratio, config.layers, rngs) for _ in range(config.layers)]
        )
        self.norms = nnx.List([RMSNorm(dim) for _ in range(config.layers + 1)])
        self.rate, self.dtype = config.dropout, config.dtype

    def read(self, events: Array | None, batch: dict[str, Array], key: Array | None = None) -> Array:
        """One vector per label: [B, K, dim] float32."""
        when = jnp.take_along_axis(time_features(batch), batch["label_at"][..., None], axis=1)
        return self._network(self.answers(batch, batch["label_at"], batch["label_time"]), when, key)

    def __call__(self, events: Array | None, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Every position as a prediction made at its own time: [B, T, dim] float32."""
        at = jnp.broadcast_to(jnp.arange(batch["time"].shape[1]), batch["time"].shape)
        return self._network(self.answers(batch, at, batch["time"]), time_features(batch), key)

    def answers(self, batch: dict[str, Array], at: Array, time: Array) -> Array:
        """1.0 where a stump is true for a prediction at `time` [B, K] days after event `at` [B, K]: [B, K, stumps]."""
        start = jnp.arange(batch["position"].shape[1]) - batch["position"]
        here = jnp.take_along_axis(
            jnp.where(batch["segment"] > 0, start, batch["segment"].shape[1]), at, axis=1
        )
        value = jnp.where(jnp.isnan(batch["value"]), _ANY, batch["value"])
        valued = ~jnp.isnan(batch["value"])
        index = jnp.arange(value.shape[1], dtype=jnp.int32)[:, None]

        def strip(some: tuple[Array, ...]) -> Array:
            code, sign, level, days = some
            above = valued[..., None] & (sign * value[..., None] > level)
            match = (batch["code"][..., None] == code) & ((level <= _ANY / 2) | above) & (code > 0)
            latest = lax.cummax(jnp.where(match, index, -1), axis=1)  # [B, T, strip]
            mine = jnp.take_along_axis(latest, at[..., None], axis=1)
            since = time[..., None] - _at(batch["time"], jnp.maximum(mine, 0))
            return ((mine >= here[..., None]) & (since <= days)).astype(jnp.float32)

        rows = [lax.stop_gradient(x[...]) for x in (self.code_s, self.sign_s, self.level_s, self.days_s)]
        rows[0] = jnp.round(rows[0]).astype(jnp.int32)
        count = rows[0].shape[0]
        width = min(_AT_ONCE, count)
        strips = tuple(jnp.pad(x, (0, -count % width)).reshape(-1, width) for x in rows)
        return jnp.moveaxis(lax.map(strip, strips), 0, 2).reshape(*at.shape, -1)[..., :count]

    def _network(self, true: Array, when: Array, key: Array | None) -> Array:
        first, *rest = keys(key, len(self.layers) + 1)
        h = dropout(true, self.rate, first) @ self.embedding_sd[...] + when @ self.when[...] + self.bias[...]
        for mlp, norm, part in zip(self.layers, self.norms, rest, strict=False):
            h = h + dropout(mlp(norm(h).astype(self.dtype)).astype(jnp.float32), self.rate, part)
        return self.norms[-1](h)

    @staticmethod
    def flops(config: StumpsConfig, inputs: Inputs, work: Work) -> float:
        """Operations of the trunk's forward pass; comparisons are none."""
        embedded = product(work.labels, config.stumps, config.dim)
        return embedded + config.layers * mlp_flops(config.dim, config.mlp_ratio, work.labels)


def as_parameters(stumps: Stumps) -> dict[str, Array]:
    """The predicates as the trunk holds them."""
    level = np.where(np.isneginf(stumps.level), _ANY, stumps.level)
    found = {"code_s": stumps.code, "sign_s": stumps.sign, "level_s": level, "days_s": stumps.days}
    return {name: jnp.asarray(x, jnp.float32) for name, x in found.items()}


def _at(x: Array, index: Array) -> Array:
    """x [B, T] at index [B, K, S] -> [B, K, S]."""
    flat = jnp.take_along_axis(x, index.reshape(index.shape[0], -1), axis=1)
    return flat.reshape(index.shape)
