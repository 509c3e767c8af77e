"""The whole network of the default family: what it reads, its parameters by name, its configuration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy.batches import INPUTS, empty, events, place

from ehrseq.core.errors import ConfigError, ModelError
from ehrseq.models.config import ModelConfig
from ehrseq.models.families import TransformerConfig, model_config
from ehrseq.models.registry import count, definition, initial, parameters

CONFIG = TransformerConfig(dim=16, layers=2, heads=2, block=8, pools=2)


def make(config: ModelConfig = CONFIG) -> tuple[dict[str, jax.Array], Callable[..., Any]]:
    """Parameters that are all alive (those that start at 0 too), and the compiled network."""
    values = initial(config, INPUTS)
    noise = jax.random.split(jax.random.key(1), len(values))
    alive = {
        name: value + 0.1 * jax.random.normal(key, value.shape)
        for (name, value), key in zip(values.items(), noise, strict=True)
    }
    bind = definition(config, INPUTS)
    return alive, jax.jit(lambda values, batch: bind(values)(batch))


VALUES, NETWORK = make()


def test_values_their_changes_and_times_matter() -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(12, 6), 0)
    base = float(NETWORK(VALUES, batch)[0, 0])
    others = {"value": 1.5, "time": 0.01, "age": 30_000.0, "code": 1, "unit": 2, "bin": 3, "modality": 1}
    for name, other in others.items():
        changed = {key: values.copy() for key, values in batch.items()}
        changed[name][0, 3:6] = np.where(changed[name][0, 3:6] == other, 0, other)
        assert abs(float(NETWORK(VALUES, changed)[0, 0]) - base) > 1e-6, name


def test_parameters_have_stable_names_and_come_back() -> None:
    values = initial(CONFIG, INPUTS, seed=3)
    assert "trunk.stream.blocks.0.mlp.out_fd" in values
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
        model_config(changes)


def test_an_unknown_family_names_the_closest() -> None:
    with pytest.raises(ConfigError, match='Closest: "transformer"'):
        model_config({"family": "transfomer"})


def test_no_parameter_is_weakly_typed() -> None:
    """Else the first step's result has other types than what went in, and the step is compiled twice."""
    assert not [name for name, value in initial(CONFIG, INPUTS).items() if value.weak_type]
