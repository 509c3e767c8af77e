"""Attributes: what the record says about an event beside its code, as names of the vocabulary.

The line `route//IV` is `attribute//route//IV`, which backs off to `attribute//route` as codes do. The line
`rate=125 mL/h` is `attribute//rate` with a value in a unit, which gets a scale as the values of events do. A number
that has a scale speaks through the name `attribute//rate=`, whose embedding is added as often as the scaled value says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.timeline.schema import Event

MOST_ATTRIBUTES = 24  # of an event: the first ones
PREFIX = "attribute//"
SLOPE = "="  # ends the name that carries a number
_WORD = r"^attribute//[^/]+//(.*)$"
_NUMBER = r"^([^=/]+)=(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)(?: (.*))?$"


@dataclass(frozen=True, slots=True, eq=False)
class Attributes:
    """All attributes [a] of some events, event by event in the order of the record."""

    row: NDArray[np.int64]  # of the event
    code: pl.Series  # String: attribute//<name>//<word>, or attribute//<name> of a number
    unit: pl.Series  # String; "" = none
    value: NDArray[np.float32]  # NaN = a word


def attributes_of(events: pl.DataFrame) -> Attributes:
    r"""Read the attributes of `events`.

    >>> read = attributes_of(pl.DataFrame({"attributes": [None, "route//IV\nrate=125 mL/h"]}))
    >>> read.row.tolist(), read.code.to_list(), read.unit.to_list(), read.value.tolist()
    ([1, 1], ['attribute//route//IV', 'attribute//rate'], ['', 'mL/h'], [nan, 125.0])
    """
    has = np.flatnonzero(events[Event.attributes].is_not_null().to_numpy())
    lines = events[Event.attributes].gather(has).str.split("\n").list.head(MOST_ATTRIBUTES)
    lengths: NDArray[Any] = lines.list.len().to_numpy()
    line = pl.col("line")
    number = line.str.extract(_NUMBER, 2).cast(pl.Float32, strict=False)
    read = pl.DataFrame({"line": lines.explode() if len(has) else pl.Series([], dtype=pl.String)}).select(
        code=pl.lit(PREFIX)
        + pl.when(number.is_not_null()).then(line.str.extract(_NUMBER, 1)).otherwise(line),
        unit=line.str.extract(_NUMBER, 3).fill_null(""),
        value=pl.when(number.is_finite()).then(number).fill_null(np.nan),
    )
    return Attributes(np.repeat(has, lengths), read["code"], read["unit"], read["value"].to_numpy())


def prose_of(code: pl.Series) -> pl.Series:
    """The words of attributes [a] that are more than one, such as a comment; null for the others.

    >>> prose_of(pl.Series(["attribute//route//IV", "attribute//note//Seen by dr A // B", "attribute//rate"])).to_list()
    [None, 'Seen by dr A // B', None]
    """
    word = code.str.extract(_WORD, 1)
    return pl.select(pl.when(word.str.contains(" ", literal=True)).then(word)).to_series()


def slopes(codes: Iterable[str]) -> set[str]:
    """Names that carry the numbers of those `codes` that are attributes."""
    return {code + SLOPE for code in codes if code.startswith(PREFIX)}
