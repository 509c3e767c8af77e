"""Baselines against counting by hand, and on the toy ward."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from toy.ward import DRUG, ward

from ehrseq.core.errors import ConfigError, ModelError
from ehrseq.models import prefix_features
from ehrseq.models.baselines import BASELINES, _fit_trees, fit_baseline
from ehrseq.models.prefix_features import SUMMARIES, log_counts, value_summaries
from ehrseq.tokens.packing import Examples

HOUR = 3_600_000_000
CODES = 9


def a_store(seed: int = 0) -> tuple[Any, Examples]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, 12)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = int(lengths.sum())
    store = SimpleNamespace(
        code=random.integers(1, CODES, tokens).astype(np.int32),
        time=np.concatenate([np.sort(random.integers(0, 90 * 24, length)) for length in lengths]) * HOUR,
        value=np.where(random.random(tokens) < 0.6, random.normal(size=tokens), np.nan).astype(np.float32),
        offsets=offsets,
        birth=np.where(np.arange(12) % 3, -(50 * 8766) * HOUR, np.iinfo(np.int64).min),
    )
    subject = random.integers(0, 12, 30)
    position = random.integers(1, lengths[subject] + 1)
    examples = Examples(
        subject=subject,
        position=position,
        task=np.zeros(30, np.int32),
        value=np.zeros(30, np.float32),
        split=np.zeros(30, np.int8),
        prediction_time=store.time[offsets[subject] + position - 1] + 5 * HOUR,
        tasks=np.asarray(["a"]),
    )
    return store, examples


def visible(store: Any, examples: Examples, row: int) -> slice:
    first = store.offsets[examples.subject[row]]
    return slice(first, first + examples.position[row])


@pytest.mark.parametrize("at_once", [1, 100, 10**6])
def test_counts_are_those_of_a_loop(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_features, "_PAIRS_AT_ONCE", at_once)
    store, examples = a_store()
    rows = np.arange(30)[::-1]
    windows = (24.0, 720.0, np.inf)
    found = log_counts(store, examples, rows, windows, CODES).toarray()
    for place, row in enumerate(rows):
        seen = visible(store, examples, row)
        hours = (examples.prediction_time[row] - store.time[seen]) / HOUR
        for number, window in enumerate(windows):
            counts = np.bincount(store.code[seen][hours <= window], minlength=CODES)
            np.testing.assert_allclose(
                found[place, number * CODES : (number + 1) * CODES], np.log1p(counts), rtol=1e-12
            )
        known = store.birth[examples.subject[row]] > np.iinfo(np.int64).min
        assert found[place, -1] == known
        assert found[place, -2] == pytest.approx(50.05 / 50, abs=0.01) if known else found[place, -2] == 0


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_summaries_are_those_of_a_loop(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_features, "_PAIRS_AT_ONCE", at_once)
    store, examples = a_store()
    codes = np.asarray([2, 5, 7])
    found = value_summaries(store, examples, np.arange(30), codes).reshape(30, 3, len(SUMMARIES))
    for row in range(30):
        seen = visible(store, examples, row)
        for column, code in enumerate(codes):
            mine = (store.code[seen] == code) & ~np.isnan(store.value[seen])
            value, time = store.value[seen][mine].astype(float), store.time[seen][mine] / (24 * HOUR)
            got = dict(zip(SUMMARIES, found[row, column], strict=True))
            if len(value) == 0:
                assert np.all(np.isnan(found[row, column]))
                continue
            assert (got["last"], got["min"], got["max"]) == (value[-1], value.min(), value.max())
            assert got["mean"] == pytest.approx(value.mean())
            assert got["hours_since"] == pytest.approx(examples.prediction_time[row] / HOUR - time[-1] * 24)
            if len(np.unique(time)) > 1:
                assert got["trend"] == pytest.approx(np.polyfit(time, value, 1)[0], rel=1e-6)
            else:
                assert np.isnan(got["trend"])


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Examples]:
    """The ward, with task `recent` made certain: a drug in the last 24 hours."""
    store, examples, _ = ward(tmp_path_factory.mktemp("ward"), 300)
    for row in np.flatnonzero(examples.task == 2):
        seen = visible(store, examples, row)
        given = store.time[seen][store.code[seen] == DRUG]
        examples.value[row] = np.any(given >= examples.prediction_time[row] - 24 * HOUR)
    return store, examples


@pytest.mark.parametrize(("name", "task"), [("logistic", "recent"), ("gradient_boosting", "level")])
def test_they_learn(name: str, task: str, toy: tuple[Any, Examples]) -> None:
    from sklearn.metrics import roc_auc_score

    store, examples = toy
    baseline = fit_baseline(name, store, examples)
    assert set(baseline.chosen) == set(examples.tasks)
    rows = examples.rows("held_out")
    rows = rows[examples.tasks[examples.task[rows]] == task]
    assert roc_auc_score(examples.value[rows], baseline.predict(store, examples, rows)) > 0.75


@pytest.mark.parametrize("name", BASELINES)
def test_they_do_not_see_the_future(name: str, toy: tuple[Any, Examples]) -> None:
    store, examples = toy
    baseline = fit_baseline(name, store, examples)
    subject = np.arange(len(store.subject_id))
    first = np.full(len(subject), 1 << 40)
    np.minimum.at(first, examples.subject, examples.position)
    rows = np.flatnonzero(examples.position == first[examples.subject])
    arrays = {
        field: np.array(getattr(store, field)) for field in ("code", "value", "time", "offsets", "birth")
    }
    late = np.arange(len(store.code)) >= np.repeat(store.offsets[:-1] + first, np.diff(store.offsets))
    arrays["code"][late], arrays["value"][late] = DRUG, 5.0
    changed = baseline.predict(SimpleNamespace(**arrays), examples, rows)
    np.testing.assert_array_equal(changed, baseline.predict(store, examples, rows))


def test_the_labels_that_are_predicted_are_not_looked_at(toy: tuple[Any, Examples]) -> None:
    store, examples = toy
    hidden = np.where(examples.split == 2, np.nan, examples.value).astype(np.float32)
    rows = examples.rows("held_out")
    expected, found = (
        fit_baseline("logistic", store, given).predict(store, examples, rows)
        for given in (examples, dataclasses.replace(examples, value=hidden))
    )
    np.testing.assert_array_equal(found, expected)


def test_wrong_asks_are_named(tmp_path: Path) -> None:
    store, examples, _ = ward(tmp_path, 20)
    with pytest.raises(ConfigError, match='Closest: "logistic"'):
        fit_baseline("logistics", store, examples)
    examples.value[:] = 0
    with pytest.raises(ModelError, match="one class only"):
        fit_baseline("logistic", store, examples)


def test_trees_take_a_value_that_no_training_patient_has() -> None:
    random = np.random.default_rng(0)
    train = np.column_stack([random.normal(size=200), np.full(200, np.nan)]).astype(np.float32)
    features = {"train": train, "tuning": train[:50]}
    labels = {name: (part[:, 0] > 0).astype(np.float32) for name, part in features.items()}
    trees, _ = _fit_trees(features, labels, 0)
    later = np.array([[2.0, 7.0], [-2.0, 7.0]], np.float32)  # a patient to predict has it
    high, low = trees.predict(later)
    assert high > 0.9
    assert low < 0.1
