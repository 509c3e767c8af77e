"""Calibration after training: a map from a model's probability to a better one, fitted on the tuning split.

Both maps never change the order of two patients (isotonic may make them equal), so the AUROC of Platt's map is that of
the model. Fit them on rows that no weight of the model was fitted on, and never on those that are judged.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.core.errors import ConfigError
from ehrseq.evaluation.calibration import expit, fit_line, logit
from ehrseq.evaluation.checks import Floats, checked_labels, checked_scores, require_both_classes

type Method = Literal["platt", "isotonic"]
METHODS = ("platt", "isotonic")


@dataclass(frozen=True, slots=True, eq=False)
class Calibrator:
    """A fitted map: between the points (`given`, `risk`) [k] it is a straight line, of logits for Platt's."""

    method: str
    given: Floats
    risk: Floats

    def __call__(self, probabilities: ArrayLike) -> Floats:
        """Calibrated probabilities [n] of a model's [n]."""
        found = np.asarray(probabilities, np.float64)
        if self.method == "platt":
            intercept, slope = self.risk
            return expit(intercept + slope * logit(found))
        return np.interp(found, self.given, self.risk)


def fit_calibrator(labels: ArrayLike, probabilities: ArrayLike, method: Method = "platt") -> Calibrator:
    """Fit on labels [n] of 0/1 and a model's probabilities [n] of the tuning split.

    platt: logistic regression on the logit, two numbers: for some dozens of outcomes or more. isotonic: any rising
    steps (pool adjacent violators): for some hundreds of outcomes or more; between two steps it is interpolated.
    Raises: ConfigError for another method; UndefinedMetricError if one outcome occurs, or for Platt if all predictions
    are equal or separate the outcomes; ShapeError.
    Source: Platt 1999; Zadrozny & Elkan 2002.

    >>> fit_calibrator([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], "isotonic")([0.1, 0.2, 0.4]).tolist()
    [0.0, 0.5, 1.0]
    """
    y = checked_labels(labels)
    p = checked_scores(probabilities, y, probabilities=True)
    require_both_classes(y, np.ones_like(y))
    if method == "platt":
        line = fit_line(y, logit(p), np.ones_like(y))
        return Calibrator(method, np.zeros(0), np.asarray(line))
    if method != "isotonic":
        raise ConfigError(f"calibration method {method!r}; expected {' or '.join(METHODS)}.")
    given, risk = _isotonic(p, y)
    return Calibrator(method, given, risk)


def _isotonic(scores: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Least-squares rising fit: the ends of each step, as points."""
    points, place = np.unique(scores, return_inverse=True)
    mass = np.bincount(place).astype(np.float64)
    mean = np.bincount(place, weights=labels) / mass
    blocks: list[tuple[float, float, int]] = []  # mean, mass, points
    for height, weight in zip(mean.tolist(), mass.tolist(), strict=True):
        blocks.append((height, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (low, w0, n0), (high, w1, n1) = blocks[-2:]
            blocks[-2:] = [((low * w0 + high * w1) / (w0 + w1), w0 + w1, n0 + n1)]
    return points, np.repeat([height for height, _, _ in blocks], [count for _, _, count in blocks])
