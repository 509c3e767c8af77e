"""Rajkomar's weighted RNN: events averaged within time bags, bags into an LSTM or GRU.

Events of one feature type that fall into one bag (a span of hours) are averaged with learned weights; the means of all
types, beside each other, and the log of the time since the bag before enter the cell. A label may stand inside a bag,
so position t reads what the network would say if the record ended there: the state after all completed bags and one
more step of the cell on the events of the running bag up to t. Nothing later in the bag can leak.
Source: Rajkomar et al. 2018, supplement, "weighted recurrent neural network".
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax

from ehrseq.models.config import Inputs
from ehrseq.models.dropout import dropout, keys
from ehrseq.models.families import RnnConfig
from ehrseq.models.layers import RMSNorm, weight
from ehrseq.models.recurrence import linear_recurrence
from ehrseq.models.work import Work, product

_HOURS = 24.0
_STRIDE = 16  # bags between two looks at whether any row has more
_SPREAD = 5.0  # the log weight of an event stays within +- this

type State = tuple[Array, ...]


class WeightedRnn(nnx.Module):
    """The trunk of family "lstm" (cell lstm or gru)."""

    def __init__(self, config: RnnConfig, inputs: Inputs, rngs: nnx.Rngs) -> None:
        dim, self.kinds, self.kind_dim = config.dim, inputs.kinds, config.kind_dim
        self.gates = 4 if config.cell == "lstm" else 3
        # which feature type a code has: known from the vocabulary, never trained (see registry.initial)
        self.kind_of_code = nnx.Param(jnp.zeros(inputs.codes))
        self.norm = RMSNorm(dim)
        self.narrow_dw = weight(rngs, dim, self.kind_dim, fan_in=dim)
        self.importance_d = nnx.Param(jnp.zeros(dim))
        wide = self.kinds * (self.kind_dim + 1) + 1
        self.in_wg = weight(rngs, wide, self.gates * dim, fan_in=self.kind_dim * 4)
        self.again_dg = weight(rngs, dim, self.gates * dim, fan_in=dim)
        self.bias_g = nnx.Param(jnp.zeros(self.gates * dim))
        self.norm_out = RMSNorm(dim)
        self.cell = nnx.static(_lstm if config.cell == "lstm" else _gru)
        self.bag_days, self.rate, self.dtype = config.bag_hours / _HOURS, config.dropout, config.dtype

    def __call__(self, events: Array, batch: dict[str, Array], key: Array | None = None) -> Array:
        """events [B, T, dim] float32 -> [B, T, dim] float32."""
        into, out = keys(key, 2)
        number, first, last = bags(batch, self.bag_days)
        means = self._running_means(events, batch, first)
        gap = _gap(batch["time"], number, first)
        features = jnp.concatenate([dropout(means, self.rate, into), gap[..., None]], axis=-1)
        # hoisted: the product with what enters is made for all positions at once, not bag by bag
        enter = (features.astype(self.dtype) @ self.in_wg[...].astype(self.dtype)).astype(jnp.float32)
        enter = enter + self.bias_g[...]
        before = self._states(enter, batch["position"], number, last)
        state = self.cell(enter, self._again(before[0]), before)
        return self.norm_out(dropout(state[0], self.rate, out))

    def _again(self, hidden: Array) -> Array:
        weights = self.again_dg[...].astype(self.dtype)
        return (hidden.astype(self.dtype) @ weights).astype(jnp.float32)

    def _running_means(self, events: Array, batch: dict[str, Array], first: Array) -> Array:
        """Per feature type the weighted mean of the bag's events so far, log of how many: [B, T, kinds * (w + 1)]."""
        x = self.norm(events)
        kind = jnp.round(lax.stop_gradient(self.kind_of_code[...]))[batch["code"]].astype(jnp.int32)
        mine = jax.nn.one_hot(kind, self.kinds) * (batch["segment"] > 0)[..., None]
        heavy = jnp.exp(_SPREAD * jnp.tanh(x @ self.importance_d[...] / _SPREAD))
        weighed = mine * heavy[..., None]
        value = jnp.concatenate([x @ self.narrow_dw[...], jnp.ones_like(heavy)[..., None]], axis=-1)
        sums = weighed[..., None] * value[..., None, :]  # [B, T, kinds, w + 1]: the last is the weight itself
        count = jnp.concatenate([sums, mine[..., None]], axis=-1)
        shape = count.shape
        keep = jnp.where(first, 0.0, 1.0)[..., None]
        total = linear_recurrence(keep, count.reshape(*shape[:2], -1)).reshape(shape)
        mean = total[..., :-2] / jnp.maximum(total[..., -2:-1], 1e-6)
        return jnp.concatenate([mean, jnp.log1p(total[..., -1:])], axis=-1).reshape(*shape[:2], -1)

    def _states(self, enter: Array, position: Array, number: Array, last: Array) -> State:
        """The cell's state before the running bag of each position: arrays [B, T, dim]; zeros in a segment's first."""
        rows, length, _ = enter.shape
        # column of each bag's last position, bags of a row from the left; T where a row has no such bag
        order = jnp.where(last, number, length)
        column = (
            jnp.full((rows, length + 1), length).at[jnp.arange(rows)[:, None], order].min(jnp.arange(length))
        )
        column = column[:, :length]
        count = jnp.where(last, number + 1, 0).max()
        padded = jnp.pad(enter, ((0, 0), (0, 1), (0, 0)))
        begins = jnp.take_along_axis(position, jnp.minimum(_first_of(column), length - 1), axis=1) == 0

        def step(state: State, bag: tuple[Array, Array]) -> tuple[State, State]:
            where, fresh = bag
            state = tuple(jnp.where(fresh[:, None], 0, x) for x in state)
            now = jnp.take_along_axis(padded, where[:, None, None], axis=1)[:, 0]
            after = self.cell(now, self._again(state[0]), state)
            return after, state  # what the bag's own positions start from

        def stride(state: State, some: tuple[Array, Array, Array]) -> tuple[State, State]:
            index, where, fresh = some

            def run(state: State) -> tuple[State, State]:
                after, befores = lax.scan(step, state, (where, fresh))
                return after, befores

            def skip(state: State) -> tuple[State, State]:  # no row of the batch has so many bags
                return state, tuple(jnp.broadcast_to(x, (_STRIDE, *x.shape)) for x in state)

            result: tuple[State, State] = lax.cond(index * _STRIDE < count, run, skip, state)
            return result

        extra = -length % _STRIDE
        cut = partial(_strides, extra=extra)
        start = tuple(
            jnp.zeros((rows, enter.shape[2] // self.gates)) for _ in range(2 if self.gates == 4 else 1)
        )
        steps = (jnp.arange((length + extra) // _STRIDE), cut(column, fill=length), cut(begins, fill=False))
        _, before = lax.scan(stride, start, steps)
        flat = (jnp.moveaxis(x.reshape(-1, *x.shape[2:]), 0, 1) for x in before)
        return tuple(jnp.take_along_axis(x, number[..., None], axis=1) for x in flat)

    @staticmethod
    def flops(config: RnnConfig, inputs: Inputs, work: Work) -> float:
        """Operations of the trunk's forward pass: every position takes a step of the cell; its bags' steps too."""
        gates = (4 if config.cell == "lstm" else 3) * config.dim
        wide = inputs.kinds * (config.kind_dim + 1) + 1
        narrow = product(work.tokens, config.dim, config.kind_dim)
        return narrow + product(work.tokens, wide, gates) + product(work.tokens, config.dim, gates)


def bags(batch: dict[str, Array], bag_days: float) -> tuple[Array, Array, Array]:
    """Bags of a row, a grid of time within each segment: number [B, T] int32 along the row, first, last [B, T] bool."""
    segment = jnp.asarray(batch["segment"])
    slot = jnp.floor(batch["time"] / bag_days)
    same = (segment[:, 1:] == segment[:, :-1]) & (slot[:, 1:] == slot[:, :-1])
    edge = jnp.ones_like(segment[:, :1], bool)
    first = jnp.concatenate([edge, ~same], axis=1)
    last = jnp.concatenate([~same, edge], axis=1) & (segment > 0)
    return jnp.cumsum(first, axis=1, dtype=jnp.int32) - 1, first, last


def _gap(time: Array, number: Array, first: Array) -> Array:
    """Log hours from the last event of the bag before to the bag's first event; the same for all its positions."""
    since = jnp.diff(time, axis=1, prepend=time[:, :1])
    since = jnp.log1p(jnp.maximum(since, 0) * _HOURS) / 4
    keep = jnp.where(first, 0.0, 1.0)[..., None]
    return linear_recurrence(keep, jnp.where(first, since, 0)[..., None])[..., 0]


def _first_of(column: Array) -> Array:
    """First position of each bag: one after the last position of the bag before."""
    return jnp.pad(column[:, :-1] + 1, ((0, 0), (1, 0)))


def _strides(x: Array, extra: int, fill: float) -> Array:
    """[B, N] -> [N / stride, stride, B]."""
    padded = jnp.pad(x, ((0, 0), (0, extra)), constant_values=fill)
    return jnp.moveaxis(padded, 1, 0).reshape(-1, _STRIDE, x.shape[0])


def _lstm(enter: Array, again: Array, state: State) -> State:
    """One step on gates [..., 4 * dim]: (hidden, memory). Source: Hochreiter 1997; forget gate open at first."""
    admit, forget, show, new = jnp.split(enter + again, 4, axis=-1)
    memory = jax.nn.sigmoid(forget + 1) * state[1] + jax.nn.sigmoid(admit) * jnp.tanh(new)
    return jax.nn.sigmoid(show) * jnp.tanh(memory), memory


def _gru(enter: Array, again: Array, state: State) -> State:
    """One step on gates [..., 3 * dim]: (hidden,). Source: Cho et al. 2014, reset after the product (cuDNN's form)."""
    (reset, update, new), (reset_again, update_again, new_again) = (
        jnp.split(x, 3, axis=-1) for x in (enter, again)
    )
    candidate = jnp.tanh(new + jax.nn.sigmoid(reset + reset_again) * new_again)
    stay = jax.nn.sigmoid(update + update_again + 1)
    return (stay * state[0] + (1 - stay) * candidate,)
