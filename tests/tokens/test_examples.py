"""Labels find their subjects and prefixes; what cannot be used is counted."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ward_events import HEART_ATTACK, START, event, patients, write_timeline

from ehrseq.core.errors import SchemaError, TokenError
from ehrseq.tokens.examples import make_examples, visible_tokens
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.tokens.tokenize import tokenize

LABEL = {
    "subject_id": pl.Int64,
    "prediction_time": pl.Datetime("us"),
    "boolean_value": pl.Boolean,
    "integer_value": pl.Int64,
    "float_value": pl.Float64,
    "categorical_value": pl.String,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    unborn = [event(40, None, HEART_ATTACK), event(40, 8, HEART_ATTACK)]
    timeline = write_timeline(folder / "timeline", [*patients(), *unborn])
    return tokenize(timeline, folder / "tokens", min_patients=2).out


def write_labels(folder: Path, task: str, rows: list[tuple[Any, ...]], shard: int = 0) -> Path:
    """Rows: subject, hours after START, boolean value, optionally an integer value."""
    columns = [
        (
            subject,
            None if hours is None else START + timedelta(hours=hours),
            value,
            *(more or (None,)),
            None,
            None,
        )
        for subject, hours, value, *more in rows
    ]
    path = folder / task / "data" / f"{shard:04d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(columns, schema=LABEL, orient="row").write_parquet(path)
    return folder


def test_labels_become_examples(tokens: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", "stay", [(2, 2, True), (1, 3.5, False)])
    write_labels(labels, "stay", [(1, 1, None)], shard=1)
    write_labels(labels, "death", [(1, 100, True)])
    outcome = make_examples(tokens, labels, tmp_path / "examples")
    examples, store = Examples.load(outcome.out), TokenStore.open(tokens)
    assert examples.tasks.tolist() == ["death", "stay"]
    assert store.subject_id[examples.subject].tolist() == [2, 1, 1, 1]  # shard 0 holds the even subjects
    assert examples.position.tolist() == [5, 3, 6, 17]
    assert examples.task.tolist() == [1, 1, 1, 0]
    assert np.array_equal(examples.value, [1, np.nan, 0, 1], equal_nan=True)
    assert examples.split.tolist() == [0, 0, 0, 0]
    assert (
        examples.position[-1] == store.offsets[examples.subject[-1] + 1] - store.offsets[examples.subject[-1]]
    )
    dtypes = {
        name: str(getattr(examples, name).dtype) for name in ("subject", "position", "task", "value", "split")
    }
    assert list(dtypes.values()) == ["int64", "int64", "int32", "float32", "int8"]


def test_rejects_are_counted(tokens: Path, tmp_path: Path) -> None:
    rows = [(1, 2, True), (99, 2, True), (1, -500_000, True), (1, None, True), (1, 2, None, 3), (40, 7, True)]
    labels = write_labels(tmp_path / "labels", "stay", rows)
    outcome = make_examples(tokens, labels / "stay", tmp_path / "examples")
    account = outcome.manifest.sources["stay"]
    assert (account.rows_in, account.used, account.rejected) == (6, 1, 5)
    assert (
        account.reasons
        == {
            "subject not in the token store": 1,
            "no token is visible": 2,  # before birth; before the first event of someone whose birth nobody wrote down
            "no prediction time": 1,
            "not a boolean label": 1,
        }
    )


def test_same_bytes_twice_and_no_work_the_third_time(tokens: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels", "stay", [(1, 2, True), (2, 3, False)])
    first = make_examples(tokens, [labels], tmp_path / "first")
    second = make_examples(tokens, labels, tmp_path / "second")
    for name in ("examples.npz", "manifest.json"):
        assert (first.out / name).read_bytes() == (second.out / name).read_bytes()
    assert make_examples(tokens, labels, tmp_path / "second").status == "unchanged"
    write_labels(labels, "stay", [(1, 2, False), (2, 3, False)])
    assert make_examples(tokens, labels, tmp_path / "second").status == "made"


def test_labels_must_be_labels(tokens: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenError, match=r"no labels here.*ehrseq label"):
        make_examples(tokens, tmp_path / "empty", tmp_path / "examples")
    left = write_labels(tmp_path / "left", "stay", [(1, 2, True)])
    right = write_labels(tmp_path / "right", "stay", [(1, 2, True)])
    with pytest.raises(TokenError, match="two tasks with one name"):
        make_examples(tokens, [left, right], tmp_path / "examples")
    pl.DataFrame({"subject_id": [1]}).write_parquet(left / "stay" / "data" / "0000.parquet")
    with pytest.raises(SchemaError, match='Label lacks column "prediction_time"'):
        make_examples(tokens, left, tmp_path / "examples")
    assert not (tmp_path / "examples").exists()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(-2, 10)), max_size=30))
@settings(max_examples=40, deadline=None)
def test_positions_are_those_of_a_plain_count(tokens: Path, asked: list[tuple[int, int]]) -> None:
    store = TokenStore.open(tokens)
    zero = int(store.time[store.rows(0)][2]) - 3_600_000_000
    subject = np.asarray([number for number, _ in asked], np.int64)
    time = np.asarray([zero + hours * 3_600_000_000 for _, hours in asked], np.int64)
    counted = [int((store.time[store.rows(s)] <= t).sum()) for s, t in zip(subject, time, strict=True)]
    assert visible_tokens(store, subject, time).tolist() == counted
