"""The two scores that choose an epoch. Intervals, calibration and subgroups belong to `ehrseq.evaluation`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.tokens.packing import Examples, Ints

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


def task_scores(examples: Examples, rows: Ints, logits: NDArray[np.floating]) -> dict[str, dict[str, Any]]:
    """Loss, AUROC and counts of each task for the labels `rows`, and over all labels under "all".

    `logits` [n], or [n, O] where a task has several outputs; its AUROC is then the mean weighted by how often each
    output is true. None = undefined.
    """
    found, losses, asked = {}, 0.0, 0
    first, single = examples.first_output(), examples.single()
    for number, task in enumerate(examples.tasks):
        mine = examples.task[rows] == number
        said: NDArray[Any] = (
            logits[mine] if logits.ndim == 1 else logits[mine, first[number] : first[number + 1]]
        )
        if examples.several is not None and not single[number]:
            truth = examples.several.dense(rows[mine], number).astype(np.float64)
        else:
            truth, said = examples.value[rows][mine, None].astype(np.float64), said.reshape(-1, 1)
        loss = log_loss(truth.ravel(), said.ravel().astype(np.float64))
        found[str(task)] = {
            "loss": _plain(loss), "auroc": _plain(weighted_auroc(truth, said)), "n": int(mine.sum()),
            "positives": int(truth.sum()),
        }  # fmt: skip
        losses, asked = losses + (loss * truth.size if truth.size else 0.0), asked + truth.size
    known = [scores["auroc"] for scores in found.values() if scores["auroc"] is not None]
    mean = _plain(float(np.mean(known))) if known else None
    found["all"] = {"loss": _plain(losses / asked) if asked else None, "auroc": mean, "n": len(rows)}
    return found


def weighted_auroc(truth: Floats, score: Floats) -> float:
    """Mean AUROC of columns [n, outputs], each weighted by how often it is true; NaN if none has both classes.

    Source: Rajkomar et al. 2018, discharge diagnoses.
    """
    count = truth.sum(0)
    both = np.flatnonzero((count > 0) & (count < len(truth)))
    if not len(both):
        return float("nan")
    each = [auroc(truth[:, column], score[:, column]) for column in both]
    return float(np.average(each, weights=count[both]))


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
