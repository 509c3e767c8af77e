"""What the families share: norm, initial weights, gated MLP, a residual stream of blocks."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.dropout import dropout, keys


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
    return nnx.Param(_draw(rngs.params(), shape, gain * fan_in**-0.5))


@partial(jax.jit, static_argnums=1)  # compiled once for each shape, whatever the number of layers
def _draw(key: Array, shape: tuple[int, ...], scale: float) -> Array:
    return scale * jax.random.normal(key, shape)


def branch_gain(layers: int) -> float:
    """Residual branches start small, so that depth does not change the stream's scale (GPT-2's rule)."""
    return 1 / math.sqrt(2 * max(layers, 1))


class GatedMLP(nnx.Module):
    """SwiGLU. Source: Shazeer 2020, *GLU variants improve transformer*."""

    def __init__(self, dim: int, ratio: float, layers: int, rngs: nnx.Rngs) -> None:
        inner = int(dim * ratio)
        self.in_d2f = weight(rngs, dim, 2, inner, fan_in=dim)
        self.out_fd = weight(rngs, inner, dim, fan_in=inner, gain=branch_gain(layers))

    def __call__(self, x: Array) -> Array:
        """[..., dim] -> the same; both inner products are one."""
        both = x @ self.in_d2f[...].astype(x.dtype).reshape(x.shape[-1], -1)
        gate, up = jnp.split(both, 2, axis=-1)
        return (jax.nn.silu(gate) * up) @ self.out_fd[...].astype(x.dtype)


class Block(nnx.Module):
    """A mixer of positions and a gated MLP, each normalised before and added after (pre-norm).

    `mixer` is a module `(x [B, T, dim] of the compute dtype, context) -> [B, T, dim]`.
    """

    def __init__(self, mixer: nnx.Module, mlp: GatedMLP, dim: int, rate: float, dtype: str) -> None:
        self.norm_mixer, self.norm_mlp = RMSNorm(dim), RMSNorm(dim)
        self.mixer, self.mlp = mixer, mlp
        self.rate, self.dtype = rate, dtype

    def __call__(self, x: Array, context: dict[str, Array], key: Array | None) -> Array:
        """x [B, T, dim] float32 (the residual stream) -> the same. `context`: what the mixers need besides."""
        first, second = keys(key, 2)
        mixed = self.mixer(self.norm_mixer(x).astype(self.dtype), context)
        x = x + dropout(mixed.astype(jnp.float32), self.rate, first)
        changed = self.mlp(self.norm_mlp(x).astype(self.dtype))
        return x + dropout(changed.astype(jnp.float32), self.rate, second)


class Stream(nnx.Module):
    """Norm, blocks, norm. With `remat`, a block's inside is computed again for its gradient and not kept."""

    def __init__(self, blocks: list[Block], dim: int, remat: bool) -> None:
        self.blocks = nnx.List(blocks)
        self.norm_in, self.norm_out = RMSNorm(dim), RMSNorm(dim)
        self.remat = remat

    def __call__(self, x: Array, context: dict[str, Array], key: Array | None) -> Array:
        """[B, T, dim] float32 -> the same."""
        x = self.norm_in(x)
        for block, block_key in zip(self.blocks, keys(key, len(self.blocks)), strict=True):
            run: Callable[..., Array] = jax.checkpoint(block) if self.remat else block
            x = run(x, context, block_key)
        return self.norm_out(x)
