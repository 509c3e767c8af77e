"""Clinical scores: points by hand, factors by hand, and fitting."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ehrseq.core.errors import ConfigError, ModelError
from ehrseq.models.clinical_scores import SHIPPED, factor_values, fit_score, read_score, shipped_scores
from ehrseq.tokens.packing import Examples

HOUR = 3_600_000_000
NAMES = [
    "<pad>",
    "Observation//LOINC//718-7",
    "Observation//LOINC//2951-2",
    "Procedure//ICD10PCS//0DTJ4ZZ",
    "Encounter.priority//ActPriority//EM",
    "Encounter.start//ActCode//IMP",
    "Encounter.part.start//mimic-services//OMED",
]
HGB, SODIUM, PROCEDURE, EMERGENCY, START, ONCOLOGY = range(1, 7)


def asked(stays: list[list[tuple[float, int, float]]]) -> tuple[SimpleNamespace, Examples]:
    """Patients of (hours before the prediction, code, value) tokens, one label each at hour 10,000."""
    tokens = [sorted(stay, key=lambda token: -token[0]) for stay in stays]
    flat = [token for stay in tokens for token in stay]
    lengths = [len(stay) for stay in tokens]
    store = SimpleNamespace(
        code=np.array([code for _, code, _ in flat], np.int32),
        time=np.array([(10_000 - hours) * HOUR for hours, _, _ in flat]).astype(np.int64),
        value=np.array([value for _, _, value in flat], np.float32),
        offsets=np.append(0, np.cumsum(lengths)),
        birth=np.full(len(stays), -40 * 8766 * HOUR),
    )
    n = len(stays)
    examples = Examples(
        subject=np.arange(n), position=np.array(lengths), task=np.zeros(n, np.int32),
        value=np.zeros(n, np.float32), split=np.zeros(n, np.int8),
        prediction_time=np.full(n, 10_000 * HOUR), tasks=np.asarray(["readmission_30d"]),
    )  # fmt: skip
    return store, examples


def test_hospital_points_by_hand() -> None:
    nan = np.nan
    store, examples = asked(
        [
            # Hgb 11 (1), sodium 140 (0), procedure (1), emergency (1), 6 days (2), one stay (0): 5
            [(144, START, nan), (144, EMERGENCY, nan), (100, PROCEDURE, nan), (50, HGB, 13), (9, HGB, 11),
             (9, SODIUM, 140)],
            # nothing measured, a day, oncology (2), stays 400 days ago (not counted): 2
            [(9_600, START, nan), (24, START, nan), (24, ONCOLOGY, nan)],
            # eight stays within the year (5), sodium 130 (1), a short stay: 6
            [*[(hours, START, nan) for hours in range(8_000, 0, -1_100)], (20, SODIUM, 130)],
        ]
    )  # fmt: skip
    score = read_score(SHIPPED / "hospital.yaml", NAMES)
    values = factor_values(store, examples, np.arange(3), score)
    points = sum(factor.points(values[:, column]) for column, factor in enumerate(score.factors))
    assert len(range(8_000, 0, -1_100)) == 8
    assert points.tolist() == [5, 2, 6 + 2]  # the third one's latest start was 300 hours ago
    assert values[1, 0] != values[1, 0]  # no haemoglobin


def test_a_score_of_points_rises_with_its_points_and_a_logistic_one_learns() -> None:
    random = np.random.default_rng(0)
    score = read_score(SHIPPED / "hospital.yaml", NAMES)
    factors = np.full((400, len(score.factors)), np.nan)
    factors[:, 0] = random.normal(12, 2, 400)
    labels = (factors[:, 0] < 12).astype(int) ^ (random.random(400) < 0.1)
    chance = fit_score(score, factors, labels).predict(factors)
    assert set(np.round(chance, 6)) == {np.round(chance.min(), 6), np.round(chance.max(), 6)}
    assert chance[factors[:, 0] < 12].min() > chance[factors[:, 0] >= 12].max()
    aews = read_score(SHIPPED / "aews.yaml", NAMES)
    wide = np.full((400, len(aews.factors)), np.nan)
    column = [factor.name for factor in aews.factors].index("haemoglobin")
    wide[:, column] = factors[:, 0]
    learnt = fit_score(aews, wide, labels)
    assert np.corrcoef(learnt.predict(wide), -factors[:, 0])[0, 1] > 0.9
    assert np.isfinite(learnt.predict(np.full((2, wide.shape[1]), np.nan))).all()


def test_a_score_is_offered_where_half_of_its_factors_have_codes() -> None:
    assert [score.name for score in shipped_scores(NAMES)] == ["hospital"]
    assert shipped_scores(["<pad>"]) == []
    assert {read_score(path, NAMES).name for path in SHIPPED.glob("*.yaml")} == {"aews", "hospital", "liu"}


def test_wrong_files_and_one_class_are_named(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("{name: s, tasks: x, method: guess, factors: {}}")
    with pytest.raises(ConfigError, match="guess"):
        read_score(path, NAMES)
    path.write_text("{name: s, tasks: x, method: points, factors: {a: {latest: [x]}}}")
    with pytest.raises(ConfigError, match="latest"):
        read_score(path, NAMES)
    score = read_score(SHIPPED / "hospital.yaml", NAMES)
    with pytest.raises(ModelError, match="one class"):
        fit_score(score, np.zeros((4, len(score.factors))), np.zeros(4))
