"""One meaning, several backends: attention is checked against a loop, then the backends against each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError, ShapeError
from ehrseq.models.attention import BACKENDS, attention, segment_starts
from ehrseq.models.rotary import angles, rotate

LENGTH, HEADS, WIDTH = 22, 2, 4


def segments(lengths: list[int]) -> np.ndarray:
    row = np.concatenate([np.full(length, number) for number, length in enumerate(lengths, 1)])[:LENGTH]
    return np.pad(row, (0, LENGTH - len(row))).astype(np.int32)


rows = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(segments)


def inputs(seed: int = 0, batch: int = 2) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    q, k, v = (jax.random.normal(key, (batch, LENGTH, HEADS, WIDTH)) for key in keys)
    return q, k, v


def slow(q: np.ndarray, k: np.ndarray, v: np.ndarray, segment: np.ndarray) -> np.ndarray:
    out = np.zeros_like(v)
    for b, t, h in np.ndindex(q.shape[:3]):
        keys = [s for s in range(t + 1) if segment[b, s] == segment[b, t] != 0]
        if keys:
            scores = np.asarray([q[b, t, h] @ k[b, s, h] for s in keys]) / np.sqrt(WIDTH)
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights / weights.sum() @ v[b, keys, h]
    return out


@partial(jax.jit, static_argnums=4)
def run(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, backend: str) -> jax.Array:
    return attention(
        q, k, v, segment, backend=backend, block=8
    )  # 22 is no multiple of 8: padding is tested too


@partial(jax.jit, static_argnums=4)
def slopes(
    q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array, backend: str
) -> tuple[jax.Array, ...]:
    def total(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(run(q, k, v, segment, backend) * jnp.arange(WIDTH)))

    return jax.grad(total, (0, 1, 2))(q, k, v)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(rows, rows)
def test_backends_do_what_the_loop_does(backend: str, first: np.ndarray, second: np.ndarray) -> None:
    segment = np.stack([first, second])
    q, k, v = inputs()
    expected = slow(*(np.asarray(x) for x in (q, k, v)), segment)
    np.testing.assert_allclose(
        run(q, k, v, segment, backend), expected, atol=2e-6
    )  # float32 sums of 22 terms


@settings(max_examples=15, deadline=None)
@given(rows, rows)
def test_gradients_agree(first: np.ndarray, second: np.ndarray) -> None:
    segment = np.stack([first, second])
    for left, right in zip(*(slopes(*inputs(1), segment, backend) for backend in BACKENDS), strict=True):
        np.testing.assert_allclose(left, right, atol=5e-6)


def test_bfloat16_stays_close_and_keeps_its_dtype() -> None:
    segment = jnp.asarray(np.stack([segments([10, 12]), segments([5])]))
    exact = run(*inputs(), segment, "reference")
    small = [x.astype(jnp.bfloat16) for x in inputs()]
    for backend in BACKENDS:
        out = run(*small, segment, backend)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_allclose(out.astype(jnp.float32), exact, atol=0.05)  # bfloat16 has 8 bits


def test_segment_starts() -> None:
    assert segment_starts(jnp.asarray([[1, 1, 2, 3, 3, 0]])).tolist() == [[0, 0, 2, 3, 3, 5]]


def test_wrong_calls_are_named() -> None:
    q, k, v = inputs()
    segment = jnp.ones((2, LENGTH), jnp.int32)
    with pytest.raises(ConfigError, match='Closest: "blockwise"'):
        attention(q, k, v, segment, backend="blokwise")
    with pytest.raises(ShapeError, match="do not agree"):
        attention(q, k, v, segment[:, :3])
    with pytest.raises(ShapeError, match="multiple of 4"):
        angles(segment, segment.astype(jnp.float32), 6)


def test_rotation_sees_differences_only() -> None:
    q, k, _ = inputs(batch=1)
    q, k = q[:, :2].repeat(4, -1), k[:, :2].repeat(4, -1)
    position, time = jnp.asarray([[3, 9]]), jnp.asarray([[0.5, 2.25]])

    def scores(shift: int, days: float) -> jax.Array:
        turn = angles(position + shift, time + days, 4 * WIDTH)
        return jnp.einsum("bqhd,bkhd->bhqk", rotate(q, turn), rotate(k, turn))

    np.testing.assert_allclose(
        scores(0, 0), scores(50, 30), rtol=1e-3, atol=1e-3
    )  # cos of float32 angles near 2000
    assert not np.allclose(scores(0, 0), jnp.einsum("bqhd,bkhd->bhqk", q, k), atol=1e-2)
