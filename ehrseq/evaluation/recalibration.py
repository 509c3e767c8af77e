"""From a model's probability to a calibrated one with an interval: a line on the log odds, and its resamples.

The line (intercept, slope) is fitted on patients that the weights were not fitted on, with a prior that holds it near
"leave it as it is" (0, 1): few outcomes change little, none change nothing. Resampling patients, and what was held
before, gives further lines; what they make of a prediction is its interval. It says how sure we are of the calibration,
not how much another training would differ, nor another hospital.

Source: Platt 1999 (the line); Steyerberg 2019, Clinical Prediction Models, 15.3 and 20 (updating with a prior);
Bardsley et al. 2014, SIAM J Sci Comput 36:A1895 (randomise then optimise: both the data and the prior's mean).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.evaluation.bootstrap import LEVEL, Resamples, number_patients
from ehrseq.evaluation.calibration import expit, logit
from ehrseq.evaluation.checks import Floats, checked_labels, checked_scores

DRAWS = 200
_AS_IT_IS = np.array([0.0, 1.0])
_PRIOR = np.array([1.0, 0.25])  # standard deviations of intercept and slope, a priori
_STEPS = 50
_ROWS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class Recalibration:
    """A line and its resamples: `line` [2] = intercept and slope, `draws` [R, 2]."""

    line: Floats
    draws: Floats
    n: int
    positives: int

    @classmethod
    def fit(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        patients: ArrayLike,
        *,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Self:
        """Fit on labels, probabilities and patients, all [n]; of no rows it is the prior's.

        Raises: ShapeError.
        """
        y = checked_labels(labels) if len(np.asarray(labels)) else np.zeros(0)
        held = _AS_IT_IS + np.random.default_rng([seed, 1]).normal(size=(draws, 2)) * _PRIOR
        if not y.size:
            return cls(_AS_IT_IS, held, 0, 0)
        x = logit(checked_scores(probabilities, y, probabilities=True))
        clusters = number_patients(patients)
        line = _fit(y, x)
        columns = _sums(y, x, line, clusters)
        resamples = Resamples(int(clusters.max()) + 1, draws, seed)
        sums = np.concatenate([weights @ columns for weights in resamples])
        return cls(line, _step(line, sums, held), y.size, int(y.sum()))

    def apply(self, probabilities: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Calibrated probability, low and high (95 %) of probabilities [n]: each [n].

        >>> flat = Recalibration(np.array([0.0, 1.0]), np.array([[-1.0, 1.0], [1.0, 1.0]]), 0, 0)
        >>> [round(float(x[0]), 2) for x in flat.apply([0.5])]
        [0.5, 0.28, 0.72]
        """
        x = logit(np.asarray(probabilities, np.float64))
        value = expit(self.line[0] + self.line[1] * x)
        low, high = np.empty_like(x), np.empty_like(x)
        for start in range(0, x.size, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            spread = self.draws[:, :1] + self.draws[:, 1:] * x[part]
            low[part], high[part] = np.quantile(spread, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        return value, np.minimum(expit(low), value), np.maximum(expit(high), value)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "line": self.line.tolist(), "draws": self.draws.tolist(), "n": self.n, "positives": self.positives,
        }  # fmt: skip

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(np.asarray(values["line"]), np.asarray(values["draws"]), values["n"], values["positives"])


def _fit(labels: Floats, logits: Floats) -> Floats:
    """The most likely line under the prior. The prior makes the curvature positive: the fit always has an end."""
    line = _AS_IT_IS
    once = np.zeros(labels.size, np.int64)
    for _ in range(_STEPS):
        moved = _step(line, _sums(labels, logits, line, once), _AS_IT_IS)[0]
        done = np.abs(moved - line).max() < 1e-10
        line = line + np.clip(moved - line, -2.0, 2.0)
        if done:
            break
    return line


def _sums(labels: Floats, logits: Floats, line: Floats, clusters: Any) -> Floats:
    """Gradient and curvature of each patient's rows at `line`: [patients, 5]."""
    fitted = expit(line[0] + line[1] * logits)
    error, bend = labels - fitted, fitted * (1 - fitted)
    columns = [error, error * logits, bend, bend * logits, bend * logits * logits]
    return np.stack([np.bincount(clusters, weights=column) for column in columns], axis=1)


def _step(line: Floats, sums: Floats, held: Floats) -> Floats:
    """One Newton step from `line` for sums [R, 5] -> [R, 2]; `held` [2] or [R, 2] is the prior's mean."""
    g0, g1, h00, h01, h11 = np.atleast_2d(sums).T
    pull0, pull1 = ((held - line) / _PRIOR**2).T
    g0, g1 = g0 + pull0, g1 + pull1
    h00, h11 = h00 + 1 / _PRIOR[0] ** 2, h11 + 1 / _PRIOR[1] ** 2
    area = h00 * h11 - h01 * h01
    moved: Floats = line + np.stack([(h11 * g0 - h01 * g1) / area, (h00 * g1 - h01 * g0) / area], axis=1)
    return moved
