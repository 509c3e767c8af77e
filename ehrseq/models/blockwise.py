"""Attention in tiles: exact, memory linear in T, and tiles that nobody may look at are never computed.

Heads stand before positions inside, so that a tile is one contiguous piece and each product a plain batched one.
Source: Dao et al. 2022 (FlashAttention), algorithms 1 and 4.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ehrseq.models.attention import MASKED, may_attend, segment_starts


def blockwise(q: Array, k: Array, v: Array, segment: Array, *, window: int = 0, block: int = 128) -> Array:
    """`attention` with this backend; see there for shapes and meaning."""
    batch, length, heads, width = q.shape
    block = min(block, length)
    extra = -length % block

    def heads_first(x: Array) -> Array:
        return jnp.moveaxis(jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))), 1, 2)

    grouped = heads_first(q).reshape(batch, k.shape[2], -1, length + extra, width)
    padded = jnp.pad(segment, ((0, 0), (0, extra)))
    out = _tiled(grouped, heads_first(k), heads_first(v), padded, window, block)
    return jnp.moveaxis(out.reshape(batch, heads, -1, width), 2, 1)[:, :length]


# inside: q [B, G, R, T, D]; k, v [B, G, T, D]; R query heads share a key head


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _tiled(q: Array, k: Array, v: Array, segment: Array, window: int, block: int) -> Array:
    return _forward(q, k, v, segment, window, block)[0]


def _tile(x: Array, i: Array, block: int, axis: int = -2) -> Array:
    return lax.dynamic_slice_in_dim(x, i * block, block, axis % x.ndim)


def _scores(
    q: Array, k: Array, segment: Array, i: Array, j: Array, window: int, block: int
) -> tuple[Array, Array]:
    """Scores [B, G, R, Q, K] of query tile `q` = i and key tile `k` = j, and where they count [B, 1, 1, Q, K]."""
    index = jnp.arange(block)
    segments = (_tile(segment, i, block, 1), _tile(segment, j, block, 1))
    allowed = may_attend(*segments, index + i * block, index + j * block, window)
    scores = jnp.einsum("bgrqd,bgkd->bgrqk", q, k, preferred_element_type=jnp.float32)
    return jnp.where(allowed, scores / math.sqrt(q.shape[-1]), MASKED), allowed


def _first_tiles(segment: Array, window: int, block: int) -> Array:
    """First key tile that any row of the batch needs, per query tile: [T / block]."""
    first = segment_starts(segment)[:, ::block].min(0)
    if window:
        first = jnp.maximum(first, jnp.arange(0, segment.shape[1], block) - window + 1)
    return first // block


def _forward(q: Array, k: Array, v: Array, segment: Array, window: int, block: int) -> tuple[Array, Array]:
    """Output as q, and the log of the softmax's sum [B, G, R, T]."""

    def query_tile(_: None, step: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, first = step
        q_i = _tile(q, i, block)

        def key_tile(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, out = carry
            scores, allowed = _scores(q_i, _tile(k, j, block), segment, i, j, window, block)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[..., None]) * allowed
            shrink = jnp.exp(top - new_top)
            value = jnp.einsum(
                "bgrqk,bgkd->bgrqd", weights.astype(v.dtype), _tile(v, j, block), preferred_element_type=jnp.float32
            )  # fmt: skip
            return new_top, total * shrink + weights.sum(-1), out * shrink[..., None] + value

        empty = jnp.full(q_i.shape[:-1], MASKED, jnp.float32)
        start = (empty, jnp.zeros_like(empty), jnp.zeros(q_i.shape, jnp.float32))
        top, total, out = lax.fori_loop(first, i + 1, key_tile, start)
        total = jnp.maximum(total, 1e-30)
        return None, ((out / total[..., None]).astype(q.dtype), top + jnp.log(total))

    steps = (jnp.arange(q.shape[-2] // block), _first_tiles(segment, window, block))
    _, (out, log_sum) = lax.scan(query_tile, None, steps)
    return _joined(out, q.shape), _joined(log_sum, q.shape[:-1])


def _joined(tiles: Array, shape: tuple[int, ...]) -> Array:
    """Tiles [T / block, B, G, R, block, ...] as one array [B, G, R, T, ...]."""
    return jnp.moveaxis(tiles, 0, 3).reshape(shape)


type _Saved = tuple[Array, Array, Array, Array, Array, Array]


def _keep(q: Array, k: Array, v: Array, segment: Array, window: int, block: int) -> tuple[Array, _Saved]:
    out, log_sum = _forward(q, k, v, segment, window, block)
    return out, (q, k, v, segment, out, log_sum)


def _backward(window: int, block: int, saved: _Saved, grad: Array) -> tuple[Array, Array, Array, None]:
    """Gradients by recomputing each tile's weights from the saved log-sums."""
    q, k, v, segment, out, log_sum = saved
    correction = jnp.einsum("bgrtd,bgrtd->bgrt", grad, out, preferred_element_type=jnp.float32)
    scale = 1 / math.sqrt(q.shape[-1])
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def query_tile(
        carry: tuple[Array, Array], step: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        i, first = step
        q_i, grad_i = _tile(q, i, block), _tile(grad, i, block)
        log_sum_i, correction_i = _tile(log_sum, i, block, -1), _tile(correction, i, block, -1)

        def key_tile(j: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_i, dk, dv = sums
            k_j, v_j = _tile(k, j, block), _tile(v, j, block)
            scores, allowed = _scores(q_i, k_j, segment, i, j, window, block)
            weights = jnp.exp(scores - log_sum_i[..., None]) * allowed
            d_weights = product("bgrqd,bgkd->bgrqk", grad_i, v_j)
            d_scores = (weights * (d_weights - correction_i[..., None]) * scale).astype(q.dtype)
            dq_i += product("bgrqk,bgkd->bgrqd", d_scores, k_j)
            dk = _add_tile(dk, product("bgrqk,bgrqd->bgkd", d_scores, q_i), j, block)
            dv = _add_tile(dv, product("bgrqk,bgrqd->bgkd", weights.astype(q.dtype), grad_i), j, block)
            return dq_i, dk, dv

        start = (jnp.zeros(q_i.shape, jnp.float32), *carry)
        dq_i, dk, dv = lax.fori_loop(first, i + 1, key_tile, start)
        return (dk, dv), dq_i.astype(q.dtype)

    zeros = jnp.zeros(k.shape, jnp.float32)
    steps = (jnp.arange(q.shape[-2] // block), _first_tiles(segment, window, block))
    (dk, dv), dq = lax.scan(query_tile, (zeros, zeros), steps)
    return _joined(dq, q.shape), dk.astype(k.dtype), dv.astype(v.dtype), None


def _add_tile(x: Array, tile: Array, j: Array, block: int) -> Array:
    return lax.dynamic_update_slice_in_dim(x, _tile(x, j, block) + tile, j * block, axis=x.ndim - 2)


_tiled.defvjp(_keep, _backward)
