"""Scores by which public challenges rank their entries, as their rules have them.

- PhysioNet 2012: event 1, min(sensitivity, positive predictivity); event 2, a Hosmer-Lemeshow statistic divided by
  the range of the predicted risks (Silva et al. 2012, Computing in Cardiology 39:245).
- PhysioNet 2019: the utility of hourly sepsis alarms, early ones rewarded (Reyna et al. 2020, Crit Care Med 48:210).
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.checks import Floats, UndefinedMetricError, checked_labels, checked_scores

_EARLIEST, _BEST, _LATEST = -12, -6, 3  # hours from the onset: first, best and last useful alarm
_MOST, _LATE_MISS, _FALSE_ALARM = 1.0, -2.0, -0.05
_SHIFT = 6  # the label turns 1 six hours before the onset


def min_sensitivity_precision(labels: ArrayLike, scores: ArrayLike, threshold: float | None = None) -> float:
    """Challenge 2012, event 1: the smaller of sensitivity and positive predictivity of alerts at >= `threshold`.

    None: the best threshold on these very rows, which flatters: choose it on tuning rows and give it.
    Raises: UndefinedMetricError without a positive; ShapeError.

    >>> min_sensitivity_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.35)
    0.6666666666666666
    """
    y = checked_labels(labels)
    s = checked_scores(scores, y)
    if not y.any():
        raise UndefinedMetricError("No prediction has the outcome, so there is no sensitivity.")
    return float(_smaller(y, s, best_threshold(y, s) if threshold is None else threshold))


def best_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The score at which alerting gives the best event 1; for tuning rows.

    >>> best_threshold([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.35
    """
    y = checked_labels(labels)
    s = checked_scores(scores, y)
    order = np.argsort(-s, kind="stable")
    hits, raised = np.cumsum(y[order]), np.arange(1, y.size + 1)
    whole = np.append(np.diff(s[order]) != 0, True)  # equal scores alert together
    score = np.where(whole, np.minimum(hits / max(y.sum(), 1), hits / raised), -1.0)
    return float(s[order][int(np.argmax(score))])


def _smaller(labels: Floats, scores: Floats, threshold: float) -> float:
    alert = scores >= threshold
    hits = float(labels[alert].sum())
    return min(hits / float(labels.sum()), hits / max(int(alert.sum()), 1))


def range_normalised_hosmer_lemeshow(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """Challenge 2012, event 2: Hosmer-Lemeshow statistic over deciles of risk, divided by their range; 0 is perfect.

    H = sum of (deaths - expected)^2 / (n * mean risk * (1 - mean risk) + 0.001) over `bins` of equal size, divided by
    the mean risk of the last less that of the first. Raises: UndefinedMetricError if all risks are equal or there are
    fewer rows than bins; ShapeError.

    >>> round(range_normalised_hosmer_lemeshow([0, 1, 1, 1], [0.25, 0.25, 0.75, 0.75], bins=2), 4)
    2.6596
    """
    y = checked_labels(labels)
    p = checked_scores(probabilities, y, probabilities=True)
    if y.size < bins:
        raise UndefinedMetricError(f"{y.size} predictions do not fill {bins} bins.")
    order = np.argsort(p, kind="stable")
    edges = np.linspace(0, y.size, bins + 1).round().astype(np.int64)[:-1]
    size = np.diff(np.append(edges, y.size))
    seen, risk = np.add.reduceat(y[order], edges), np.add.reduceat(p[order], edges) / size
    expected = size * risk
    spread = risk[-1] - risk[0]
    if spread <= 0:
        raise UndefinedMetricError("All predicted risks are equal, so there is no range to divide by.")
    return float(((seen - expected) ** 2 / (expected * (1 - risk) + 1e-3)).sum() / spread)


def sepsis_utility(labels: ArrayLike, alarms: ArrayLike, patients: ArrayLike) -> float:
    """Challenge 2019: utility of hourly `alarms`, from 0 (no alarm ever) to 1 (the best possible at each hour).

    `labels` [n] 0/1 as the Challenge gives them (1 from six hours before the onset on), `alarms` [n] 0/1, `patients`
    [n]: one row an hour in ICU, a patient's rows together and in order. Raises: UndefinedMetricError if nobody has
    sepsis; ShapeError.

    >>> labels = [0] * 10 + [1] * 9
    >>> round(sepsis_utility(labels, [0] * 10 + [1] * 9, ["a"] * 19), 3), sepsis_utility(labels, [0] * 19, ["a"] * 19)
    (0.839, 0.0)
    """
    y = checked_labels(labels)
    a = checked_labels(alarms)
    if a.shape != y.shape:
        raise ShapeError(f"Alarms have shape {a.shape}, labels {y.shape}; expected the same.")
    alarm, silence = utility_table(y, patients)
    observed = np.where(a > 0.5, alarm, silence).sum()
    best, nothing = np.maximum(alarm, silence).sum(), silence.sum()
    if best - nothing <= 0:
        raise UndefinedMetricError("Nobody has sepsis, so there is no utility to reach.")
    return float((observed - nothing) / (best - nothing))


def utility_table(labels: ArrayLike, patients: ArrayLike) -> tuple[Floats, Floats]:
    """Utility of an alarm and of silence at each hour: [n], [n]; see `sepsis_utility`."""
    y = checked_labels(labels)
    who = np.asarray(patients)
    if who.shape != y.shape:
        raise ShapeError(f"Patients have shape {who.shape}, labels {y.shape}; expected the same.")
    since = _hours_from_onset(y, who)
    septic = ~np.isnan(since)
    hours = np.where(septic, since, 0.0)
    rising = (hours - _EARLIEST) / (_BEST - _EARLIEST) * _MOST
    falling = (_LATEST - hours) / (_LATEST - _BEST) * _MOST
    alarm = np.maximum(np.minimum(rising, falling), _FALSE_ALARM)
    silence = np.where(hours <= _BEST, 0.0, (hours - _BEST) / (_LATEST - _BEST) * _LATE_MISS)
    after = hours > _LATEST
    alarm, silence = np.where(after, 0.0, alarm), np.where(after, 0.0, silence)
    return np.where(septic, alarm, _FALSE_ALARM), np.where(septic, silence, 0.0)


def _hours_from_onset(labels: Floats, patients: NDArray[np.generic]) -> Floats:
    """Hours since the onset (below 0: until it) at each row; NaN for who never has sepsis."""
    new = np.append(True, patients[1:] != patients[:-1])
    number = np.cumsum(new) - 1
    hour = np.arange(len(labels)) - np.flatnonzero(new)[number]
    first = np.full(number[-1] + 1, np.nan)
    hit = np.flatnonzero(labels > 0.5)[::-1]
    first[number[hit]] = hour[hit]
    found: Floats = hour - (first[number] + _SHIFT)
    return found
