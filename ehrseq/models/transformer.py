"""The packed causal transformer: pre-norm blocks of segment-masked attention and a gated MLP."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.attention import attention, choose
from ehrseq.models.config import Inputs
from ehrseq.models.families import LruConfig, TransformerConfig
from ehrseq.models.layers import Block, GatedMLP, Stream, branch_gain, weight
from ehrseq.models.rotary import angles, rotate
from ehrseq.models.work import Work, product


class SelfAttention(nnx.Module):
    """Multi-head attention inside segments, with rotary position and time; query heads may share key heads."""

    def __init__(self, config: TransformerConfig | LruConfig, rngs: nnx.Rngs) -> None:
        dim, heads, width = config.dim, config.heads, config.dim // config.heads
        self.heads, self.kv_heads = heads, config.kv_heads or heads
        self.qkv_dnh = weight(rngs, dim, heads + 2 * self.kv_heads, width, fan_in=dim)
        self.out_nhd = weight(rngs, heads, width, dim, fan_in=dim, gain=branch_gain(config.layers))
        self.attend = nnx.static(
            partial(
                attention,
                backend=backend_of(config),
                window=config.window,
                block=config.block,
                segments=config.segments,
            )
        )

    def __call__(self, x: Array, context: dict[str, Array]) -> Array:
        """x [B, T, dim]; context: turn [B, T, dim / heads / 2], segment [B, T] -> [B, T, dim]."""
        batch, length, dim = x.shape
        qkv = x @ self.qkv_dnh[...].astype(x.dtype).reshape(dim, -1)
        qkv = qkv.reshape(batch, length, self.heads + 2 * self.kv_heads, -1)
        qk, v = qkv[:, :, : -self.kv_heads], qkv[:, :, -self.kv_heads :]
        turned = rotate(qk, context["turn"])
        q, k = turned[:, :, : self.heads], turned[:, :, self.heads :]
        mixed = self.attend(q, k, v, context["segment"])
        return mixed.reshape(batch, length, dim) @ self.out_nhd[...].astype(x.dtype).reshape(dim, dim)


def backend_of(config: TransformerConfig | LruConfig) -> str:
    """The attention backend a model of this configuration uses on this machine."""
    heads, kv_heads = config.heads, config.kv_heads or config.heads
    return choose(config.attention, config.dtype, heads, kv_heads, config.dim // heads, config.window)


def attention_flops(config: TransformerConfig | LruConfig, work: Work) -> float:
    """Operations of one attention: projections on tokens, scores and means on the pairs that may see each other."""
    width = config.dim // config.heads
    projected = config.dim + 2 * (config.kv_heads or config.heads) * width
    mixing = 2 * product(work.local_pairs(config.window), config.dim, 1)
    return product(work.tokens, config.dim, projected) + product(work.tokens, config.dim, config.dim) + mixing


def mlp_flops(dim: int, ratio: float, rows: int) -> float:
    """Operations of one gated MLP."""
    inner = int(dim * ratio)
    return product(rows, dim, 2 * inner) + product(rows, inner, dim)


class Transformer(nnx.Module):
    """The trunk of family "transformer": events in, representations out; position t has seen 0..t only."""

    def __init__(self, config: TransformerConfig, inputs: Inputs, rngs: nnx.Rngs) -> None:
        dim = config.dim
        blocks = [
            Block(
                SelfAttention(config, rngs),
                GatedMLP(dim, config.mlp_ratio, config.layers, rngs),
                dim,
                config.dropout,
                config.dtype,
            )
            for _ in range(config.layers)
        ]
        self.stream = Stream(blocks, dim, config.remat)
        self.head_width = dim // config.heads

    def __call__(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """events [B, T, dim] float32 -> [B, T, dim] float32."""
        turn = angles(batch["position"], batch["time"], self.head_width)
        return self.stream(events, {"turn": turn, "segment": jnp.asarray(batch["segment"])}, key)

    @staticmethod
    def flops(config: TransformerConfig, inputs: Inputs, work: Work) -> float:
        """Operations of the trunk's forward pass."""
        block = attention_flops(config, work) + mlp_flops(config.dim, config.mlp_ratio, work.tokens)
        return config.layers * block
