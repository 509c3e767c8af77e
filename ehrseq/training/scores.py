"""The two scores that choose an epoch. Intervals, calibration and subgroups belong to `ehrseq.evaluation`."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auroc(label: NDArray[np.floating], score: Floats) -> float:
    """Area under the ROC curve, ties counted half; NaN if only one class is present.

    >>> auroc(np.array([0.0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    positive = label > 0.5
    above, below = int(positive.sum()), int((~positive).sum())
    if above == 0 or below == 0:
        return float("nan")
    _, index, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return float((rank[positive].sum() - above * (above + 1) / 2) / (above * below))


def log_loss(label: NDArray[np.floating], logit: Floats) -> float:
    """Mean binary cross-entropy of logits; NaN without labels.

    >>> round(log_loss(np.array([1.0, 0.0]), np.array([0.0, 0.0])), 4)
    0.6931
    """
    if len(label) == 0:
        return float("nan")
    return float(np.mean(np.logaddexp(0.0, logit) - label * logit))
