"""Ensembles against scikit-learn's logistic regression, and what they promise at the edges."""

import numpy as np
import pytest

from ehrseq.core.errors import ConfigError, ModelError, ShapeError
from ehrseq.models.ensemble import Ensemble, fit_ensemble, mean_of


def three(n: int = 4000, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two noisy views of a risk, and noise."""
    random = np.random.default_rng(seed)
    risk = random.normal(-1, 1.5, n)
    labels = (random.random(n) < 1 / (1 + np.exp(-risk))).astype(float)
    views = {
        "a": risk + random.normal(0, 1, n),
        "b": risk + random.normal(0, 1, n),
        "c": random.normal(size=n),
    }
    return {name: 1 / (1 + np.exp(-x)) for name, x in views.items()}, labels


def test_without_a_pull_it_is_a_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    given, labels = three()
    good = {name: given[name] for name in "ab"}
    found = fit_ensemble("stacked", good, labels, pull=0.0)
    x = np.stack([np.log(p / (1 - p)) for p in good.values()], axis=1)
    oracle = LogisticRegression(C=np.inf, tol=1e-10).fit(x, labels)
    np.testing.assert_allclose(found.weights, oracle.coef_[0], atol=1e-4)
    assert found.intercept == pytest.approx(oracle.intercept_[0], abs=1e-4)


def test_a_harmful_model_gets_no_weight_and_never_a_negative_one() -> None:
    given, labels = three()
    against = 1 / (1 + np.exp(labels - 0.5 + np.random.default_rng(2).normal(size=len(labels))))
    found = fit_ensemble("stacked", {**given, "upside_down": against}, labels, pull=0.0)
    assert found.weights[3] == 0
    assert min(found.weights) >= 0


def test_it_beats_each_of_its_models_on_other_patients() -> None:
    from sklearn.metrics import roc_auc_score

    given, labels = three(seed=1)
    tuning = fit_ensemble("stacked", {name: p[:500] for name, p in given.items()}, labels[:500])
    later = {name: p[500:] for name, p in given.items()}
    best = max(roc_auc_score(labels[500:], p) for p in later.values())
    assert roc_auc_score(labels[500:], tuning.predict(later)) > best + 0.01


def test_few_labels_leave_it_near_the_mean() -> None:
    given, labels = three()
    few = fit_ensemble("stacked", {name: p[:8] for name, p in given.items()}, labels[:8])
    np.testing.assert_allclose(few.weights, 1 / 3, atol=0.2)


def test_one_class_or_unknown_labels_make_it_the_mean() -> None:
    given, labels = three(40)
    assert fit_ensemble("stacked", given, np.zeros(40)) == mean_of(list(given))
    assert fit_ensemble("stacked", given, np.full(40, np.nan)) == mean_of(list(given))
    half = np.where(np.arange(40) < 20, labels, np.nan)
    kept = fit_ensemble("stacked", {name: p[:20] for name, p in given.items()}, labels[:20])
    np.testing.assert_allclose(fit_ensemble("stacked", given, half).weights, kept.weights)


def test_certain_predictions_stay_finite_and_it_is_read_back() -> None:
    ensemble = fit_ensemble("stacked", {"a": [0.0, 1.0, 0.0, 1.0], "b": [0.2, 0.7, 0.4, 0.1]}, [0, 1, 0, 1])
    assert np.isfinite(ensemble.predict({"a": [0.0, 1.0], "b": [1.0, 0.0]})).all()
    assert Ensemble.from_dict(ensemble.to_dict()) == ensemble


def test_wrong_asks_are_named() -> None:
    with pytest.raises(ConfigError, match="mean or stacked"):
        fit_ensemble("median", {"a": [0.1]}, [1])
    with pytest.raises(ConfigError, match="no model"):
        mean_of([])
    with pytest.raises(ModelError, match="'b'"):
        mean_of(["a", "b"]).predict({"a": [0.1]})
    with pytest.raises(ShapeError):
        mean_of(["a", "b"]).predict({"a": [0.1], "b": [0.1, 0.2]})
