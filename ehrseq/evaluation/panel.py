"""All metrics of one model's predictions at once, for many weightings of its patients.

What needs the order of the scores goes through `Ranking`. Everything else is a sum over rows: those sums
are taken per patient once, and a thousand weightings are then one matrix product.

Two choices keep the bootstrap fast and are exact for the sample itself. The bins of the ECE are cut once, on
the whole sample. The calibration line is refitted by one Newton step from the whole sample's fit: its error
is of the order 1/n, below the bootstrap's own noise from about 50 outcomes on; with fewer, the upper end of
the slope's interval comes out too low. Source: Davidson & MacKinnon 1999, Int Econ Rev 40:487.
"""

import numpy as np

from ehrseq.evaluation.calibration import BINS, equal_mass_bins, expit, fit_intercept, fit_line, logit
from ehrseq.evaluation.checks import Floats, Integers, UndefinedMetricError
from ehrseq.evaluation.ranking import Ranking

METRICS = ("auroc", "auprc", "brier", "ece", "calibration_slope", "calibration_intercept", "workup")
LOWER_IS_BETTER = frozenset({"brier", "ece", "workup"})


class Panel:
    """Labels [n] of 0/1 and probabilities [n] of one model, ready for any number of weightings.

    `clusters` [n] int64 numbers each row's patient from 0 (default: every row is its own patient).
    """

    def __init__(self, labels: Floats, probabilities: Floats, clusters: Integers | None = None) -> None:
        self._clusters = np.arange(labels.size) if clusters is None else clusters
        self._count = int(self._clusters.max()) + 1
        self._ranking = Ranking(labels, probabilities, self._clusters)
        bins = equal_mass_bins(probabilities)
        gap = probabilities - labels
        self._rows = self._per_cluster([np.ones_like(labels), gap * gap])
        self._gaps = self._per_cluster([np.where(bins == number, gap, 0.0) for number in range(BINS)])
        self._fit_calibration(labels, logit(probabilities))
        whole = self._all(np.ones((1, self._count)))
        self._defined = [name for name in METRICS if name in whole and np.isfinite(whole[name]).all()]

    def measure(self, weights: Floats | None = None) -> dict[str, Floats]:
        """Each metric of `METRICS` for weights [R, clusters] -> [R]; None weighs every patient once (R = 1).

        NaN marks a weighting under which the metric has no value; a metric that has none even on the
        unweighted rows (no outcome, say) is left out.
        """
        found = self._all(np.ones((1, self._count)) if weights is None else weights)
        return {name: found[name] for name in self._defined}

    def point(self) -> dict[str, float]:
        """Each metric of the sample as it is."""
        return {name: float(values[0]) for name, values in self.measure().items()}

    def _all(self, weights: Floats) -> dict[str, Floats]:
        mass, square = (weights @ self._rows).T
        ece = np.abs(weights @ self._gaps).sum(axis=1) / mass
        return {
            **self._ranking.measure(weights),
            "brier": square / mass,
            "ece": ece,
            **self._calibration(weights),
        }

    def _per_cluster(self, columns: list[Floats]) -> Floats:
        """Sum columns of [n] over each patient's rows -> [clusters, columns]."""
        sums = [np.bincount(self._clusters, weights=column, minlength=self._count) for column in columns]
        return np.stack(sums, axis=1)

    def _fit_calibration(self, labels: Floats, logits: Floats) -> None:
        once = np.ones_like(labels)
        try:
            self._intercept = fit_intercept(labels, logits, once)
            fitted = expit(self._intercept + logits)
            self._intercept_sums = self._per_cluster([labels - fitted, fitted * (1.0 - fitted)])
        except UndefinedMetricError:
            self._intercept = np.nan
        try:
            base, self._slope = fit_line(labels, logits, once)
            fitted = expit(base + self._slope * logits)
            bend = fitted * (1.0 - fitted)
            error = labels - fitted
            columns = [error, error * logits, bend, bend * logits, bend * logits * logits]
            self._slope_sums = self._per_cluster(columns)
        except UndefinedMetricError:
            self._slope = np.nan

    def _calibration(self, weights: Floats) -> dict[str, Floats]:
        """One Newton step from the whole sample's fit; with unit weights the step is zero."""
        found: dict[str, Floats] = {}
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.isfinite(self._slope):
                g0, g1, h00, h01, h11 = (weights @ self._slope_sums).T
                found["calibration_slope"] = self._slope + (h00 * g1 - h01 * g0) / (h00 * h11 - h01 * h01)
            if np.isfinite(self._intercept):
                gradient, curvature = (weights @ self._intercept_sums).T
                found["calibration_intercept"] = self._intercept + gradient / curvature
        return found
