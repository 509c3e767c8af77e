"""The bootstrap resamples patients, covers the truth about as often as it says, and repeats itself."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ehrseq.core.errors import ConfigError, ShapeError
from ehrseq.evaluation import metrics
from ehrseq.evaluation.bootstrap import (
    Resamples,
    intervals,
    number_patients,
    paired_difference,
    percentile_interval,
)
from ehrseq.evaluation.calibration import expit
from ehrseq.evaluation.checks import UndefinedMetricError
from ehrseq.evaluation.panel import Panel


def simulated(n: int, seed: int, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    logits = source.normal(-1.5, 1.2, n)
    return (source.random(n) < expit(logits)).astype(float), expit(slope * logits)


def test_resamples_count_every_draw_and_do_not_depend_on_the_chunks() -> None:
    whole = np.concatenate(list(Resamples(50, 40, seed=3)))
    pieces = np.concatenate(list(Resamples(50, 40, seed=3, cells_per_chunk=150)))
    assert whole.shape == (40, 50)
    assert np.array_equal(whole, pieces)
    assert (whole.sum(axis=1) == 50).all()
    assert not np.array_equal(whole, np.concatenate(list(Resamples(50, 40, seed=4))))


def test_weights_of_patients_are_weights_of_their_rows() -> None:
    y, p = simulated(300, 0)
    p = np.round(p, 2)  # ties
    patients = number_patients(np.random.default_rng(1).integers(0, 120, 300))
    weights = np.concatenate(list(Resamples(int(patients.max()) + 1, 5, seed=0)))
    found = Panel(y, p, patients).measure(weights)
    for row, auroc, brier in zip(weights, found["auroc"], found["brier"], strict=True):
        assert auroc == pytest.approx(roc_auc_score(y, p, sample_weight=row[patients]))
        assert brier == pytest.approx(metrics.brier(y, p, row[patients]))


def test_the_one_newton_step_is_close_to_the_full_refit() -> None:
    y, p = simulated(4000, 1, slope=1.4)
    weights = np.concatenate(list(Resamples(y.size, 8, seed=0)))
    found = Panel(y, p).measure(weights)
    slopes = [metrics.calibration_slope(y, p, row) for row in weights]
    intercepts = [metrics.calibration_intercept(y, p, row) for row in weights]
    # both vary by about 0.03 to 0.05 between resamples: a tenth of that cannot be seen
    assert np.abs(found["calibration_slope"] - slopes).mean() < 0.003
    assert np.abs(found["calibration_intercept"] - intercepts).mean() < 0.003


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    large, truth_p = simulated(400_000, 99)
    truth = {"auroc": metrics.auroc(large, truth_p), "brier": metrics.brier(large, truth_p)}
    truth |= {"calibration_slope": 1.0, "calibration_intercept": 0.0}
    covered = dict.fromkeys(truth, 0)
    runs = 120
    for seed in range(runs):
        y, p = simulated(500, seed)
        found = intervals(y, p, np.arange(500), replicates=200, seed=seed)
        for name, value in truth.items():
            low, high = found[name].low, found[name].high
            assert low is not None
            assert high is not None
            covered[name] += low <= value <= high
    # 95 % of 120 is 114, standard deviation 2.4; 200 replicates and a percentile interval cost one or two
    assert all(105 <= count <= 120 for count in covered.values()), covered


def test_repeated_rows_of_a_patient_do_not_narrow_the_interval() -> None:
    y, p = simulated(400, 5)
    once = intervals(y, p, np.arange(400), replicates=400)["auroc"]
    rows = np.repeat(np.arange(400), 4)
    clustered = intervals(y[rows], p[rows], rows, replicates=400)["auroc"]
    naive = intervals(y[rows], p[rows], np.arange(1600), replicates=400)["auroc"]
    assert clustered == once  # four copies of everybody say nothing new
    assert naive.high is not None
    assert naive.low is not None
    assert clustered.high is not None
    assert clustered.low is not None
    assert clustered.high - clustered.low > 1.7 * (naive.high - naive.low)  # 2 is the square root of 4


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    y, p = simulated(1500, 6)
    noise = np.random.default_rng(0).normal(size=y.size)
    worse = expit(np.log(p / (1 - p)) + 0.5 * noise)
    patients = np.arange(y.size)
    left, right = intervals(y, p, patients)["auroc"], intervals(y, worse, patients)["auroc"]
    difference = paired_difference(y, p, worse, patients)
    assert difference.value == pytest.approx(left.value - right.value)
    assert difference.low is not None
    assert difference.high is not None
    assert left.low is not None
    assert left.high is not None
    assert difference.low > 0.0  # the better model is told apart although the two intervals overlap
    assert left.low < (right.high or 0.0)
    assert difference.high - difference.low < 0.8 * (left.high - left.low)


def test_a_model_does_not_differ_from_itself() -> None:
    y, p = simulated(200, 7)
    same = paired_difference(y, p, p, np.arange(200), replicates=50)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


def test_resamples_with_one_outcome_are_discarded_and_counted() -> None:
    y = np.zeros(40)
    y[0] = 1.0
    found = intervals(y, np.linspace(0.9, 0.1, 40), np.arange(40), replicates=500)
    # the one patient with the outcome is missed with probability (39/40)^40 = 0.36
    assert 140 < found["auroc"].discarded < 225
    assert found["brier"].discarded == 0
    assert percentile_interval(0.5, np.array([np.nan, 0.4])).low is None


def test_same_seed_same_numbers() -> None:
    y, p = simulated(200, 8)
    patients = [f"p{i % 90}" for i in range(200)]
    assert intervals(y, p, patients, seed=1) == intervals(y, p, patients, seed=1)
    assert intervals(y, p, patients, seed=1) != intervals(y, p, patients, seed=2)


def test_what_cannot_be_resampled_is_refused() -> None:
    with pytest.raises(UndefinedMetricError):
        intervals([0, 0], [0.1, 0.2], [1, 2])
    with pytest.raises(ShapeError, match="Patients"):
        intervals([0, 1], [0.1, 0.2], [1])
    with pytest.raises(ConfigError, match="replicates"):
        Resamples(5, 0)
    with pytest.raises(ConfigError, match="No metric"):
        paired_difference([0, 1, 0], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1, 2, 3], metric="f1")
