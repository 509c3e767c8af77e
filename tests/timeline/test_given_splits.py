"""Splits that a file gives: for a hold-out by time or by site."""

from pathlib import Path

import polars as pl
import pytest

from ehrseq.core.errors import TimelineError
from ehrseq.timeline.meds import read_splits, splits_of


def test_who_is_not_named_is_held_out(tmp_path: Path) -> None:
    pl.DataFrame({"subject_id": [3, 1], "split": ["tuning", "train"]}).write_parquet(tmp_path / "s.parquet")
    found = splits_of(pl.Series([2, 1, 3]), read_splits(tmp_path / "s.parquet"))
    assert found.rows() == [(1, "train"), (2, "held_out"), (3, "tuning")]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"subject_id": [1], "split": ["test"]}, "'test'"),
        ({"subject_id": [1, 1], "split": ["train", "train"]}, "twice"),
        ({"subject_id": [1]}, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, rows: dict[str, list], said: str) -> None:
    pl.DataFrame(rows).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(TimelineError, match=said):
        read_splits(tmp_path / "s.parquet")
