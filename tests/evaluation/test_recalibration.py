"""The calibration line: it finds the truth, knows how sure it is, and leaves alone what it knows nothing about."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.calibration import expit, logit
from ehrseq.evaluation.recalibration import Recalibration


def drawn(n: int, seed: int = 0, intercept: float = 0.7, slope: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, and predictions that are off by a line."""
    random = np.random.default_rng(seed)
    said = random.normal(-1.5, 1.2, n)
    return (random.random(n) < expit(intercept + slope * said)).astype(float), expit(said)


def test_it_finds_the_line():
    labels, said = drawn(20_000)
    found = Recalibration.fit(labels, said, np.arange(20_000))
    assert found.line == pytest.approx([0.7, 0.6], abs=0.06)
    assert found.apply(said)[0].mean() == pytest.approx(labels.mean(), abs=0.002)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(60):
        labels, said = drawn(300, seed)
        _, low, high = Recalibration.fit(labels, said, np.arange(300)).apply([0.2])
        held.append(low[0] <= expit(0.7 + 0.6 * logit(np.array([0.2])))[0] <= high[0])
    assert 0.85 <= np.mean(held) <= 1.0


def test_fewer_patients_are_less_sure_whatever_the_rows():
    labels, said = drawn(400)
    many = Recalibration.fit(labels, said, np.arange(400)).apply([0.2])
    few = Recalibration.fit(
        np.tile(labels[:40], 10), np.tile(said[:40], 10), np.tile(np.arange(40), 10)
    ).apply([0.2])
    assert few[2][0] - few[1][0] > many[2][0] - many[1][0]


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_outcome_alone_moves_a_little_and_stays_unsure(outcome: float):
    value, low, high = Recalibration.fit(np.full(8, outcome), np.full(8, 0.3), np.arange(8)).apply([0.3])
    assert 0.03 < value[0] < 0.85  # as often as not in eight patients
    assert high[0] - low[0] > 0.1


def test_nothing_known_leaves_it_as_it_is():
    value, low, high = Recalibration.fit([], [], []).apply([0.1, 0.9])
    assert value == pytest.approx([0.1, 0.9])
    assert np.all(low < value)
    assert np.all(high > value)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_probabilities_stay_probabilities_and_in_order(values: list[float]):
    labels, said = drawn(100)
    value, low, high = Recalibration.fit(labels, said, np.arange(100)).apply(sorted(values))
    assert np.all((low >= 0) & (low <= value) & (value <= high) & (high <= 1))
    assert np.all(np.diff(value) >= 0)


def test_it_reads_back_what_it_wrote():
    labels, said = drawn(100)
    one = Recalibration.fit(labels, said, np.arange(100))
    again = Recalibration.from_json(one.to_json())
    assert all(np.array_equal(a, b) for a, b in zip(one.apply(said), again.apply(said), strict=True))


def test_a_probability_above_one_is_refused():
    with pytest.raises(ShapeError):
        Recalibration.fit([0, 1], [0.5, 1.5], [0, 1])
