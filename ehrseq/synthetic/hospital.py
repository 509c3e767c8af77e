"""The hospital's constants: `hospital.yaml` read once into small frozen records and lookup arrays."""

from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError, closest

type Floats = NDArray[np.float64]
type Code = tuple[str, str]  # code, title


@dataclass(frozen=True)
class Lab:
    """A laboratory test. `mean`, `sd` (of the logarithm if `log`), `low`, `high` are in `unit`."""

    id: int
    label: str
    panel: str
    unit: str | None
    mean: float
    sd: float
    digits: int
    low: float
    high: float
    load: float
    log: bool = False
    category: str = "Chemistry"
    least: float | None = None  # below it the analyser reports "<least"
    most: float | None = None  # above it, ">most"
    unit2: dict[str, Any] | None = None


@dataclass(frozen=True)
class TextLab:
    """A test answered in words; the last of four words is the abnormal one."""

    id: int
    label: str
    words: list[str]


@dataclass(frozen=True)
class Vital:
    """A bedside measurement of intensive care, read `every` so many hours, clipped to `low`..`high`."""

    id: int
    label: str
    short: str
    category: str
    unit: str | None
    mean: float
    sd: float
    digits: int
    low: float
    high: float
    load: float
    every: int
    words: list[str] | None = None


@dataclass(frozen=True)
class IcuItem:
    """Another item of the intensive-care dictionary."""

    id: int
    label: str
    short: str
    linksto: str
    category: str
    unit: str | None
    type: str


@dataclass(frozen=True)
class Drug:
    """A drug as ordered; `per_day` doses a day."""

    code: str
    dose: float
    unit: str
    route: str
    per_day: int
    strength: str


@dataclass(frozen=True)
class Condition:
    """A chronic condition; `prevalence` at 65, effects in log-odds, `labs` in standard deviations."""

    icd10: Code
    icd9: Code
    prevalence: float
    per_decade: float
    home: list[str]
    mortality: float
    long_stay: float
    readmission: float
    labs: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A reason for admission, with everything that follows from it."""

    icd10: Code
    icd9: Code
    unplanned: float
    planned: float
    severity: float
    icu: float
    service: str
    infection: float
    drg: Code
    panels: dict[str, float]
    labs: dict[str, float]
    therapy: list[str]
    mortality: float
    long_stay: float
    readmission: float
    affinity: dict[str, float]
    finding: str
    procedure: str | None = None
    observation: float = 0.0


@dataclass(frozen=True)
class Hospital:
    """All constants. Lists and dicts keep the order of the file; that order is the index used everywhere."""

    labs: list[Lab]
    text_labs: list[TextLab]
    vitals: list[Vital]
    icu_items: dict[str, IcuItem]
    drugs: dict[str, Drug]
    supportive: dict[str, float]
    escalation: list[str]
    conditions: dict[str, Condition]
    groups: dict[str, Group]
    complications: dict[str, dict[str, Code]]
    procedures: dict[str, dict[str, Code]]
    hcpcs: list[dict[str, Any]]
    organisms: dict[int, str]
    antibiotics: dict[int, str]
    specimens: list[dict[str, Any]]
    services: dict[str, str]
    intensive_units: dict[str, str]
    races: dict[str, float]
    languages: dict[str, float]
    marital: dict[str, float]
    insurance: dict[str, float]
    risk: dict[str, dict[str, float]]

    def of_groups(self, name: str) -> Floats:
        """One number per group, e.g. `of_groups("severity")` -> [G] float64."""
        return np.array([getattr(group, name) for group in self.groups.values()], dtype=float)

    def of_conditions(self, name: str) -> Floats:
        """One number per condition -> [C] float64."""
        return np.array([getattr(condition, name) for condition in self.conditions.values()], dtype=float)

    def affinity(self) -> Floats:
        """How a condition draws its patients into a group -> [C, G] float64, added to log weights."""
        names = list(self.conditions)
        table = np.zeros((len(names), len(self.groups)))
        for column, group in enumerate(self.groups.values()):
            for condition, weight in group.affinity.items():
                table[names.index(condition), column] = weight
        return table

    def lab_shifts(self, owners: list[dict[str, float]]) -> Floats:
        """The `labs` entries of groups or conditions as a table [owners, labs] float64."""
        labels = [lab.label for lab in self.labs]
        table = np.zeros((len(owners), len(labels)))
        for row, shifts in enumerate(owners):
            for label, shift in shifts.items():
                table[row, labels.index(label)] = shift
        return table

    def drug_index(self, name: str) -> int:
        """Position of a drug in `drugs`."""
        return list(self.drugs).index(name)


@cache
def load_hospital() -> Hospital:
    """Read `hospital.yaml`, checking that every name it mentions exists.

    Raises: ConfigError naming the unknown field, laboratory test, drug, condition or service.

    >>> load_hospital().drugs["Furosemide"].unit
    'mg'
    """
    text = files("ehrseq.synthetic").joinpath("hospital.yaml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    records: dict[str, tuple[type, bool]] = {
        "labs": (Lab, False), "text_labs": (TextLab, False), "vitals": (Vital, False),
        "icu_items": (IcuItem, True), "drugs": (Drug, True), "conditions": (Condition, True), "groups": (Group, True),
    }  # fmt: skip
    for section, (kind, named) in records.items():
        if named:
            raw[section] = {name: _record(kind, name, entry) for name, entry in raw[section].items()}
        else:
            raw[section] = [_record(kind, entry.get("label", "?"), entry) for entry in raw[section]]
    hospital = Hospital(**raw)
    _check_names(hospital)
    return hospital


def _record(kind: type, name: str, entry: dict[str, Any]) -> Any:
    known = {item.name for item in fields(kind)}
    for key in entry:
        if key not in known:
            raise ConfigError(
                f"hospital.yaml: {kind.__name__} {name!r} has no field {key!r}.{closest(key, known)}"
            )
    return kind(**entry)


def _check_names(hospital: Hospital) -> None:
    labels = {lab.label for lab in hospital.labs}
    panels = {lab.panel for lab in hospital.labs}
    for name, owner in (hospital.groups | hospital.conditions).items():
        _known(name, owner.labs, labels)
        _known(name, owner.therapy if isinstance(owner, Group) else owner.home, hospital.drugs)
    for name, group in hospital.groups.items():
        _known(name, group.panels, panels)
        _known(name, group.affinity, hospital.conditions)
        _known(name, [group.service], hospital.services)
        _known(name, [group.procedure] if group.procedure else [], hospital.procedures)
    _known("supportive", hospital.supportive, hospital.drugs)
    _known("escalation", hospital.escalation, hospital.drugs)


def _known(owner: str, names: Any, options: Any) -> None:
    for name in names:
        if name not in options:
            raise ConfigError(f"hospital.yaml: {owner!r} mentions unknown {name!r}.{closest(name, options)}")
