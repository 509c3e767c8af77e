"""One step of training, and one forward pass, compiled once each."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from ehrseq.models.network import Network
from ehrseq.models.registry import Parameters
from ehrseq.training.state import WIDE, TrainState

type Batch = dict[str, Array]
type Bind = Callable[[Parameters], Network]


def loss_sums(logits: Array, batch: Batch, tasks: int) -> Array:
    """Weighted binary cross-entropy, unreduced: sums of loss and of weight per task, float32 [2, n].

    `logits` [B, K]. Divide once, at the end, whatever was added up: batches, hosts or splits.
    """
    weight = batch["label_weight"]
    losses = weight * optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), batch["label_value"])
    mine = jax.nn.one_hot(batch["label_task"], tasks, dtype=jnp.float32)
    return jnp.einsum("lbk,bkn->ln", jnp.stack([losses, weight]), mine)


def several_sums(logits: Array, batch: Batch) -> Array:
    """`loss_sums` where labels ask several outputs: `logits` [B, K, O] -> float32 [2, O], each output's own sums."""
    shape, outputs = logits.shape, jnp.arange(logits.shape[-1])
    first, asked = batch["label_task"][..., None], batch["label_outputs"][..., None]
    weight = batch["label_weight"][..., None] * ((outputs >= first) & (outputs < first + asked))
    row, seat = jnp.indices(shape[:2])
    true = jnp.where(batch["label_true"] < 0, shape[-1], batch["label_true"])  # -1 would be the last one
    value = jnp.zeros(shape, jnp.float32).at[row[..., None], seat[..., None], true].set(1.0, mode="drop")
    losses = weight * optax.sigmoid_binary_cross_entropy(logits.astype(jnp.float32), value)
    return jnp.stack([losses.sum((0, 1)), weight.sum((0, 1))])


def wide_squares(parameters: Parameters) -> Array:
    """Sum of squares of the wide path's weights, float32 []; 0 without one.

    >>> float(wide_squares({"wide.value": jnp.array([1.0, 2.0]), "heads.bias": jnp.ones(3)}))
    5.0
    """
    mine = [jnp.sum(x * x) for name, x in parameters.items() if name.startswith(WIDE)]
    return jnp.asarray(sum(mine), jnp.float32)


def make_train_step(
    bind: Bind, optimizer: optax.GradientTransformation, tasks: int, ema: float, ridge: float
) -> Callable[[TrainState, Batch], TrainState]:
    """The compiled step. Its first argument is donated: use the state it returns, never the one given.

    `ridge` / 2 times the sum of squares of the wide path's weights is added to the mean loss.
    """

    def objective(parameters: Parameters, batch: Batch, key: Array) -> tuple[Array, Array]:
        model = bind(parameters)
        if "label_outputs" in batch:
            sums = several_sums(model.outputs(batch, key), batch)
        else:
            sums = loss_sums(model(batch, key), batch, tasks)
        mean = sums[0].sum() / jnp.maximum(sums[1].sum(), 1.0)
        return mean + ridge / 2 * wide_squares(parameters), sums

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        gradients, sums = jax.grad(objective, has_aux=True)(state.parameters, batch, key)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        # a young average follows quickly, so that the first steps' noise is soon forgotten
        decay = jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
        return TrainState(
            parameters=parameters,
            average=optax.incremental_update(parameters, state.average, 1 - decay),
            optimizer=optimizer_state,
            step=state.step + 1,
            key=state.key,
            totals=state.totals + sums,
        )

    return jax.jit(train_step, donate_argnums=0)


def make_forward(bind: Bind) -> Callable[[Parameters, Batch], Array]:
    """Compiled logits without dropout: [B, K], or [B, K, O] of all outputs where labels ask several."""

    def forward(parameters: Parameters, batch: Batch) -> Array:
        model = bind(parameters)
        return model.outputs(batch) if "label_outputs" in batch else model(batch)

    return jax.jit(forward)


def on_device(batch: Mapping[str, Any]) -> Batch:
    """The arrays a model reads; `label_row` stays on the host."""
    return {name: value for name, value in batch.items() if name != "label_row"}
