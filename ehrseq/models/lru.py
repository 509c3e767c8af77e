"""Gated linear recurrence: memory of any length in linear time, with local attention between where wanted.

h_t = a_t * h_(t-1) + sqrt(1 - a_t^2) * (i_t * x_t), where log a_t = -(r_t + gap_t) * softplus(rate): what is forgotten
depends on the event (r_t in [0, 8]) and on the time since the event before it; a new segment forgets everything.
Source: De et al. 2024 (Griffin), section 2.4; the term of elapsed time is ours.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from ehrseq.models.config import Inputs
from ehrseq.models.families import LruConfig
from ehrseq.models.layers import Block, GatedMLP, Stream, branch_gain, weight
from ehrseq.models.recurrence import linear_recurrence
from ehrseq.models.rotary import angles
from ehrseq.models.transformer import SelfAttention, attention_flops, mlp_flops
from ehrseq.models.work import Work, product

_SHARPNESS = 8.0  # of the gate, as in Griffin
_KEEP = (0.9, 0.999)  # kept per event by the quickest and the slowest channel at first
_HOURS = 24.0


class GatedRecurrence(nnx.Module):
    """One mixer: input, both gates and the output's gate from one product, then the recurrence."""

    def __init__(self, config: LruConfig, rngs: nnx.Rngs) -> None:
        dim = config.dim
        self.in_d4d = weight(rngs, dim, 4, dim, fan_in=dim)
        self.out_dd = weight(rngs, dim, dim, fan_in=dim, gain=branch_gain(config.layers))
        # softplus(rate) * _SHARPNESS / 2 = -log(keep): the gate stands at one half at first
        wanted = -np.log(np.geomspace(*_KEEP, dim)) * 2 / _SHARPNESS
        self.rate_d = nnx.Param(jnp.asarray(np.log(np.expm1(wanted)), jnp.float32))
        self.ageing_d = nnx.Param(jnp.zeros(dim))
        self.run = nnx.static(partial(linear_recurrence, backend=config.recurrence, chunk=config.chunk))

    def __call__(self, x: Array, context: dict[str, Array]) -> Array:
        """x [B, T, dim]; context: gap [B, T] (log hours), segment, position -> [B, T, dim]. Gates are float32."""
        all_four = x @ self.in_d4d[...].astype(x.dtype).reshape(x.shape[-1], -1)
        signal, gate_out, forget, admit = jnp.split(all_four, 4, axis=-1)
        forget, admit, signal = (y.astype(jnp.float32) for y in (forget, admit, signal))
        ageing = jax.nn.softplus(self.ageing_d[...] - 4) * context["gap"][..., None]
        log_keep = -(_SHARPNESS * jax.nn.sigmoid(forget) + ageing) * jax.nn.softplus(self.rate_d[...])
        keep = jnp.where((context["position"] > 0)[..., None], jnp.exp(log_keep), 0)
        scale = jnp.sqrt(jnp.maximum(1 - keep * keep, 1e-6))  # of bounded slope where nothing is forgotten
        alive = (context["segment"] > 0)[..., None]
        h = self.run(keep, jnp.where(alive, scale * jax.nn.sigmoid(admit) * signal, 0))
        return (jax.nn.gelu(gate_out) * h.astype(x.dtype)) @ self.out_dd[...].astype(x.dtype)


class Lru(nnx.Module):
    """The trunk of family "lru"; every `attention_every`-th block attends locally instead."""

    def __init__(self, config: LruConfig, inputs: Inputs, rngs: nnx.Rngs) -> None:
        dim = config.dim
        self.stream = Stream(
            [
                Block(
                    SelfAttention(config, rngs) if attends else GatedRecurrence(config, rngs),
                    GatedMLP(dim, config.mlp_ratio, config.layers, rngs),
                    dim,
                    config.dropout,
                    config.dtype,
                )
                for attends in _attends(config)
            ],
            dim,
            config.remat,
        )
        self.head_width = dim // config.heads if config.attention_every else 0

    def __call__(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """events [B, T, dim] float32 -> [B, T, dim] float32."""
        context = {name: jnp.asarray(batch[name]) for name in ("segment", "position")}
        gap = jnp.diff(batch["time"], axis=1, prepend=batch["time"][:, :1])
        context["gap"] = jnp.log1p(jnp.maximum(gap, 0) * _HOURS)
        if self.head_width:
            context["turn"] = angles(batch["position"], batch["time"], self.head_width)
        return self.stream(events, context, key)

    @staticmethod
    def flops(config: LruConfig, inputs: Inputs, work: Work) -> float:
        """Operations of the trunk's forward pass; the recurrence itself is no product of matrices."""
        recurrent = product(work.tokens, config.dim, 4 * config.dim) + product(
            work.tokens, config.dim, config.dim
        )
        mixers = sum(attention_flops(config, work) if attends else recurrent for attends in _attends(config))
        return mixers + config.layers * mlp_flops(config.dim, config.mlp_ratio, work.tokens)


def _attends(config: LruConfig) -> list[bool]:
    every = config.attention_every
    return [bool(every) and (layer + 1) % every == 0 for layer in range(config.layers)]
