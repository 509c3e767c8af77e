"""Calibration after training against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError
from ehrseq.evaluation.checks import UndefinedMetricError
from ehrseq.evaluation.metrics import auroc, calibration_intercept, calibration_slope
from ehrseq.evaluation.posthoc import fit_calibrator


def overconfident(n: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(-1, 1, n)
    labels = (random.random(n) < 1 / (1 + np.exp(-logits))).astype(float)
    return labels, 1 / (1 + np.exp(-(3 * logits + 1)))


def test_platt_makes_the_calibration_line_perfect_and_keeps_the_order() -> None:
    labels, given_ = overconfident()
    assert calibration_slope(labels, given_) == pytest.approx(1 / 3, abs=0.05)
    found = fit_calibrator(labels, given_)(given_)
    assert calibration_slope(labels, found) == pytest.approx(1, abs=1e-6)
    assert calibration_intercept(labels, found) == pytest.approx(0, abs=1e-6)
    assert auroc(labels, found) == pytest.approx(auroc(labels, given_))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=40))
def test_isotonic_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    from sklearn.isotonic import IsotonicRegression

    scores, labels = np.array([row[0] / 8 for row in rows]), np.array([float(row[1]) for row in rows])
    if labels.min() == labels.max():
        return
    asked = np.linspace(0, 1, 50)
    oracle = IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    found = fit_calibrator(labels, scores, "isotonic")(asked)
    np.testing.assert_allclose(found, oracle.predict(asked), atol=1e-9)
    assert np.all(np.diff(found) >= 0)


def test_wrong_asks_are_named() -> None:
    with pytest.raises(ConfigError, match="platt or isotonic"):
        fit_calibrator([0, 1], [0.1, 0.9], "beta")  # type: ignore[arg-type]
    with pytest.raises(UndefinedMetricError):
        fit_calibrator([0, 0], [0.1, 0.9])
