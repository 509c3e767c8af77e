"""Honest competitors: logistic regression on counts and latest values, gradient boosting on counts and summaries.

Both see every token before the prediction and nothing after it, the whole history and not only a network's context.
They are fitted on the training split and their one free choice is made on the tuning split, as for the networks.
scikit-learn is imported when it is first used.
"""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError, ModelError, closest
from ehrseq.models.prefix_features import SUMMARIES, Floats, log_counts, value_summaries
from ehrseq.models.trees import TreeConfig, fit_trees
from ehrseq.tokens.packing import Examples, Ints

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

BASELINES = ("logistic", "gradient_boosting")

_WINDOWS_HOURS = (24.0, 720.0, np.inf)  # a day, 30 days, all history
_PENALTIES = (0.001, 0.003, 0.01, 0.03)  # inverse strengths of the ridge penalty that are tried
_LEAVES = (4, 12)  # of a tree, that are tried
_COUNTED_CODES = 300  # most frequent codes of the training split whose counts the trees see
_MEASURED_CODES = 60  # most frequent codes with values whose values both see


@dataclass(slots=True)
class Baseline:
    """A fitted baseline of all tasks; `chosen` says what the tuning split picked for each."""

    name: str
    seed: int
    tasks: tuple[str, ...]
    codes: int  # size of the vocabulary
    counted: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    measured: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    models: dict[str, Any] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)

    def predict(self, store: "TokenStore", examples: Examples, rows: Ints) -> Floats:
        """Probabilities [len(rows)] float64 of the labels `rows`.

        Raises: ModelError if a task was not fitted.
        """
        out = np.zeros(len(rows))
        for number, task in enumerate(examples.tasks.tolist()):
            mine = examples.task[rows] == number
            if not mine.any():
                continue
            if task not in self.models:
                raise ModelError(
                    f"baseline {self.name} was not fitted for task {task!r}: {', '.join(self.models)}."
                )
            features = self._features(store, examples, rows[mine])
            out[mine] = self.models[task].predict(features)
        return out

    def _features(self, store: "TokenStore", examples: Examples, rows: Ints) -> Any:
        counts = log_counts(store, examples, rows, _WINDOWS_HOURS, self.codes)
        summaries = value_summaries(store, examples, rows, self.measured)
        if self.name == "logistic":
            from scipy import sparse  # type: ignore[import-untyped]

            latest = np.nan_to_num(summaries[:, SUMMARIES.index("last") :: len(SUMMARIES)])  # 0 is the median
            return sparse.hstack([counts, sparse.csr_matrix(latest)]).tocsr()
        columns = [self.counted + window * self.codes for window in range(len(_WINDOWS_HOURS))]
        kept = np.concatenate([*columns, [counts.shape[1] - 2]])
        return np.concatenate([counts[:, kept].toarray(), summaries], axis=1).astype(np.float32)


def fit_baseline(name: str, store: "TokenStore", examples: Examples, *, seed: int = 0) -> Baseline:
    """Fit `logistic` or `gradient_boosting` for every task; each needs both classes in the training split.

    Raises: ConfigError for an unknown name; ModelError if a task has one class only.
    """
    if name not in BASELINES:
        raise ConfigError(
            f"baseline {name!r} is not one of {', '.join(BASELINES)}.{closest(name, BASELINES)}"
        )
    counted, measured = _frequent_codes(store)
    tasks = tuple(str(task) for task in examples.tasks)  # those with several outputs: `several_baseline`
    baseline = Baseline(name, seed, tasks, len(store.vocabulary["codes"]), counted, measured)
    for number in np.flatnonzero(examples.single()).tolist():
        task = tasks[number]
        split = {name: _rows_of(examples, name, number) for name in ("train", "tuning")}
        labels = {name: examples.value[rows] for name, rows in split.items()}
        if len(np.unique(labels["train"])) < 2:
            raise ModelError(
                f"task {task!r} has one class only in the training split: nothing can be learnt."
            )
        features = {name: baseline._features(store, examples, rows) for name, rows in split.items()}
        fit = _fit_logistic if name == "logistic" else _fit_trees
        with _half_the_cores():
            baseline.models[task], baseline.chosen[task] = fit(features, labels, seed)
    return baseline


def _half_the_cores() -> AbstractContextManager[Any]:
    """scikit-learn's threads wait by spinning: on cores that others use too they are many times slower than one."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    return threadpool_limits(max((os.cpu_count() or 2) // 2, 1))  # type: ignore[no-any-return]


def _rows_of(examples: Examples, split: str, task: int) -> Ints:
    rows = examples.rows(split)
    mine: Ints = rows[(examples.task[rows] == task) & ~np.isnan(examples.value[rows])]
    return mine


def _frequent_codes(store: "TokenStore") -> tuple[Ints, Ints]:
    """Most frequent codes, and most frequent codes with values, of the training subjects."""
    offsets = np.asarray(store.offsets)
    mine = np.repeat(np.asarray(store.split) == 0, offsets[1:] - offsets[:-1])
    code = np.asarray(store.code)[mine]
    counts = np.bincount(code, minlength=len(store.vocabulary["codes"]))
    valued = np.bincount(code[~np.isnan(np.asarray(store.value)[mine])], minlength=len(counts))
    return _top(counts, _COUNTED_CODES), _top(valued, _MEASURED_CODES)


def _top(counts: NDArray[np.int64], most: int) -> Ints:
    order = np.argsort(-counts, kind="stable")[:most]
    return np.sort(order[counts[order] > 0])


def _loss(model: Any, features: Any, labels: NDArray[np.float32]) -> float:
    """Mean log loss; with no tuning labels every choice is as good."""
    if len(labels) == 0:
        return 0.0
    chance = np.clip(model.predict(features), 1e-7, 1 - 1e-7)
    return float(-np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance)))


@dataclass(frozen=True, slots=True)
class _Logistic:
    """scikit-learn's regression, with the one method that is asked of every learner here."""

    model: Any

    def predict(self, features: Any) -> Floats:
        found: Floats = self.model.predict_proba(features)[:, 1]
        return found


def _fit_logistic(features: dict[str, Any], labels: dict[str, Any], seed: int) -> tuple[Any, float]:
    from sklearn.linear_model import LogisticRegression

    tried = {
        strength: _Logistic(
            LogisticRegression(C=strength, tol=1e-3, max_iter=1000).fit(features["train"], labels["train"])
        )
        for strength in _PENALTIES
    }
    best = min(tried, key=lambda strength: _loss(tried[strength], features["tuning"], labels["tuning"]))
    return tried[best], best


def _fit_trees(features: dict[str, Any], labels: dict[str, Any], seed: int) -> tuple[Any, float]:
    stops = len(np.unique(labels["tuning"])) == 2
    watched = (features["tuning"], labels["tuning"]) if stops else None
    tried = {}
    for leaves in _LEAVES:
        config = TreeConfig(
            rounds=150 if stops else 30,
            learning_rate=0.1,
            leaves=leaves,
            least_in_leaf=20,
            columns=0.3,
            ridge=0.0,
            bins=255,
        )
        tried[leaves] = fit_trees(features["train"], labels["train"], config, tuning=watched, seed=seed)
    best = min(tried, key=lambda leaves: _loss(tried[leaves], features["tuning"], labels["tuning"]))
    return tried[best], float(best)
