"""Hold-out by time and by site."""

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrseq.core.dataset import Build
from ehrseq.core.errors import TimelineError
from ehrseq.timeline.hold_out import hold_out_since, hold_out_with
from ehrseq.timeline.schema import Event

START = datetime(2020, 1, 1)


@pytest.fixture
def timeline(tmp_path: Path) -> Path:
    """Patient n is born in 2021 (sic), static facts have no time, and one stay is n days after the start, at A or B."""
    rows = []
    for subject in range(100):
        known = {
            "subject_id": subject,
            "resource_type": "Encounter",
            "resource_id": "e",
            "modality": "record",
        }
        site = "A" if subject % 4 else "B"
        rows += [
            known | {"time": None, "code": "Patient.gender//x"},
            known | {"time": START + timedelta(days=400), "code": "MEDS_BIRTH"},
            known | {"time": START + timedelta(days=subject), "code": f"Encounter.location//site//{site}"},
        ]
    frame = pl.DataFrame(rows, schema_overrides={"time": pl.Datetime("us")})
    blank = [
        pl.lit(None, kind).alias(name) for name, kind in Event.polars_schema().items() if name not in frame
    ]
    frame = frame.with_columns(blank).select(Event.polars_schema().names()).cast(dict(Event.polars_schema()))
    frame = frame.sort("subject_id", "time", nulls_last=False, maintain_order=True)
    with Build(tmp_path / "timeline", kind="timeline", config={}, inputs=[]) as build:
        build.write("data/0000.parquet", frame)
    return tmp_path / "timeline"


def test_a_moment_parts_the_patients(timeline: Path) -> None:
    found = dict(hold_out_since(timeline, START + timedelta(days=80)).iter_rows())
    assert {subject for subject, split in found.items() if split == "held_out"} == set(range(80, 100))
    assert 3 <= sum(split == "tuning" for split in found.values()) <= 20


def test_a_site_parts_the_patients_and_the_rest_stay_where_they_are_drawn(timeline: Path) -> None:
    found = dict(hold_out_with(timeline, "//site//B$").iter_rows())
    assert {subject for subject, split in found.items() if split == "held_out"} == set(range(0, 100, 4))
    by_time = dict(hold_out_since(timeline, START + timedelta(days=80)).iter_rows())
    both = [subject for subject in range(80) if subject % 4]
    assert [found[subject] for subject in both] == [by_time[subject] for subject in both]


def test_nothing_to_hold_out_is_an_error(timeline: Path) -> None:
    with pytest.raises(TimelineError, match="0 of 100"):
        hold_out_with(timeline, "nowhere")
    with pytest.raises(TimelineError, match="100 of 100"):
        hold_out_since(timeline, START)
