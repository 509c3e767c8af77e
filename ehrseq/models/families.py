"""The families of models by name, as frozen configurations; plain values, no JAX.

Their modules: `transformer`, `lru`, `rnn`, `tann`, `stumps`, one file each. `registry` brings the two together.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ehrseq.core.errors import ConfigError, closest
from ehrseq.models.config import ModelConfig, Rules, checked_fields


@dataclass(frozen=True, slots=True)
class TransformerConfig(ModelConfig):
    """Packed causal transformer. The defaults learn three tasks from some thousand stays in minutes on two cores."""

    family: str = "transformer"
    layers: int = 1
    heads: int = 4  # of attention; dim / heads must be a multiple of 4
    kv_heads: int = 0  # heads of keys and values that the query heads share; 0 = as many as heads
    mlp_ratio: float = 2.0  # inner width of the gated MLP / dim
    window: int = 0  # positions that attention looks back, itself counted; 0 = the whole segment
    attention: str = "auto"  # auto = the fastest that is right here; see attention.BACKENDS
    block: int = 128  # tile of the blockwise backend
    segments: int = 64  # patients' windows in a row, at most (cuDNN's packed attention only)
    remat: bool = False  # compute each block again for its gradient: memory of one block instead of all

    def rules(self) -> Rules:
        """See ModelConfig."""
        return ModelConfig.rules(self) | _attention_rules(self) | {
            "layers": (self.layers >= 0, "It must not be negative."),
            "mlp_ratio": (self.mlp_ratio > 0, "It must be positive."),
            "segments": (self.segments >= 1, "At least 1 is needed."),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class LruConfig(ModelConfig):
    """Gated linear recurrence with segment reset; with `attention_every`, a hybrid with local attention."""

    family: str = "lru"
    layers: int = 2
    mlp_ratio: float = 2.0  # inner width of the gated MLP / dim
    recurrence: str = "chunked"  # see recurrence.RECURRENCES
    chunk: int = 32  # positions of a chunk of the chunked backend
    attention_every: int = 0  # every n-th block attends instead; 0 = none
    heads: int = 4
    kv_heads: int = 0
    window: int = 128
    attention: str = "auto"
    block: int = 128
    segments: int = 64
    remat: bool = False

    def rules(self) -> Rules:
        """See ModelConfig."""
        attends = _attention_rules(self) if self.attention_every else {}
        return ModelConfig.rules(self) | attends | {
            "layers": (self.layers >= 0, "It must not be negative."),
            "mlp_ratio": (self.mlp_ratio > 0, "It must be positive."),
            "recurrence": (self.recurrence in _RECURRENCES, f"It must be one of {', '.join(_RECURRENCES)}."),
            "chunk": (self.chunk > 0, "It must be positive."),
            "attention_every": (self.attention_every >= 0, "It must not be negative."),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RnnConfig(ModelConfig):
    """Rajkomar's weighted RNN: events of a feature type averaged in time bags, bags into an LSTM or GRU."""

    family: str = "lstm"
    cell: str = "lstm"  # lstm or gru
    bag_hours: float = 1.0  # a bag holds the events of one such span of time
    kind_dim: int = 16  # width of the mean of one feature type

    def rules(self) -> Rules:
        """See ModelConfig."""
        return ModelConfig.rules(self) | {
            "cell": (self.cell in ("lstm", "gru"), "It must be lstm or gru."),
            "bag_hours": (self.bag_hours > 0, "It must be positive."),
            "kind_dim": (self.kind_dim > 0, "It must be positive."),
        }


@dataclass(frozen=True, slots=True)
class TannConfig(ModelConfig):
    """Rajkomar's feed-forward network with time-aware attention."""

    family: str = "tann"
    heads: int = 8  # weighted sums of the past, each with weights of its own
    value_dim: int = 32  # width of a weighted sum
    layers: int = 2  # of the feed-forward network
    mlp_ratio: float = 2.0

    def rules(self) -> Rules:
        """See ModelConfig."""
        return ModelConfig.rules(self) | {
            "heads": (self.heads > 0, "It must be positive."),
            "value_dim": (self.value_dim > 0, "It must be positive."),
            "layers": (self.layers >= 1, "At least 1 is needed."),
            "mlp_ratio": (self.mlp_ratio > 0, "It must be positive."),
        }


@dataclass(frozen=True, slots=True)
class StumpsConfig(ModelConfig):
    """Rajkomar's boosted, embedded time stumps: "seen, or value above v, within the last t"."""

    family: str = "stumps"
    stumps: int = 256  # predicates that boosting keeps
    pool: int = 8192  # predicates it draws to choose from
    kept_a_round: int = 8  # best of each task and round, before the residuals are taken anew
    layers: int = 1  # of the small network over the embedded stumps
    mlp_ratio: float = 2.0

    def rules(self) -> Rules:
        """See ModelConfig."""
        return ModelConfig.rules(self) | {
            "stumps": (self.stumps >= 1, "At least 1 is needed."),
            "pool": (self.pool >= self.stumps, "It must not be smaller than `stumps`."),
            "kept_a_round": (self.kept_a_round >= 1, "At least 1 is needed."),
            "layers": (self.layers >= 0, "It must not be negative."),
            "mlp_ratio": (self.mlp_ratio > 0, "It must be positive."),
        }


_RECURRENCES = ("chunked", "associative", "scan")
FAMILIES: dict[str, type[ModelConfig]] = {
    "transformer": TransformerConfig,
    "lru": LruConfig,
    "lstm": RnnConfig,
    "tann": TannConfig,
    "stumps": StumpsConfig,
}


def model_config(values: Mapping[str, Any], where: str = "model") -> ModelConfig:
    """The configuration of `values["family"]` (default transformer) from plain values.

    Raises: ConfigError for an unknown family or key (with the closest one), a wrong type or an impossible value.

    >>> model_config({"family": "lru", "dim": 32}).dim
    32
    """
    family = values.get("family", "transformer")
    if family not in FAMILIES:
        near = closest(str(family), FAMILIES)
        raise ConfigError(f"{where}: family {family!r} is not known.{near} Known: {', '.join(FAMILIES)}.")
    chosen = FAMILIES[family]
    return chosen(**checked_fields(chosen, values, where))


def _attention_rules(config: TransformerConfig | LruConfig) -> Rules:
    whole = config.heads > 0 and config.dim % config.heads == 0
    return {
        "dim": (config.dim > 0 and whole, "It must be positive and divisible by `heads`."),
        "heads": (
            whole and (config.dim // config.heads) % 4 == 0,
            "It must be positive, and dim / heads a multiple of 4 (rotary pairs for position and time).",
        ),
        "kv_heads": (
            config.kv_heads >= 0 and (not config.kv_heads or config.heads % config.kv_heads == 0),
            "It must divide `heads`, or be 0 for as many.",
        ),
        "window": (config.window >= 0, "It must not be negative."),
        "block": (config.block > 0, "It must be positive."),
    }
