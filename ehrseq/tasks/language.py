"""What a task file says, as plain values: predicates, moments, windows.

A *moment* is a subject and a time at which something was recorded. `_ANY_EVENT` holds once at every moment.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

ANY_EVENT = "_ANY_EVENT"
RECORD_START = "_RECORD_START"
RECORD_END = "_RECORD_END"
TRIGGER = "trigger"


@dataclass(frozen=True, slots=True)
class Plain:
    """Events with one of these codes, or a code in which `regex` is found, and a value within bounds.

    Values are float32, so bounds are compared as float32 too: 0.7 is at least 0.7.
    """

    codes: tuple[str, ...] = ()
    regex: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    least_inclusive: bool = False
    most_inclusive: bool = False
    columns: tuple[tuple[str, Any], ...] = ()  # other columns and the value each must have
    static: bool = False  # a trait of the patient: an event without a time


@dataclass(frozen=True, slots=True)
class Derived:
    """Moments at which all of (`and`) or at least one of (`or`) the named predicates hold."""

    operator: str
    of: tuple[str, ...]
    static: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a window starts or ends: `reference` moved by `offset`, or the moment of `predicate` after or before it.

    `reference` is "trigger", "<window>.start" or "<window>.end". The record's own start and end (null in the file)
    are the moments RECORD_START before the window's end and RECORD_END after its start.
    """

    reference: str
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
class Repeat:
    """Ask again `every` so often after a trigger, as long as `until` has not come. Not in ACES."""

    every: timedelta
    until: str


@dataclass(frozen=True, slots=True)
class Each:
    """One output for each code of the label's predicate, or for what `group` finds in it. Not in ACES.

    `group`: a regular expression with one group, which is the output's name; None: the code. Outputs that fewer than
    `min_patients` training patients have are not asked.
    """

    group: str | None
    min_patients: int


@dataclass(frozen=True, slots=True)
class Task:
    """A checked task. `endpoints` are the windows' ends in an order in which each needs only earlier ones.

    `index` is the endpoint that is the prediction time; `label` the window, and the predicates whose presence there is
    true: one, or several for a task of several outputs, or `each` code of one. Patients without one of the traits
    `static` are left out.
    """

    name: str
    description: str
    predicates: Mapping[str, Plain | Derived]
    trigger: str
    windows: Mapping[str, Window]
    endpoints: tuple[str, ...]
    index: str
    label: tuple[str, tuple[str, ...]]
    static: tuple[str, ...] = ()
    repeat: Repeat | None = None
    each: Each | None = None

    @property
    def several(self) -> bool:
        """Whether a label has several outputs."""
        return self.each is not None or len(self.label[1]) > 1

    @property
    def names(self) -> frozenset[str]:
        """All predicates that the trigger, the windows and the expressions name, built-in ones included."""
        ends = [end for window in self.windows.values() for end in (window.start, window.end)]
        return frozenset(
            [self.trigger, *self.label[1], *self.static, *([self.repeat.until] if self.repeat else [])]
            + [name for window in self.windows.values() for name in window.has]
            + [end.predicate for end in ends if end.predicate]
            + [part for one in self.predicates.values() if isinstance(one, Derived) for part in one.of]
        )
