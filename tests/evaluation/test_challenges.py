"""The Challenges' scores on cases worked by hand, and 2019's against a loop written from its rules."""

import numpy as np
import pytest

from ehrseq.evaluation.challenges import (
    best_threshold,
    min_sensitivity_precision,
    range_normalised_hosmer_lemeshow,
    sepsis_utility,
    utility_table,
)
from ehrseq.evaluation.checks import UndefinedMetricError


def test_event_1_by_hand() -> None:
    labels, scores = [0, 1, 0, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5]
    assert min_sensitivity_precision(labels, scores, 0.4) == pytest.approx(
        2 / 3
    )  # 2 of 3 found, 2 of 2 right
    assert min_sensitivity_precision(labels, scores, 0.2) == pytest.approx(
        3 / 4
    )  # 3 of 3 found, 3 of 4 right
    assert min_sensitivity_precision(labels, scores, 0.9) == 0
    assert best_threshold(labels, scores) == 0.2
    assert min_sensitivity_precision(labels, scores) == pytest.approx(3 / 4)


def test_equal_scores_alert_together() -> None:
    assert best_threshold([0, 1, 1], [0.5, 0.5, 0.5]) == 0.5
    assert min_sensitivity_precision([0, 1, 1], [0.5, 0.5, 0.5]) == pytest.approx(2 / 3)


def test_event_2_by_hand() -> None:
    # bins of 10: risk .1 with 2 deaths (expected 1), risk .3 with 3 (expected 3)
    labels = [1, 1] + [0] * 8 + [1, 1, 1] + [0] * 7
    found = range_normalised_hosmer_lemeshow(labels, [0.1] * 10 + [0.3] * 10, bins=2)
    assert found == pytest.approx((1 / (10 * 0.1 * 0.9 + 0.001)) / 0.2)
    with pytest.raises(UndefinedMetricError):
        range_normalised_hosmer_lemeshow(labels, [0.2] * 20)


def by_the_rules(labels: list[int], alarms: list[int]) -> list[float]:
    """Utility of each hour of one patient, as the rules of 2019 say it."""
    if 1 not in labels:
        return [-0.05 * alarm for alarm in alarms]
    onset, out = labels.index(1) + 6, []
    for hour, alarm in enumerate(alarms):
        since = hour - onset
        if since > 3:
            out.append(0.0)
        elif alarm:
            out.append(max((since + 12) / 6, -0.05) if since <= -6 else (3 - since) / 9)
        else:
            out.append(0.0 if since <= -6 else -2 * (since + 6) / 9)
    return out


def test_utilities_of_an_hour_by_hand() -> None:
    labels = [0] * 20 + [1] * 12  # onset at hour 26
    alarm, silence = utility_table(labels, ["a"] * 32)
    expected = {0: -0.05, 13: -0.05, 14: 0.0, 17: 0.5, 20: 1.0, 26: 1 / 3, 29: 0.0, 30: 0.0}
    for hour, value in expected.items():
        assert alarm[hour] == pytest.approx(value), hour
    for hour, value in {0: 0.0, 20: 0.0, 23: -2 / 3, 29: -2.0, 30: 0.0}.items():
        assert silence[hour] == pytest.approx(value), hour
    assert utility_table([0, 0], ["a", "a"])[0].tolist() == [-0.05, -0.05]


def test_the_score_is_that_of_a_loop() -> None:
    random = np.random.default_rng(0)
    labels, alarms, patients = [], [], []
    for patient in range(40):
        hours = int(random.integers(3, 60))
        start = int(random.integers(0, hours)) if random.random() < 0.5 else hours
        labels.append([0] * start + [1] * (hours - start))
        alarms.append(random.integers(0, 2, hours).tolist())
        patients += [patient] * hours
    total = sum(sum(by_the_rules(*pair)) for pair in zip(labels, alarms, strict=True))
    nothing = sum(sum(by_the_rules(one, [0] * len(one))) for one in labels)
    best = 0.0
    for one in labels:
        onset = one.index(1) + 6 if 1 in one else -100
        best += sum(by_the_rules(one, [int(-12 <= hour - onset <= 3) for hour in range(len(one))]))
    found = sepsis_utility(np.concatenate(labels), np.concatenate(alarms), patients)
    assert found == pytest.approx((total - nothing) / (best - nothing))


def test_nobody_with_sepsis_is_an_error() -> None:
    with pytest.raises(UndefinedMetricError, match="Nobody"):
        sepsis_utility([0, 0], [0, 1], ["a", "a"])
