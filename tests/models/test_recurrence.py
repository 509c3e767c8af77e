"""Three backends, one recurrence: each against a loop, values and gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrseq.core.errors import ConfigError, ShapeError
from ehrseq.models.recurrence import RECURRENCES, linear_recurrence


def case(width: int) -> tuple[np.ndarray, np.ndarray]:
    """Gates of all kinds: resets, keeping everything, and between; 21 is no multiple of a chunk."""
    random = np.random.default_rng(0)
    gate = random.random((2, 21, width)).astype(np.float32)
    gate[random.random(gate.shape) < 0.2] = 0
    gate[random.random(gate.shape) < 0.2] = 1
    return gate, random.normal(size=(2, 21, 3)).astype(np.float32)


def slow(gate: Any, x: Any) -> Any:
    h, out = jnp.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        h = gate[:, t] * h + x[:, t]
        out.append(h)
    return jnp.stack(out, axis=1)


@pytest.mark.parametrize("width", [3, 1])
@pytest.mark.parametrize("backend", RECURRENCES)
def test_backends_do_what_the_loop_does(backend: str, width: int) -> None:
    gate, x = case(width)

    def both(run: Any) -> tuple[Any, ...]:
        out, pull = jax.vjp(run, gate, x)
        return out, *pull(jnp.cos(out))

    found = jax.jit(lambda: both(lambda gate, x: linear_recurrence(gate, x, backend=backend, chunk=8)))()
    for left, right in zip(found, jax.jit(lambda: both(slow))(), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)  # float32 sums of 21 terms


def test_wrong_calls_are_named() -> None:
    gate, x = case(3)
    with pytest.raises(ConfigError, match='Closest: "scan"'):
        linear_recurrence(gate, x, backend="scann")
    with pytest.raises(ShapeError, match="do not agree"):
        linear_recurrence(gate[:, :, :2], x)
