"""What every family promises, whatever it is made of: one suite, all families."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy.batches import INPUTS, LENGTH, Arrays, empty, events, place

from ehrseq.core.errors import ConfigError, ModelError, ShapeError
from ehrseq.models.batch import FIELDS, check_batch
from ehrseq.models.config import ModelConfig
from ehrseq.models.families import FAMILIES, model_config
from ehrseq.models.registry import (
    TRUNKS,
    Parameters,
    count,
    definition,
    flops,
    initial,
)
from ehrseq.models.work import Work
from ehrseq.training.config import TrainConfig
from ehrseq.training.model_folder import TrainedModel, load_model, save_model

SHARED = {"dim": 16, "pools": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "transformer": {"family": "transformer", "layers": 2, "heads": 2, "block": 8},
    "transformer_local": {
        "family": "transformer", "layers": 1, "heads": 4, "kv_heads": 2, "window": 5, "block": 8, "remat": True,
    },
    "lru": {"family": "lru", "layers": 2, "chunk": 8},
    "lru_hybrid": {"family": "lru", "layers": 2, "attention_every": 2, "heads": 2, "window": 6, "block": 8},
    "lstm": {"family": "lstm", "kind_dim": 6, "bag_hours": 4.0},
    "gru": {"family": "lstm", "cell": "gru", "kind_dim": 6, "bag_hours": 4.0},
    "tann": {"family": "tann", "heads": 3, "value_dim": 4, "layers": 1},
    "stumps": {"family": "stumps", "stumps": 9, "pool": 9},
}  # fmt: skip


class Model:
    """A variant whose parameters are all alive (those that start at 0 too), compiled once."""

    def __init__(self, name: str) -> None:
        self.config = model_config(VARIANTS[name] | SHARED)
        self.values = alive(self.config)
        bind = definition(self.config, INPUTS)

        def total(values: Parameters, batch: Arrays) -> tuple[jax.Array, jax.Array]:
            logits = bind(values)(batch)
            return jnp.sum(logits * batch["label_weight"]), logits

        def everything(values: Parameters, batch: Arrays, key: jax.Array) -> tuple[Any, ...]:
            slopes, logits = jax.grad(total, has_aux=True)(values, batch)
            return logits, slopes, bind(values).represent(batch), bind(values)(batch, key)

        self._run = quick(everything)
        self.key = jax.random.key(0)

    def logits(self, values: Parameters, batch: Arrays) -> np.ndarray:
        return np.asarray(self._run(values, batch, self.key)[0])

    def slopes(self, values: Parameters, batch: Arrays) -> Parameters:
        slopes: Parameters = self._run(values, batch, self.key)[1]
        return slopes

    def represent(self, values: Parameters, batch: Arrays) -> np.ndarray:
        return np.asarray(self._run(values, batch, self.key)[2])

    def dropped(self, values: Parameters, batch: Arrays, seed: int) -> np.ndarray:
        return np.asarray(self._run(values, batch, jax.random.key(seed))[3])


def quick(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled with little optimisation: these batches are tiny, compiling is what takes time."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def alive(config: ModelConfig) -> Parameters:
    random = np.random.default_rng(1)
    drawn = initial(config, INPUTS)
    values = {
        name: jnp.asarray(np.asarray(value) + 0.1 * random.normal(size=value.shape).astype(np.float32))
        for name, value in drawn.items()
    }
    facts = {
        "trunk.kind_of_code": np.arange(INPUTS.codes) % INPUTS.kinds,
        "trunk.code_s": 1 + np.arange(9) % (INPUTS.codes - 1),
        "trunk.sign_s": np.asarray([1, -1, 1, 1, -1, 1, 1, 1, -1]),
        "trunk.level_s": np.asarray([-1e30, -1e30, 0.3, -0.2, 0.1, -1e30, -1e30, -1e30, -1e30]),
        "trunk.days_s": np.asarray([1e6, 0.1, 1e6, 0.3, 1e6, 0.5, 1e6, 1e6, 0.2]),
    }
    return values | {name: jnp.asarray(x, jnp.float32) for name, x in facts.items() if name in values}


_MADE: dict[str, Model] = {}


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> Model:
    name = request.param
    if name not in _MADE:
        _MADE[name] = Model(name)
    return _MADE[name]


def packed() -> tuple[Arrays, list[tuple[int, int, int, Arrays]]]:
    """Two rows of several patients, and each of them: (row, column, seat, events)."""
    batch, placed = empty(), []
    for row, lengths in enumerate([(7, 1, 9, 4), (12, 3)]):
        column = 0
        for seat, length in enumerate(lengths):
            tokens = events(length, seed=10 * row + seat)
            place(batch, row, column, seat + 1, tokens, seat)
            placed.append((row, column, seat, tokens))
            column += length
    return batch, placed


def test_names_and_configurations_are_one_table() -> None:
    assert list(FAMILIES) == list(TRUNKS) == [cls().family for cls in FAMILIES.values()]


def test_packed_is_as_if_alone(model: Model) -> None:
    batch, placed = packed()
    together, hidden = model.logits(model.values, batch), model.represent(model.values, batch)
    for row, column, seat, tokens in placed:
        alone, length = empty(), len(tokens["code"])
        place(alone, 0, 0, 1, tokens, seat)
        np.testing.assert_allclose(
            model.logits(model.values, alone)[0, seat], together[row, seat], rtol=2e-5, atol=3e-5
        )
        np.testing.assert_allclose(
            model.represent(model.values, alone)[0, :length], hidden[row, column : column + length], atol=2e-4
        )  # rotations and sums differ by rounding, once for each layer


def test_a_prefix_does_not_see_what_follows(model: Model) -> None:
    """Other events after position 5, some at the very same time (so in the same bag), change nothing up to it."""
    first, second, at = events(16, 1), events(16, 2), 5
    first["time"][3:9] = first["time"][3]
    seen = []
    for cut, later in ((6, first), (10, second), (16, second), (16, first)):
        tokens = {name: np.concatenate([first[name][:6], later[name][6:cut]]) for name in first}
        tokens["time"] = np.concatenate([first["time"][:6], first["time"][6:cut] + (later is second) * 0.01])
        batch = empty()
        place(batch, 0, 0, 1, tokens, 0)
        batch["label_at"][0, 0], batch["label_time"][0, 0] = at, first["time"][at] + 1
        hidden = model.represent(model.values, batch)[0, : at + 1]
        seen.append((float(model.logits(model.values, batch)[0, 0]), np.asarray(hidden)))
    for logit, hidden in seen[1:]:
        np.testing.assert_allclose(logit, seen[0][0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(hidden, seen[0][1], rtol=1e-4, atol=1e-5)


def test_the_prefix_and_its_time_do_matter(model: Model) -> None:
    """The twin of the test above: a model that sees nothing would pass that one."""
    batch = empty()
    place(batch, 0, 0, 1, events(16, 1), 0)
    base = float(model.logits(model.values, batch)[0, 0])
    for name, other in {"code": 3, "value": 1.5, "label_time": 90.0}.items():
        changed = {key: values.copy() for key, values in batch.items()}
        changed[name][0, :16] = other
        assert abs(float(model.logits(model.values, changed)[0, 0]) - base) > 1e-6, name


def test_padding_is_nothing(model: Model) -> None:
    batch, _ = packed()
    dirty = {name: values.copy() for name, values in batch.items()}
    for name, other in {"code": 3, "bin": 2, "unit": 1, "value": 3.0, "age": 9.0, "time": 2.0}.items():
        dirty[name][dirty["segment"] == 0] = other
    there = batch["label_weight"] > 0
    clean, soiled = (np.asarray(model.logits(model.values, one))[there] for one in (batch, dirty))
    np.testing.assert_array_equal(clean, soiled)
    left, right = model.slopes(model.values, batch), model.slopes(model.values, dirty)
    for name in left:
        np.testing.assert_allclose(left[name], right[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_empty_batch_is_finite_and_teaches_nothing(model: Model) -> None:
    batch = empty()
    assert bool(jnp.all(jnp.isfinite(model.logits(model.values, batch))))
    assert bool(jnp.all(jnp.isfinite(model.represent(model.values, batch))))
    for name, slope in model.slopes(model.values, batch).items():
        assert bool(jnp.all(slope == 0)), name


@pytest.mark.parametrize(
    "extreme",
    [
        {"value": 5.0, "time": 36_500.0, "label_time": 36_501.0, "age": 45_000.0},
        {"value": np.inf, "age": -np.inf},
        {"value": -3e38, "age": 3e38},
        {"value": np.nan, "age": np.nan, "time": 0.0, "label_time": 0.0},
        {"code": 1, "bin": 0},
    ],
    ids=["century", "infinite", "huge", "unknown", "nothing_known"],
)
def test_extreme_values_give_finite_results_and_gradients(model: Model, extreme: dict[str, float]) -> None:
    batch, _ = packed()
    for name, value in extreme.items():
        where = (
            batch["segment"] if batch[name].shape == batch["segment"].shape else batch["label_weight"]
        ) > 0
        batch[name][where] = value
    logits, slopes = model.logits(model.values, batch), model.slopes(model.values, batch)
    assert bool(jnp.all(jnp.isfinite(logits)))
    assert [name for name, slope in slopes.items() if not bool(jnp.all(jnp.isfinite(slope)))] == []


def test_every_parameter_is_used_and_facts_are_never_trained(model: Model) -> None:
    batch = empty()
    place(batch, 0, 0, 1, events(24, 4), 0)
    place(batch, 1, 0, 1, events(24, 5), 1)
    facts = {"trunk.kind_of_code", "trunk.code_s", "trunk.sign_s", "trunk.level_s", "trunk.days_s"}
    still = {n for n, slope in model.slopes(model.values, batch).items() if not bool(jnp.any(slope != 0))}
    assert still == facts & model.values.keys()


def test_the_same_twice(model: Model) -> None:
    batch, _ = packed()
    first, again, other = (initial(model.config, INPUTS, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert not all(np.array_equal(value, other[name]) for name, value in first.items())
    np.testing.assert_array_equal(model.logits(model.values, batch), model.logits(model.values, batch))
    np.testing.assert_array_equal(
        model.dropped(model.values, batch, 1), model.dropped(model.values, batch, 1)
    )
    assert not np.array_equal(model.dropped(model.values, batch, 1), model.dropped(model.values, batch, 2))


def test_saved_and_loaded_says_the_same(model: Model, tmp_path: Path) -> None:
    batch, _ = packed()
    trained = TrainedModel(TrainConfig(model=model.config), INPUTS, model.values, "0" * 64)
    save_model(tmp_path / "model", trained, b"{}", {})
    found = load_model(tmp_path)
    assert found.config == trained.config
    assert found.inputs == INPUTS
    np.testing.assert_array_equal(model.logits(found.parameters, batch), model.logits(model.values, batch))
    other = {name: value for name, value in found.parameters.items() if name != "heads.bias"}
    with pytest.raises(ModelError, match="another configuration"):
        definition(found.config.model, found.inputs)(other)


def test_bfloat16_is_close(model: Model) -> None:
    batch, _ = packed()
    half = model_config(model.config.to_dict() | {"dtype": "bfloat16"})
    bind = definition(half, INPUTS)
    out = quick(lambda values: bind(values)(batch))(model.values)
    assert out.dtype == jnp.float32
    there = batch["label_weight"] > 0
    np.testing.assert_allclose(
        out[there], model.logits(model.values, batch)[there], atol=0.15
    )  # 8 bits, two layers


def test_parameters_and_operations_add_up(model: Model) -> None:
    batch, placed = packed()
    work = Work.of(batch)
    lengths = [len(tokens["code"]) for *_, tokens in placed]
    assert (work.tokens, work.labels) == (sum(lengths), len(placed))
    assert work.pairs == sum(length * (length + 1) // 2 for length in lengths)
    assert work.label_pairs == sum(lengths)
    assert count(model.values) == sum(value.size for value in model.values.values())
    # of twice the events, at least half as much again; stumps only compare events, they multiply labels
    single, double = (flops(model.config, INPUTS, Work.of(one)) for one in (alone(8), alone(16)))
    assert 0 < single * (1 if model.config.family == "stumps" else 1.5) <= double


def alone(length: int) -> Arrays:
    batch = empty()
    place(batch, 0, 0, 1, events(length, 1), 0)
    return batch


def test_a_batch_that_is_not_one_is_named(model: Model) -> None:
    batch, _ = packed()
    check_batch(batch)
    network = definition(model.config, INPUTS)(model.values)
    with pytest.raises(ShapeError, match="no array 'code'"):
        network({name: x for name, x in batch.items() if name != "code"})
    with pytest.raises(ShapeError, match="'label_task' has shape"):
        network(batch | {"label_task": np.zeros((2, 3), np.int32)})
    with pytest.raises(ShapeError, match="'value' is int64"):
        network(batch | {"value": np.zeros((2, LENGTH), np.int64)})
    assert set(batch) == {*FIELDS, "clock"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "lrv"}, 'Closest: "lru"'),
        ({"family": "lru", "heads": 3, "attention_every": 2}, "divisible"),
        ({"family": "lru", "recurrence": "parallel"}, "chunked"),
        ({"family": "transformer", "kv_heads": 3}, "divide `heads`"),
        ({"family": "transformer", "window": -1}, "not be negative"),
        ({"family": "transformer", "chunk": 3}, "unknown key"),
        ({"family": "lstm", "cell": "rnn"}, "lstm or gru"),
        ({"family": "lstm", "bag_hours": 0.0}, "positive"),
        ({"family": "tann", "layers": 0}, "At least 1"),
        ({"family": "stumps", "pool": 3}, "smaller"),
    ],
)
def test_wrong_configurations_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model_config(changes)
