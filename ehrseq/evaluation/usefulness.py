"""What a model would do on a ward: net benefit of acting on it, alerts a day, and both at a chosen threshold.

Net benefit at a threshold t counts a true alert as 1 and a false one as t / (1 - t): who acts at a risk of 10 % holds
one missed case to be as bad as nine needless work-ups. Read it beside acting on all and acting on nobody (0).
Source: Vickers & Elkin 2006, Med Decis Making 26:565.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.checks import (
    Floats,
    UndefinedMetricError,
    checked_labels,
    checked_scores,
    require_both_classes,
)

THRESHOLDS = np.arange(1, 51) / 100.0


@dataclass(frozen=True, slots=True, eq=False)
class DecisionCurve:
    """Net benefit per prediction at each threshold [t]: of acting on the model's alerts, and of acting on all."""

    threshold: Floats
    model: Floats
    everyone: Floats


def decision_curve(
    labels: ArrayLike, probabilities: ArrayLike, thresholds: ArrayLike = THRESHOLDS
) -> DecisionCurve:
    """Net benefit at `thresholds` [t], each within (0, 1). Raises: ShapeError.

    >>> curve = decision_curve([0, 0, 0, 1], [0.1, 0.1, 0.6, 0.7], [0.5, 0.2])
    >>> curve.model.tolist(), curve.everyone.tolist()
    ([0.0, 0.1875], [-0.5, 0.0625])
    """
    y = checked_labels(labels)
    p = checked_scores(probabilities, y, probabilities=True)
    t = np.asarray(thresholds, np.float64)
    if t.ndim != 1 or np.any((t <= 0) | (t >= 1)):
        raise ShapeError("Thresholds must be a list of numbers between 0 and 1, both excluded.")
    odds = t / (1 - t)
    order = np.argsort(p, kind="stable")
    hits = np.append(np.cumsum(y[order][::-1])[::-1], 0)[np.searchsorted(p[order], t)]
    alerts = y.size - np.searchsorted(p[order], t)
    share = y.mean()
    return DecisionCurve(t, (hits - (alerts - hits) * odds) / y.size, share - (1 - share) * odds)


@dataclass(frozen=True, slots=True)
class Alerts:
    """What alerting at or above `threshold` gives. `per_patient_day` is None where no days are known."""

    threshold: float
    sensitivity: float
    precision: float
    workup: float  # alerts for each true one
    per_patient_day: float | None


def alerts_at(
    labels: ArrayLike, scores: ArrayLike, *, sensitivity: float = 0.8, patient_days: float | None = None
) -> Alerts:
    """Alerts at the highest threshold that finds at least `sensitivity` of the positives.

    `patient_days`: days that the predictions cover, all patients together; a prediction a day each makes it n.
    Raises: UndefinedMetricError if only one outcome occurs or there are no days; ShapeError.

    >>> alerts_at([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], patient_days=6)
    Alerts(threshold=0.35, sensitivity=1.0, precision=0.6666666666666666, workup=1.5, per_patient_day=0.5)
    """
    y = checked_labels(labels)
    s = checked_scores(scores, y)
    require_both_classes(y, np.ones_like(y))
    if patient_days is not None and patient_days <= 0:
        raise UndefinedMetricError(f"{patient_days} patient-days; expected more than 0.")
    hits = np.sort(s[y > 0.5])[::-1]
    threshold = float(hits[max(int(np.ceil(sensitivity * hits.size - 1e-9)), 1) - 1])
    found, raised = int((hits >= threshold).sum()), int((s >= threshold).sum())
    a_day = None if patient_days is None else raised / patient_days
    return Alerts(threshold, found / hits.size, found / raised, raised / found, a_day)
