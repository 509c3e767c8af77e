"""The state of training: everything a step reads and writes, as one tree of arrays."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ehrseq.models.registry import Parameters
from ehrseq.training.config import TrainConfig

WIDE = "wide."  # how the names of the wide path's parameters begin


class TrainState(NamedTuple):
    """Donated to each step. n = number of tasks."""

    parameters: Parameters  # float32, by dotted name
    average: Parameters  # exponential moving average of the parameters
    optimizer: optax.OptState
    step: Array  # int32 []
    key: Array  # uint32 key data; step i draws from fold_in(key, i)
    totals: Array  # float32 [2, n]: this epoch's sums of loss and of weight per task


def optimizer_of(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """AdamW with warm-up, cosine and a clipped global norm, over `steps` steps."""
    warmup = max(int(config.warmup * steps), 1)
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(rate, b2=0.98, weight_decay=config.weight_decay, mask=_decayed),
        optax.masked(optax.scale(config.wide_rate), _wide),
    )


def _decayed(parameters: Parameters) -> dict[str, bool]:
    """Matrices and tables decay; scales, biases, decay rates and the wide path (it has its own prior) do not."""
    return {name: value.ndim >= 2 and not name.startswith(WIDE) for name, value in parameters.items()}


def _wide(parameters: Parameters) -> dict[str, bool]:
    return {name: name.startswith(WIDE) for name in parameters}


def start(
    parameters: Parameters, optimizer: optax.GradientTransformation, tasks: int, seed: int
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        parameters=parameters,
        average=jax.tree.map(jnp.copy, parameters),
        optimizer=optimizer.init(parameters),
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(jax.random.key(seed)),
        totals=jnp.zeros((2, tasks), jnp.float32),
    )


def abstract(state: TrainState) -> Any:
    """Shapes and dtypes of a state, for restoring one."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state
    )
