"""The `predicates` of a task file: what to look for in the events."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.yaml_lines import Document, Where, check_keys
from ehrseq.tasks.language import ANY_EVENT, RECORD_END, RECORD_START, Derived, Plain

_KEYS = {"code", "value_min", "value_max", "value_min_inclusive", "value_max_inclusive", "expr", "static"}
_OTHER = "other_cols"
_TRAITS = "patient_demographics"
_COLUMNS = {"subject_id", "time", "code", "numeric_value", "trigger"}
_NAME = re.compile(r"\w+$")


def read_predicates(document: Document) -> dict[str, Plain | Derived]:
    """All predicates, those that an expression names before the expression. Raises: TaskError."""
    where: Where = ("predicates",)
    waiting = {name: _predicate(document, (*where, name)) for name in names_in(document, where)}
    for name in names_in(document, (_TRAITS,)) if document.value.get(_TRAITS) else ():
        if name in waiting:
            raise TaskError(f"{document.at((_TRAITS, name))}  `{name}` is among `predicates` too. Keep one.")
        waiting[name] = replace(_predicate(document, (_TRAITS, name)), static=True)
    for name, predicate in waiting.items():
        if name in _COLUMNS or name.startswith("_"):
            raise TaskError(
                f"{document.at((*where, name))}  `{name}` is a name of ehrseq's own. Choose another one."
            )
        for part in predicate.of if isinstance(predicate, Derived) else ():
            known(document, (*where, name), part, waiting)
    done: dict[str, Plain | Derived] = {}
    while waiting:
        ready = {
            name: one
            for name, one in waiting.items()
            if isinstance(one, Plain) or set(one.of) <= {ANY_EVENT, *done}
        }
        if not ready:
            raise TaskError(f"{document.at(where)}  {', '.join(waiting)} are defined by each other.")
        done |= ready
        waiting = {name: one for name, one in waiting.items() if name not in ready}
    return done


def names_in(document: Document, where: Where) -> dict[str, Any]:
    """The mapping at `where`, its keys names. Raises: TaskError."""
    value = document.value
    for key in where:
        value = value[key]
    if not isinstance(value, dict) or not all(isinstance(k, str) and _NAME.match(k) for k in value):
        raise TaskError(f"{document.at(where)}  expected names (letters, digits, _) with what they mean.")
    return value


def known(document: Document, where: Where, name: object, predicates: Mapping[str, object]) -> str:
    """`name`, if it is that of a predicate or built in. Raises: TaskError with the nearest."""
    if not isinstance(name, str):
        raise TaskError(f"{document.at(where)}  expected the name of one predicate, not `{name}`.")
    if name not in predicates and name not in (ANY_EVENT, RECORD_START, RECORD_END):
        raise TaskError(
            f"{document.at(where)}  `{name}` is not a predicate of this task.{closest(name, list(predicates))}"
        )
    return name


def timed(document: Document, where: Where, name: object, predicates: Mapping[str, object]) -> str:
    """`name`, if it is that of a predicate with times. Raises: TaskError if it is a patient's trait."""
    found = known(document, where, name, predicates)
    if getattr(predicates.get(found), "static", False):
        raise TaskError(
            f"{document.at(where)}  `{found}` is static: it says whom the task is about and has no time. Use it alone, "
            "or in an `expr`."
        )
    return found


def true_or_false(document: Document, where: Where, value: object) -> bool:
    """`value`, if it is true or false: "false" in quotes is neither. Raises: TaskError."""
    if not isinstance(value, bool):
        raise TaskError(f"{document.at(where)}  is `{value}`, expected true or false without quotes.")
    return value


def _predicate(document: Document, where: Where) -> Plain | Derived:
    value = document.value[where[0]][where[1]]
    # as es-aces does: any other key is a column of the events, unless it looks like a slip of the pen
    columns = {key for key in value if not closest(str(key), _KEYS)} if isinstance(value, dict) else set()
    check_keys(document, where, value, _KEYS | columns, TaskError)
    if "expr" in value:
        return _expression(document, where, value)
    return replace(_plain(document, where, value), **_others(document, where, value))


def _others(document: Document, where: Where, value: Mapping[str, Any]) -> dict[str, Any]:
    """What a plain predicate says of other columns, and whether it is static."""
    given = value.get(_OTHER) or {}
    found = {key: value[key] for key in value if key not in _KEYS | {_OTHER}}
    if not isinstance(given, dict) or not all(
        isinstance(one, str | int | float) for one in [*given.values(), *found.values()]
    ):
        raise TaskError(
            f"{document.at(where)}  expected columns with the value each must have: {{unit: mg/dL}}."
        )
    static = true_or_false(document, (*where, "static"), value.get("static", False))
    return {"columns": tuple(sorted((found | given).items())), "static": static}


def _plain(document: Document, where: Where, value: Mapping[str, Any]) -> Plain:
    code = value.get("code")
    if isinstance(code, dict):
        check_keys(document, (*where, "code"), code, {"regex", "any"}, TaskError)
        if len(code) > 1:
            raise TaskError(f"{document.at((*where, 'code'))}  has `regex` and `any`. Keep one.")
        if "regex" in code:
            return Plain(regex=_regex(document, where, code["regex"]), **_bounds(document, where, value))
        code = code.get("any")
    codes = [code] if isinstance(code, str) else code
    if not isinstance(codes, list) or not codes or not all(isinstance(one, str) for one in codes):
        raise TaskError(
            f"{document.at(where)}  needs `code`: a code, {{any: [codes]}} or {{regex: pattern}}; or `expr`."
        )
    return Plain(codes=tuple(codes), **_bounds(document, where, value))


def _expression(document: Document, where: Where, value: Mapping[str, Any]) -> Derived:
    match = re.fullmatch(r"\s*(and|or)\s*\(\s*(\w+(?:\s*,\s*\w+)+)\s*\)\s*", str(value["expr"]))
    if value.keys() - {"expr", "static"} or not match:
        raise TaskError(
            f"{document.at(where)}  `expr` must stand alone and be like or(discharge, death): two or more "
            "predicates, no expression within another."
        )
    static = true_or_false(document, (*where, "static"), value.get("static", False))
    return Derived(match[1], tuple(part.strip() for part in match[2].split(",")), static)


def _regex(document: Document, where: Where, pattern: object) -> str:
    import polars as pl

    try:
        if isinstance(pattern, str) and pattern:
            pl.Series([""]).str.contains(pattern)
            return pattern
        fault: Exception | None = None
    except pl.exceptions.ComputeError as error:
        fault = error
    raise TaskError(
        f"{document.at((*where, 'code'))}  is not a regular expression that can be used: {pattern!r}. "
        "Look-around and back-references are not."
    ) from fault


def _bounds(document: Document, where: Where, value: Mapping[str, Any]) -> dict[str, Any]:
    for key in ("value_min", "value_max"):
        bound = value.get(key)
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int | float)):
            raise TaskError(f"{document.at((*where, key))}  is `{bound}`, expected a number.")
    flags = {
        side: true_or_false(document, (*where, key), value[key]) if value.get(key) is not None else False
        for side, key in (("least", "value_min_inclusive"), ("most", "value_max_inclusive"))
    }
    return {
        "at_least": value.get("value_min"),
        "at_most": value.get("value_max"),
        "least_inclusive": flags["least"],
        "most_inclusive": flags["most"],
    }
