"""What a vocabulary keeps, and that it never looks beyond the training patients."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ward_events import (
    GLUCOSE,
    HEART_ATTACK,
    NITRITE,
    SODIUM,
    STROKE,
    event,
    patients,
    splits_of,
    write_timeline,
)

from ehrseq.core.errors import ConfigError, TokenError
from ehrseq.tokens.values import ValueScales
from ehrseq.tokens.vocabulary import RESERVED, Vocabulary, VocabularyConfig, fit_vocabulary

THREE = VocabularyConfig(min_patients=3, bins=4)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return fit_vocabulary(write_timeline(tmp_path_factory.mktemp("fit") / "timeline"), THREE)


def test_names_need_enough_patients(vocabulary: Vocabulary) -> None:
    assert vocabulary.codes[:2] == RESERVED
    codes = vocabulary.codes[2 : vocabulary.code_ids[vocabulary.pieces.names[1]]]
    assert list(codes) == sorted(codes)
    assert vocabulary.codes[2 + len(codes) :] == vocabulary.pieces.names[1:]
    assert {SODIUM, GLUCOSE, HEART_ATTACK, f"{NITRITE}//TEXT//positive", "text//120.5"} <= set(
        vocabulary.codes
    )
    assert not [name for name in vocabulary.codes if "dr" in name]  # one patient each
    assert "Condition//ICD-10-CM//I2102" not in vocabulary.codes
    assert vocabulary.units == ("", "mmol/L")  # mg/dL: patients 3 and 6 only


def test_rare_and_unseen_codes_back_off(vocabulary: Vocabulary) -> None:
    def read_as(code: str) -> tuple[str, str]:
        number, way = vocabulary.read(code)
        return vocabulary.codes[number], way

    assert read_as(HEART_ATTACK) == (HEART_ATTACK, "exact")
    assert read_as("Condition//ICD-10-CM//I2199") == ("Condition//ICD-10-CM//I21", "backed_off")
    assert read_as(STROKE) == ("Condition//ICD-10-CM", "backed_off")
    assert read_as("Observation//SNOMED//1") == ("Observation", "backed_off")
    assert read_as("Claim//x//y") == ("<unknown>", "unknown")
    assert read_as("<pad>") == ("<unknown>", "unknown")


def test_only_training_patients_count(tmp_path: Path, vocabulary: Vocabulary) -> None:
    training = [row for row in patients() if row["subject_id"] <= 8]
    others = [event(subject, hour, STROKE, 1e6, unit="kg") for subject in range(9, 13) for hour in range(9)]
    moved = fit_vocabulary(write_timeline(tmp_path / "moved", training + others), THREE)
    assert moved.to_bytes() == vocabulary.to_bytes()


@pytest.mark.parametrize("shards", [1, 5])
def test_shards_and_workers_make_no_difference(tmp_path: Path, vocabulary: Vocabulary, shards: int) -> None:
    timeline = write_timeline(tmp_path / "timeline", shards=shards)
    assert fit_vocabulary(timeline, THREE).to_bytes() == vocabulary.to_bytes()


def test_min_patients(tmp_path: Path) -> None:
    timeline = write_timeline(tmp_path / "timeline")
    everything = fit_vocabulary(timeline, VocabularyConfig(min_patients=1))
    assert "text//dra" in everything.codes
    assert "text//dri" not in everything.codes
    with pytest.raises(TokenError, match=r"no code is shared by 9 patients.*Lower min_patients"):
        fit_vocabulary(timeline, VocabularyConfig(min_patients=9))
    with pytest.raises(ConfigError, match="min_patients is 0"):
        VocabularyConfig(min_patients=0)


def test_units_have_scales_of_their_own(tmp_path: Path) -> None:
    fitted = fit_vocabulary(write_timeline(tmp_path / "timeline"), VocabularyConfig(min_patients=2))
    code = fitted.code_ids[SODIUM]
    of_sodium = {
        fitted.units[unit]: row
        for row, unit in enumerate(fitted.scales.unit)
        if fitted.scales.code[row] == code
    }
    assert set(of_sodium) == {"mmol/L", "mg/dL"}
    assert fitted.scales.events[of_sodium["mmol/L"]] == 12
    assert fitted.scales.median[of_sodium["mmol/L"]] == 138  # 131..138 and 141..148 without 3 and 6
    assert 1330 <= fitted.scales.median[of_sodium["mg/dL"]] <= 1460


def test_round_trip_and_damage(tmp_path: Path, vocabulary: Vocabulary) -> None:
    file = tmp_path / "vocabulary.json"
    file.write_text(json.dumps(json.loads(vocabulary.to_bytes()), indent=1))  # as a model folder writes it
    again = Vocabulary.load(tmp_path)
    assert again.to_bytes() == vocabulary.to_bytes()
    assert again.sha256 == vocabulary.sha256
    file.write_text('{"codes": ["<pad>"]}')
    with pytest.raises(TokenError, match="not a vocabulary of format 2"):
        Vocabulary.load(file)
    with pytest.raises(TokenError, match="no such file"):
        Vocabulary.load(tmp_path / "elsewhere.json")


def test_timeline_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(TokenError, match=r"no such folder.*ehrseq timeline"):
        fit_vocabulary(tmp_path / "nothing")
    timeline = write_timeline(tmp_path / "timeline", splits={**splits_of(), 3: "test"})
    with pytest.raises(TokenError, match="split 'test', expected one of train"):
        fit_vocabulary(timeline)


@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_those_of_the_empirical_distribution(numbers: list[int], bins: int) -> None:
    fitted = fit_values(numbers, bins)
    ranked = sorted(numbers)
    edges = [ranked[max(-(-len(ranked) * part // bins), 1) - 1] for part in range(1, bins)]
    assert fitted.edges[0].tolist() == edges
    assert fitted.median[0] == ranked[-(-len(ranked) // 2) - 1]
    asked = np.arange(-22, 23).astype(np.float32)
    value, found = fitted.apply(np.zeros(len(asked), np.int64), asked)
    assert found.tolist() == [1 + sum(edge < x for edge in edges) for x in asked]
    assert np.all(np.abs(value) <= 5)
    assert np.all(np.diff(value) >= 0)


def fit_values(numbers: list[int], bins: int) -> ValueScales:
    counted = sorted(Counter(numbers).items())
    values = np.asarray([value for value, _ in counted], np.float32)
    counts: Any = np.asarray([count for _, count in counted], np.int64)
    return ValueScales.fit(np.full(len(counted), 7), values, counts, bins)
