"""Attention through cuDNN's packed kernel: segments by length and offset, no mask of T x T anywhere.

JAX has the kernel, its public `jax.nn.dot_product_attention` has not yet the packed layout; so the lowering's own
function is called, and only when it is asked for: importing this module needs no CUDA.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import Array

from ehrseq.core.errors import ModelError

_NONE = -1  # fills the places of segments that a row does not have


def packed(q: Array, k: Array, v: Array, segment: Array, *, window: int = 0, segments: int = 64) -> Array:
    """`attention` with this backend; see there for shapes and meaning.

    Raises: ModelError for a dtype or a jax the kernel is not made for.
    """
    kernel, causal = _kernel()
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        raise ModelError(f"cuDNN attention takes 16-bit floats, not {q.dtype}. Set model.dtype to bfloat16.")
    real = (segment > 0)[..., None, None]
    q, k, v = (jnp.where(real, x, 0) for x in (q, k, v))  # so that padding gets no gradient either
    lengths, offsets = layout(segment, segments)
    out = kernel(
        q, k, v,
        q_seqlen=lengths, kv_seqlen=lengths, q_offsets=offsets, kv_offsets=offsets,
        scale=1 / math.sqrt(q.shape[-1]), mask_type=causal, sliding_window_length=window or None,
    )  # fmt: skip
    fits = segment.max(1) <= segments
    return jnp.where(fits[:, None, None, None], jnp.where(real, out, 0), jnp.nan)


def layout(segment: Array, segments: int) -> tuple[Array, Array]:
    """Lengths [B, segments] and offsets [B, segments + 1] int32 of a row's segments; -1 where it has none.

    `segment` [B, T]: 1, 2, ... from the left, padding (0) at the end only. The last offset is where the padding
    begins. Source: `jax._src.cudnn.fused_attention_stablehlo.dot_product_attention`, `q_seqlen` and `q_offsets`.

    >>> lengths, offsets = layout(jnp.array([[1, 1, 2, 0]]), 3)
    >>> lengths.tolist(), offsets.tolist()
    ([[2, 1, -1]], [[0, 2, 3, -1]])
    """
    number = jnp.arange(1, segments + 1)
    lengths = (segment[:, None] == number[:, None]).sum(-1, dtype=jnp.int32)
    ends = jnp.cumsum(lengths, axis=1, dtype=jnp.int32)
    there = lengths > 0
    offsets = jnp.concatenate([jnp.zeros_like(ends[:, :1]), jnp.where(there, ends, _NONE)], axis=1)
    return jnp.where(there, lengths, _NONE), offsets


def _kernel() -> tuple[Callable[..., Array], Any]:
    try:
        from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention
    except ImportError as error:
        raise ModelError(
            "this jax has no packed cuDNN attention; 0.11 and 0.12 have. Use blockwise."
        ) from error
    missing = {"q_offsets", "kv_offsets", "sliding_window_length"} - set(
        inspect.signature(dot_product_attention).parameters
    )
    if missing:
        raise ModelError(f"this jax's cuDNN attention has no {', '.join(sorted(missing))}. Use blockwise.")
    return dot_product_attention, MaskType.PADDING_CAUSAL
