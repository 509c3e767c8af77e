"""What a model is made of: a `ModelConfig` is chosen, `Inputs` follows from the token store and the tasks."""

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


type Rules = dict[str, tuple[bool, str]]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What every family shares; `ehrseq.models.families` adds each family's own. Made by `families.model_config`."""

    family: str = ""  # see families.FAMILIES
    dim: int = 64  # width of a representation
    pools: int = 4  # learned time-weighted means of the past that each prediction reads
    wide: bool = True  # add a linear path from the latest event of each code (off for thousands of tasks)
    dropout: float = 0.3  # of each residual branch and of the head
    event_dropout: float = 0.0  # probability that training hides an event's code
    dtype: str = "float32"  # of activations: float32, or bfloat16 on an accelerator; parameters stay float32

    def __post_init__(self) -> None:
        for key, (good, rule) in self.rules().items():
            if not good:
                raise ConfigError(f"model.{key} is {getattr(self, key)!r}. {rule}")

    def rules(self) -> Rules:
        """What must hold: by field, whether it does, and the rule in words."""
        return {
            "dim": (self.dim > 0, "It must be positive."),
            "pools": (self.pools >= 1, "At least 1 is needed."),
            "dropout": (0 <= self.dropout < 1, "It must be in [0, 1)."),
            "event_dropout": (0 <= self.event_dropout < 1, "It must be in [0, 1)."),
            "dtype": (self.dtype in ("float32", "bfloat16"), "It must be float32 or bfloat16."),
        }

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Sizes that follow from the vocabulary and the examples; a model only fits the ones it was made for."""

    codes: int  # ids 0..codes-1; 0 = padding, 1 = unknown
    bins: int  # value bins 1..bins; 0 = no value
    units: int
    modalities: int
    tasks: tuple[str, ...]
    dense: tuple[tuple[str, int], ...] = ()  # side arrays of vectors: name and width
    kinds: int = 1  # of codes: see `code_kinds`

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
            kinds=len(code_kinds(vocabulary)[0]),
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


def code_kinds(vocabulary: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Feature types: what stands before the first `//` of a code, and the type's number of each code.

    In the order of their first codes, so that a vocabulary that grows keeps them.

    >>> code_kinds({"codes": ["<pad>", "<unknown>", "Observation//LOINC//2160-0", "Condition//ICD10CM//I10"]})
    (['', 'Observation', 'Condition'], [0, 0, 1, 2])
    """
    heads = [code.split("//", 1)[0] if "//" in code else "" for code in vocabulary["codes"]]
    number = {name: index for index, name in enumerate(dict.fromkeys(["", *heads]))}
    return list(number), [number[head] for head in heads]
