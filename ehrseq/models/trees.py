"""Boosted trees on summary features: LightGBM, or scikit-learn's where LightGBM cannot be loaded.

Columns are many and alike (the last creatinine, the highest, that of the last day), so each tree sees a tenth of them:
that is what keeps a thousand columns and four thousand patients apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_PATIENCE = 20  # rounds without a better tuning loss


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """How trees are grown. The defaults were chosen by cross-validation within PhysioNet 2012 set A."""

    rounds: int = 500
    learning_rate: float = 0.02
    leaves: int = 12
    least_in_leaf: int = 30
    columns: float = 0.1  # share that each tree sees
    rows: float = 0.7  # share that each tree sees
    ridge: float = 5.0  # on leaf values
    bins: int = 63
    threads: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Fitted trees. `library` says whose."""

    library: str
    model: Any
    columns: NDArray[np.intp]  # those that vary in training; the others are not looked at

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Probabilities [n]."""
        given = features[:, self.columns]
        if self.library == "lightgbm":
            return np.asarray(self.model.predict(given, num_threads=1), np.float64)
        return np.asarray(self.model.predict_proba(given)[:, 1], np.float64)


def fit_trees(
    features: Floats,
    labels: NDArray[Any],
    config: TreeConfig | None = None,
    *,
    weights: NDArray[Any] | None = None,
    tuning: tuple[Floats, NDArray[Any]] | None = None,
    seed: int = 0,
) -> Trees:
    """Fit on [n, columns] (NaN = missing) and labels [n] within 0 to 1; 0.3 is three tenths of an outcome.

    `weights` [n]: how much each row counts; None = 1. `tuning`: features and labels of other patients, on which it is
    seen when to stop; None = all rounds are grown.
    """
    config = config or TreeConfig()
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(features), np.fmax.reduce(features)
    columns = np.flatnonzero((high > low) | (np.isnan(features).any(axis=0) & ~np.isnan(high)))
    given = features[:, columns]
    watched = (tuning[0][:, columns], tuning[1]) if tuning else None
    if (library := lightgbm()) is None:
        model = _scikit_learn(given, labels, weights, config, watched, seed)
        return Trees("scikit-learn", model, columns)
    settings = {
        "objective": "cross_entropy" if np.any((labels > 0) & (labels < 1)) else "binary",
        "learning_rate": config.learning_rate, "num_leaves": config.leaves, "max_bin": config.bins,
        "min_child_samples": config.least_in_leaf, "feature_fraction": config.columns,
        "bagging_fraction": config.rows, "bagging_freq": 1, "lambda_l2": config.ridge,
        "num_threads": config.threads, "seed": seed, "deterministic": True, "verbosity": -1,
    }  # fmt: skip
    rows = library.Dataset(given, labels, weight=weights, params={"max_bin": config.bins, "verbosity": -1})
    watch: dict[str, Any] = {}
    if watched:
        watch["valid_sets"] = [library.Dataset(*watched, reference=rows)]
        watch["callbacks"] = [library.early_stopping(_PATIENCE, verbose=False)]
    return Trees("lightgbm", library.train(settings, rows, config.rounds, **watch), columns)


def lightgbm() -> Any | None:
    """The module; None where it is not installed, or its OpenMP library is not there (slim images)."""
    try:
        import lightgbm as module
    except (ImportError, OSError):
        return None
    return module


def _scikit_learn(
    features: Floats,
    labels: NDArray[Any],
    weights: NDArray[Any] | None,
    config: TreeConfig,
    watched: tuple[Floats, NDArray[Any]] | None,
    seed: int,
) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=config.learning_rate,
        max_iter=config.rounds,
        max_leaf_nodes=config.leaves,
        min_samples_leaf=config.least_in_leaf,
        max_features=config.columns,
        l2_regularization=config.ridge,
        max_bins=config.bins,
        early_stopping=watched is not None,
        n_iter_no_change=_PATIENCE,
        random_state=seed,
    )
    watch = {"X_val": watched[0], "y_val": watched[1]} if watched else {}
    if np.isin(labels, (0, 1)).all():
        return model.fit(features, labels, sample_weight=weights, **watch)
    once = np.ones(len(labels)) if weights is None else weights
    weight = np.concatenate([labels * once, (1 - labels) * once])  # a share of an outcome: a row of each kind
    row = np.flatnonzero(weight > 0)
    return model.fit(features[row % len(labels)], row < len(labels), sample_weight=weight[row], **watch)
