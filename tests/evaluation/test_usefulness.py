"""Net benefit and alerts against counting by hand."""

import numpy as np
import pytest

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.checks import UndefinedMetricError
from ehrseq.evaluation.metrics import ici, workup_ratio
from ehrseq.evaluation.usefulness import alerts_at, decision_curve


def some(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    p = random.random(n).round(2)  # with ties
    return (random.random(n) < p).astype(float), p


def test_net_benefit_is_that_of_a_loop() -> None:
    labels, p = some()
    curve = decision_curve(labels, p)
    for t, model, everyone in zip(curve.threshold, curve.model, curve.everyone, strict=True):
        hits, false = labels[p >= t].sum(), (1 - labels[p >= t]).sum()
        assert model == pytest.approx((hits - false * t / (1 - t)) / len(p))
        assert everyone == pytest.approx((labels.sum() - (1 - labels).sum() * t / (1 - t)) / len(p))


def test_alerts_find_what_they_promise_and_agree_with_the_workup_ratio() -> None:
    labels, p = some()
    found = alerts_at(labels, p, sensitivity=0.8, patient_days=600)
    assert found.sensitivity >= 0.8
    assert labels[p > found.threshold].sum() / labels.sum() < 0.8
    assert found.workup == pytest.approx(workup_ratio(labels, p))
    assert found.precision == pytest.approx(1 / found.workup)
    assert found.per_patient_day == pytest.approx((p >= found.threshold).sum() / 600)
    assert alerts_at(labels, p).per_patient_day is None


def test_what_has_no_value_is_an_error() -> None:
    with pytest.raises(UndefinedMetricError):
        alerts_at([0, 0], [0.1, 0.2])
    with pytest.raises(UndefinedMetricError, match="patient-days"):
        alerts_at([0, 1], [0.1, 0.2], patient_days=0)
    with pytest.raises(ShapeError):
        decision_curve([0, 1], [0.1, 0.2], [1.0])


def test_ici_is_the_distance_from_a_known_curve() -> None:
    random = np.random.default_rng(0)
    p = random.random(20_000) * 0.6
    right, shifted = (random.random(p.size) < risk for risk in (p, p + 0.2))
    assert ici(right, p) < 0.015
    assert ici(shifted, p) == pytest.approx(0.2, abs=0.015)
    bent = random.random(p.size) < 0.3 + 0.5 * (p - 0.3)  # half as steep: |gap| = 0.5 |p - 0.3|
    assert ici(bent, p) == pytest.approx(0.5 * np.abs(p - 0.3).mean(), abs=0.015)
