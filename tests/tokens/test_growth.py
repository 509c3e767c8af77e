"""A vocabulary grows between two runs: what a model has learnt keeps its ids, its bins and its scales."""

from pathlib import Path

import numpy as np
import pytest
from ward_events import GLUCOSE, SODIUM, event, patients, splits_of, with_attributes, write_timeline

from ehrseq.core.errors import ConfigError
from ehrseq.tokens.store import TokenStore
from ehrseq.tokens.tokenize import tokenize
from ehrseq.tokens.vocabulary import Vocabulary, pair_of

NEW = "Observation//LOINC//17861-6"


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Vocabulary, Vocabulary]:
    first = write_timeline(tmp_path / "first", patients(), splits_of())
    old = tokenize(first, tmp_path / "old", min_patients=2, bins=4).out
    later = [event(subject, 6, NEW, 2 + subject / 10, unit="mmol/L") for subject in range(1, 13)]
    later += [event(subject, 7, SODIUM, 9_000, unit="mmol/L") for subject in range(1, 13)]
    kept = [row for row in patients() if row["code"] != GLUCOSE]
    second = write_timeline(tmp_path / "second", [*kept, *later], splits_of())
    made = tokenize(second, tmp_path / "new", extend=old).out
    return Vocabulary.load(old), Vocabulary.load(made)


def test_old_names_keep_their_ids_and_new_ones_come_behind(grown: tuple[Vocabulary, Vocabulary]) -> None:
    old, new = grown
    assert new.codes[: len(old.codes)] == old.codes
    assert new.units[: len(old.units)] == old.units
    assert NEW in new.codes[len(old.codes) :]
    assert GLUCOSE in new.code_ids
    assert (new.bins, new.min_patients, new.text_pieces) == (old.bins, old.min_patients, old.text_pieces)
    assert new.pieces.content == old.pieces.content


def test_what_codes_imply_is_kept_for_old_codes_and_learnt_for_new(tmp_path: Path) -> None:
    rows = with_attributes(patients())
    old = tokenize(write_timeline(tmp_path / "first", rows), tmp_path / "old", min_patients=2).out
    later = [event(n, 6, NEW, 2.0, unit="mmol/L", attributes="category//laboratory") for n in range(1, 13)]
    plain = write_timeline(tmp_path / "second", [*patients(), *later])
    new = Vocabulary.load(tokenize(plain, tmp_path / "new", extend=old).out)
    category = new.code_ids["attribute//category//laboratory"]
    pairs = pair_of([new.code_ids[SODIUM], new.code_ids[NEW]], [category, category])
    assert np.array_equal(new.implied, pairs)


def test_old_scales_keep_their_numbers(grown: tuple[Vocabulary, Vocabulary]) -> None:
    old, new = grown
    row = new.scales.find(old.scales.code, old.scales.unit)
    for name in ("median", "scale", "edges", "events"):
        np.testing.assert_array_equal(getattr(new.scales, name)[row], getattr(old.scales, name))
    added = new.scales.find(np.array([new.code_ids[NEW]]), np.array([new.unit_ids["mmol/L"]]))
    assert added[0] >= 0
    key = new.scales.code.astype(np.int64) * (1 << 15) + new.scales.unit
    assert np.all(np.diff(key) > 0)


def test_growing_by_nothing_changes_nothing(tmp_path: Path) -> None:
    timeline = write_timeline(tmp_path / "timeline", patients(), splits_of())
    old = tokenize(timeline, tmp_path / "old", min_patients=2, bins=4).out
    new = tokenize(timeline, tmp_path / "new", extend=old).out
    assert Vocabulary.load(new).sha256 == Vocabulary.load(old).sha256
    np.testing.assert_array_equal(TokenStore.open(new).code, TokenStore.open(old).code)


def test_taken_as_it_is_or_grown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not both"):
        tokenize(tmp_path, tmp_path / "out", vocabulary=tmp_path, extend=tmp_path)
