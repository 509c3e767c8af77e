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

    def __call__(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Logits [B, K] float32; seats without a label hold something finite and meaningless."""
        hide, inside, head = keys(key, 3)
        batch = hide_events(batch, self.event_dropout, hide)
        seen, latest = visible(batch)
        logits = self.heads(self.reader(self.represent(batch, inside), batch, seen, latest), head)
        if self.wide is not None:
            logits = logits + self.wide(batch, latest)
        return jnp.take_along_axis(logits, batch["label_task"][..., None], axis=-1)[..., 0]
