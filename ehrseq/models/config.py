"""What a model is made of: `ModelConfig` is chosen, `Inputs` follows from the token store and the tasks."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from ehrseq.core.errors import ConfigError, closest


def checked_fields(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` as keyword arguments of dataclass `cls`; numbers and flags must have the type of the default.

    Raises: ConfigError naming an unknown key and its closest, or a value of the wrong type.
    """
    known = {field.name: field for field in fields(cls)}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key {key!r}.{closest(key, known)} Known: {', '.join(known)}."
            )
        expected = known[key].type
        if expected in (int, float, bool, str):
            right = (int, float) if expected is float else expected
            if not isinstance(value, right) or (isinstance(value, bool) and expected is not bool):
                raise ConfigError(f"{where}: {key} is {value!r}; expected {expected.__name__}.")
    return dict(values)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Architecture. The defaults learn three tasks from some thousand stays on two CPU cores in about two minutes."""

    family: str = "transformer"  # see registry.FAMILIES
    dim: int = 64  # width of a representation
    layers: int = 1
    heads: int = 4  # of attention; dim / heads must be a multiple of 4
    mlp_ratio: float = 2.0  # inner width of the gated MLP / dim
    pools: int = 4  # learned time-weighted means of the past that each prediction reads
    wide: bool = True  # add a linear path from the latest event of each code (off for thousands of tasks)
    dropout: float = 0.3  # of each residual branch and of the head
    event_dropout: float = 0.0  # probability that training hides an event's code
    attention: str = "blockwise"  # see attention.BACKENDS
    block: int = 128  # tile of the blockwise backend
    dtype: str = "float32"  # of activations: float32, or bfloat16 on an accelerator; parameters stay float32

    def __post_init__(self) -> None:
        checks = {
            "dim": self.dim > 0 and self.dim % self.heads == 0,
            "layers": self.layers >= 0,
            "heads": self.heads > 0 and (self.dim // self.heads) % 4 == 0,
            "mlp_ratio": self.mlp_ratio > 0,
            "pools": self.pools >= 1,
            "dropout": 0 <= self.dropout < 1,
            "event_dropout": 0 <= self.event_dropout < 1,
            "block": self.block > 0,
            "dtype": self.dtype in ("float32", "bfloat16"),
        }
        for key, good in checks.items():
            if not good:
                raise ConfigError(f"model.{key} is {getattr(self, key)!r}. {_RULES[key]}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model") -> Self:
        """Make a configuration from plain values.

        Raises: ConfigError for an unknown key (with the closest one), a wrong type or an impossible value.

        >>> ModelConfig.from_dict({"dim": 32}).dim
        32
        """
        return cls(**checked_fields(cls, values, where))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


_RULES = {
    "dim": "It must be positive and divisible by `heads`.",
    "layers": "It must not be negative.",
    "heads": "It must be positive, and dim / heads a multiple of 4 (rotary pairs for position and time).",
    "mlp_ratio": "It must be positive.",
    "pools": "At least 1 is needed.",
    "dropout": "It must be in [0, 1).",
    "event_dropout": "It must be in [0, 1).",
    "block": "It must be positive.",
    "dtype": "It must be float32 or bfloat16.",
}


@dataclass(frozen=True, slots=True)
class Inputs:
    """Sizes that follow from the vocabulary and the examples; a model only fits the ones it was made for."""

    codes: int  # ids 0..codes-1; 0 = padding, 1 = unknown
    bins: int  # value bins 1..bins; 0 = no value
    units: int
    modalities: int
    tasks: tuple[str, ...]
    dense: tuple[tuple[str, int], ...] = ()  # side arrays of vectors: name and width

    @classmethod
    def of(cls, vocabulary: Mapping[str, Any], tasks: tuple[str, ...]) -> Self:
        """Read the sizes off a store's vocabulary.

        >>> Inputs.of({"codes": ["<pad>", "<unknown>"], "bins": 4, "units": [""], "modalities": ["record"]}, ()).bins
        4
        """
        return cls(
            codes=len(vocabulary["codes"]),
            bins=int(vocabulary["bins"]),
            units=max(len(vocabulary["units"]), 1),
            modalities=max(len(vocabulary["modalities"]), 1),
            tasks=tuple(str(task) for task in tasks),
            dense=tuple((str(array["name"]), int(array["dim"])) for array in vocabulary.get("spans", ())),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make from plain values, as `to_dict` gives them."""
        dense = tuple((name, width) for name, width in values.get("dense", ()))
        given = {**checked_fields(cls, values, "inputs"), "tasks": tuple(values["tasks"]), "dense": dense}
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)
