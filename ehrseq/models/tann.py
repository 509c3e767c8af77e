"""Rajkomar's feed-forward network with time-aware attention (TANN): no recurrence, the past weighed by what and when.

A prediction looks at every event it may see. An event's score is a learned mix of functions of the time elapsed since
it, and the mix depends on the event itself: score = sum over f of mix_f(event) * f(elapsed). Weighted sums of the
events, the log mass of the weights and their entropy go through a feed-forward network.
Source: Rajkomar et al. 2018, supplement, "feed-forward model with time-aware attention".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ehrseq.models.batch import at_every_position
from ehrseq.models.config import Inputs
from ehrseq.models.dropout import dropout, keys
from ehrseq.models.families import TannConfig
from ehrseq.models.heads import visible
from ehrseq.models.layers import GatedMLP, RMSNorm, weight
from ehrseq.models.transformer import mlp_flops
from ehrseq.models.work import Work, product

_HOURS = 24.0
_RAMPS_HOURS = (1.0, 6.0, 24.0, 72.0, 168.0, 720.0, 8766.0)  # piecewise linear: rises to 1 at the knot
_LONGEST_HOURS = 10 * 8766.0
FUNCTIONS = 3 + len(_RAMPS_HOURS)
_AT_ONCE = 64  # positions that `represent` treats as predictions at once


def time_functions(elapsed_hours: Array) -> Array:
    """The bank of functions of elapsed time: constant, linear, logarithm, ramps. [...] -> [..., FUNCTIONS] float32."""
    hours = jnp.clip(elapsed_hours, 0, _LONGEST_HOURS)
    ramps = [jnp.minimum(hours / knot, 1) for knot in _RAMPS_HOURS]
    return jnp.stack([jnp.ones_like(hours), hours / 8766, jnp.log1p(hours) / 4, *ramps], axis=-1)


class Tann(nnx.Module):
    """The trunk of family "tann": it reads for each label by itself."""

    def __init__(self, config: TannConfig, inputs: Inputs, rngs: nnx.Rngs) -> None:
        dim, heads, width = config.dim, config.heads, config.value_dim
        self.norm = RMSNorm(dim)
        self.mix_dhf = weight(rngs, dim, heads, FUNCTIONS, fan_in=dim, gain=0.5)
        fading = jnp.zeros((heads, FUNCTIONS)).at[:, 2].set(-jnp.arange(heads) / max(heads - 1, 1) * 6)
        self.mix_hf = nnx.Param(fading)  # heads begin between a plain mean and "the latest alone"
        self.value_dhv = weight(rngs, dim, heads, width, fan_in=dim)
        self.join = weight(rngs, heads * (width + 2), dim, fan_in=heads * (width + 2))
        self.layers = nnx.List(
            [GatedMLP(dim, config.mlp_ratio, config.layers, rngs) for _ in range(config.layers)]
        )
        self.norms = nnx.List([RMSNorm(dim) for _ in range(config.layers + 1)])
        self.rate, self.dtype = config.dropout, config.dtype

    def read(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """events [B, T, dim] float32 -> [B, K, dim] float32, one vector per label."""
        x = self.norm(events)
        weights, mass = self.weights(x, batch)
        value = jnp.einsum("btd,dhv->bthv", x.astype(self.dtype), self.value_dhv[...].astype(self.dtype))
        sums = jnp.einsum("bhkt,bthv->bkhv", weights.astype(self.dtype), value).astype(jnp.float32)
        spread = -jnp.sum(weights * jnp.log(jnp.maximum(weights, 1e-20)), axis=-1)
        both = jnp.moveaxis(jnp.stack([mass / 8, spread / 4], axis=-1), 1, 2)
        joined = jnp.concatenate([sums, both], axis=-1)
        h = joined.reshape(*joined.shape[:2], -1) @ self.join[...]
        for mlp, norm, part in zip(self.layers, self.norms, keys(key, len(self.layers)), strict=False):
            h = h + dropout(mlp(norm(h).astype(self.dtype)).astype(jnp.float32), self.rate, part)
        return self.norms[-1](h)

    def weights(self, x: Array, batch: dict[str, Array]) -> tuple[Array, Array]:
        """Attention [B, heads, K, T] float32 (what an explanation paints) and its log mass [B, heads, K]."""
        elapsed = (batch["label_time"][..., None] - batch["time"][:, None]) * _HOURS
        mix = jnp.einsum("btd,dhf->bthf", x, self.mix_dhf[...]) + self.mix_hf[...]
        scores = jnp.einsum("bthf,bktf->bhkt", mix, time_functions(elapsed))
        seen = visible(batch)[0][:, None]
        scores = jnp.where(seen, scores, -1e30)
        mass = jax.nn.logsumexp(scores, axis=-1)
        any_seen = seen.any(-1)
        weights = jnp.exp(scores - mass[..., None]) * seen
        return weights, jnp.where(any_seen, mass, 0)

    def __call__(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Every position as a prediction made at its own time: [B, T, dim] float32; T x T work, a strip at a time."""
        return read_everywhere(self.read, events, batch)

    @staticmethod
    def flops(config: TannConfig, inputs: Inputs, work: Work) -> float:
        """Operations of the trunk's forward pass."""
        heads, width = config.heads, config.value_dim
        events = product(work.tokens, config.dim, heads * (FUNCTIONS + width))
        looks = product(work.label_pairs, FUNCTIONS, heads) + product(work.label_pairs, heads * width, 1)
        after = product(work.labels, heads * (width + 2), config.dim)
        return events + looks + after + config.layers * mlp_flops(config.dim, config.mlp_ratio, work.labels)


def read_everywhere(read: Callable[..., Array], events: Array, batch: dict[str, Array]) -> Array:
    """`read` with a label at every position, in strips of bounded memory: [B, T, dim]."""
    length = batch["segment"].shape[1]
    strip = min(_AT_ONCE, length)
    extra = -length % strip
    shape = batch["segment"].shape
    padded = {
        name: jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)) if x.shape[:2] == shape else x
        for name, x in batch.items()
        if not name.startswith("label_")
    }
    long_events = jnp.pad(events, ((0, 0), (0, extra), (0, 0)))
    strips = lax.map(
        lambda first: read(long_events, at_every_position(padded, first, strip)),
        jnp.arange(0, length + extra, strip),
    )
    return jnp.moveaxis(strips, 0, 1).reshape(events.shape[0], length + extra, -1)[:, :length]
