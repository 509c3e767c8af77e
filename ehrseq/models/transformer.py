"""The packed causal transformer: pre-norm blocks of segment-masked attention and a gated MLP."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.attention import attention
from ehrseq.models.config import ModelConfig
from ehrseq.models.dropout import dropout, keys
from ehrseq.models.rotary import angles, rotate


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis, in float32. Source: Zhang and Sennrich 2019."""

    def __init__(self, dim: int) -> None:
        self.scale = nnx.Param(jnp.ones(dim))

    def __call__(self, x: Array) -> Array:
        """[..., dim] -> [..., dim] float32; exact zeros stay zeros."""
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * self.scale[...]


def weight(rngs: nnx.Rngs, *shape: int, fan_in: int, gain: float = 1.0) -> nnx.Param[Array]:
    """A float32 parameter with standard deviation gain / sqrt(fan_in)."""
    return nnx.Param(gain * fan_in**-0.5 * jax.random.normal(rngs.params(), shape))


class SelfAttention(nnx.Module):
    """Multi-head attention inside segments, with rotary position and time."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        dim, heads = config.dim, config.heads
        self.qkv_d3nh = weight(rngs, dim, 3, heads, dim // heads, fan_in=dim)
        self.out_nhd = weight(rngs, heads, dim // heads, dim, fan_in=dim, gain=_branch_gain(config))
        self.attend = nnx.static(partial(attention, backend=config.attention, block=config.block))

    def __call__(self, x: Array, turn: Array, segment: Array) -> Array:
        """x [B, T, dim], turn [B, T, dim / heads / 2], segment [B, T] -> [B, T, dim]."""
        q, k, v = jnp.einsum("btd,dcnh->cbtnh", x, self.qkv_d3nh[...].astype(x.dtype))
        mixed = self.attend(rotate(q, turn), rotate(k, turn), v, segment)
        return jnp.einsum("btnh,nhd->btd", mixed, self.out_nhd[...].astype(x.dtype))


class GatedMLP(nnx.Module):
    """SwiGLU. Source: Shazeer 2020, *GLU variants improve transformer*."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        dim, inner = config.dim, int(config.dim * config.mlp_ratio)
        self.in_d2f = weight(rngs, dim, 2, inner, fan_in=dim)
        self.out_fd = weight(rngs, inner, dim, fan_in=inner, gain=_branch_gain(config))

    def __call__(self, x: Array) -> Array:
        """[B, T, dim] -> [B, T, dim]."""
        gate, up = jnp.einsum("btd,dcf->cbtf", x, self.in_d2f[...].astype(x.dtype))
        return jnp.einsum("btf,fd->btd", jax.nn.silu(gate) * up, self.out_fd[...].astype(x.dtype))


def _branch_gain(config: ModelConfig) -> float:
    """Residual branches start small, so that depth does not change the stream's scale (GPT-2's rule)."""
    return 1 / math.sqrt(2 * max(config.layers, 1))


class Block(nnx.Module):
    """Attention and MLP, each normalised before and added after."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.norm_attention, self.norm_mlp = RMSNorm(config.dim), RMSNorm(config.dim)
        self.attention = SelfAttention(config, rngs)
        self.mlp = GatedMLP(config, rngs)
        self.rate = config.dropout
        self.dtype = config.dtype

    def __call__(self, x: Array, turn: Array, segment: Array, key: Array | None) -> Array:
        """x [B, T, dim] float32 (the residual stream) -> the same."""
        first, second = keys(key, 2)
        mixed = self.attention(self.norm_attention(x).astype(self.dtype), turn, segment)
        x = x + dropout(mixed.astype(jnp.float32), self.rate, first)
        changed = self.mlp(self.norm_mlp(x).astype(self.dtype))
        return x + dropout(changed.astype(jnp.float32), self.rate, second)


class Transformer(nnx.Module):
    """The trunk of family "transformer": events in, representations out; position t has seen 0..t only."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([Block(config, rngs) for _ in range(config.layers)])
        self.norm_in, self.norm_out = RMSNorm(config.dim), RMSNorm(config.dim)
        self.head_width = config.dim // config.heads

    def __call__(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """events [B, T, dim] float32 -> [B, T, dim] float32."""
        turn = angles(batch["position"], batch["time"], self.head_width)
        x = self.norm_in(events)
        for block, block_key in zip(self.blocks, keys(key, len(self.blocks)), strict=True):
            x = block(x, turn, batch["segment"], block_key)
        return self.norm_out(x)
