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
https://eventstreamaces.readthedocs.io; where its text and the program differ, as es-aces 0.7.3 does. Ours alone are
`extends` (another task file, laid under this one), `repeat` (ask again and again), a list of labels, and `each` (an
output for each code of the label).
"""

from pathlib import Path

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.yaml_lines import Document, check_keys, load_yaml, merged
from ehrseq.tasks.language import Derived, Plain, Repeat, Task
from ehrseq.tasks.read_predicates import names_in, read_predicates, timed
from ehrseq.tasks.read_windows import duration, each, only, order, read_windows

# what `run` predicts if no task is named: those of Rajkomar et al. with one label, each where it is asked most often
STANDARD_TASKS = ("in_hospital_mortality_24h", "long_stay_7d", "readmission_30d")
_DEFINITIONS = Path(__file__).parent / "definitions"
_KEYS = {
    "description",
    "metadata",
    "predicates",
    "patient_demographics",
    "trigger",
    "windows",
    "repeat",
    "extends",
}


def shipped_tasks() -> list[str]:
    """Names of the tasks that come with ehrseq.

    >>> "readmission_30d" in shipped_tasks()
    True
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
    ('target', ('unplanned_admission',))
    """
    path, document = find_task(task), task_document(task)
    value = document.value
    for key in ("predicates", "trigger", "windows"):
        if not value.get(key):
            raise TaskError(f"{path}:1  lacks `{key}`.")
    predicates = read_predicates(document)
    trigger = timed(document, ("trigger",), value["trigger"], predicates)
    windows = read_windows(document, predicates)
    label_window, label = only(document, "label")
    labels = [str(one) for one in label] if isinstance(label, list) else [str(label)]
    at = ("windows", label_window, "label")
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
        label=(label_window, tuple(timed(document, at, one, predicates) for one in labels)),
        static=_traits(predicates, document),
        repeat=_repeat(document, predicates),
        each=each(document, label_window, labels),
    )


def task_document(task: str | Path) -> Document:
    """The file of a task, laid over the one it extends, and that over its own. Raises: TaskError."""
    path = find_task(task)
    document = load_yaml(path, TaskError)
    check_keys(document, (), document.value, _KEYS, TaskError)
    base = document.value.get("extends")
    if base is None:
        return document
    beside = path.parent / f"{base}.yaml"
    under = task_document(beside if beside.is_file() else str(base))
    if under.value.get("extends"):
        raise TaskError(f"{document.at(('extends',))}  `{base}` extends a task itself. Name the first one.")
    return merged(under, document)


def _traits(predicates: dict[str, Plain | Derived], document: Document) -> tuple[str, ...]:
    """Static predicates that count, as in es-aces: demographics always, others if an expression names them."""
    named = {part for one in predicates.values() if isinstance(one, Derived) for part in one.of}
    named |= set(document.value.get("patient_demographics") or ())
    return tuple(name for name, one in predicates.items() if one.static and name in named)


def _repeat(document: Document, predicates: dict[str, Plain | Derived]) -> Repeat | None:
    if document.value.get("repeat") is None:
        return None
    where = ("repeat",)
    value = names_in(document, where)
    check_keys(document, where, value, {"every", "until"}, TaskError)
    every = duration(document, (*where, "every"), str(value.get("every")))
    if not every:
        raise TaskError(f"{document.at((*where, 'every'))}  expected a duration of more than nothing.")
    return Repeat(every, timed(document, (*where, "until"), value.get("until"), predicates))
