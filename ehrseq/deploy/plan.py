"""What `ehrseq train` is told: a YAML file that names a timeline, tasks, a folder and the training's settings."""

from dataclasses import dataclass
from pathlib import Path

from ehrseq.core.errors import ConfigError
from ehrseq.core.yaml_lines import check_keys, load_yaml
from ehrseq.training.config import TrainConfig

KEYS = {"timeline", "out", "tasks", "train"}


@dataclass(frozen=True)
class Plan:
    """A training to be: `tasks` None = the standard ones."""

    timeline: Path
    out: Path
    tasks: tuple[str, ...] | None
    train: TrainConfig


def read_plan(path: Path) -> Plan:
    """Read the file; its paths are seen from its own folder.

        timeline: runs/mimic/timeline
        out: runs/mimic-wider
        tasks: [in_hospital_mortality_24h, our_task.yaml]   # default: mortality, stay, readmission
        train: {epochs: 8, seed: 1, model: {dim: 128}}      # `ehrseq.training.config.TrainConfig`; default: its own

    Raises: ConfigError for what is missing, unknown or of the wrong kind.
    """
    document = load_yaml(path)
    check_keys(document, (), document.value, KEYS, ConfigError)
    given = document.value
    for key in ("timeline", "out"):
        if not isinstance(given.get(key), str):
            raise ConfigError(f"{document.at((key,))}  `{key}` is missing or no path. Expected a folder.")
    tasks = given.get("tasks")
    if tasks is not None and not (
        isinstance(tasks, list) and tasks and all(isinstance(one, str) for one in tasks)
    ):
        raise ConfigError(
            f"{document.at(('tasks',))}  `tasks` is {tasks!r}. Expected a list of names or files."
        )
    train = given.get("train") or {}
    if not isinstance(train, dict):
        raise ConfigError(f"{document.at(('train',))}  `train` is {train!r}. Expected keys and values.")
    try:
        settings = TrainConfig.from_dict(train)
    except ConfigError as error:
        raise ConfigError(f"{document.at(('train',))}  {error}") from error
    folder = path.parent
    return Plan(
        timeline=folder / given["timeline"],
        out=folder / given["out"],
        tasks=tuple(str(folder / one) if one.endswith((".yaml", ".yml")) else one for one in tasks)
        if tasks
        else None,
        train=settings,
    )
