"""The baseline of tasks with several outputs: a logistic regression of each output on counts, all fitted at once.

Outputs share one feature matrix, so hundreds of regressions are one L-BFGS problem of matrix products. One ridge
penalty for all is chosen on the tuning split, as for the other baselines.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.models.prefix_features import Floats, log_counts
from ehrseq.tokens.packing import Examples, Ints

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

_WINDOWS_HOURS = (24.0, 720.0, np.inf)
_PENALTIES = (0.003, 0.01, 0.03)  # inverse strengths of the ridge penalty that are tried
_CODES = 500  # most frequent codes of the training split
_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class SeveralLogistic:
    """Weights [features + 1, outputs] of one task; `columns` are the features within `log_counts`."""

    columns: Ints
    codes: int
    weights: Floats
    chosen: float

    def predict(self, store: "TokenStore", examples: Examples, rows: Ints) -> NDArray[np.float32]:
        """Probabilities [len(rows), outputs]."""
        logits = _features(store, examples, rows, self.columns, self.codes) @ self.weights
        found: NDArray[np.float32] = (1 / (1 + np.exp(-logits))).astype(np.float32)
        return found


def fit_several(store: "TokenStore", examples: Examples, task: int) -> SeveralLogistic:
    """Fit on the labels of `task` (a number within `examples.tasks`) in the training split."""
    assert examples.several is not None
    columns, codes = _columns(store), len(store.vocabulary["codes"])
    rows = {split: _rows(examples, split, task) for split in ("train", "tuning")}
    features = {split: _features(store, examples, mine, columns, codes) for split, mine in rows.items()}
    truth = {split: examples.several.dense(mine, task).astype(np.float64) for split, mine in rows.items()}
    tried = {}
    weights = _start(truth["train"], features["train"].shape[1])
    for strength in _PENALTIES:
        weights = _fit(features["train"], truth["train"], strength, weights)
        tried[strength] = weights
    losses = {one: _loss(features["tuning"] @ found, truth["tuning"]) for one, found in tried.items()}
    best = min(losses, key=lambda one: losses[one])
    return SeveralLogistic(columns, codes, tried[best], best)


def _rows(examples: Examples, split: str, task: int) -> Ints:
    rows = examples.rows(split)
    mine: Ints = rows[(examples.task[rows] == task) & ~np.isnan(examples.value[rows])]
    return mine


def _columns(store: "TokenStore") -> Ints:
    """The commonest codes of the training subjects in each window, and the two columns of the age."""
    offsets, codes = np.asarray(store.offsets), len(store.vocabulary["codes"])
    mine = np.repeat(np.asarray(store.split) == 0, np.diff(offsets))
    counts = np.bincount(np.asarray(store.code)[mine], minlength=codes)
    top = np.sort(np.argsort(-counts, kind="stable")[:_CODES])
    windows = len(_WINDOWS_HOURS)
    return np.concatenate(
        [*(top + window * codes for window in range(windows)), windows * codes + np.arange(2)]
    )


def _features(store: "TokenStore", examples: Examples, rows: Ints, columns: Ints, codes: int) -> Any:
    """Sparse [len(rows), features + 1]; the last column is 1."""
    from scipy import sparse  # type: ignore[import-untyped]

    if not len(rows):
        return sparse.csr_matrix((0, len(columns) + 1))
    counts = log_counts(store, examples, rows, _WINDOWS_HOURS, codes)[:, columns]
    return sparse.hstack([counts, np.ones((len(rows), 1))]).tocsr()


def _start(truth: Floats, features: int) -> Floats:
    """No weights but the base rates."""
    rate = (truth.sum(0) + 0.5) / (len(truth) + 1)
    weights = np.zeros((features, truth.shape[1]))
    weights[-1] = np.log(rate / (1 - rate))
    return weights


def _fit(features: Any, truth: Floats, strength: float, start: Floats) -> Floats:
    """Least sum of losses plus half the squared weights by `strength`; the last row is not penalised."""
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    ridge = np.full((len(start), 1), 1 / strength)
    ridge[-1] = 0

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(start.shape)
        logits = features @ weights
        loss = float(np.sum(np.logaddexp(0, logits) - truth * logits) + 0.5 * np.sum(ridge * weights**2))
        slope = features.T @ (1 / (1 + np.exp(-logits)) - truth) + ridge * weights
        return loss, slope.reshape(-1)

    found = minimize(objective, start.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": _STEPS})
    weights: Floats = found.x.reshape(start.shape)
    return weights


def _loss(logits: Floats, truth: Floats) -> float:
    """Mean log loss; with no tuning labels every choice is as good."""
    return float(np.mean(np.logaddexp(0, logits) - truth * logits)) if truth.size else 0.0
