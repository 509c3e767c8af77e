"""What every metric asks of its arrays before it computes anything."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ehrseq.core.errors import ShapeError, TaskError

type Floats = NDArray[np.float64]
type Integers = NDArray[np.int64]


class UndefinedMetricError(TaskError):
    """The metric has no value on these rows, e.g. an AUROC without a single outcome. Never a silent NaN."""


def checked_labels(labels: ArrayLike) -> Floats:
    """Labels [n] of 0 and 1 (or booleans) as float64. Raises: ShapeError if they are something else."""
    found = np.asarray(labels, dtype=np.float64)
    if found.ndim != 1 or found.size == 0:
        raise ShapeError(f"Labels have shape {found.shape}, expected [n] with n of at least 1.")
    if not np.isin(found, (0.0, 1.0)).all():
        raise ShapeError("Labels hold values other than 0 and 1. Drop rows whose outcome is unknown first.")
    return found


def checked_scores(scores: ArrayLike, labels: Floats, *, probabilities: bool = False) -> Floats:
    """Scores [n] as float64, finite; within [0, 1] if `probabilities`. Raises: ShapeError."""
    found = np.asarray(scores, dtype=np.float64)
    if found.shape != labels.shape:
        raise ShapeError(f"Scores have shape {found.shape}, labels {labels.shape}; expected the same.")
    if not np.isfinite(found).all():
        raise ShapeError(f"{np.count_nonzero(~np.isfinite(found))} scores are not finite numbers.")
    if probabilities and (found.min() < 0.0 or found.max() > 1.0):
        raise ShapeError(f"Probabilities range from {found.min():.3g} to {found.max():.3g}, expected 0 to 1.")
    return found


def checked_weights(weights: ArrayLike | None, labels: Floats) -> Floats:
    """Weights [n] >= 0 with a positive sum, as float64; ones if None. Raises: ShapeError."""
    if weights is None:
        return np.ones_like(labels)
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != labels.shape:
        raise ShapeError(f"Weights have shape {found.shape}, labels {labels.shape}; expected the same.")
    if not np.isfinite(found).all() or found.min() < 0.0 or found.sum() <= 0.0:
        raise ShapeError("Weights must be finite, not negative, and not all zero.")
    return found


def require_both_classes(labels: Floats, weights: Floats) -> None:
    """Raises: UndefinedMetricError unless both outcomes occur with positive weight."""
    positives = float(weights @ labels)
    if positives <= 0.0 or positives >= float(weights.sum()):
        seen = "none has" if positives <= 0.0 else "every one has"
        raise UndefinedMetricError(
            f"Of {labels.size} predictions {seen} the outcome, so this metric has no value. "
            "Evaluate on more patients, or check the task's labels."
        )
