"""Attention through JAX's Pallas kernel for TPU ("splash": sparse flash): tiles outside the mask are skipped."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

_LANES = 128  # of a TPU's vector unit: head width and row length are padded to multiples


def splash(
    q: Array, k: Array, v: Array, segment: Array, *, window: int = 0, interpret: bool = False
) -> Array:
    """`attention` with this backend; see there for shapes and meaning. `interpret` runs the kernel on any device."""
    from jax.experimental.pallas.ops.tpu import splash_attention as kernel

    _, length, heads, width = q.shape
    long, wide = (-length % _LANES, -width % _LANES)

    def padded(x: Array) -> Array:
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, long), (0, 0), (0, wide))), 1, 2)

    full = length + long
    one = kernel.LocalMask((full, full), (window - 1, 0), 0) if window else kernel.CausalMask((full, full))
    attend = kernel.make_splash_mha(
        kernel.MultiHeadMask([one] * heads), head_shards=1, q_seq_shards=1, interpret=interpret,
        block_sizes=_sizes(kernel.BlockSizes, full),
    )  # fmt: skip
    ids = jnp.pad(segment, ((0, 0), (0, long)))
    scaled = padded(q) * jnp.asarray(1 / math.sqrt(width), q.dtype)
    out = jax.vmap(lambda q, k, v, ids: attend(q, k, v, segment_ids=kernel.SegmentIds(ids, ids)))(
        scaled, padded(k), padded(v), ids
    )
    out = jnp.moveaxis(out, 1, 2)[:, :length, :, :width]
    return jnp.where((segment > 0)[..., None, None], out, 0).astype(q.dtype)


def _sizes[S](make: type[S], length: int) -> S:
    """Tiles of at most 512 that divide the length, for both directions."""
    side = next(size for size in (512, 256, _LANES) if length % size == 0)
    names = ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute",
             "block_q_dq", "block_kv_dq")  # fmt: skip
    return partial(make, **dict.fromkeys(names, side))()
