r"""A task file says whom to predict for, when, and what: the ACES language, read and checked.

    predicates:                                   # what to look for in the events
      admission: {code: {regex: "^Encounter\.start//ActCode//IMP$"}}
      discharge: {code: {regex: "^Encounter\.end//ActCode//IMP"}}
      death: {code: MEDS_DEATH}
      discharge_or_death: {expr: "or(discharge, death)"}
    trigger: admission                            # one candidate for each moment where this is found
    windows:                                      # stretches of time, fixed one after the other
      input: {start: null, end: trigger + 24h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
      stay: {start: trigger, end: trigger + 24h, ..., has: {discharge_or_death: "(None, 0)"}}
      target: {start: input.end, end: start -> discharge_or_death, ..., label: death}

Source: Xu et al., "ACES: Automatic Cohort Extraction System for Event-Streams", 2024,
https://eventstreamaces.readthedocs.io. Not read: `patient_demographics`, static predicates, other columns than code
and numeric value. They are errors here, never silently ignored.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.yaml_lines import Document, Where, check_keys, load_yaml

ANY_EVENT = "_ANY_EVENT"
TRIGGER = "trigger"
_DEFINITIONS = Path(__file__).parent / "definitions"
_TASK_KEYS = {"description", "metadata", "predicates", "trigger", "windows"}
_PREDICATE_KEYS = {"code", "value_min", "value_max", "value_min_inclusive", "value_max_inclusive", "expr"}
_WINDOW_KEYS = {"start", "end", "start_inclusive", "end_inclusive", "has", "label", "index_timestamp"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_NAME = re.compile(r"\w+$")


@dataclass(frozen=True, slots=True)
class Plain:
    """Events with one of these codes, or a code in which `regex` is found, and a value within bounds."""

    codes: tuple[str, ...] = ()
    regex: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    least_inclusive: bool = False
    most_inclusive: bool = False


@dataclass(frozen=True, slots=True)
class Derived:
    """Moments at which all of (`and`) or at least one of (`or`) the named predicates hold."""

    operator: str
    of: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a window starts or ends: `reference` moved by `offset`, or the event of `predicate` after or before it.

    `reference` is "trigger" or "<window>.start" or "<window>.end"; None is the start or end of the record.
    """

    reference: str | None
    offset: timedelta = timedelta(0)
    predicate: str | None = None
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time with bounds on how many events of a predicate it holds: `has[name] = (least, most)`."""

    name: str
    start: Endpoint
    end: Endpoint
    start_inclusive: bool
    end_inclusive: bool
    has: Mapping[str, tuple[int | None, int | None]]


@dataclass(frozen=True, slots=True)
class Task:
    """A checked task. `endpoints` are the windows' ends in an order in which each needs only earlier ones.

    `index` is the endpoint that is the prediction time; `label` the (window, predicate) whose presence is true.
    """

    name: str
    description: str
    predicates: Mapping[str, Plain | Derived]
    trigger: str
    windows: Mapping[str, Window]
    endpoints: tuple[str, ...]
    index: str
    label: tuple[str, str]


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
    check_keys(document, (), value, _TASK_KEYS, TaskError)
    for key in ("predicates", "trigger", "windows"):
        if not value.get(key):
            raise TaskError(f"{path}:1  lacks `{key}`.")
    predicates = _predicates(document)
    _known(document, ("trigger",), value["trigger"], predicates)
    windows = {name: _window(document, name, predicates) for name in _mapping(document, ("windows",))}
    label_window, label = _only(document, "label")
    _known(document, ("windows", label_window, "label"), label, predicates)
    index_window, side = _only(document, "index_timestamp")
    if side not in ("start", "end"):
        raise TaskError(
            f"{document.at(('windows', index_window, 'index_timestamp'))}  is `{side}`, expected start or end."
        )
    return Task(
        name=path.stem,
        description=str(value.get("description", "")).strip(),
        predicates=predicates,
        trigger=value["trigger"],
        windows=windows,
        endpoints=_order(document, windows),
        index=f"{index_window}.{side}",
        label=(label_window, label),
    )


def _mapping(document: Document, where: Where) -> dict[str, Any]:
    value = document.value
    for key in where:
        value = value[key]
    if not isinstance(value, dict) or not all(isinstance(k, str) and _NAME.match(k) for k in value):
        raise TaskError(f"{document.at(where)}  expected names (letters, digits, _) with what they mean.")
    return value


def _known(document: Document, where: Where, name: str, predicates: Mapping[str, object]) -> str:
    if name not in predicates and name != ANY_EVENT:
        raise TaskError(
            f"{document.at(where)}  `{name}` is not a predicate of this task.{closest(str(name), list(predicates))}"
        )
    return name


def _predicates(document: Document) -> dict[str, Plain | Derived]:
    """All predicates, those that an expression names before the expression."""
    waiting = {name: _predicate(document, name) for name in _mapping(document, ("predicates",))}
    for name, predicate in waiting.items():
        for part in predicate.of if isinstance(predicate, Derived) else ():
            _known(document, ("predicates", name), part, waiting)
    done: dict[str, Plain | Derived] = {}
    while waiting:
        ready = {
            name: one
            for name, one in waiting.items()
            if isinstance(one, Plain) or set(one.of) <= {ANY_EVENT, *done}
        }
        if not ready:
            raise TaskError(
                f"{document.at(('predicates',))}  {', '.join(waiting)} are defined by each other."
            )
        done |= ready
        waiting = {name: one for name, one in waiting.items() if name not in ready}
    return done


def _predicate(document: Document, name: str) -> Plain | Derived:
    where: Where = ("predicates", name)
    value = document.value["predicates"][name]
    check_keys(document, where, value, _PREDICATE_KEYS, TaskError)
    if "expr" in value:
        match = re.fullmatch(r"\s*(and|or)\s*\(([\w\s,]+)\)\s*", str(value["expr"]))
        if len(value) > 1 or not match:
            raise TaskError(
                f"{document.at(where)}  `expr` must stand alone and be like or(discharge, death)."
            )
        return Derived(match[1], tuple(part.strip() for part in match[2].split(",")))
    code = value.get("code")
    if isinstance(code, dict):
        check_keys(document, (*where, "code"), code, {"regex", "any"}, TaskError)
        if "regex" in code:
            return Plain(regex=_regex(document, where, code["regex"]), **_bounds(value))
        code = code.get("any")
    codes = [code] if isinstance(code, str) else code
    if not isinstance(codes, list) or not codes or not all(isinstance(one, str) for one in codes):
        raise TaskError(
            f"{document.at(where)}  needs `code`: a code, {{any: [codes]}} or {{regex: pattern}}; or `expr`."
        )
    return Plain(codes=tuple(codes), **_bounds(value))


def _regex(document: Document, where: Where, pattern: object) -> str:
    import polars as pl

    try:
        pl.Series([""]).str.contains(str(pattern))
    except pl.exceptions.ComputeError as error:
        raise TaskError(
            f"{document.at((*where, 'code'))}  is not a regular expression: {str(pattern)!r}."
        ) from error
    return str(pattern)


def _bounds(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at_least": value.get("value_min"),
        "at_most": value.get("value_max"),
        "least_inclusive": bool(value.get("value_min_inclusive")),
        "most_inclusive": bool(value.get("value_max_inclusive")),
    }


def _window(document: Document, name: str, predicates: Mapping[str, object]) -> Window:
    where: Where = ("windows", name)
    value = document.value["windows"][name]
    check_keys(document, where, value, _WINDOW_KEYS, TaskError)
    for key in ("start", "end", "start_inclusive", "end_inclusive"):
        if key not in value:
            raise TaskError(f"{document.at(where)}  window `{name}` lacks `{key}`.")
    ends = {side: _endpoint(document, name, side, predicates) for side in ("start", "end")}
    within = [side for side in ends if (ends[side].reference or "").split(".")[0] == name]
    if len(within) == 2 or all(end.reference is None for end in ends.values()):
        raise TaskError(f"{document.at(where)}  window `{name}` is tied to nothing outside itself.")
    if ends["start"].reference is None and not value["start_inclusive"]:
        raise TaskError(f"{document.at((*where, 'start_inclusive'))}  must be true where `start` is null.")
    has = {}
    for predicate, bounds in (value.get("has") or {}).items():
        _known(document, (*where, "has"), predicate, predicates)
        has[predicate] = _count(document, (*where, "has", predicate), bounds)
    return Window(
        name, ends["start"], ends["end"], bool(value["start_inclusive"]), bool(value["end_inclusive"]), has
    )


def _count(document: Document, where: Where, bounds: object) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"\(\s*(None|\d+)\s*,\s*(None|\d+)\s*\)", str(bounds))
    if not match:
        raise TaskError(f'{document.at(where)}  is `{bounds}`, expected "(least, most)" as in "(1, None)".')
    least, most = (None if text == "None" else int(text) for text in match.groups())
    return least, most


def _endpoint(document: Document, window: str, side: str, predicates: Mapping[str, object]) -> Endpoint:
    where: Where = ("windows", window, side)
    text = document.value["windows"][window][side]
    if text is None:
        return Endpoint(None)
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:(->|<-|\+|-)\s*(.+?))?\s*", str(text))
    if not match:
        raise TaskError(
            f"{document.at(where)}  is `{text}`. "
            "Expected `null`, `trigger`, `input.end`, `start + 24h` or `start -> death`."
        )
    reference, operator, what = match.groups()
    reference = f"{window}.{reference}" if reference in ("start", "end") else reference
    other = reference.split(".")
    windows = document.value["windows"]
    if reference != TRIGGER and not (
        len(other) == 2 and other[0] in windows and other[1] in ("start", "end")
    ):
        moments = [
            TRIGGER,
            "start",
            "end",
            *(f"{name}.{end}" for name in windows for end in ("start", "end")),
        ]
        raise TaskError(
            f"{document.at(where)}  `{match[1]}` is not a moment of this task.{closest(match[1], moments)}"
        )
    if operator in ("->", "<-"):
        return Endpoint(
            reference, predicate=_known(document, where, what, predicates), backward=operator == "<-"
        )
    offset = _duration(document, where, what) if operator else timedelta(0)
    return Endpoint(reference, -offset if operator == "-" else offset)


def _duration(document: Document, where: Where, text: str) -> timedelta:
    """Read `24h`, `1d 12h`, `30 days`."""
    parts = re.findall(r"(\d+)\s*([a-z]+)", text)
    if (
        not parts
        or re.sub(r"(\d+)\s*([a-z]+)|[\s,]", "", text)
        or not all(unit[0] in _UNITS for _, unit in parts)
    ):
        raise TaskError(
            f"{document.at(where)}  `{text}` is not a duration. Expected one like 24h, 30d or 1d 12h."
        )
    return timedelta(seconds=sum(int(number) * _UNITS[unit[0]] for number, unit in parts))


def _only(document: Document, key: str) -> tuple[str, str]:
    found = [(name, window[key]) for name, window in document.value["windows"].items() if window.get(key)]
    if len(found) != 1:
        raise TaskError(f"{document.at(('windows',))}  {len(found)} windows have `{key}`; exactly one must.")
    return found[0]


def _order(document: Document, windows: Mapping[str, Window]) -> tuple[str, ...]:
    waiting = {
        f"{window.name}.{side}": getattr(window, side)
        for window in windows.values()
        for side in ("start", "end")
    }
    done: list[str] = []
    while waiting:
        ready = [name for name, end in waiting.items() if end.reference in (None, TRIGGER, *done)]
        if not ready:
            raise TaskError(f"{document.at(('windows',))}  {', '.join(sorted(waiting))} wait for each other.")
        done += ready
        waiting = {name: end for name, end in waiting.items() if name not in ready}
    return tuple(done)
