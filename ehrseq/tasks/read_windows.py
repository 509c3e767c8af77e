"""The `windows` of a task file: where they start and end, and what they must hold."""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Literal

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.yaml_lines import Document, Where, check_keys
from ehrseq.tasks.language import RECORD_END, RECORD_START, TRIGGER, Each, Endpoint, Window
from ehrseq.tasks.read_predicates import names_in, timed, true_or_false

type Side = Literal["start", "end"]

_KEYS = {"start", "end", "start_inclusive", "end_inclusive", "has", "label", "each", "index_timestamp"}
_UNITS = {
    r"w|wks?|weeks?": 604_800, r"d|days?": 86_400, r"h|hrs?|hours?": 3_600, r"m|mins?|minutes?": 60,
    r"s|secs?|seconds?": 1,
}  # fmt: skip
MIN_PATIENTS = 10  # of the training split that an output needs
_LONGEST = timedelta(days=365_250)


def read_windows(document: Document, predicates: Mapping[str, object]) -> dict[str, Window]:
    """All windows by name. Raises: TaskError."""
    return {name: _window(document, name, predicates) for name in names_in(document, ("windows",))}


def only(document: Document, key: str) -> tuple[str, object]:
    """The one window that has `key`, and what it says. Raises: TaskError if none has it or several do."""
    found = [(name, window[key]) for name, window in document.value["windows"].items() if window.get(key)]
    if len(found) != 1:
        raise TaskError(f"{document.at(('windows',))}  {len(found)} windows have `{key}`; exactly one must.")
    return found[0]


def each(document: Document, label_window: str, labels: list[str]) -> Each | None:
    """`each: {group: …, min_patients: …}` beside the label. Raises: TaskError."""
    where: Where = ("windows", label_window, "each")
    for name, window in document.value["windows"].items():
        if window.get("each") is not None and name != label_window:
            raise TaskError(f"{document.at(('windows', name, 'each'))}  `each` stands beside `label` only.")
    given = document.value["windows"][label_window].get("each")
    if given is None:
        return None
    check_keys(document, where, given, {"group", "min_patients"}, TaskError)
    plain = document.value["predicates"].get(labels[0]) or {}
    if len(labels) > 1 or "expr" in plain:
        raise TaskError(f"{document.at(where)}  `each` needs a label that is one predicate with codes.")
    group, least = given.get("group"), given.get("min_patients", MIN_PATIENTS)
    if group is not None and _groups(group) != 1:
        raise TaskError(
            f"{document.at((*where, 'group'))}  is {group!r}, expected a regular expression with one group (…): what "
            "it finds in a code is the output's name."
        )
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise TaskError(
            f"{document.at((*where, 'min_patients'))}  is `{least}`, expected a count of 1 or more."
        )
    return Each(group, least)


def _groups(pattern: object) -> int:
    try:
        return re.compile(pattern).groups if isinstance(pattern, str) else 0
    except re.error:
        return 0


def order(document: Document, windows: Mapping[str, Window]) -> tuple[str, ...]:
    """All endpoints, each after the one it refers to. Raises: TaskError if they wait for each other."""
    waiting = {
        f"{window.name}.{side}": end.reference
        for window in windows.values()
        for side, end in (("start", window.start), ("end", window.end))
    }
    done: list[str] = []
    while waiting:
        ready = [name for name, reference in waiting.items() if reference in (TRIGGER, *done)]
        if not ready:
            raise TaskError(f"{document.at(('windows',))}  {', '.join(sorted(waiting))} wait for each other.")
        done += ready
        waiting = {name: reference for name, reference in waiting.items() if name not in ready}
    return tuple(done)


def _window(document: Document, name: str, predicates: Mapping[str, object]) -> Window:
    where: Where = ("windows", name)
    value = document.value["windows"][name]
    check_keys(document, where, value, _KEYS, TaskError)
    if name in (TRIGGER, "start", "end"):
        raise TaskError(f"{document.at(where)}  `{name}` cannot be the name of a window. Choose another one.")
    for key in ("start", "end", "start_inclusive", "end_inclusive"):
        if key not in value:
            raise TaskError(f"{document.at(where)}  window `{name}` lacks `{key}`.")
    start, end = (_endpoint(document, name, side, predicates) for side in ("start", "end"))
    _tied(document, where, start, end)
    has = value.get("has") or {}
    if not isinstance(has, dict):
        raise TaskError(
            f'{document.at((*where, "has"))}  expected predicates with bounds: {{death: "(None, 0)"}}.'
        )
    return Window(
        name,
        start,
        end,
        start_inclusive=true_or_false(document, (*where, "start_inclusive"), value["start_inclusive"]),
        end_inclusive=true_or_false(document, (*where, "end_inclusive"), value["end_inclusive"]),
        has={
            timed(document, (*where, "has"), one, predicates): _count(document, (*where, "has", one), bounds)
            for one, bounds in has.items()
        },
    )


