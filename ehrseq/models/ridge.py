"""Logistic regression on summary features that need no care: ranks instead of values, bends, and missingness.

Each column becomes its normal score (the normal quantile of its rank among the training rows), a bend (its square, so
that both low and high can be bad), and whether it is missing; then a ridge penalty on all of them. Outliers, units and
skew do not matter. A rival of boosted trees on some thousand patients, and the better half of an ensemble with them.
scikit-learn is imported when it is first used.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_KNOTS = 101  # quantiles that a column's ranks are read from
_FARTHEST = 2.5  # normal scores beyond are cut
_BEND, _MISSING = (
    0.4,
    0.7,
)  # scales of the two other columns beside the normal score's 1: how much they are shrunk
_FEWEST = 0.03  # share of rows that must have a value


@dataclass(frozen=True, slots=True, eq=False)
class NormalScores:
    """Quantiles of each kept column, fitted on training rows."""

    columns: NDArray[np.int64]  # [m] those that are kept
    knots: Floats  # [m, _KNOTS] values at the quantiles, rising
    scores: Floats  # [m, _KNOTS] normal score of each knot; equal knots share theirs

    @classmethod
    def fit(cls, features: Floats) -> "NormalScores":
        """Fit on [n, columns]; NaN = missing. Columns that are nearly never there or constant are left out."""
        from scipy.special import ndtri  # type: ignore[import-untyped]

        there = np.isfinite(features)
        shares = np.linspace(0, 1, _KNOTS)
        kept, knots, scores = [], [], []
        for column in np.flatnonzero(there.mean(axis=0) >= _FEWEST):
            values = np.sort(features[there[:, column], column])
            if values[0] == values[-1]:
                continue
            at = np.quantile(values, shares)
            low, high = (np.searchsorted(values, at, side) for side in ("left", "right"))
            middle = np.clip((low + high) / 2 / len(values), 0.5 / len(values), 1 - 0.5 / len(values))
            kept.append(column)
            knots.append(at)
            scores.append(np.clip(ndtri(middle), -_FARTHEST, _FARTHEST))
        width = (len(kept), _KNOTS)
        return cls(
            np.asarray(kept, np.int64),
            np.asarray(knots, np.float32).reshape(width),
            np.asarray(scores, np.float32).reshape(width),
        )

    def transform(self, features: Floats) -> Floats:
        """[n, columns] -> [n, 3 m] float32: normal scores, bends, missingness."""
        n, m = len(features), len(self.columns)
        out = np.zeros((n, 3 * m), np.float32)
        for place, column in enumerate(self.columns):
            value = features[:, column]
            there = np.isfinite(value)
            score = np.interp(value[there], self.knots[place], self.scores[place])
            out[there, place] = score
            out[there, m + place] = _BEND * (score * score - 1)
            out[~there, 2 * m + place] = _MISSING
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Ridge:
    """A fitted regression."""

    scores: NormalScores
    weights: Floats  # [3 m]
    intercept: float

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Probabilities [n]."""
        logits = self.scores.transform(features) @ self.weights + self.intercept
        return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def fit_ridge(features: Floats, labels: NDArray[Any], penalty: float = 1.0) -> Ridge:
    """Fit on [n, columns] and labels [n] within 0 to 1; a label of 0.3 is three tenths of an outcome.

    `penalty` is per column: it means the same for any number of them.
    """
    from sklearn.linear_model import LogisticRegression

    scores = NormalScores.fit(features)
    design = scores.transform(features)
    strength = 1.0 / (penalty * max(design.shape[1], 1))
    model = LogisticRegression(C=strength, tol=1e-3, max_iter=200)
    if np.isin(labels, (0, 1)).all():
        model.fit(design, labels)
    else:
        weight = np.concatenate([labels, 1 - labels])
        row = np.flatnonzero(weight > 0)
        model.fit(design[row % len(labels)], row < len(labels), sample_weight=weight[row])
    return Ridge(scores, model.coef_[0].astype(np.float32), float(model.intercept_[0]))
