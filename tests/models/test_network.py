"""Identities of the whole network: segments are alone, the future is unseen, padding is nothing."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError, ModelError
from ehrseq.models.config import Inputs, ModelConfig
from ehrseq.models.registry import build, count, definition, parameters

INPUTS = Inputs(codes=12, bins=4, units=3, modalities=2, tasks=("a", "b"))
CONFIG = ModelConfig(dim=16, layers=2, heads=2, block=8, pools=2)
ROWS, LENGTH, SEATS = 2, 24, 6

type Arrays = dict[str, np.ndarray]


def events(length: int, seed: int) -> Arrays:
    """One subject's tokens, as a segment of its own."""
    random = np.random.default_rng(seed)
    time = np.cumsum(random.integers(0, 5, length)) / 24
    return {
        "code": random.integers(1, INPUTS.codes, length),
        "bin": random.integers(0, INPUTS.bins + 1, length),
        "unit": random.integers(0, INPUTS.units, length),
        "modality": random.integers(0, 2, length),
        "value": np.where(random.random(length) < 0.5, random.normal(size=length), np.nan),
        "time": time - time[0],
        "age": 20_000 + time,
        "position": np.arange(length),
    }


def empty(rows: int = ROWS) -> Arrays:
    """A batch of nothing but padding."""
    ints = ("code", "bin", "unit", "modality", "segment", "position")
    batch: Arrays = {name: np.zeros((rows, LENGTH), np.int32) for name in ints}
    batch |= {name: np.full((rows, LENGTH), np.nan, np.float32) for name in ("value", "age")}
    batch["time"] = np.zeros((rows, LENGTH), np.float32)
    batch["before"], batch["after"] = np.full((rows, LENGTH), -1), np.full((rows, LENGTH), LENGTH)
    batch |= {name: np.zeros((rows, SEATS), np.int32) for name in ("label_at", "label_task")}
    batch |= {
        name: np.zeros((rows, SEATS), np.float32) for name in ("label_value", "label_weight", "label_time")
    }
    return batch


def place(batch: Arrays, row: int, column: int, segment: int, tokens: Arrays, seat: int) -> None:
    """Put a segment into a batch, with a label at its last token."""
    length = len(tokens["code"])
    where = slice(column, column + length)
    for name, values in tokens.items():
        batch[name][row, where] = values
    batch["segment"][row, where] = segment
    for i in range(length):
        alike = np.flatnonzero(tokens["code"] == tokens["code"][i])
        batch["before"][row, column + i] = max((column + j for j in alike if j < i), default=-1)
        batch["after"][row, column + i] = min((column + j for j in alike if j > i), default=LENGTH)
    batch["label_at"][row, seat] = column + length - 1
    batch["label_task"][row, seat] = seat % 2
    batch["label_time"][row, seat] = tokens["time"][-1] + 1
    batch["label_weight"][row, seat] = 1


def make(config: ModelConfig = CONFIG) -> tuple[dict[str, jax.Array], Callable[..., Any]]:
    """Parameters that are all alive (those that start at 0 too), and the compiled network."""
    values = parameters(build(config, INPUTS))
    noise = jax.random.split(jax.random.key(1), len(values))
    alive = {
        name: value + 0.1 * jax.random.normal(key, value.shape)
        for (name, value), key in zip(values.items(), noise, strict=True)
    }
    bind = definition(config, INPUTS)
    return alive, jax.jit(lambda values, batch: bind(values)(batch))


VALUES, NETWORK = make()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=3), st.lists(st.integers(1, 8), max_size=3))
def test_packed_segments_are_as_if_alone(first: list[int], second: list[int]) -> None:
    packed, subjects = empty(), []
    for row, lengths in enumerate((first, second)):
        column = 0
        for seat, length in enumerate(lengths):
            tokens = events(length, seed=10 * row + seat)
            place(packed, row, column, seat + 1, tokens, seat)
            subjects.append((row, seat, tokens))
            column += length
    together = NETWORK(VALUES, packed)
    for row, seat, tokens in subjects:
        alone = empty()
        place(alone, 0, 0, 1, tokens, seat)
        # rotations differ by rounding alone: positions are counted within the segment
        np.testing.assert_allclose(NETWORK(VALUES, alone)[0, seat], together[row, seat], rtol=2e-5, atol=2e-5)


