"""What `ehrseq retrain` is told: a YAML file that names the model, the data, the tasks, the training and the gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ehrseq.core.errors import ConfigError
from ehrseq.core.yaml_lines import Document, check_keys, load_yaml
from ehrseq.deploy.gate import GateConfig
from ehrseq.tasks.definition import STANDARD_TASKS
from ehrseq.training.config import TrainConfig

KEYS = {
    "name", "source", "data", "work", "models", "tasks", "train", "gate", "start", "newest_days", "lease_hours",
    "max_reject_fraction", "seed",
}  # fmt: skip
STARTS = ("warm", "scratch")


@dataclass(frozen=True)
class RetrainPlan:
    """A retraining to be."""

    name: str
    source: str
    data: str
    work: Path
    models: Path
    tasks: tuple[str, ...]
    train: TrainConfig
    gate: GateConfig
    start: str
    newest_days: float
    lease_hours: float
    max_reject_fraction: float
    seed: int


def read_retrain(path: Path) -> RetrainPlan:
    """Read the file; its paths are seen from its own folder.

        name: ward                       # of the model in the registry
        source: mimic_iv                 # as in `ehrseq run`: a shipped source, a folder of mappings, fhir or meds
        data: deliveries/full            # what stands there now; a new delivery goes to the same place
        work: retrain                    # stages are kept here from run to run, so only what changed is done again
        models: models                   # default: models
        tasks: [in_hospital_mortality_24h]
        start: warm                      # from the champion's weights; or scratch
        newest_days: 31                  # the newest period; what is older is the frozen one
        lease_hours: 12                  # how long a run may hold the lease without a sign of life
        train: {epochs: 4}               # `TrainConfig`
        gate: {min_events: 20, difference: -0.02, drift: {unit: 0.2}}   # `GateConfig`, `drift.Limits`

    Raises: ConfigError for what is missing, unknown or of the wrong kind.
    """
    document = load_yaml(path)
    check_keys(document, (), document.value, KEYS, ConfigError)
    given: Mapping[str, Any] = document.value
    for key in ("name", "source", "data", "work"):
        if not isinstance(given.get(key), str):
            raise ConfigError(
                f"{document.at((key,))}  `{key}` is missing or no text. Expected e.g. `{key}: …`."
            )
    tasks = given.get("tasks", list(STANDARD_TASKS))
    if not (isinstance(tasks, list) and tasks and all(isinstance(one, str) for one in tasks)):
        raise ConfigError(
            f"{document.at(('tasks',))}  `tasks` is {tasks!r}. Expected a list of names or files."
        )
    start = given.get("start", "warm")
    if start not in STARTS:
        raise ConfigError(f"{document.at(('start',))}  `start` is {start!r}. Expected {' or '.join(STARTS)}.")
    folder = path.parent
    source = str(given["source"])
    return RetrainPlan(
        name=given["name"],
        source=str(folder / source) if (folder / source).is_dir() else source,
        data=given["data"] if "://" in given["data"] else str(folder / given["data"]),
        work=folder / given["work"],
        models=folder / str(given.get("models", "models")),
        tasks=tuple(str(folder / one) if one.endswith((".yaml", ".yml")) else one for one in tasks),
        train=_part(document, "train", TrainConfig.from_dict),
        gate=_part(document, "gate", GateConfig.from_dict),
        start=start,
        newest_days=_number(document, "newest_days", 31),
        lease_hours=_number(document, "lease_hours", 12),
        max_reject_fraction=_number(document, "max_reject_fraction", 0.05),
        seed=int(_number(document, "seed", 0, least=0)),
    )


def _part(document: Document, key: str, read: Any) -> Any:
    values = document.value.get(key) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{document.at((key,))}  `{key}` is {values!r}. Expected keys and values.")
    try:
        return read(values)
    except ConfigError as error:
        raise ConfigError(f"{document.at((key,))}  {error}") from error


def _number(document: Document, key: str, default: float, least: float = 1e-9) -> float:
    value = document.value.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise ConfigError(f"{document.at((key,))}  `{key}` is {value!r}. Expected a positive number.")
    return float(value)
