"""The attention seam: one function, several backends, one meaning.

A position attends to itself and to earlier positions of the same segment, within a local window if one is given.
Padding (segment 0) attends to nothing and gives zeros. Segments are contiguous and padding stands at the row's end,
as the loader packs them.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ehrseq.core.errors import ConfigError, ModelError, ShapeError, closest
from ehrseq.core.progress import log

BACKENDS = ("reference", "blockwise", "cudnn", "splash")
AUTO = "auto"
MASKED = -1e30  # finite, so that a row with nothing to attend to stays finite


def attention(
    q: Array,
    k: Array,
    v: Array,
    segment: Array,
    *,
    backend: str = "reference",
    window: int = 0,
    block: int = 128,
    segments: int = 64,
) -> Array:
    """Causal attention inside segments.

    `q` [B, T, H, D], `k` `v` [B, T, G, D], any float dtype; G divides H, and query heads h * H / G and following share
    a key head (grouped queries). `segment` [B, T] int, 0 = padding. `window` > 0: only the last `window` positions,
    itself counted. Returns [B, T, H, D] of q's dtype; scores and sums are float32.

    - `reference`: the T x T scores at once; plainest.
    - `blockwise`: exact too, in tiles of `block`; memory grows with T, and tiles outside a segment or window are
      skipped, so packed short segments cost what they are.
    - `cudnn`: NVIDIA's fused kernel on packed rows, Hopper or later, 16-bit floats. At most `segments` segments a
      row; a row with more gives NaN, as no error can be raised on the device.
    - `splash`: the Pallas kernel on TPU.

    Source: Dao et al. 2022 (FlashAttention), algorithms 1 and 4; Ainslie et al. 2023 for grouped queries.

    Raises: ConfigError for an unknown backend; ShapeError if the shapes do not agree.
    """
    agree = k.shape == v.shape and q.shape[:2] == k.shape[:2] == segment.shape and q.shape[3] == k.shape[3]
    if not agree or q.shape[2] % k.shape[2]:
        raise ShapeError(
            f"attention: q {q.shape}, k {k.shape}, v {v.shape}, segment {segment.shape} do not agree."
        )
    if backend == "reference":
        return _reference(q, k, v, segment, window)
    if backend == "blockwise":
        from ehrseq.models.blockwise import blockwise

        return blockwise(q, k, v, segment, window=window, block=block)
    if backend == "cudnn":
        from ehrseq.models.cudnn import packed

        return packed(q, k, v, segment, window=window, segments=segments)
    if backend == "splash":
        from ehrseq.models.splash import splash

        return splash(q, k, v, segment, window=window)
    raise ConfigError(
        f"attention backend {backend!r} is not one of {', '.join(BACKENDS)}.{closest(backend, BACKENDS)}"
    )


def segment_starts(segment: Array) -> Array:
    """Where each position's segment begins. segment [B, T] int -> [B, T] int32."""
    index = jnp.arange(segment.shape[1], dtype=jnp.int32)
    new = jnp.concatenate([jnp.ones_like(segment[:, :1], bool), segment[:, 1:] != segment[:, :-1]], axis=1)
    return lax.cummax(jnp.where(new, index, 0), axis=1)


def _reference(q: Array, k: Array, v: Array, segment: Array, window: int) -> Array:
    batch, length, heads, width = q.shape
    index = jnp.arange(length)
    allowed = may_attend(segment, segment, index, index, window)
    grouped = q.reshape(batch, length, k.shape[2], -1, width)
    scores = jnp.einsum("bqgrd,bkgd->bgrqk", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(allowed, scores / math.sqrt(width), MASKED)
    weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True))) * allowed
    weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
    out = jnp.einsum("bgrqk,bkgd->bqgrd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return out.reshape(batch, length, heads, width).astype(q.dtype)


def may_attend(segment_q: Array, segment_k: Array, index_q: Array, index_k: Array, window: int) -> Array:
    """[B, 1, 1, Q, K] bool: may query q look at key k? Segments [B, Q] and [B, K], indices [Q] and [K]."""
    same = (segment_q[:, :, None] == segment_k[:, None, :]) & (segment_q > 0)[:, :, None]
    ago = index_q[:, None] - index_k[None, :]
    near = (ago >= 0) & (ago < window) if window else ago >= 0
    return (same & near)[:, None, None]


@cache
def choose(backend: str, dtype: str, heads: int, kv_heads: int, width: int, window: int) -> str:
    """The backend that `backend` means here: itself, or for "auto" the fastest of this platform that is right.

    Each candidate must give the values and the gradients of the reference on a small packed batch; one that does
    not is named in the log and the next is taken. Call it outside of jit.

    Raises: ConfigError for an unknown name; ModelError if a backend asked for by name fails the check.
    """
    if backend not in (*BACKENDS, AUTO):
        known = (AUTO, *BACKENDS)
        raise ConfigError(
            f"attention backend {backend!r} is not one of {', '.join(known)}.{closest(backend, known)}"
        )
    if backend in ("reference", "blockwise"):  # pure JAX: their proofs are in the tests
        return backend
    platform = jax.default_backend()
    candidates = {"gpu": ["cudnn"], "tpu": ["splash"]}.get(platform, []) if backend == AUTO else [backend]
    for candidate in candidates:
        reason = self_check(candidate, dtype, heads, kv_heads, width, window)
        if not reason:
            log("attention", backend=candidate, platform=platform, checked="values and gradients")
            return candidate
        if backend != AUTO:
            raise ModelError(f"attention backend {backend!r} cannot be used on {platform}: {reason}")
        log("attention", refused=candidate, platform=platform, reason=reason)
    return "blockwise"


def self_check(backend: str, dtype: str, heads: int, kv_heads: int, width: int, window: int) -> str:
    """Compare a backend with the reference, values and gradients; "" if they agree, else what is wrong."""
    length = 256
    lengths = [[100, 1, 60, 50], [256]]  # full and padded rows, a segment of one event
    rows = [np.repeat(np.arange(1, len(row) + 1), row) for row in lengths]
    segment = jnp.asarray(np.stack([np.pad(row, (0, length - len(row))) for row in rows]), jnp.int32)
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(2, length, count, width) for count in (heads, kv_heads, kv_heads, heads)]
    q, k, v, slope = (
        jax.random.normal(key, shape, jnp.dtype(dtype)) for key, shape in zip(keys, shapes, strict=True)
    )

    @partial(jax.jit, static_argnums=0)
    def run(one: str, q: Array, k: Array, v: Array, segment: Array, slope: Array) -> list[Array]:
        attend: Callable[..., Array] = partial(attention, backend=one, window=window)
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, segment), q, k, v)
        return [out, *pull(slope)]

    try:
        found, expected = (
            [np.asarray(x, np.float32) for x in run(one, q, k, v, segment, slope)]
            for one in (backend, "reference")
        )
    except Exception as error:  # kernels refuse in many ways: no device, architecture, width, version
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    tolerance = (
        0.06 if dtype == "bfloat16" else 2e-3
    )  # 8 bits through two products; fused sums in another order
    for name, left, right in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        gap = float(np.max(np.abs(left - right))) / max(1.0, float(np.max(np.abs(right))))
        if not gap <= tolerance:
            return (
                f"{name} differs from the reference by {gap:.3g} of its largest value (at most {tolerance})"
            )
    return ""
