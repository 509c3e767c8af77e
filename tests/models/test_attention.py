"""One meaning, several backends: attention is checked against a loop, then the backends against each other."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError, ModelError, ShapeError
from ehrseq.models import cudnn
from ehrseq.models.attention import attention, choose, segment_starts, self_check
from ehrseq.models.rotary import angles, rotate
from ehrseq.models.splash import splash

LENGTH, HEADS, WIDTH = 22, 2, 4
PLAIN = ("reference", "blockwise")  # those that run on any device


def segments(lengths: list[int]) -> np.ndarray:
    row = np.repeat(np.arange(1, len(lengths) + 1), lengths)[:LENGTH]
    return np.pad(row, (0, LENGTH - len(row))).astype(np.int32)


rows = st.lists(st.integers(1, 12), min_size=1, max_size=6).map(segments)


def inputs(seed: int = 0, batch: int = 2) -> tuple[jax.Array, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), 3)
    q, k, v = (jax.random.normal(key, (batch, LENGTH, HEADS, WIDTH)) for key in keys)
    return q, k, v


def slow(q: np.ndarray, k: np.ndarray, v: np.ndarray, segment: np.ndarray, window: int = 0) -> np.ndarray:
    out = np.zeros_like(v)
    for b, t, h in np.ndindex(q.shape[:3]):
        first = max(t + 1 - window, 0) if window else 0
        keys = [s for s in range(first, t + 1) if segment[b, s] == segment[b, t] != 0]
        if keys:
            scores = np.asarray([q[b, t, h] @ k[b, s, h] for s in keys]) / np.sqrt(q.shape[-1])
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


@pytest.mark.parametrize("backend", PLAIN)
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
    for left, right in zip(*(slopes(*inputs(1), segment, backend) for backend in PLAIN), strict=True):
        np.testing.assert_allclose(left, right, atol=5e-6)


def test_bfloat16_stays_close_and_keeps_its_dtype() -> None:
    segment = jnp.asarray(np.stack([segments([10, 12]), segments([5])]))
    exact = run(*inputs(), segment, "reference")
    small = [x.astype(jnp.bfloat16) for x in inputs()]
    for backend in PLAIN:
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


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@settings(max_examples=8, deadline=None)
@given(rows, st.sampled_from([1, 5, 9]))
def test_windows_and_shared_heads_do_what_the_loop_does(backend: str, row: np.ndarray, window: int) -> None:
    segment = np.stack([row, row])
    q, k, v = (np.asarray(x) for x in inputs(2))
    few = [x[:, :, :1] for x in (k, v)]
    expected = slow(q, *(np.repeat(x, HEADS, axis=2) for x in few), segment, window)
    found = attention(q, *few, jnp.asarray(segment), backend=backend, block=8, window=window)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_memory_of_blockwise_grows_with_the_length_and_of_the_reference_with_its_square() -> None:
    """What the compiled gradient needs besides its arguments and results, as XLA planned it; nothing is run."""

    def bytes_at(length: int, backend: str) -> int:
        def total(q: jax.Array, segment: jax.Array) -> jax.Array:
            return attention(q, q, q, segment, backend=backend, block=128).sum()

        shapes = (
            jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32),
            jax.ShapeDtypeStruct((1, length), jnp.int32),
        )
        return jax.jit(jax.grad(total)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    linear, square = (
        [bytes_at(length, backend) for length in (1024, 4096)] for backend in ("blockwise", "reference")
    )
    assert linear[1] / linear[0] < 4.5
    assert square[1] / square[0] > 12
    assert linear[1] < square[1] / 20


def emulated_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, *, q_seqlen: Any, kv_seqlen: Any, q_offsets: Any, kv_offsets: Any,
    scale: float, mask_type: Any, sliding_window_length: int | None,
) -> np.ndarray:  # fmt: skip
    """The packed contract as jax documents it, in numpy: lengths and offsets of a row, -1 = no such segment."""
    assert q_seqlen.dtype == q_offsets.dtype == jnp.int32
    assert q_offsets.shape[1] == q_seqlen.shape[1] + 1
    out = np.full(q.shape, np.nan, np.float32)  # what the kernel does not write may hold anything
    for b, m in np.ndindex(q_seqlen.shape):
        if (length := int(q_seqlen[b, m])) >= 0:
            here = slice(int(q_offsets[b, m]), int(q_offsets[b, m]) + length)
            one = [np.asarray(x, np.float32)[b : b + 1, here] for x in (q, k, v)]
            whole = np.ones((1, length), np.int32)
            out[b, here] = slow(*one, whole, sliding_window_length or 0)[0]
    return out


@pytest.mark.parametrize("window", [0, 4])
def test_cudnn_is_told_what_the_reference_means(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: the kernel is played by its documented contract, so the arguments are what is tested."""
    monkeypatch.setattr(cudnn, "_kernel", lambda: (emulated_cudnn, None))
    segment = jnp.asarray(
        np.stack([segments([10, 1, 4]), segments([22]), segments([]), segments([5, 3, 9, 5])])
    )
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(3, batch=4))
    expected = attention(q, k, v, segment, window=window).astype(jnp.float32)
    found = attention(q, k, v, segment, backend="cudnn", segments=4, window=window).astype(jnp.float32)
    np.testing.assert_allclose(found, expected, atol=0.02)
    few = np.asarray(attention(q, k, v, segment, backend="cudnn", segments=3, window=window))
    assert np.isnan(
        few[3].astype(np.float32)
    ).all()  # a row with more segments than promised must not pass as right
    assert np.isfinite(few[:3].astype(np.float32)).all()


