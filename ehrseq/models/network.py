"""The whole network: embedding, trunk of a family, label reader and heads."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.batch import check_batch
from ehrseq.models.config import Inputs, ModelConfig
from ehrseq.models.dropout import hide_events, keys
from ehrseq.models.embedding import EventEmbedding
from ehrseq.models.heads import LabelReader, TaskHeads, visible
from ehrseq.models.wide import WideReader


class Network(nnx.Module):
    """A batch (`ehrseq.models.batch`) in, one logit per label out. Without a key nothing is random.

    `trunk` is a module `(events [B, T, dim], batch, key) -> [B, T, dim]` that keeps causality and segments. If it has
    a method `read` of the same arguments, that gives one vector per label, [B, K, dim], and no `LabelReader` is
    needed; if its `reads_events` is False, it looks at the batch alone and events are not embedded.
    """

    def __init__(self, config: ModelConfig, inputs: Inputs, trunk: nnx.Module, rngs: nnx.Rngs) -> None:
        embeds = getattr(trunk, "reads_events", True)
        self.embedding = EventEmbedding(inputs, config.dim, rngs) if embeds else None
        self.trunk = trunk
        self.reader = None if hasattr(trunk, "read") else LabelReader(config, rngs)
        self.heads = TaskHeads(config, len(inputs.tasks), rngs)
        self.wide = WideReader(inputs) if config.wide else None
        self.event_dropout = config.event_dropout

    def represent(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Representations [B, T, dim] float32; position t knows positions 0..t of its segment.

        Raises: ShapeError if the batch is not as `ehrseq.models.batch` says.
        """
        check_batch(batch)
        hidden: Array = self.trunk(self._events(batch), batch, key)
        return hidden

    def read(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """What each label sees, [B, K, dim] float32.

        Raises: ShapeError if the batch is not as `ehrseq.models.batch` says.
        """
        if self.reader is None:
            check_batch(batch)
            read: Array = self.trunk.read(self._events(batch), batch, key)  # type: ignore[attr-defined]
            return read
        return self.reader(self.represent(batch, key), batch, *visible(batch))

    def outputs(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Logits of every output for every seat [B, K, O] float32: the past is read once, however many are asked."""
        hide, inside, head = keys(key, 3)
        batch = hide_events(batch, self.event_dropout, hide)
        logits: Array = self.heads(self.read(batch, inside), head)
        return logits if self.wide is None else logits + self.wide(batch, visible(batch)[1])

    def __call__(self, batch: dict[str, Array], key: Array | None = None) -> Array:
        """Logits [B, K] float32, of each seat's (first) output; seats without a label hold something meaningless."""
        return jnp.take_along_axis(self.outputs(batch, key), batch["label_task"][..., None], axis=-1)[..., 0]

    def _events(self, batch: dict[str, Array]) -> Array | None:
        return None if self.embedding is None else self.embedding(batch)