def test_a_prediction_does_not_see_what_comes_later() -> None:
    long, other = events(16, 1), events(16, 2)
    results = []
    for cut in (6, 10, 16):
        for later in (long, other):
            tokens = {
                name: np.concatenate([long[name][:6], later[name][6:cut] + (0 if name != "time" else 50)])
                for name in long
            }
            batch = empty()
            place(batch, 0, 0, 1, tokens, 0)
            batch["label_at"][0, 0], batch["label_time"][0, 0] = 5, long["time"][5] + 1
            results.append(float(NETWORK(VALUES, batch)[0, 0]))
    np.testing.assert_allclose(results, results[0], rtol=1e-6, atol=1e-6)


def test_what_padding_holds_does_not_matter() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(7, 3), 0)
    dirty = {name: values.copy() for name, values in batch.items()}
    for name in ("code", "bin", "unit"):
        dirty[name][dirty["segment"] == 0] = 1
    for name in ("value", "age", "time"):
        dirty[name][dirty["segment"] == 0] = 3.0
    np.testing.assert_array_equal(NETWORK(VALUES, batch)[0, 0], NETWORK(VALUES, dirty)[0, 0])


@jax.jit
@jax.grad
def slopes(values: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    return jnp.sum(definition(CONFIG, INPUTS)(values)(batch) * batch["label_weight"])


def test_empty_rows_are_finite_and_give_no_gradient() -> None:
    batch = empty()
    assert all(bool(jnp.all(slope == 0)) for slope in slopes(VALUES, batch).values())
    assert bool(jnp.all(jnp.isfinite(NETWORK(VALUES, batch))))


def test_every_parameter_is_used() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(24, 4), 0)
    place(batch, 1, 0, 1, events(24, 5), 1)
    assert [name for name, slope in slopes(VALUES, batch).items() if not bool(jnp.any(slope != 0))] == []


def test_values_their_changes_and_times_matter() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(12, 6), 0)
    base = float(NETWORK(VALUES, batch)[0, 0])
    others = {"value": 1.5, "time": 0.01, "age": 30_000.0, "code": 1, "unit": 2, "bin": 3, "modality": 1}
    for name, other in others.items():
        changed = {key: values.copy() for key, values in batch.items()}
        changed[name][0, 3:6] = np.where(changed[name][0, 3:6] == other, 0, other)
        assert abs(float(NETWORK(VALUES, changed)[0, 0]) - base) > 1e-6, name


def test_dropout_needs_a_key_and_changes_the_result() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(12, 6), 0)
    network = jax.jit(lambda key: definition(CONFIG, INPUTS)(VALUES)(batch, key))
    dropped = [float(network(jax.random.key(seed))[0, 0]) for seed in (0, 0, 1)]
    assert dropped[0] == dropped[1] != dropped[2]


def test_bfloat16_is_close() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(20, 7), 0)
    _, half = make(ModelConfig.from_dict({**CONFIG.to_dict(), "dtype": "bfloat16"}))
    out = half(VALUES, batch)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[0, 0], NETWORK(VALUES, batch)[0, 0], atol=0.1)  # 8 bits through two layers


def test_parameters_have_stable_names_and_come_back() -> None:
    values = parameters(build(CONFIG, INPUTS, seed=3))
    assert "trunk.blocks.0.mlp.out_fd" in values
    assert list(values) == sorted(values)
    assert count(values) == sum(value.size for value in values.values())
    again = parameters(definition(CONFIG, INPUTS)(values))
    assert all(np.array_equal(values[name], again[name]) for name in values)
    with pytest.raises(ModelError, match=r"'heads\.bias' is missing"):
        definition(CONFIG, INPUTS)({name: value for name, value in values.items() if name != "heads.bias"})
    with pytest.raises(ModelError, match="shape"):
        definition(CONFIG, INPUTS)(values | {"heads.bias": jnp.zeros(3)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"famly": "transformer"}, 'Closest: "family"'),
        ({"dim": "64"}, "expected int"),
        ({"dim": True}, "expected int"),
        ({"dim": 30}, "divisible"),
        ({"dim": 12, "heads": 2}, "multiple of 4"),
        ({"dropout": 1.0}, r"\[0, 1\)"),
        ({"dtype": "float16"}, "bfloat16"),
        ({"pools": 0}, "At least 1"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_dict(changes)


def test_an_unknown_family_names_the_closest() -> None:
    with pytest.raises(ConfigError, match='Closest: "transformer"'):
        build(ModelConfig(family="transfomer"), INPUTS)


def test_no_parameter_is_weakly_typed():
    """Else the first step's result has other types than what went in, and the step is compiled twice."""
    assert not [name for name, value in parameters(build(CONFIG, INPUTS)).items() if value.weak_type]
