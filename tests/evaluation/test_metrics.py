"""Every metric against scikit-learn or a slow, obvious computation; ties and weights included."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.linear_model import LogisticRegression

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation import metrics
from ehrseq.evaluation.calibration import equal_mass_bins, expit, logit
from ehrseq.evaluation.metrics import UndefinedMetricError
from ehrseq.evaluation.panel import METRICS, Panel

ALL = [metrics.auroc, metrics.average_precision, metrics.workup_ratio, metrics.brier, metrics.ece,
       metrics.calibration_slope, metrics.calibration_intercept]  # fmt: skip


@st.composite
def graded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both kinds, probabilities with many ties, whole weights that leave both kinds in."""
    n = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)))
    scores = draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    weights = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    y = np.array(labels)
    weights[y.argmax()] = max(weights[y.argmax()], 1)
    weights[y.argmin()] = max(weights[y.argmin()], 1)
    return y, np.array(scores) / 8.0, weights


@settings(max_examples=150, deadline=None)
@given(graded())
def test_ranking_and_brier_agree_with_sklearn(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, p, w = rows
    assert metrics.auroc(y, p, w) == pytest.approx(sklearn_metrics.roc_auc_score(y, p, sample_weight=w))
    assert metrics.average_precision(y, p, w) == pytest.approx(
        sklearn_metrics.average_precision_score(y, p, sample_weight=w)
    )
    assert metrics.brier(y, p, w) == pytest.approx(sklearn_metrics.brier_score_loss(y, p, sample_weight=w))


@settings(max_examples=100, deadline=None)
@given(graded())
def test_a_weight_of_two_is_the_row_twice(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, p, w = rows
    for metric in (
        metrics.auroc,
        metrics.average_precision,
        metrics.workup_ratio,
        metrics.brier,
        metrics.ece,
    ):
        assert metric(y, p, w) == pytest.approx(metric(np.repeat(y, w), np.repeat(p, w)))


@settings(max_examples=100, deadline=None)
@given(graded())
def test_identities(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, p, w = rows
    order = np.random.default_rng(0).permutation(y.size)
    assert metrics.auroc(1 - y, p, w) == pytest.approx(1.0 - metrics.auroc(y, p, w))
    assert metrics.auroc(y, p**3, w) == pytest.approx(metrics.auroc(y, p, w))
    for metric in (metrics.auroc, metrics.average_precision, metrics.workup_ratio, metrics.ece):
        assert metric(y[order], p[order], w[order]) == pytest.approx(metric(y, p, w))
    assert metrics.auroc(y, np.full(y.size, 0.3), w) == pytest.approx(0.5)
    assert metrics.average_precision(y, np.full(y.size, 0.3), w) == pytest.approx(w @ y / w.sum())


@settings(max_examples=60, deadline=None)
@given(graded())
def test_panel_says_what_the_single_metrics_say(rows: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    y, p, _ = rows
    single = dict(zip(("auroc", "auprc", "workup", "brier", "ece"), ALL[:5], strict=True))
    found = Panel(y.astype(float), p).point()
    assert set(found) <= set(METRICS)
    for name, metric in single.items():
        assert found[name] == pytest.approx(metric(y, p))


def test_workup_ratio_by_hand() -> None:
    # five positives; 80 % of them is four; the fourth is found at the sixth alert
    labels = [1, 0, 1, 1, 0, 1, 0, 0, 1, 0]
    assert metrics.workup_ratio(labels, np.linspace(0.9, 0.1, 10)) == pytest.approx(6 / 4)


def test_ece_by_hand() -> None:
    # two bins of two: gaps |0.15 - 0.5| and |0.85 - 1.0|, each half of the rows
    assert metrics.ece([0, 1, 1, 1], [0.1, 0.2, 0.8, 0.9], bins=2) == pytest.approx((0.35 + 0.15) / 2)


def test_bins_weigh_the_same_and_keep_ties_together() -> None:
    source = np.random.default_rng(1)
    assert np.bincount(equal_mass_bins(source.random(1000))).tolist() == [100] * 10
    tied = source.integers(0, 15, 500) / 15
    bins = equal_mass_bins(tied)
    assert all(np.unique(bins[tied == value]).size == 1 for value in np.unique(tied))


def test_calibration_line_agrees_with_sklearn_and_finds_the_truth() -> None:
    source = np.random.default_rng(2)
    truth = source.normal(-2.0, 1.2, 20_000)
    y = (source.random(truth.size) < expit(truth)).astype(float)
    extreme = expit(2.0 * truth)
    fitted = LogisticRegression(C=1e9, tol=1e-8).fit(logit(extreme)[:, None], y)
    assert metrics.calibration_slope(y, extreme) == pytest.approx(fitted.coef_[0, 0], abs=1e-4)
    assert metrics.calibration_slope(y, extreme) == pytest.approx(0.5, abs=0.03)
    assert metrics.calibration_intercept(y, expit(truth - 1.0)) == pytest.approx(1.0, abs=0.08)
    assert metrics.calibration_intercept(y, np.full(y.size, y.mean())) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("metric", ALL)
def test_wrong_arrays_are_refused(metric: object) -> None:
    assert callable(metric)
    with pytest.raises(ShapeError, match="expected the same"):
        metric([0, 1], [0.1])
    with pytest.raises(ShapeError, match="other than 0 and 1"):
        metric([0, 2], [0.1, 0.2])
    with pytest.raises(ShapeError, match="not finite"):
        metric([0, 1], [0.1, np.nan])
    with pytest.raises(ShapeError, match="at least 1"):
        metric([], [])
    with pytest.raises(ShapeError, match="Weights"):
        metric([0, 1], [0.1, 0.2], [0, 0])


@pytest.mark.parametrize("metric", [m for m in ALL if m not in (metrics.brier, metrics.ece)])
@pytest.mark.parametrize("label", [0, 1])
def test_one_outcome_is_an_error_not_a_nan(metric: object, label: int) -> None:
    assert callable(metric)
    with pytest.raises(UndefinedMetricError, match="outcome"):
        metric([label] * 3, [0.1, 0.2, 0.3])
    with pytest.raises(UndefinedMetricError):
        metric([label, label, 1 - label], [0.1, 0.2, 0.3], [1, 1, 0])  # the other one has no weight


def test_probabilities_must_be_probabilities_but_scores_need_not() -> None:
    assert metrics.auroc([0, 1], [-3.0, 40.0]) == 1.0
    with pytest.raises(ShapeError, match="expected 0 to 1"):
        metrics.brier([0, 1], [0.1, 1.2])


def test_slope_without_a_value_is_an_error() -> None:
    with pytest.raises(UndefinedMetricError, match="equal"):
        metrics.calibration_slope([0, 1, 0, 1], [0.5] * 4)
    with pytest.raises(UndefinedMetricError, match="separate"):
        metrics.calibration_slope([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
