"""The whole network: embedding, trunk of a family, label reader and heads."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.config import Inputs, ModelConfig
from ehrseq.models.dropout import hide_events, keys
from ehrseq.models.embedding import EventEmbedding
from ehrseq.models.heads import LabelReader, TaskHeads, visible
from ehrseq.models.wide import WideReader


class Network(nnx.Module):
    """A batch of the loader in, one logit per label out. Without a key nothing is random.

    `trunk` is a module `(events [B, T, dim], batch, key) -> [B, T, dim]` that keeps causality and segments.
    """

    def __init__(self, config: ModelConfig, inputs: Inputs, trunk: nnx.Module, rngs: nnx.Rngs) -> None:
        self.embedding = EventEmbedding(inputs, config.dim, rngs)
        self.trunk = trunk
        self.reader = LabelReader(config, rngs)
        self.heads = TaskHeads(config, len(inputs.tasks), rngs)
        self.wide = WideReader(inputs) if config.wide else None
        self.event_dropout = config.event_dropout

    def represent(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Representations [B, T, dim] float32; position t knows positions 0..t of its segment."""
        hidden: Array = self.trunk(self.embedding(batch), batch, key)
        return hidden

    def outputs(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Logits of every output for every seat [B, K, O] float32: the past is read once, however many are asked."""
        hide, inside, head = keys(key, 3)
        batch = hide_events(batch, self.event_dropout, hide)
        seen, latest = visible(batch)
        logits: Array = self.heads(self.reader(self.represent(batch, inside), batch, seen, latest), head)
        return logits if self.wide is None else logits + self.wide(batch, latest)

    def __call__(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Logits [B, K] float32, of each seat's (first) output; seats without a label hold something meaningless."""
        return jnp.take_along_axis(self.outputs(batch, key), batch["label_task"][..., None], axis=-1)[..., 0]
