"""Task heads: what a prediction reads of the past, and one logit per label."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.config import ModelConfig
from ehrseq.models.dropout import dropout
from ehrseq.models.layers import RMSNorm, weight

_HOURS = 24.0


class LabelReader(nnx.Module):
    """A label reads the last visible position and `pools` weighted means over all visible positions.

    Pool p weighs position t by exp(w_p . h_t - decay_p * log(1 + hours from t to the prediction)). It starts as
    a plain mean (p = 0) and as means that favour the recent more and more: the readout learns the rest.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.query_dp = nnx.Param(jnp.zeros((config.dim, config.pools)))
        self.decay_p = nnx.Param(jnp.arange(config.pools) % max(config.pools // 2, 1) * 0.5)
        self.mix = weight(
            rngs, config.pools + 1, config.dim, config.dim, fan_in=config.dim * (config.pools + 1)
        )
        self.when = weight(rngs, 3, config.dim, fan_in=3, gain=0.1)
        self.norm = RMSNorm(config.dim)

    def __call__(self, hidden: Array, batch: dict[str, Array], seen: Array, latest: Array) -> Array:
        """hidden [B, T, dim] float32 -> [B, K, dim] float32, one vector per label seat."""
        at = batch["label_at"]
        last = jnp.take_along_axis(hidden, at[..., None], axis=1)
        gap = jnp.take_along_axis(batch["time"], at, axis=1)
        gap = jnp.log1p(jnp.maximum(batch["label_time"] - gap, 0) * _HOURS)
        when = jnp.stack([gap / 4, jnp.log1p(batch["label_time"] * _HOURS) / 8, jnp.ones_like(gap)], axis=-1)
        read = jnp.concatenate([last[:, :, None], self.pooled(hidden, batch, seen, latest)], axis=2)
        return self.norm(jnp.einsum("bkpd,pde->bke", read, self.mix[...]) + when @ self.when[...])

    def pooled(self, hidden: Array, batch: dict[str, Array], seen: Array, latest: Array) -> Array:
        """Weighted means of what each label may see: [B, K, pools, dim]."""
        elapsed = jnp.log1p(jnp.maximum(batch["label_time"][..., None] - batch["time"][:, None], 0) * _HOURS)
        liked = jnp.einsum("btd,dp->bpt", hidden, self.query_dp[...])
        scores = liked[:, :, None] - self.decay_p[:, None, None] * elapsed[:, None]
        late = scores.shape[1] // 2
        allowed = jnp.stack([seen] * (scores.shape[1] - late) + [latest] * late, axis=1)
        weights = jax.nn.softmax(jnp.where(allowed, scores, -1e30), axis=-1)
        return jnp.einsum("bpkt,btd->bkpd", weights, hidden)


def visible(batch: dict[str, Array]) -> tuple[Array, Array]:
    """Which events a label may see, and which of these are the latest of their code: [B, K, T] bool, twice."""
    at, segment = batch["label_at"], batch["segment"]
    mine = jnp.take_along_axis(segment, at, axis=1)
    index = jnp.arange(segment.shape[1])
    seen = (segment[:, None] == mine[..., None]) & (index <= at[..., None]) & (mine > 0)[..., None]
    return seen, seen & (batch["after"][:, None] > at[..., None])


class TaskHeads(nnx.Module):
    """One small network for all tasks, one output each."""

    def __init__(self, config: ModelConfig, tasks: int, rngs: nnx.Rngs) -> None:
        self.inner = weight(rngs, config.dim, config.dim, fan_in=config.dim)
        self.linear = weight(rngs, config.dim, tasks, fan_in=config.dim, gain=0.1)
        self.curved = weight(rngs, config.dim, tasks, fan_in=config.dim, gain=0.1)
        self.bias = nnx.Param(jnp.zeros(tasks))
        self.rate = config.dropout

    def __call__(self, read: Array, key: Array | None = None) -> Array:
        """read [B, K, dim] float32 -> logits of every task [B, K, tasks] float32."""
        read = dropout(read, self.rate, key)
        curved = jax.nn.gelu(read @ self.inner[...]) @ self.curved[...]
        return read @ self.linear[...] + curved + self.bias[...]
