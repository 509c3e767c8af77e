"""Linear recurrences h_t = a_t * h_(t-1) + x_t along a row: one function, three backends that agree.

A gate of 0 forgets everything, so segments and time bags are gates too. The gradient is the same recurrence from the
right, written once for all backends.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from ehrseq.core.errors import ConfigError, ShapeError, closest

RECURRENCES = ("chunked", "associative", "scan")


def linear_recurrence(gate: Array, x: Array, *, backend: str = "chunked", chunk: int = 32) -> Array:
    """h [B, T, D] float32 of gate [B, T, D] (or [B, T, 1]) in [0, 1] and x [B, T, D] float32; h before the row is 0.

    - `scan`: T steps, one after the other; plainest, least arithmetic.
    - `associative`: log T passes over the row (Blelloch 1990), for devices that are wide.
    - `chunked`: all chunks of `chunk` positions at once, step by step, then one pass over the chunks' ends;
      T / chunk + chunk steps, the fastest on CPU.

    Raises: ConfigError for an unknown backend; ShapeError if the shapes do not agree.

    >>> linear_recurrence(jnp.array([[[0.0], [0.5], [0.5]]]), jnp.ones((1, 3, 1)))[0, :, 0].tolist()
    [1.0, 1.5, 1.75]
    """
    if backend not in RECURRENCES:
        raise ConfigError(
            f"recurrence {backend!r} is not one of {', '.join(RECURRENCES)}.{closest(backend, RECURRENCES)}"
        )
    if gate.shape[:2] != x.shape[:2] or gate.shape[2] not in (1, x.shape[2]):
        raise ShapeError(f"linear_recurrence: gate {gate.shape} and x {x.shape} do not agree.")
    return _recurrence(gate, x, backend, min(chunk, x.shape[1]))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _recurrence(gate: Array, x: Array, backend: str, chunk: int) -> Array:
    return _run(gate, x, backend, chunk)


def _run(gate: Array, x: Array, backend: str, chunk: int) -> Array:
    if backend == "associative":
        h: Array = lax.associative_scan(_join, (gate, x), axis=1)[1]
        return h
    if backend == "scan":
        return _steps(gate, x)[1]
    length = x.shape[1]
    extra = -length % chunk

    def cut(y: Array) -> Array:  # [B * T / chunk, chunk, D]
        return jnp.pad(y, ((0, 0), (0, extra), (0, 0))).reshape(-1, chunk, y.shape[2])

    kept, inside = _steps(cut(gate), cut(x))  # as if each chunk began with 0
    rows = (x.shape[0], -1)
    ends = _steps(kept[:, -1].reshape(*rows, gate.shape[2]), inside[:, -1].reshape(*rows, x.shape[2]))[1]
    before = jnp.pad(ends, ((0, 0), (1, 0), (0, 0)))[:, :-1].reshape(-1, 1, x.shape[2])
    return (inside + kept * before).reshape(x.shape[0], -1, x.shape[2])[:, :length]


def _join(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
    return left[0] * right[0], left[1] * right[0] + right[1]


def _steps(gate: Array, x: Array) -> tuple[Array, Array]:
    """Product of the gates so far and h, position by position: [B, T, D or 1], [B, T, D]."""

    def step(
        before: tuple[Array, Array], now: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        after = _join(before, now)
        return after, after

    start = (jnp.ones_like(gate[:, 0]), jnp.zeros_like(x[:, 0]))
    _, (kept, h) = lax.scan(step, start, (jnp.swapaxes(gate, 0, 1), jnp.swapaxes(x, 0, 1)))
    return jnp.swapaxes(kept, 0, 1), jnp.swapaxes(h, 0, 1)


def _keep(gate: Array, x: Array, backend: str, chunk: int) -> tuple[Array, tuple[Array, Array]]:
    h = _run(gate, x, backend, chunk)
    return h, (gate, h)


def _backward(backend: str, chunk: int, saved: tuple[Array, Array], slope: Array) -> tuple[Array, Array]:
    gate, h = saved
    later = jnp.pad(gate[:, 1:], ((0, 0), (0, 1), (0, 0)))  # the gate through which h_t reaches h_(t+1)
    pulled = _run(later[:, ::-1], slope[:, ::-1], backend, chunk)[:, ::-1]
    before = jnp.pad(h[:, :-1], ((0, 0), (1, 0), (0, 0)))
    to_gate = pulled * before
    return (to_gate.sum(-1, keepdims=True) if gate.shape[2] == 1 else to_gate), pulled


_recurrence.defvjp(_keep, _backward)