def _tied(document: Document, where: Where, start: Endpoint, end: Endpoint) -> None:
    """One end hangs on the other, which lies where it can be seen; and the start comes before the end."""
    name = where[-1]
    inside = (start.reference == f"{name}.end", end.reference == f"{name}.start")
    if all(inside) or any(
        one.reference == f"{name}.{side}" for one, side in ((start, "start"), (end, "end"))
    ):
        raise TaskError(f"{document.at(where)}  window `{name}` is tied to nothing outside itself.")
    if not any(inside):
        raise TaskError(
            f"{document.at(where)}  window `{name}` has two ends from elsewhere. Say one by the other, as in "
            "`end: start + 24h` or `start: end - 24h`."
        )
    if inside[1] and (end.backward or end.offset < timedelta(0)):
        raise TaskError(f"{document.at((*where, 'end'))}  ends before it starts.")
    if inside[0] and ((start.predicate and not start.backward) or start.offset > timedelta(0)):
        raise TaskError(f"{document.at((*where, 'start'))}  starts after it ends.")


def _count(document: Document, where: Where, bounds: object) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"\(\s*(None|\d*)\s*,\s*(None|\d*)\s*\)", str(bounds))
    least, most = (int(text) if text.isdigit() else None for text in match.groups()) if match else (1, 0)
    if least is not None and most is not None and most < least:
        raise TaskError(f'{document.at(where)}  is `{bounds}`, expected "(least, most)" as in "(1, None)".')
    return least, most


def _endpoint(document: Document, window: str, side: str, predicates: Mapping[str, object]) -> Endpoint:
    where: Where = ("windows", window, side)
    text = document.value["windows"][window][side]
    if text is None:
        return (
            Endpoint(f"{window}.end", predicate=RECORD_START, backward=True)
            if side == "start"
            else Endpoint(f"{window}.start", predicate=RECORD_END)
        )
    match = re.fullmatch(r"\s*([\w.]+)\s*(?:(->|<-|\+|-)\s*(.+?))?\s*", str(text))
    if not match:
        raise TaskError(
            f"{document.at(where)}  is `{text}`. "
            "Expected `null`, `trigger`, `input.end`, `start + 24h` or `start -> death`."
        )
    reference, operator, what = _moment(document, where, match[1]), match[2], match[3]
    if operator in ("->", "<-"):
        bound, backward = timed(document, where, what, predicates), operator == "<-"
        if bound == (RECORD_END if backward else RECORD_START):
            raise TaskError(
                f"{document.at(where)}  nothing comes {'after' if backward else 'before'} `{bound}`."
            )
        return Endpoint(reference, predicate=bound, backward=backward)
    offset = duration(document, where, what) if operator else timedelta(0)
    return Endpoint(reference, -offset if operator == "-" else offset)


def _moment(document: Document, where: Where, text: str) -> str:
    windows = document.value["windows"]
    places = [TRIGGER, "start", "end", *(f"{name}.{side}" for name in windows for side in ("start", "end"))]
    if text not in places:
        raise TaskError(
            f"{document.at(where)}  `{text}` is not a moment of this task.{closest(text, places)}"
        )
    return f"{where[1]}.{text}" if text in ("start", "end") else text


def duration(document: Document, where: Where, text: str) -> timedelta:
    """Read `24h`, `1d 12h`, `30 days`, `1 day, 14:20:16`. A month has no fixed length and is refused."""
    text = re.sub(r"\b(\d+):(\d\d):(\d\d)\b", r"\1h \2m \3s", text)
    seconds = 0.0
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*([a-z]+)", text)
    rest = re.sub(r"\d+(?:\.\d+)?\s*[a-z]+|[\s,]", "", text)
    for number, unit in parts:
        length = next((length for names, length in _UNITS.items() if re.fullmatch(names, unit)), None)
        rest += "" if length else unit
        seconds += float(number) * (length or 0)
    if not parts or rest:
        raise TaskError(
            f"{document.at(where)}  `{text}` is not a duration. "
            "Expected weeks, days, hours, minutes or seconds, as in 24h, 30d or 1d 12h."
        )
    if seconds > _LONGEST.total_seconds():
        raise TaskError(f"{document.at(where)}  `{text}` is more than a thousand years.")
    return timedelta(seconds=seconds)