def test_cudnn_lowers_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax itself accepts our arguments and makes the call of the packed kernel, forward and backward."""
    from jax._src.cudnn import fused_attention_stablehlo as kernel

    monkeypatch.setattr(kernel, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(kernel, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(kernel, "is_cuda_compute_capability_equal", lambda _: False)

    def total(q: jax.Array, k: jax.Array, segment: jax.Array) -> jax.Array:
        return attention(q, k, k, segment, backend="cudnn", segments=4).astype(jnp.float32).sum()

    q, k = (jax.ShapeDtypeStruct((2, 64, heads, 16), jnp.bfloat16) for heads in (4, 2))
    segment = jax.ShapeDtypeStruct((2, 64), jnp.int32)
    text = jax.jit(jax.grad(total)).trace(q, k, segment).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax" in text
    assert "__cudnn$fmhaSoftmaxBackward" in text


def test_splash_equals_the_reference_interpreted() -> None:
    """The TPU kernel itself, run step by step on the CPU: values and gradients."""
    segment = jnp.asarray([[1] * 50 + [2] * 60 + [0] * 18])
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, 128, n, 8)) for key, n in zip(keys, (2, 1, 1), strict=True))

    def both(attend: Any) -> list[jax.Array]:
        out, pull = jax.vjp(lambda *qkv: attend(*qkv, segment, window=20), q, k, v)
        return [out, *pull(jnp.sin(out * 9))]

    for left, right in zip(both(attention), both(partial(splash, interpret=True)), strict=True):
        np.testing.assert_allclose(left, right, atol=2e-5)


def test_a_backend_is_chosen_that_is_right_here(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("auto", "float32", 2, 2, 8, 0) == "blockwise"
    assert choose("reference", "float32", 2, 2, 8, 0) == "reference"
    with pytest.raises(ModelError, match="'cudnn' cannot be used on cpu"):
        choose("cudnn", "bfloat16", 2, 2, 8, 0)
    with pytest.raises(ConfigError, match='Closest: "splash"'):
        choose("splesh", "float32", 2, 2, 8, 0)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose("auto", "bfloat16", 2, 1, 8, 3) == "blockwise"  # cuDNN was tried and is not there
    wrong = lambda *qkv, **_: attention(*qkv) * 1.1  # noqa: E731
    monkeypatch.setattr(cudnn, "packed", wrong)
    assert "out differs" in self_check("cudnn", "float32", 2, 2, 8, 0)
