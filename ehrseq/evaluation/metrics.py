"""One number from labels and predictions: discrimination (AUROC, AUPRC), accuracy (Brier) and calibration.

Arrays in, a float out. Labels are 0/1 [n], predictions [n], weights [n] (a weight of 2 is the row twice).
A metric that has no value on the rows given raises UndefinedMetricError; none ever returns NaN.
"""

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.evaluation import calibration
from ehrseq.evaluation.checks import (
    Floats,
    UndefinedMetricError,
    checked_labels,
    checked_scores,
    checked_weights,
    require_both_classes,
)
from ehrseq.evaluation.ranking import Ranking

__all__ = [
    "UndefinedMetricError",
    "auroc",
    "average_precision",
    "brier",
    "calibration_intercept",
    "calibration_slope",
    "ece",
    "ici",
    "workup_ratio",
]


def auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Chance that a random positive scores above a random negative; ties count one half. 0.5 is a coin.

    Says nothing about calibration, and hides how rare the outcome is: read it beside the AUPRC.
    Raises: UndefinedMetricError if only one outcome occurs; ShapeError.

    >>> auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _ranked("auroc", labels, scores, weights)


def average_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the precision-recall steps (AUPRC), without interpolation. The prevalence is a coin's score.

    Raises: UndefinedMetricError if only one outcome occurs; ShapeError.
    Source: the step sum of scikit-learn's `average_precision_score`; Davis & Goadrich 2006 (no trapezoids).

    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return _ranked("auprc", labels, scores, weights)


def workup_ratio(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Alerts per true positive at the highest threshold that finds 80 % of the positives; 1 is perfect.

    Raises: UndefinedMetricError if only one outcome occurs; ShapeError.
    Source: Rajkomar et al. 2018, work-up to detection ratio.

    >>> workup_ratio([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    1.5
    """
    return _ranked("workup", labels, scores, weights)


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared distance between probability and outcome; 0 is perfect. Raises: ShapeError.

    >>> round(brier([0, 1], [0.2, 0.9]), 3)
    0.025
    """
    y, p, w = _probabilities(labels, probabilities, weights)
    return float(w @ (p - y) ** 2 / w.sum())


def ece(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = calibration.BINS,
) -> float:
    """Expected calibration error: the mean gap between predicted and observed risk over bins of equal mass.

    Sampling noise alone makes it positive, the more so the fewer the rows: compare it with the ECE of the
    true risk, or read the calibration slope. Raises: ShapeError.
    Source: Nguyen & O'Connor 2015, EMNLP (adaptive bins).

    >>> round(ece([0, 1, 1, 1], [0.5, 0.5, 1.0, 1.0], bins=2), 3)
    0.0
    """
    y, p, w = _probabilities(labels, probabilities, weights)
    number = calibration.equal_mass_bins(p, w, bins)
    return float(np.abs(np.bincount(number, weights=w * (p - y))).sum() / w.sum())


def ici(labels: ArrayLike, probabilities: ArrayLike, *, span: float = 0.75) -> float:
    """Integrated calibration index: the mean gap between a prediction and the smoothed observed risk; 0 is perfect.

    No bins: the observed risk is a local straight line over the nearest `span` of the predictions (tricube weights),
    taken at 200 of their quantiles. Raises: UndefinedMetricError if only one outcome occurs; ShapeError.
    Source: Austin & Steyerberg 2019, Stat Med 38:4051.

    >>> round(ici([0, 1] * 50, [0.3, 0.3] * 50), 3)
    0.2
    """
    y, p, w = _probabilities(labels, probabilities, None)
    require_both_classes(y, w)
    return float(np.abs(p - calibration.smoothed_risk(y, p, span)).mean())


def calibration_slope(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Slope of the outcome's log odds on the predicted log odds; 1 is perfect, below 1 is too extreme.

    Raises: UndefinedMetricError if one outcome occurs, all predictions are equal, or they separate the
    outcomes; ShapeError. Source: see `calibration`.
    """
    y, p, w = _probabilities(labels, probabilities, weights)
    require_both_classes(y, w)
    return calibration.fit_line(y, calibration.logit(p), w)[1]


def calibration_intercept(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None
) -> float:
    """Calibration in the large: log odds by which the outcome exceeds the predictions; 0 is perfect.

    Raises: UndefinedMetricError if only one outcome occurs; ShapeError. Source: see `calibration`.
    """
    y, p, w = _probabilities(labels, probabilities, weights)
    require_both_classes(y, w)
    return calibration.fit_intercept(y, calibration.logit(p), w)


def _ranked(name: str, labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> float:
    y = checked_labels(labels)
    s, w = checked_scores(scores, y), checked_weights(weights, y)
    require_both_classes(y, w)
    return float(Ranking(y, s).measure(w[None, :])[name][0])


def _probabilities(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    y = checked_labels(labels)
    return y, checked_scores(probabilities, y, probabilities=True), checked_weights(weights, y)
