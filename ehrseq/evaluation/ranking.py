"""Metrics of order alone: AUROC, average precision, alerts per true positive; many weightings at once.

The rows are sorted once. A weighting then costs two cumulative sums, over the positives and over the
negatives, read only where a positive stands; ties between scores count one half, as they should.
"""

import numpy as np

from ehrseq.evaluation.checks import Floats, Integers

WORKUP_SENSITIVITY = 0.8  # the sensitivity at which Rajkomar et al. 2018 compare alerts per detection


class Ranking:
    """Rows in order of falling score, ready for any number of weightings.

    `labels` [n] of 0/1 and `scores` [n] are float64; `clusters` [n] says which column of the weights each row
    reads (default: its own), so weights can be given per patient.
    """

    def __init__(self, labels: Floats, scores: Floats, clusters: Integers | None = None) -> None:
        clusters = np.arange(labels.size) if clusters is None else clusters
        positive = labels > 0.5
        high, low = (
            -scores[positive],
            -scores[~positive],
        )  # negated: sorted upward = from the highest score down
        high_order, low_order = np.argsort(high, kind="stable"), np.argsort(low, kind="stable")
        high, low = high[high_order], low[low_order]
        thresholds = np.unique(high)
        self._positives = clusters[positive][high_order]
        self._negatives = clusters[~positive][low_order]
        self._hits_through = np.searchsorted(high, thresholds, side="right")
        self._alarms_above = np.searchsorted(low, thresholds, side="left")
        self._alarms_through = np.searchsorted(low, thresholds, side="right")

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """`auroc`, `auprc` and `workup` for weights [R, clusters] -> [R] each; NaN where undefined.

        `workup` is the number of alerts per true positive at the highest threshold that finds 80 % of the
        positives: the work-up to detection ratio of Rajkomar et al. 2018.
        """
        hits, alarms = _running(weights, self._positives), _running(weights, self._negatives)
        total_hits, total_alarms = hits[:, -1:], alarms[:, -1:]
        found = hits[:, self._hits_through]
        above, through = alarms[:, self._alarms_above], alarms[:, self._alarms_through]
        gained = np.diff(found, axis=1, prepend=0.0)
        raised = found + through
        with np.errstate(divide="ignore", invalid="ignore"):
            beaten = total_alarms - (above + through) / 2.0
            auroc = _dot(gained, beaten) / (total_hits * total_alarms)[:, 0]
            precision = np.divide(found, raised, out=np.zeros_like(found), where=raised > 0.0)
            auprc = _dot(gained, precision) / total_hits[:, 0]
        workup = _alerts_per_hit(found, raised, total_hits)
        undefined = (total_hits * total_alarms)[:, 0] <= 0.0
        return {
            name: np.where(undefined, np.nan, values)
            for name, values in (("auroc", auroc), ("auprc", auprc), ("workup", workup))
        }


def _running(weights: Floats, columns: Integers) -> Floats:
    """Cumulative weight [R, k + 1] over `columns` in order, from 0."""
    sums = np.zeros((weights.shape[0], columns.size + 1))
    np.cumsum(np.take(weights, columns, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _dot(left: Floats, right: Floats) -> Floats:
    return np.asarray(np.einsum("rk,rk->r", left, right))


def _alerts_per_hit(found: Floats, raised: Floats, total: Floats) -> Floats:
    """Alerts per true positive at the first threshold that reaches the sensitivity; NaN without any."""
    if found.shape[1] == 0:
        return np.full(found.shape[0], np.nan)
    first = np.argmax(found >= WORKUP_SENSITIVITY * total - 1e-9, axis=1)[:, None]
    hits = np.take_along_axis(found, first, axis=1)[:, 0]
    alerts = np.take_along_axis(raised, first, axis=1)[:, 0]
    nothing: Floats = np.full(hits.size, np.nan)
    return np.divide(alerts, hits, out=nothing, where=hits > 0.0)
