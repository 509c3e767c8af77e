"""What a training run is: plain values, checked before anything is read."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ehrseq.core.errors import ConfigError
from ehrseq.models.config import ModelConfig, checked_fields
from ehrseq.models.families import TransformerConfig, model_config

SELECTORS = ("loss", "auroc")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Training settings. The defaults are the demo's: some thousand stays, three tasks, two CPU cores.

    They were chosen on generated hospitals of other seeds than the demo's, against their true risks. So few stays
    teach a network little that a ridge regression on the latest facts does not know, and a network that learns fast
    overfits within an epoch: the wide path learns quickly under a prior, the network slowly beside it.
    """

    model: ModelConfig = field(default_factory=TransformerConfig)  # of any family: families.FAMILIES
    context: int = 512  # tokens a prediction may look back on
    row_length: int = 512  # tokens of a packed row, >= context
    batch_rows: int = 16  # rows of a batch, over all hosts
    epochs: int = 4  # at most; the cosine ends here
    patience: int = 2  # epochs without a better tuning score before stopping
    select: str = "loss"  # tuning score that picks the epoch: loss (mean over labels), auroc (over tasks)
    learning_rate: float = 2e-4  # peak of the schedule
    warmup: float = 0.1  # fraction of all steps
    weight_decay: float = 0.05  # of matrices and tables, as in AdamW (decoupled)
    wide_rate: float = (
        10.0  # learning rate of the wide path / that of the network: what is simple comes first
    )
    wide_prior: float = (
        0.06  # standard deviation of the wide path's weights, a priori (Gaussian, as in ridge)
    )
    clip: float = 1.0  # global norm of the gradient
    ema: float = 0.99  # decay of the averaged parameters, which are those evaluated and kept; 0 = off
    checkpoint_steps: int = 500  # steps between checkpoints inside an epoch; one more at each epoch's end
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "context": (self.context >= 1, "At least 1 token."),
            "row_length": (self.row_length >= self.context, f"It must be >= context ({self.context})."),
            "batch_rows": (self.batch_rows >= 1, "At least 1 row."),
            "epochs": (self.epochs >= 1, "At least 1."),
            "patience": (self.patience >= 1, "At least 1."),
            "select": (self.select in SELECTORS, f"It must be one of {', '.join(SELECTORS)}."),
            "learning_rate": (self.learning_rate > 0, "It must be positive."),
            "warmup": (0 <= self.warmup < 1, "It must be in [0, 1)."),
            "weight_decay": (self.weight_decay >= 0, "It must not be negative."),
            "wide_rate": (self.wide_rate > 0, "It must be positive."),
            "wide_prior": (self.wide_prior > 0, "It must be positive."),
            "clip": (self.clip > 0, "It must be positive."),
            "ema": (0 <= self.ema < 1, "It must be in [0, 1)."),
            "checkpoint_steps": (self.checkpoint_steps >= 1, "At least 1."),
        }
        for key, (good, rule) in checks.items():
            if not good:
                raise ConfigError(f"train.{key} is {getattr(self, key)!r}. {rule}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make a configuration from plain values; `model` is a mapping of its own.

        Raises: ConfigError for an unknown key (with the closest one), a wrong type or an impossible value.

        >>> TrainConfig.from_dict({"epochs": 2, "model": {"dim": 32}}).model.dim
        32
        """
        given = checked_fields(cls, values, "train")
        model = given.get("model", {})
        if not isinstance(model, ModelConfig):
            if not isinstance(model, Mapping):
                raise ConfigError(f"train: model is {model!r}; expected keys and values.")
            given["model"] = model_config(model, "train.model")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)
