"""Ensembles: several models' probabilities made into one, by their mean or by weights fitted on other patients.

Both work on log odds. `mean` needs nothing fitted. `stacked` is a logistic regression on the models' log odds with
weights that cannot be negative and a ridge pull towards the mean: with few labels it stays near the mean, with many it
leaves out who adds nothing. Its intercept and scale also calibrate. Fit it on rows that no model was trained on: the
tuning split, or predictions made out of fold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import ConfigError, ModelError, ShapeError

KINDS = ("mean", "stacked")

Floats = NDArray[np.float64]

_CLIP = 1e-6
_PULL = 10.0  # ridge on the weights' distance from the mean's, in labels' worth of curvature
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Log odds = intercept + sum of weight * log odds of each model."""

    models: tuple[str, ...]
    weights: tuple[float, ...]
    intercept: float = 0.0

    def predict(self, probabilities: Mapping[str, ArrayLike]) -> Floats:
        """Probabilities [n] from each model's [n].

        Raises: ModelError if a model is missing; ShapeError for unequal lengths.
        """
        return _expit(self.intercept + _stack(self.models, probabilities) @ np.asarray(self.weights))

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "models": list(self.models),
            "weights": list(self.weights),
            "intercept": self.intercept,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Ensemble":
        """Read what `to_dict` gave."""
        return cls(tuple(values["models"]), tuple(values["weights"]), float(values["intercept"]))


def mean_of(models: Sequence[str]) -> Ensemble:
    """The mean of the models' log odds.

    >>> mean_of(["a", "b"]).predict({"a": [0.9, 0.5], "b": [0.1, 0.5]}).round(6).tolist()
    [0.5, 0.5]
    """
    if not models:
        raise ConfigError("An ensemble of no model. Name at least one.")
    return Ensemble(tuple(models), (1.0 / len(models),) * len(models))


def fit_ensemble(
    kind: str, probabilities: Mapping[str, ArrayLike], labels: ArrayLike, *, pull: float = _PULL
) -> Ensemble:
    """Fit on each model's probabilities [n] and labels [n] of 0/1 (rows with a NaN label are left out).

    With one class only, or none, among the labels, `stacked` is the mean: nothing can be fitted.
    Raises: ConfigError for another kind; ShapeError for unequal lengths.
    """
    models = tuple(probabilities)
    if kind not in KINDS:
        raise ConfigError(f"ensemble {kind!r}; expected {' or '.join(KINDS)}.")
    mean = mean_of(models)
    y = np.asarray(labels, np.float64)
    x = _stack(models, probabilities)
    if x.shape[0] != len(y):
        raise ShapeError(f"Probabilities of {x.shape[0]} rows, labels of {len(y)}.")
    known = ~np.isnan(y)
    if kind == "mean" or len(np.unique(y[known])) < 2:
        return mean
    weights, intercept = _fit(x[known], y[known], 1.0 / len(models), pull)
    return Ensemble(models, tuple(weights.tolist()), intercept)


def _fit(x: Floats, y: Floats, prior: float, pull: float) -> tuple[Floats, float]:
    """Weights >= 0 and intercept: Newton steps over the models whose weight is not held at 0."""
    scale = float(x.std()) or 1.0
    z = np.column_stack([x / scale, np.ones(len(y))])
    models = x.shape[1]
    centre = np.append(np.full(models, prior * scale), 0.0)
    ridge = np.append(np.full(models, pull), 0.0)
    weight = centre.copy()
    free = np.ones(models + 1, bool)
    for _ in range(_STEPS):
        chance = _expit(z @ weight)
        gradient = z.T @ (y - chance) - ridge * (weight - centre)
        free[:models] = (weight[:models] > 0) | (gradient[:models] > 0)
        curvature = (z * (chance * (1 - chance))[:, None]).T @ z + np.diag(ridge + 1e-9)
        step = np.zeros(models + 1)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        new = weight + np.clip(step, -2, 2)
        new[:models] = np.maximum(new[:models], 0)
        if np.abs(new - weight).max() < 1e-9:
            break
        weight = new
    return weight[:models] / scale, float(weight[-1])


def _stack(models: Sequence[str], probabilities: Mapping[str, ArrayLike]) -> Floats:
    """Log odds [n, models]."""
    if missing := [name for name in models if name not in probabilities]:
        raise ModelError(
            f"The ensemble needs predictions of {missing[0]!r}; given: {', '.join(probabilities)}."
        )
    columns = [np.asarray(probabilities[name], np.float64) for name in models]
    if len({column.shape for column in columns}) > 1:
        raise ShapeError("The models' predictions differ in length. Predict the same rows with each.")
    p = np.clip(np.stack(columns, axis=1), _CLIP, 1 - _CLIP)
    found: Floats = np.log(p) - np.log1p(-p)
    return found


def _expit(x: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return found
