"""Which codes of a timeline a task's predicates mean, and what is said when there are none."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from ehrseq.core.errors import TaskError, closest
from ehrseq.core.progress import log
from ehrseq.tasks.language import Derived, Plain, Task
from ehrseq.timeline.meds import CODES

_SHOWN = 3  # predicates that an error describes
_LOOKED_AT = 20_000  # codes that are compared by spelling; more would take seconds


class DegenerateTaskError(TaskError):
    """The labels are all the same, or there are none: nothing can be learned or measured."""

    degenerate = True


def matching_codes(task: Task, timeline: Path) -> dict[str, list[str]]:
    """The timeline's codes that each plain predicate means.

    Raises: TaskError if the trigger has none; DegenerateTaskError if another predicate has none without which nobody
    can be labelled, or none of the outcomes has any.
    """
    have = pl.read_parquet(timeline / CODES, columns=["code"])["code"].sort()
    plain = {name: one for name, one in task.predicates.items() if isinstance(one, Plain)}
    codes = {name: matching(one, have) for name, one in plain.items()}
    missing = sorted(name for name, found in codes.items() if not found and name in task.names)
    if missing:
        log(
            "label",
            task=task.name,
            note="predicates without a code in this timeline",
            predicates=", ".join(missing),
        )
    for needed in _needed(task):
        if absent := _without_codes(task, needed, set(missing)):
            error = TaskError if needed == task.trigger else DegenerateTaskError
            raise error(_nothing_matches(task, absent, plain, have, timeline))
    outcomes = [_without_codes(task, name, set(missing)) for name in task.label[1]]
    if all(outcomes):
        absent = list(dict.fromkeys(name for of in outcomes for name in of))
        raise DegenerateTaskError(_nothing_matches(task, absent, plain, have, timeline))
    return codes


def _nothing_matches(
    task: Task, absent: Sequence[str], plain: Mapping[str, Plain], have: pl.Series, timeline: Path
) -> str:
    said = "; ".join(
        f"no event of {timeline} is a `{name}` ({pattern(plain[name])}).{nearest(plain[name], have)}"
        for name in absent[:_SHOWN]
    )
    more = f" So it is of {len(absent) - _SHOWN} more predicates." if len(absent) > _SHOWN else ""
    return f"{task.name}: {said}{more} See the timeline's metadata/codes.parquet."


def check_columns(task: Task, shard: Path) -> None:
    """Raises: TaskError if a predicate asks for a column that the events do not have, or of another type."""
    have = pl.read_parquet_schema(shard)
    for name, one in task.predicates.items():
        for column, value in one.columns if isinstance(one, Plain) else ():
            if column not in have:
                raise TaskError(
                    f"{task.name}: predicate `{name}` asks for column `{column}`, which the events do not have."
                    f"{closest(column, list(have))}"
                )
            if (have[column] == pl.String) != isinstance(value, str):
                raise TaskError(
                    f"{task.name}: predicate `{name}` compares column `{column}` ({have[column]}) with `{value}`."
                )


def pattern(predicate: Plain) -> str:
    """What a predicate looks for, as the file says it."""
    return predicate.regex if predicate.regex is not None else ", ".join(predicate.codes)


def nearest(predicate: Plain, have: pl.Series) -> str:
    """` Closest: "x", "y".`: up to three codes spelled like what a predicate looks for."""
    wanted = predicate.codes or (re.sub(r"\\(.)|[\^$()|?*+\[\]]", r"\1", predicate.regex or ""),)
    root = wanted[0].split("//")[0]
    alike = have.filter(have.str.starts_with(root + "//")) if root else have
    pool = (alike if len(alike) else have).head(_LOOKED_AT).to_list()
    found = dict.fromkeys(match for one in wanted for match in get_close_matches(one, pool, n=3, cutoff=0.5))
    shown = ", ".join(f'"{one}"' for one in list(found)[:3])
    return f" Closest: {shown}." if shown else ""


def matching(predicate: Plain, have: pl.Series) -> list[str]:
    """The codes in `have` that a predicate means."""
    if predicate.regex is not None:
        return have.filter(have.str.contains(predicate.regex)).to_list()
    return have.filter(have.is_in(list(predicate.codes))).to_list()


def _needed(task: Task) -> list[str]:
    """Predicates without which there is no label; the trigger first."""
    ends = [end.predicate for window in task.windows.values() for end in (window.start, window.end)]
    least = [name for window in task.windows.values() for name, (least, _) in window.has.items() if least]
    named = [task.trigger, *filter(None, ends), *least, *task.static]
    return [name for name in dict.fromkeys(named) if name in task.predicates]


def _without_codes(task: Task, name: str, missing: set[str]) -> list[str]:
    """Plain predicates whose absence keeps `name` from ever holding."""
    one = task.predicates.get(name)
    if not isinstance(one, Derived):
        return [name] if name in missing else []
    parts = [_without_codes(task, part, missing) for part in one.of]
    if one.operator == "and" or all(parts):
        return list(dict.fromkeys(plain for part in parts for plain in part))
    return []
