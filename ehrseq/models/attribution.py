"""Which events a prediction rests on: integrated gradients over what each event says.

Every event's words (code, value, unit) are turned up together from 0, a record of bare ticks of time, to 1, the record
as it is; the gradient of the logit along the way, summed, is the event's share. The shares of all events add up to the
logit minus that of the bare record, so nothing is explained twice or left over. One backward pass gives the shares of
all events of a batch at one point of the way; `STEPS` points are enough for the sum to hold within a few percent.

Source: Sundararajan et al. 2017, *Axiomatic attribution for deep networks* (completeness: proposition 1).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from ehrseq.models.network import Network
from ehrseq.models.registry import Parameters
from ehrseq.tokens.loader import Batch, Loader
from ehrseq.tokens.packing import Examples

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

STEPS = 8

type Attribute = Callable[[Parameters, Mapping[str, Any]], Array]


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """N shares of tokens in predictions, by label, the largest in size first."""

    label: NDArray[np.int64]  # [N] row of the examples
    token: NDArray[np.int64]  # [N] index in the store's arrays
    share: NDArray[np.float64]  # [N] in logits; above 0 = towards the outcome


def make_attribution(bind: Callable[[Parameters], Network], steps: int = STEPS) -> Attribute:
    """Compiled shares [B, T] float32 of a batch in which every segment has one label at most.

    Labels of different segments do not see each other's events, so one sum of logits serves all of them.
    """

    def asked(gate: Array, parameters: Parameters, batch: Mapping[str, Any]) -> Array:
        logits = bind(parameters)({**batch, "gate": gate})
        return jnp.sum(logits * batch["asked"])

    def shares(parameters: Parameters, batch: Mapping[str, Any]) -> Array:
        whole = jnp.ones(batch["code"].shape, jnp.float32)
        points = (jnp.arange(steps, dtype=jnp.float32) + 0.5) / steps
        slope = jax.lax.map(lambda point: jax.grad(asked)(whole * point, parameters, batch), points)
        return jnp.mean(slope, axis=0)

    return jax.jit(shares)


def attribute(
    shares_of: Attribute, parameters: Parameters, store: "TokenStore", examples: Examples, rows: NDArray[Any],
    *, context: int, row_length: int, batch_rows: int, most: int | None = 10,
) -> Shares:  # fmt: skip
    """The `most` (None: all) largest shares of each label `rows` of `examples`, whose tasks the model knows.

    `shares_of` is what `make_attribution` gave.
    """
    found = []
    start = np.maximum(examples.position - context, 0) + np.asarray(store.offsets)[examples.subject]
    for once in _one_label_a_window(examples.subject, start, np.asarray(rows, np.int64)):
        loader = Loader(
            store, examples, once, context=context, row_length=row_length, batch_rows=batch_rows,
            row_labels=row_length // 8, shuffle=False,
        )  # fmt: skip
        for batch in loader.epoch():
            given = {name: value for name, value in batch.items() if name != "label_row"}
            given["asked"] = (batch["label_row"] >= 0).astype(np.float32)
            found.append(_of_batch(np.asarray(shares_of(parameters, given)), batch, start, most))
    empty = Shares(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    parts = [empty, *found]
    label = np.concatenate([part.label for part in parts])
    order = np.argsort(label, kind="stable")
    return Shares(
        label[order],
        np.concatenate([part.token for part in parts])[order],
        np.concatenate([part.share for part in parts])[order],
    )


def _one_label_a_window(
    subject: NDArray[np.int64], start: NDArray[np.int64], rows: NDArray[np.int64]
) -> Iterator[NDArray[np.int64]]:
    """Parts of `rows` in which no two labels look at one window."""
    order = np.lexsort((rows, start[rows], subject[rows]))
    key = np.stack([subject[rows], start[rows]])[:, order]
    new = np.ones(len(rows), bool)
    new[1:] = (key[:, 1:] != key[:, :-1]).any(axis=0)
    first = np.flatnonzero(new)
    rank = np.arange(len(rows)) - np.repeat(first, np.diff(np.append(first, len(rows))))
    for number in range(int(rank.max(initial=-1)) + 1):
        yield np.sort(rows[order[rank == number]])


def _of_batch(shares: NDArray[Any], batch: Batch, start: NDArray[np.int64], most: int | None) -> Shares:
    """The largest shares of each label of a batch; `shares` [B, T], `start` [L] of each label's window."""
    row, seat = np.nonzero(batch["label_row"] >= 0)
    at, label = batch["label_at"][row, seat], batch["label_row"][row, seat]
    of_segment = np.full((len(shares), int(batch["segment"].max(initial=0)) + 1), -1, np.int64)
    of_segment[row, batch["segment"][row, at]] = np.arange(len(row))
    mine = np.where(batch["segment"] > 0, of_segment[np.arange(len(shares))[:, None], batch["segment"]], -1)
    line, column = np.nonzero(mine >= 0)
    owner = mine[line, column]
    share = shares[line, column].astype(np.float64)
    order = np.lexsort((column, -np.abs(share), owner))
    owner, share, line, column = owner[order], share[order], line[order], column[order]
    first = np.searchsorted(owner, owner)
    kept = slice(None) if most is None else np.arange(len(owner)) - first < most
    owner, share, line, column = owner[kept], share[kept], line[kept], column[kept]
    named = label[owner].astype(np.int64)
    return Shares(named, start[named] + batch["position"][line, column], share)
