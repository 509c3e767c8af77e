"""The table of features against a loop over events, and against the future."""

from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
from events_folder import timeline

from ehrseq.core.errors import ConfigError
from ehrseq.tasks.extract import label
from ehrseq.tasks.features import features, table
from ehrseq.timeline.meds import SUBJECT_SPLITS, split_subjects

START, CODES, WINDOWS = datetime(2020, 1, 1), ["A", "B", "C"], (6.0, float("inf"))


def ward(seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    chance = Random(seed)
    rows = [
        (n, None if chance.random() < 0.1 else START + timedelta(hours=chance.randint(0, 40)), chance.choice("ABD"),
         chance.choice([None, chance.random()]))
        for n in range(1, 6) for _ in range(25)
    ]  # fmt: skip
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    events = pl.DataFrame(rows, schema, orient="row").sort(
        "subject_id", "time", nulls_last=False, maintain_order=True
    )
    asked = [(n, START + timedelta(hours=hour), True) for n in range(1, 7) for hour in (5, 20)]
    names = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "boolean_value": pl.Boolean}
    return events, pl.DataFrame(asked, names, orient="row")


def within(asked: datetime, time: datetime | None, hours: float) -> bool:
    if time is None:  # true for life
        return hours == float("inf")
    return timedelta(0) <= asked - time <= timedelta(hours=min(hours, 1e6))


@pytest.mark.parametrize("seed", range(5))
def test_as_a_loop_counts_them(seed: int):
    events, labels = ward(seed)
    found = table(events.lazy(), labels.lazy(), CODES, WINDOWS)
    assert found.select(labels.columns).equals(labels)
    for row in found.to_dicts():
        for code in CODES:
            for hours in WINDOWS:
                mine = [(time, value) for subject, time, name, value in events.rows()
                        if subject == row["subject_id"] and name == code]  # fmt: skip
                seen = [one for one in mine if within(row["prediction_time"], one[0], hours)]
                values = [(time, value) for time, value in seen if value is not None]
                at = f"{code}|{'all' if hours == float('inf') else '6h'}|"
                assert row[at + "count"] == len(seen)
                assert row[at + "last"] == (values[-1][1] if values else None)
                assert row[at + "max"] == max((value for _, value in values), default=None)
                assert row[at + "min"] == min((value for _, value in values), default=None)
                timed = [((time - START).total_seconds() / 86_400, value) for time, value in values if time]
                if len({time for time, _ in timed}) > 1:
                    slope = np.polyfit(*zip(*timed, strict=True), 1)[0]
                    assert row[at + "trend"] == pytest.approx(slope, rel=1e-5, abs=1e-6)
                else:
                    assert row[at + "trend"] is None


def test_the_future_changes_nothing():
    events, labels = ward(0)
    early = labels.filter(pl.col("prediction_time") < START + timedelta(hours=10))
    cut = events.filter(pl.col("time").is_null() | (pl.col("time") <= START + timedelta(hours=5)))
    assert cut.height < events.height
    assert table(events.lazy(), early.lazy(), CODES).equals(table(cut.lazy(), early.lazy(), CODES))


def test_a_table_as_a_dataset(tmp_path: Path):
    events, _ = ward(1)
    where = timeline(
        tmp_path / "timeline", events.select("subject_id", "time", "code", "numeric_value").rows(), shards=2
    )
    split_subjects(pl.Series(range(1, 6)), (1.0, 0.0, 0.0)).write_parquet(where / SUBJECT_SPLITS)
    text = "predicates: {a: {code: A}, b: {code: B}}\ntrigger: a\nwindows:\n"
    text += "  now: {start: trigger, end: start + 1h, start_inclusive: true, end_inclusive: true,\n"
    text += "        index_timestamp: end}\n"
    text += (
        "  next: {start: now.end, end: start + 5h, start_inclusive: false, end_inclusive: true, label: b}\n"
    )
    (tmp_path / "task.yaml").write_text(text)
    asked = label(tmp_path / "task.yaml", where, tmp_path / "labels").out
    made = features(where, asked, tmp_path / "table", windows_hours=(6.0,), codes=2)
    found = pl.read_parquet(made.out / "data/*.parquet")
    assert found.height == pl.read_parquet(asked / "data/*.parquet").height > 0
    names = [f"{code}|6h|{kind}" for code in "AB" for kind in ("count", "last", "min", "max", "trend")]
    assert sorted(found.columns[3:]) == sorted(names)
    assert made.manifest.made == {"rows": found.height, "columns": len(names)}
    for windows, codes in (((0.0,), 2), ((float("nan"),), 2), ((6.0,), 0)):
        with pytest.raises(ConfigError):
            features(where, asked, tmp_path / "none", windows_hours=windows, codes=codes)


def test_codes_without_values_are_counted_only():
    events, labels = ward(0)
    found = table(events.lazy(), labels.lazy(), CODES, WINDOWS, valued=["B"])
    whole = table(events.lazy(), labels.lazy(), CODES, WINDOWS)
    assert [name for name in found.columns if name.startswith("A")] == ["A|6h|count", "A|all|count"]
    assert found.equals(whole.select(found.columns))
