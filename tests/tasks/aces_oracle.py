"""Random tasks and what they mean: a walk over moments one by one, with the rules of es-aces 0.7.3 written out.

Times are whole hours. `choose` takes a list and returns one of its items, so that hypothesis and a seeded
generator can both drive it.
"""

from collections.abc import Callable
from typing import Any

type Row = tuple[int, int | None, str, float | None]
type Choose = Callable[[list], Any]

CODES = ["T", "A", "B"]
VALUES = [None, 0.7, 1.0, 2.0]
_COUNTS = ["(None, 0)", "(1, None)", "(None, 2)", "(1, 2)", "(2, None)"]


def random_task(choose: Choose) -> dict:
    """A task with two or three windows, in all the ways their ends can be said."""
    hours, flag = choose([1, 2, 3, 5]), [True, False]
    first = choose(
        [
            {"start": None, "end": choose(["trigger", f"trigger + {hours}h", f"trigger - {hours}h"])},
            {"start": "trigger", "end": choose([f"start + {hours}h", "start -> b", "start -> either"])},
            {"start": f"trigger + {hours}h", "end": choose(["start -> b", "start -> _ANY_EVENT"])},
            {"start": f"end - {hours}h", "end": choose(["trigger", "trigger + 2h"])},
            {"start": choose(["end <- b", "end <- t"]), "end": choose(["trigger", f"trigger + {hours}h"])},
            {"start": "trigger -> b", "end": f"start + {hours}h"},
            {"start": f"end - {hours}h", "end": "trigger <- a"},
        ]
    )
    second = {
        "start": choose(["first.end", "first.end", f"first.end + {hours}h", "trigger", "first.start"]),
        "end": choose(["start + 4h", "start -> b", "start -> either", "start -> a", None]),
        "label": choose(["a", "b", "both", "big"]),
    }
    windows = {"first": first, "second": second}
    if choose([True, False, False]):
        windows["third"] = {
            "start": choose(["second.end", "first.end", "trigger"]),
            "end": choose(["start + 2h", "start -> b"]),
        }
    first["index_timestamp"] = choose(["start", "end"])
    for window in windows.values():
        window |= {"start_inclusive": choose(flag), "end_inclusive": choose(flag)}
        bounded = [
            choose(["a", "b", "big", "either", "both", "_ANY_EVENT"]) for _ in range(choose([0, 0, 1, 2]))
        ]
        window["has"] = {name: choose(_COUNTS) for name in bounded}
    bound = {choose(["value_min", "value_max"]): choose([0.7, 1])}
    return {
        "predicates": {
            "t": {"code": "T"},
            "a": {"code": {"any": ["A", "absent"]}},
            "b": {"code": {"regex": "^B$"}},
            "big": {"code": "A", **bound, **{f"{name}_inclusive": choose(flag) for name in bound}},
            "either": {"expr": "or(a, b)"},
            "both": {"expr": "and(either, b)"},
        },
        "trigger": "t",
        "windows": windows,
    }


def oracle(task: dict, rows: list[Row]) -> dict[tuple[int, int], tuple[int, bool]]:
    """(subject, hour of the trigger) of who stays, and their (hour of the prediction, label)."""
    found = {}
    for subject in {row[0] for row in rows}:
        mine = [row for row in rows if row[0] == subject and row[1] is not None]
        moments = {hour: _held(task, [row for row in mine if row[1] == hour]) for _, hour, *_ in mine}
        for trigger in (hour for hour, held in moments.items() if held["t"]):
            places = _lay_out(task, trigger, moments)
            if places is not None:
                count = _count(
                    task["windows"]["second"], "second", places, moments, task["windows"]["second"]["label"]
                )
                found[subject, trigger] = (
                    places[f"first.{task['windows']['first']['index_timestamp']}"],
                    count > 0,
                )
    return found


def _held(task: dict, at: list[Row]) -> dict[str, int]:
    """How often each predicate holds at one moment."""
    held = {name: sum(row[2] == code for row in at) for name, code in (("t", "T"), ("a", "A"), ("b", "B"))}
    held["big"] = sum(
        row[2] == "A" and row[3] is not None and _big(task["predicates"]["big"], row[3]) for row in at
    )
    held["either"] = int(held["a"] > 0 or held["b"] > 0)
    held["both"] = int(held["either"] > 0 and held["b"] > 0)
    return held | {"_ANY_EVENT": 1}


def _big(big: dict, value: float) -> bool:
    (name,) = (key for key in big if key in ("value_min", "value_max"))
    if value == big[name]:
        return big[f"{name}_inclusive"]
    return value > big[name] if name == "value_min" else value < big[name]


def _lay_out(task: dict, trigger: int, moments: dict) -> dict[str, int] | None:
    places = {"trigger": trigger}
    for name, window in task["windows"].items():
        start_last = window["start"] is None or window["start"].startswith("end")
        for side in ("end", "start") if start_last else ("start", "end"):
            place = _place(window, side, name, places, moments)
            if place is None:
                return None
            places[f"{name}.{side}"] = place
        for predicate, bounds in window["has"].items():
            least, most = (None if part == "None" else int(part) for part in bounds.strip("()").split(", "))
            count = _count(window, name, places, moments, predicate)
            if count < (least or 0) or (most is not None and count > most):
                return None
    return places


def _place(window: dict, side: str, name: str, places: dict, moments: dict) -> int | None:
    other = places.get(f"{name}.{'end' if side == 'start' else 'start'}")
    inclusive = window[f"{side}_inclusive"]
    if window[side] is None:
        edge = min(moments) if side == "start" else max(moments)
        beyond = edge < other if side == "start" else edge > other
        return edge if beyond or (inclusive and edge == other) else None
    reference, *rest = window[side].split(" ")
    own = reference in ("start", "end")
    base = other if own else places[reference]
    match rest:
        case []:
            return base
        case ["->", predicate]:
            wanted = (
                h
                for h in moments
                if moments[h][predicate] and (h > base or (h == base and own and inclusive))
            )
            return min(wanted, default=None)
        case ["<-", predicate]:
            wanted = (
                h
                for h in moments
                if moments[h][predicate] and (h < base or (h == base and own and inclusive))
            )
            return max(wanted, default=None)
        case [sign, hours]:
            return base + int(f"{sign}{hours.removesuffix('h')}")
    raise AssertionError(window[side])


def _count(window: dict, name: str, places: dict, moments: dict, predicate: str) -> int:
    start, end = places[f"{name}.start"], places[f"{name}.end"]
    return sum(
        held[predicate]
        for hour, held in moments.items()
        if (start < hour or (start == hour and window["start_inclusive"]))
        and (hour < end or (hour == end and window["end_inclusive"]))
    )
