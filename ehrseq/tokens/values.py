"""Numbers made comparable: per code and unit, quantile bins and a robust location and scale.

A value of 7.2 means nothing without its code and unit, so the same code in two units has two scales, and nothing is
ever converted. Quantiles are exact (inverse of the empirical distribution, integer arithmetic), so they depend
neither on the order of the rows nor on how they were spread over shards.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

CLIP = 5.0
MOST_UNITS = 1 << 15  # unit ids are int16
_PARTS = 200  # quantiles of the scale are counted in 200ths: 0.5 % and 99.5 % are the farthest
# (lower, upper) in 200ths and the distance between them in standard deviations of a normal distribution
_SPREADS = ((50, 150, 1.3490), (10, 190, 3.2897), (1, 199, 5.1517))


@dataclass(frozen=True, slots=True, eq=False)
class ValueScales:
    """K scales, sorted by (code, unit). Of one code, the unit with most events is the canonical one."""

    code: NDArray[np.int32]  # [K] id in the vocabulary's codes
    unit: NDArray[np.int32]  # [K] id in the vocabulary's units; 0 = no unit
    events: NDArray[np.int64]  # [K] training events behind the scale
    median: NDArray[np.float32]  # [K]
    scale: NDArray[np.float32]  # [K] > 0: standard deviation of a normal distribution with the same quartiles
    edges: NDArray[np.float32]  # [K, B - 1] quantiles 1/B .. (B-1)/B

    def __len__(self) -> int:
        return len(self.code)

    @classmethod
    def fit(cls, keys: NDArray[np.int64], values: NDArray[Any], counts: NDArray[np.int64], bins: int) -> Self:
        """Scales of distinct `values` [n] with their `counts` [n], sorted by (key, value).

        `keys` [n] is `key_of` the code and unit. Equal values fall in one bin, so a bin may stay empty. The scale is
        taken from the quartiles; if they are equal, from 5 % and 95 %, then 0.5 % and 99.5 %, else it is 1.
        """
        first = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
        below = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        total = np.diff(np.append(below[first], below[-1]))

        def quantile(part: int, parts: int) -> NDArray[Any]:
            rank = below[first] + np.maximum(-(-total * part // parts), 1)
            found: NDArray[Any] = values[np.searchsorted(below[1:], rank)]
            return found

        scale = np.zeros(len(first))
        for lower, upper, deviations in _SPREADS:
            spread = quantile(upper, _PARTS).astype(np.float64) - quantile(lower, _PARTS)
            scale = np.where(scale > 0, scale, spread / deviations)
        edges = [quantile(part, bins) for part in range(1, bins)]
        code, unit = np.divmod(keys[first], MOST_UNITS)
        return cls(
            code=code.astype(np.int32),
            unit=unit.astype(np.int32),
            events=total,
            median=quantile(1, 2).astype(np.float32),
            scale=np.where(scale > 0, scale, 1).astype(np.float32),
            edges=np.stack(edges, axis=1).astype(np.float32)
            if edges
            else np.zeros((len(first), 0), np.float32),
        )

    def grown(self, later: "ValueScales") -> "ValueScales":
        """These scales and those of `later` for what has none here."""
        new = ~np.isin(key_of(later.code, later.unit), key_of(self.code, self.unit))
        order = np.argsort(
            np.concatenate([key_of(self.code, self.unit), key_of(later.code, later.unit)[new]])
        )
        names = ("code", "unit", "events", "median", "scale", "edges")
        both = {name: np.concatenate([getattr(self, name), getattr(later, name)[new]]) for name in names}
        return ValueScales(**{name: values[order] for name, values in both.items()})

    def find(self, code: NDArray[Any], unit: NDArray[Any]) -> NDArray[np.int64]:
        """Row of the scale for each code and unit [n]; -1 = there is none."""
        if not len(self):
            return np.full(len(code), -1)
        known, wanted = key_of(self.code, self.unit), key_of(code, unit)
        place = np.minimum(np.searchsorted(known, wanted), len(self) - 1)
        return np.where((known[place] == wanted) & (unit >= 0), place, -1)

    def apply(self, row: NDArray[np.int64], value: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Scale rows [n] (-1 = none) and values [n] -> normalised value [n] float32 (NaN = none) and bin [n] int16.

        The bin counts the edges below the value, from 1; 0 = no value.
        """
        scaled, bins = np.full(len(value), np.nan, np.float32), np.zeros(len(value), np.int16)
        known = np.flatnonzero((row >= 0) & ~np.isnan(value))
        which, x = row[known], value[known]
        distance = (x.astype(np.float64) - self.median[which]) / self.scale[which]
        scaled[known] = np.clip(distance, -CLIP, CLIP)
        above = np.ones(len(known), np.int16)
        for edge in self.edges.T:
            above += x > edge[which]
        bins[known] = above
        return scaled, bins

    def to_json(self) -> dict[str, Any]:
        """As plain lists; float32 as the shortest decimal that reads back the same."""
        return {
            "code": self.code.tolist(),
            "unit": self.unit.tolist(),
            "events": self.events.tolist(),
            "median": _short(self.median),
            "scale": _short(self.scale),
            "edges": [_short(row) for row in self.edges],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], bins: int) -> Self:
        """Read what `to_json` gave."""
        return cls(
            code=np.asarray(content["code"], np.int32),
            unit=np.asarray(content["unit"], np.int32),
            events=np.asarray(content["events"], np.int64),
            median=np.asarray(content["median"], np.float32),
            scale=np.asarray(content["scale"], np.float32),
            edges=np.asarray(content["edges"], np.float32).reshape(len(content["code"]), bins - 1),
        )


def key_of(code: NDArray[Any], unit: NDArray[Any]) -> NDArray[np.int64]:
    """One number for code and unit ids [n], ordered as the pair is."""
    key: NDArray[np.int64] = code.astype(np.int64) * MOST_UNITS + unit
    return key


def _short(values: NDArray[np.float32]) -> list[float]:
    return [float(str(value)) for value in values]
