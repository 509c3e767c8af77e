r"""A task file says whom to predict for, when, and what: the ACES language, read and checked.

    predicates:                                   # what to look for in the events
      admission: {code: {regex: "^Encounter\.start//ActCode//IMP$"}}
      discharge: {code: {regex: "^Encounter\.end//ActCode//IMP"}}
      death: {code: MEDS_DEATH}
      discharge_or_death: {expr: "or(discharge, death)"}
    trigger: admission                            # one candidate for each moment where this is found
    windows:                                      # stretches of time, fixed one after the other
      first_day: {start: trigger, end: start + 24h, start_inclusive: false, end_inclusive: true,
                  has: {discharge_or_death: "(None, 0)"}, index_timestamp: end}
      target: {start: first_day.end, end: start -> discharge_or_death, ..., label: death}

Source: Xu et al., "ACES: Automatic Cohort Extraction System for Event-Streams", 2024,
https://eventstreamaces.readthedocs.io; where its text and the program differ, as es-aces 0.7.3 does. Not read:
`patient_demographics`, static predicates, other columns than code and numeric value. They are errors here, never
silently ignored.
"""

from pathlib import Path

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.yaml_lines import check_keys, load_yaml
from ehrseq.tasks.language import Task
from ehrseq.tasks.read_predicates import known, read_predicates
from ehrseq.tasks.read_windows import only, order, read_windows

_DEFINITIONS = Path(__file__).parent / "definitions"
_KEYS = {"description", "metadata", "predicates", "trigger", "windows"}


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with ehrseq.

    >>> shipped_tasks()
    ['in_hospital_mortality_24h', 'long_stay_7d', 'readmission_30d']
    """
    return sorted(path.stem for path in _DEFINITIONS.glob("*.yaml") if not path.stem.endswith(".cases"))


def find_task(task: str | Path) -> Path:
    """Where a task's file is: a path, or the name of a shipped task. Raises: TaskError."""
    path = Path(task)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise TaskError(f"{path}: there is no such task file.")
    if str(task) not in shipped_tasks():
        raise TaskError(
            f"`{task}` is not a task.{closest(str(task), shipped_tasks())} Expected a path that ends in .yaml, or one "
            f"of {', '.join(shipped_tasks())}."
        )
    return _DEFINITIONS / f"{task}.yaml"


def load_task(task: str | Path) -> Task:
    """Read and check a task. Raises: TaskError with file, line and the nearest valid name.

    >>> load_task("readmission_30d").label
    ('target', 'unplanned_admission')
    """
    path = find_task(task)
    document = load_yaml(path, TaskError)
    value = document.value
    check_keys(document, (), value, _KEYS, TaskError)
    for key in ("predicates", "trigger", "windows"):
        if not value.get(key):
            raise TaskError(f"{path}:1  lacks `{key}`.")
    predicates = read_predicates(document)
    trigger = known(document, ("trigger",), value["trigger"], predicates)
    windows = read_windows(document, predicates)
    label_window, label = only(document, "label")
    index_window, side = only(document, "index_timestamp")
    if side not in ("start", "end"):
        raise TaskError(
            f"{document.at(('windows', index_window, 'index_timestamp'))}  is `{side}`, expected start or end."
        )
    return Task(
        name=path.stem,
        description=str(value.get("description") or "").strip(),
        predicates=predicates,
        trigger=trigger,
        windows=windows,
        endpoints=order(document, windows),
        index=f"{index_window}.{side}",
        label=(label_window, known(document, ("windows", label_window, "label"), label, predicates)),
    )
