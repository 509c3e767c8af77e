"""The attention seam: one function, several backends, one meaning.

A position attends to itself and to earlier positions of the same segment. Padding (segment 0) attends to nothing
and gives zeros. Segments are contiguous, as the loader packs them.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ehrseq.core.errors import ConfigError, ShapeError, closest

BACKENDS = ("reference", "blockwise")
_MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def attention(
    q: Array, k: Array, v: Array, segment: Array, *, backend: str = "reference", block: int = 128
) -> Array:
    """Causal attention inside segments.

    `q` `k` `v` [B, T, H, D], any float dtype; `segment` [B, T] int, 0 = padding. Returns [B, T, H, D] of q's
    dtype; scores and sums are float32. `block` is the tile of the blockwise backend.

    - `reference`: the T x T scores at once; plainest, fastest for short rows.
    - `blockwise`: exact too, in tiles; memory grows with T, and tiles outside a segment are skipped, so packed
      short segments cost what they are. Source: Dao et al. 2022 (FlashAttention), algorithms 1 and 4.

    Raises: ConfigError for an unknown backend; ShapeError if the shapes do not agree.
    """
    if q.shape != k.shape or q.shape != v.shape or segment.shape != q.shape[:2]:
        raise ShapeError(
            f"attention: q {q.shape}, k {k.shape}, v {v.shape}, segment {segment.shape} do not agree."
        )
    if backend == "reference":
        return _reference(q, k, v, segment)
    if backend == "blockwise":
        return _padded_blockwise(q, k, v, segment, min(block, q.shape[1]))
    raise ConfigError(
        f"attention backend {backend!r} is not one of {', '.join(BACKENDS)}.{closest(backend, BACKENDS)}"
    )


def segment_starts(segment: Array) -> Array:
    """Where each position's segment begins. segment [B, T] int -> [B, T] int32."""
    index = jnp.arange(segment.shape[1], dtype=jnp.int32)
    new = jnp.concatenate([jnp.ones_like(segment[:, :1], bool), segment[:, 1:] != segment[:, :-1]], axis=1)
    return lax.cummax(jnp.where(new, index, 0), axis=1)


def _reference(q: Array, k: Array, v: Array, segment: Array) -> Array:
    index = jnp.arange(q.shape[1])
    allowed = _allowed(segment, segment, index, index)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * _scale(q)
    scores = jnp.where(allowed, scores, _MASKED)
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True))) * allowed
    weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


def _allowed(segment_q: Array, segment_k: Array, index_q: Array, index_k: Array) -> Array:
    """[B, 1, Q, K]: may query q look at key k?"""
    same = (segment_q[:, :, None] == segment_k[:, None, :]) & (segment_q > 0)[:, :, None]
    return (same & (index_q[:, None] >= index_k[None, :]))[:, None]


def _scale(q: Array) -> float:
    return 1 / math.sqrt(q.shape[-1])


def _padded_blockwise(q: Array, k: Array, v: Array, segment: Array, block: int) -> Array:
    extra = -q.shape[1] % block
    if extra:
        q, k, v = (jnp.pad(x, ((0, 0), (0, extra), (0, 0), (0, 0))) for x in (q, k, v))
        segment = jnp.pad(segment, ((0, 0), (0, extra)))
    return _blockwise(q, k, v, segment, block)[:, : q.shape[1] - extra]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _blockwise(q: Array, k: Array, v: Array, segment: Array, block: int) -> Array:
    return _forward(q, k, v, segment, block)[0]


def _tile(x: Array, i: Array, block: int) -> Array:
    return lax.dynamic_slice_in_dim(x, i * block, block, axis=1)


def _scores(q: Array, k: Array, segment: Array, i: Array, j: Array, block: int) -> tuple[Array, Array]:
    """Scores of query tile `q` = i against key tile `k` = j, and where they count: [B, H, Q, K], [B, 1, Q, K]."""
    index = jnp.arange(block)
    tiles = (_tile(segment, i, block), _tile(segment, j, block))
    allowed = _allowed(*tiles, index + i * block, index + j * block)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * _scale(q)
    return jnp.where(allowed, scores, _MASKED), allowed


def _first_tiles(segment: Array, block: int) -> Array:
    """First key tile that any row of the batch needs, per query tile: [T / block]."""
    return segment_starts(segment)[:, ::block].min(0) // block


