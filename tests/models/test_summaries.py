"""Summaries of series against counting by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ehrseq.core.errors import ConfigError
from ehrseq.models import prefix_features
from ehrseq.models.prefix_features import Pairs
from ehrseq.models.series import Series, code_series, series_pairs, shipped_series, without_implausible
from ehrseq.models.summaries import STATISTICS, Window, summaries, summary_names
from ehrseq.tokens.packing import Examples

HOUR = 3_600_000_000
CODES = 6


def a_store(seed: int = 0) -> tuple[Any, Examples]:
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 60, 10)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = int(lengths.sum())
    store = SimpleNamespace(
        code=random.integers(1, CODES, tokens).astype(np.int32),
        time=np.concatenate([np.sort(random.integers(0, 72, length)) for length in lengths]) * HOUR,
        value=np.where(random.random(tokens) < 0.8, random.normal(size=tokens), np.nan).astype(np.float32),
        offsets=offsets,
    )
    subject = random.integers(0, 10, 25)
    position = random.integers(1, lengths[subject] + 1)
    examples = Examples(
        subject=subject,
        position=position,
        task=np.zeros(25, np.int32),
        value=np.zeros(25, np.float32),
        split=np.zeros(25, np.int8),
        prediction_time=store.time[offsets[subject] + position - 1] + HOUR,
        tasks=np.asarray(["a"]),
    )
    return store, examples


def by_hand(value: np.ndarray, hours: np.ndarray) -> dict[str, float]:
    if len(value) == 0:
        return {name: 0.0 if name == "count" else np.nan for name in STATISTICS}
    several = len(np.unique(hours)) > 1
    return {
        "last": value[-1], "first": value[0], "min": value.min(), "max": value.max(), "mean": value.mean(),
        "median": np.median(value), "std": value.std(), "count": len(value), "hours_since": hours[-1],
        "trend": np.polyfit(-hours / 24, value, 1)[0] if several else np.nan,
    }  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 10**6])
def test_every_statistic_in_every_window_is_that_of_a_loop(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_features, "_PAIRS_AT_ONCE", at_once)
    store, examples = a_store()
    series = [
        *code_series([f"c{n}" for n in range(CODES)], np.array([2, 4])),
        Series("both", np.array([2, 3])),
    ]
    windows = [Window(0, np.inf), Window(0, 12), Window(12, np.inf, ("mean", "count"))]
    raw = np.where(np.isnan(store.value), np.nan, store.value * 10 + 3)
    found = summaries(store, examples, np.arange(25), series, windows, raw)
    names = summary_names(series, windows)
    assert names[0] == "c2 | all | last"
    assert names[-1] == "both | 12-infh | count"
    for row in range(25):
        first = store.offsets[examples.subject[row]]
        seen = slice(first, first + examples.position[row])
        hours = (examples.prediction_time[row] - store.time[seen]) / HOUR
        expected = []
        for window in windows:
            for one in series:
                mine = np.isin(store.code[seen], one.codes) & ~np.isnan(raw[seen])
                mine &= (hours >= window.start) & (hours < window.stop)
                at_hand = by_hand(raw[seen][mine].astype(float), hours[mine])
                expected += [at_hand[name] for name in window.statistics]
        np.testing.assert_allclose(found[row], expected, rtol=2e-4, atol=2e-4)


def test_a_ratio_takes_the_latest_of_both_while_neither_is_old() -> None:
    pairs = Pairs(
        label=np.array([0, 0, 0, 0, 1]),
        code=np.array([1, 2, 1, 2, 1], np.int32),
        value=np.array([100.0, 0.5, 90.0, 0.0, 80.0]),
        hours=np.array([30.0, 20.0, 10.0, 5.0, 1.0]),
    )
    ratio = Series("r", np.array([1]), np.array([2]), "ratio", within_hours=10)
    found = series_pairs(pairs, [ratio])
    assert found.value.tolist() == [200.0, 180.0]  # not a division by 0, not another patient's
    assert found.hours.tolist() == [20.0, 10.0]
    product = Series("p", np.array([1]), np.array([2]), "product", within_hours=5)
    assert series_pairs(pairs, [product]).value.tolist() == [0.0]


def test_shipped_series_are_those_whose_codes_are_there() -> None:
    names = ["<pad>", "Observation//LOINC//8867-4", "Observation//LOINC//8480-6"]
    found = {one.name: one for one in shipped_series(names)}
    assert set(found) == {"systolic", "heart_rate_per_systolic"}
    assert found["heart_rate_per_systolic"].codes.tolist() == [1]
    values = without_implausible(names, np.array([1, 1, 0]), np.array([80.0, 0.0, 0.0]))
    np.testing.assert_array_equal(values, [80.0, np.nan, 0.0])


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("series: {x: {quotient: [[a], [b]]}}")
    with pytest.raises(ConfigError, match="quotient"):
        shipped_series(["a", "b"], tmp_path / "s.yaml")
