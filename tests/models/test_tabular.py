"""Ridge on normal scores and boosted trees: what they promise on features with gaps, outliers and graded labels."""

import numpy as np
import pytest

from ehrseq.models import trees
from ehrseq.models.ridge import NormalScores, fit_ridge
from ehrseq.models.trees import TreeConfig, fit_trees


def some(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Risk rises at both ends of column 0 and with column 1; column 2 is noise, 3 constant, 4 never there."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 5)).astype(np.float32)
    risk = x[:, 0] ** 2 + x[:, 1] - 1
    labels = (random.random(n) < 1 / (1 + np.exp(-2 * risk))).astype(float)
    x[:, 1] = np.exp(3 * x[:, 1])  # skewed
    x[random.random((n, 5)) < 0.2] = np.nan
    x[:, 3], x[:, 4] = 7, np.nan
    return x, labels


def auroc(labels: np.ndarray, p: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, p))


def test_normal_scores_are_those_of_ranks_and_leave_useless_columns_out() -> None:
    from scipy.stats import norm, rankdata

    x, _ = some()
    scores = NormalScores.fit(x)
    assert scores.columns.tolist() == [0, 1, 2]
    found = scores.transform(x)
    there = np.isfinite(x[:, 1])
    expected = norm.ppf((rankdata(x[there, 1]) - 0.5) / there.sum())
    np.testing.assert_allclose(found[there, 1], np.clip(expected, -2.5, 2.5), atol=0.2)
    assert np.abs(found[there, 1] - expected)[np.abs(expected) < 1.5].max() < 0.05
    assert np.all(found[~there, 1] == 0)
    assert np.all((found[:, 7] > 0) == ~there)


def test_equal_values_get_one_score() -> None:
    scores = NormalScores.fit(np.repeat([[0.0], [1.0]], [90, 10], axis=0).astype(np.float32))
    low, high = scores.transform(np.array([[0.0], [1.0]], np.float32))[:, 0]
    assert low == pytest.approx(-0.126, abs=0.02)  # the middle of ranks 0 to 0.9
    assert high == pytest.approx(1.645, abs=0.02)


def test_both_learn_what_bends_and_what_is_skewed() -> None:
    x, y = some()
    later, truth = some(seed=1)
    for model in (fit_ridge(x, y), fit_trees(x, y, TreeConfig(columns=0.8, rounds=100))):
        p = model.predict(later)
        assert auroc(truth, p) > 0.75
        assert np.all((p > 0) & (p < 1))


def test_only_the_order_of_values_matters_to_the_ridge() -> None:
    x, y = some()
    twisted = x.copy()
    twisted[:, 0] = np.exp(x[:, 0])
    np.testing.assert_allclose(fit_ridge(twisted, y).predict(twisted), fit_ridge(x, y).predict(x), atol=0.02)


def test_a_graded_label_is_a_share_of_an_outcome() -> None:
    x, y = some()
    both = np.repeat(x, 4, axis=0), np.tile([1.0, 0.0, 0.0, 0.0], len(x))
    quarter = fit_ridge(x, np.full(len(x), 0.25) + 0 * y)
    np.testing.assert_allclose(quarter.predict(x), fit_ridge(*both).predict(x), atol=0.02)
    graded = fit_trees(x, np.where(y == 1, 0.9, 0.1), TreeConfig(columns=0.8, rounds=50))
    assert auroc(y, graded.predict(x)) > 0.8


def test_without_lightgbm_scikit_learn_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "lightgbm", lambda: None)
    x, y = some()
    graded = np.where(y == 1, 0.9, 0.1)
    for labels in (y, graded):
        model = fit_trees(x, labels, TreeConfig(columns=0.8, rounds=40))
        assert model.library == "scikit-learn"
        assert auroc(y, model.predict(x)) > 0.8


def test_the_same_seed_gives_the_same_trees() -> None:
    x, y = some()
    one, two, other = (fit_trees(x, y, TreeConfig(rounds=30), seed=s).predict(x) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0
