"""The points of ROC, precision-recall and calibration curves, thinned for drawing, with bootstrap bands."""

from dataclasses import dataclass

import numpy as np

from ehrseq.evaluation.bootstrap import Resamples
from ehrseq.evaluation.calibration import equal_mass_bins
from ehrseq.evaluation.checks import Floats, Integers

GRID = np.linspace(0.0, 1.0, 101)
_BAND_REPLICATES = 200  # enough for a band a few pixels wide
_QUANTILES = [0.025, 0.975]


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed risk over bins of equal mass, [bins] each; `low`, `high`: 95 % intervals."""

    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats


def roc_points(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """(false positive rate, true positive rate), from (0, 0) to (1, 1), at most a few hundred points."""
    hits, alarms = _running(labels, scores)
    return _thinned(alarms / alarms[-1], hits / hits[-1])


def precision_recall_points(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """(recall, precision) at each threshold that finds a positive: the steps whose area is the AUPRC."""
    hits, alarms = _running(labels, scores)
    gained = np.flatnonzero(np.diff(hits)) + 1
    hits_there = hits[gained]
    return _thinned(hits_there / hits[-1], hits_there / (hits_there + alarms[gained]))


def roc_band(labels: Floats, scores: Floats, clusters: Integers, seed: int = 0) -> tuple[Floats, Floats]:
    """Pointwise 95 % band of the true positive rate at the false positive rates of `GRID`, by patients."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), order.size - 1)
    positive = labels[order]
    drawn = []
    for weights in Resamples(int(clusters.max()) + 1, _BAND_REPLICATES, seed):
        for row in weights[:, clusters[order]]:
            hits, alarms = np.cumsum(row * positive)[ends], np.cumsum(row * (1.0 - positive))[ends]
            if hits[-1] > 0.0 and alarms[-1] > 0.0:
                rates = np.append(0.0, alarms / alarms[-1]), np.append(0.0, hits / hits[-1])
                drawn.append(np.interp(GRID, *rates))
    low, high = np.quantile(np.array(drawn), _QUANTILES, axis=0)
    return low, high


def reliability(labels: Floats, probabilities: Floats, clusters: Integers, seed: int = 0) -> Reliability:
    """The calibration curve with intervals by resampling patients; bins without rows are left out."""
    bins = equal_mass_bins(probabilities)
    used = np.unique(bins)
    size = int(clusters.max()) + 1

    def per_patient(values: Floats) -> Floats:
        parts = [
            np.bincount(clusters, weights=np.where(bins == number, values, 0.0), minlength=size)
            for number in used
        ]
        return np.stack(parts, axis=1)

    mass, hits, sums = (per_patient(values) for values in (np.ones_like(labels), labels, probabilities))
    drawn = []
    for weights in Resamples(size, _BAND_REPLICATES, seed):
        weight = weights @ mass
        drawn.append(np.divide(weights @ hits, weight, out=np.full_like(weight, np.nan), where=weight > 0.0))
    low, high = np.nanquantile(np.concatenate(drawn), _QUANTILES, axis=0)
    total = mass.sum(axis=0)
    return Reliability(sums.sum(axis=0) / total, hits.sum(axis=0) / total, low, high)


def _running(labels: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Cumulative positives and negatives from 0, one point per distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), order.size - 1)
    hits = np.cumsum(labels[order])[ends]
    return np.append(0.0, hits), np.append(0.0, ends + 1.0 - hits)


def _thinned(x: Floats, y: Floats, most: int = 400) -> tuple[Floats, Floats]:
    """At most about `most` points: the first, the last and others evenly spread along the curve's length."""
    if x.size <= most:
        return x, y
    length = np.cumsum(np.abs(np.diff(x, prepend=x[0])) + np.abs(np.diff(y, prepend=y[0])))
    kept = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], most)))
    kept = np.unique(np.concatenate([[0], kept, [x.size - 1]]))
    return x[kept], y[kept]
