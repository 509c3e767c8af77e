"""Series: values over time that summaries are made of. One code's, several codes' as one, or two combined.

A combined series has a value whenever one of its two parts is measured and the other was not long before: the
oxygenation ratio PaO2 / FiO2, the shock index heart rate / systolic pressure. They are data: `series.yaml`, which
also says which numbers are plausible. Units are those of the record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError
from ehrseq.models.prefix_features import Pairs
from ehrseq.tokens.packing import Ints

SHIPPED = Path(__file__).with_name("series.yaml")
_OPERATIONS = ("ratio", "difference", "product")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Values of any of `codes` [k]; combined with those of `others` [m] where `operation` is given."""

    name: str
    codes: Ints
    others: Ints | None = None
    operation: str | None = None  # ratio: value / other, difference: value - other, product
    within_hours: float = np.inf  # how old the older of the two may be


def code_series(names: Sequence[str], codes: Ints) -> list[Series]:
    """One series for each of `codes` [m] (ids), named as the vocabulary `names` it."""
    return [Series(names[int(code)], np.array([code])) for code in codes]


def shipped_series(names: Sequence[str], path: Path = SHIPPED) -> list[Series]:
    """The series of a file whose codes the vocabulary has; those it lacks are left out.

    Raises: ConfigError for a key or an operation that is not known.
    """
    import yaml

    ids = {name: number for number, name in enumerate(names)}
    found = []
    for name, entry in yaml.safe_load(path.read_text())["series"].items():
        series = _read(name, entry, ids, path)
        if len(series.codes) and (series.others is None or len(series.others)):
            found.append(series)
    return found


def without_implausible(
    names: Sequence[str], code: NDArray[Any], values: NDArray[Any], path: Path = SHIPPED
) -> NDArray[Any]:
    """`values` [N] of tokens with ids `code` [N], NaN where a file's bounds for the code leave them out."""
    import yaml

    low, high = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    bounds = yaml.safe_load(path.read_text())["plausible"]
    for number, name in enumerate(names):
        if name in bounds:
            low[number], high[number] = bounds[name]
    return np.where((values >= low[code]) & (values <= high[code]), values, np.nan)


def _read(name: str, entry: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> Series:
    keys = set(entry) - {"within_hours"}
    if keys == {"any"}:
        return Series(name, _ids(entry["any"], ids))
    if len(keys) != 1 or (operation := keys.pop()) not in _OPERATIONS:
        raise ConfigError(f"{path}: {name} has {', '.join(entry)}; expected any, {', '.join(_OPERATIONS)}.")
    one, other = (_ids(part, ids) for part in entry[operation])
    return Series(name, one, other, operation, float(entry.get("within_hours", np.inf)))


def _ids(codes: Sequence[str], ids: Mapping[str, int]) -> Ints:
    return np.asarray([ids[code] for code in codes if code in ids], np.int64)


def series_pairs(pairs: Pairs, series: Sequence[Series]) -> Pairs:
    """The values of all series: pairs whose `code` is the number of the series, sorted by series, label and time."""
    valued = pairs.take(~np.isnan(pairs.value))
    parts = [_values(valued, one) for one in series]
    return Pairs(
        label=np.concatenate([np.zeros(0, np.int64), *(part.label for part in parts)]),
        code=np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.label) for part in parts]),
        value=np.concatenate([np.zeros(0), *(part.value for part in parts)]),
        hours=np.concatenate([np.zeros(0), *(part.hours for part in parts)]),
    )


def _values(pairs: Pairs, series: Series) -> Pairs:
    mine = np.isin(pairs.code, series.codes)
    if series.others is None:
        return pairs.take(mine)
    theirs = np.isin(pairs.code, series.others)
    both = pairs.take(mine | theirs)
    first = np.isin(both.code, series.codes)
    left, left_hours = _carried(both, first)
    right, right_hours = _carried(both, ~first)
    known = ~np.isnan(left) & ~np.isnan(right) & (np.abs(left_hours - right_hours) <= series.within_hours)
    if series.operation == "ratio":
        known &= right != 0
        value = np.divide(left, right, out=np.zeros_like(left), where=right != 0)
    else:
        value = left - right if series.operation == "difference" else left * right
    return Pairs(both.label[known], both.code[known], value[known], both.hours[known])


def _carried(pairs: Pairs, mine: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The latest value of `mine`, and its hours, at each pair; NaN before the label's first."""
    place = np.maximum.accumulate(np.where(mine, np.arange(len(mine)), -1))
    known = (place >= 0) & (pairs.label[place] == pairs.label)
    return np.where(known, pairs.value[place], np.nan), np.where(known, pairs.hours[place], np.nan)
