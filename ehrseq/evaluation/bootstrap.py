"""Intervals by resampling patients: all of a patient's rows are drawn together, because they are alike.

A resample is a vector of counts per patient (a multinomial draw), so nothing is copied or sorted again: the
metrics take the counts as weights. All models of a task see the same resamples, so a difference between two
models is computed resample by resample, which removes the noise they share.

The intervals cover the chance of *which patients* were seen. They do not cover the chance in training
(seeds, the split), nor another hospital.

Source: Efron & Tibshirani 1993, chapters 12-14; Field & Welsh 2007 (clusters).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.core.errors import ConfigError, ShapeError
from ehrseq.evaluation.checks import (
    Floats,
    Integers,
    checked_labels,
    checked_scores,
    require_both_classes,
)
from ehrseq.evaluation.panel import Panel

LEVEL = 0.95
REPLICATES = 1000
_CELLS_PER_CHUNK = 1_000_000  # 8 MB of weights at a time: stays in cache, and memory does not grow with rows

type Draws = dict[str, Floats]


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its percentile interval.

    `low` and `high` are None if fewer than two resamples gave a value. `discarded` counts the resamples that
    gave none, usually because only one outcome was drawn.
    """

    value: float
    low: float | None
    high: float | None
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Resamples:
    """`replicates` resamples of `patients` patients; iterating gives weights [chunk, patients], float64.

    The same for the same seed, whatever the size of the chunks.
    """

    patients: int
    replicates: int = REPLICATES
    seed: int = 0
    cells_per_chunk: int = _CELLS_PER_CHUNK

    def __post_init__(self) -> None:
        """Raises: ConfigError if there is nothing to draw from or nothing to draw."""
        if self.patients < 1 or self.replicates < 1:
            raise ConfigError(
                f"Bootstrap of {self.patients} patients, {self.replicates} replicates; expected 1 or more."
            )

    def __iter__(self) -> Iterator[Floats]:
        """Draw the patients with replacement and count each one."""
        source = np.random.default_rng(self.seed)
        chunk = max(1, self.cells_per_chunk // self.patients)
        for start in range(0, self.replicates, chunk):
            rows = min(chunk, self.replicates - start)
            drawn = source.integers(0, self.patients, size=(rows, self.patients))
            drawn += np.arange(rows)[:, None] * self.patients
            counts = np.bincount(drawn.ravel(), minlength=rows * self.patients)
            yield counts.reshape(rows, self.patients).astype(np.float64)


def resample(panels: Mapping[str, Panel], resamples: Resamples) -> dict[str, Draws]:
    """Every metric of every panel under every resample: {model: {metric: [replicates]}}; NaN = undefined."""
    drawn: dict[str, dict[str, list[Floats]]] = {name: {} for name in panels}
    for weights in resamples:
        for name, panel in panels.items():
            for metric, values in panel.measure(weights).items():
                drawn[name].setdefault(metric, []).append(values)
    return {
        name: {metric: np.concatenate(parts) for metric, parts in of.items()} for name, of in drawn.items()
    }


def percentile_interval(value: float, draws: Floats, level: float = LEVEL) -> Interval:
    """Percentile interval of `draws` [replicates] around `value`; NaN draws are discarded and counted.

    >>> percentile_interval(0.5, np.array([0.4, 0.6, np.nan]), level=1.0)
    Interval(value=0.5, low=0.4, high=0.6, discarded=1)
    """
    kept = draws[np.isfinite(draws)]
    discarded = int(draws.size - kept.size)
    if kept.size < 2:
        return Interval(value, None, None, discarded)
    low, high = np.quantile(kept, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(value, float(low), float(high), discarded)


def number_patients(patients: ArrayLike) -> Integers:
    """Patient identifiers [n] (any dtype) -> 0, 1, ... [n] int64, equal where the identifiers are equal.

    >>> number_patients(["b", "a", "b"]).tolist()
    [1, 0, 1]
    """
    _, numbers = np.unique(np.asarray(patients), return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


def intervals(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patients: ArrayLike,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Every metric of one model with its interval. labels, probabilities and patients are [n].

    Raises: UndefinedMetricError if only one outcome occurs; ShapeError.
    """
    panel, count = _panel(labels, probabilities, patients)
    draws = resample({"model": panel}, Resamples(count, replicates, seed))["model"]
    return {
        metric: percentile_interval(value, draws[metric], level) for metric, value in panel.point().items()
    }


def paired_difference(
    labels: ArrayLike,
    probabilities: ArrayLike,
    reference: ArrayLike,
    patients: ArrayLike,
    *,
    metric: str = "auroc",
    replicates: int = REPLICATES,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """`metric` of `probabilities` minus that of `reference`, both on the same rows and resamples; all [n].

    Raises: UndefinedMetricError if only one outcome occurs; ConfigError for an unknown metric; ShapeError.
    """
    left, count = _panel(labels, probabilities, patients)
    right, _ = _panel(labels, reference, patients)
    if metric not in left.point() or metric not in right.point():
        raise ConfigError(f'No metric "{metric}" here; there are {", ".join(left.point())}.')
    draws = resample({"left": left, "right": right}, Resamples(count, replicates, seed))
    value = left.point()[metric] - right.point()[metric]
    return percentile_interval(value, draws["left"][metric] - draws["right"][metric], level)


def _panel(labels: ArrayLike, probabilities: ArrayLike, patients: ArrayLike) -> tuple[Panel, int]:
    y = checked_labels(labels)
    p = checked_scores(probabilities, y, probabilities=True)
    require_both_classes(y, np.ones_like(y))
    numbers = number_patients(patients)
    if numbers.shape != y.shape:
        raise ShapeError(f"Patients have shape {numbers.shape}, labels {y.shape}; expected the same.")
    return Panel(y, p, numbers), int(numbers.max()) + 1