def _forward(q: Array, k: Array, v: Array, segment: Array, block: int) -> tuple[Array, Array]:
    """Output [B, T, H, D] and log of the softmax's sum [B, H, T]."""
    batch, _, heads, width = q.shape

    def query_tile(_: None, step: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, first = step
        q_i = _tile(q, i, block)

        def key_tile(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, out = carry
            scores, allowed = _scores(q_i, _tile(k, j, block), segment, i, j, block)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[..., None]) * allowed
            shrink = jnp.exp(top - new_top)
            value = jnp.einsum("bhqk,bkhd->bhqd", weights.astype(v.dtype), _tile(v, j, block))
            return new_top, total * shrink + weights.sum(-1), out * shrink[..., None] + value

        empty = jnp.full((batch, heads, block), _MASKED, jnp.float32)
        start = (empty, jnp.zeros_like(empty), jnp.zeros((batch, heads, block, width), jnp.float32))
        top, total, out = lax.fori_loop(first, i + 1, key_tile, start)
        total = jnp.maximum(total, 1e-30)
        return None, ((out / total[..., None]).astype(q.dtype), top + jnp.log(total))

    steps = (jnp.arange(q.shape[1] // block), _first_tiles(segment, block))
    _, (out, log_sum) = lax.scan(query_tile, None, steps)
    out = jnp.moveaxis(out, 0, 2).reshape(batch, heads, -1, width)
    return jnp.swapaxes(out, 1, 2), jnp.moveaxis(log_sum, 0, 2).reshape(batch, heads, -1)


type _Saved = tuple[Array, Array, Array, Array, Array, Array]


def _keep(q: Array, k: Array, v: Array, segment: Array, block: int) -> tuple[Array, _Saved]:
    out, log_sum = _forward(q, k, v, segment, block)
    return out, (q, k, v, segment, out, log_sum)


def _backward(block: int, saved: _Saved, grad: Array) -> tuple[Array, Array, Array, None]:
    """Gradients by recomputing each tile's weights from the saved log-sums."""
    q, k, v, segment, out, log_sum = saved
    correction = jnp.einsum("bthd,bthd->bht", grad, out, preferred_element_type=jnp.float32)

    def query_tile(
        carry: tuple[Array, Array], step: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], Array]:
        i, first = step
        q_i, grad_i = _tile(q, i, block), _tile(grad, i, block)
        log_sum_i = lax.dynamic_slice_in_dim(log_sum, i * block, block, axis=2)
        correction_i = lax.dynamic_slice_in_dim(correction, i * block, block, axis=2)

        def key_tile(j: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dq_i, dk, dv = sums
            k_j, v_j = _tile(k, j, block), _tile(v, j, block)
            scores, allowed = _scores(q_i, k_j, segment, i, j, block)
            weights = jnp.exp(scores - log_sum_i[..., None]) * allowed
            d_weights = jnp.einsum("bqhd,bkhd->bhqk", grad_i, v_j, preferred_element_type=jnp.float32)
            d_scores = weights * (d_weights - correction_i[..., None]) * _scale(q)
            dq_i += jnp.einsum("bhqk,bkhd->bqhd", d_scores, k_j)
            dk = _add_tile(dk, jnp.einsum("bhqk,bqhd->bkhd", d_scores, q_i), j, block)
            dv = _add_tile(dv, jnp.einsum("bhqk,bqhd->bkhd", weights, grad_i), j, block)
            return dq_i, dk, dv

        start = (jnp.zeros(q_i.shape, jnp.float32), *carry)
        dq_i, dk, dv = lax.fori_loop(first, i + 1, key_tile, start)
        return (dk, dv), dq_i

    zeros = jnp.zeros(k.shape, jnp.float32)
    steps = (jnp.arange(q.shape[1] // block), _first_tiles(segment, block))
    (dk, dv), dq = lax.scan(query_tile, (zeros, zeros), steps)
    dq = jnp.moveaxis(dq, 0, 1).reshape(q.shape)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


def _add_tile(x: Array, tile: Array, j: Array, block: int) -> Array:
    return lax.dynamic_update_slice_in_dim(x, _tile(x, j, block) + tile, j * block, axis=1)


_blockwise.defvjp(_keep, _backward)
