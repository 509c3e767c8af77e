"""The wide path: a logistic regression on the patient's latest facts, learned together with the deep network.

For each label and code only the latest visible event speaks: that it happened, how long ago, its value and the change
before it, each with one weight per task. It learns within the first hundreds of steps what a good linear baseline
knows; the deep path learns the rest.
Source: Cheng et al. 2016, *Wide & deep learning for recommender systems*, with "latest of each code" as the wide input.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from ehrseq.models.config import Inputs
from ehrseq.models.embedding import finite, repeats

_HOURS = 24.0
_FADING_HOURS = (12.0, 72.0, 720.0)  # half a day, three days, a month: the windows of the count baselines


class WideReader(nnx.Module):
    """Weights [codes, tasks] for presence, recency, value and change; all zero at first."""

    def __init__(self, inputs: Inputs) -> None:
        def table() -> nnx.Param[Array]:
            return nnx.Param(jnp.zeros((inputs.codes, len(inputs.tasks))))

        self.present, self.value, self.change = table(), table(), table()
        self.recent = nnx.Param(jnp.zeros((inputs.codes, len(_FADING_HOURS), len(inputs.tasks))))

    def __call__(self, batch: dict[str, Array], latest: Array) -> Array:
        """`latest` [B, K, T] bool: which events speak for which label -> logits [B, K, tasks] float32.

        `gate`: see `EventEmbedding`.
        """
        code = batch["code"]
        value, _ = finite(batch["value"])
        change = repeats(batch)[1]
        said = (
            self.present[code] + self.value[code] * value[..., None] + self.change[code] * change[..., None]
        )
        elapsed = jnp.maximum(batch["label_time"][..., None] - batch["time"][:, None], 0) * _HOURS
        weight = latest.astype(jnp.float32)
        if "gate" in batch:
            weight = weight * batch["gate"][:, None]
        logits = jnp.einsum("bkt,btn->bkn", weight, said)
        for scale, hours in enumerate(_FADING_HOURS):
            logits += jnp.einsum("bkt,btn->bkn", weight * jnp.exp(-elapsed / hours), self.recent[code, scale])
        return logits
