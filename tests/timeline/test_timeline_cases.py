"""The cases beside this file: resources in, exact events out."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from fhir_store import write_store

from ehrseq.timeline import Event, read_timeline, timeline

CASES = [
    pytest.param(case, id=f"{path.stem}: {case['desc']}")
    for path in sorted((Path(__file__).parent / "cases").glob("*.yaml"))
    for case in yaml.safe_load(path.read_text(encoding="utf-8"))
]
_ONLY_IF_WRITTEN = {
    "subject_id",
    "resource_type",
    "resource_id",
    "encounter_id",
    "span_array",
    "span_start",
    "span_length",
}


@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    store = write_store(tmp_path / "fhir", case["given"], buckets=1)
    timeline(store, tmp_path / "out", max_reject_fraction=1)
    found = [_written(row) for row in read_timeline(tmp_path / "out").to_dicts()]
    expected = [{"modality": "record"} | event for event in case["expect"]]
    keys = [{*event, *(found[0].keys() - _ONLY_IF_WRITTEN if found else ())} for event in expected]
    assert len(found) == len(expected), [row["code"] for row in found]
    assert [{key: row.get(key) for key in wanted} for row, wanted in zip(found, keys, strict=True)] == [
        {key: event.get(key) for key in wanted} for event, wanted in zip(expected, keys, strict=True)
    ]
    assert _unused(tmp_path / "out") == case.get("unused", [])


def _written(row: dict[str, Any]) -> dict[str, Any]:
    times = (Event.time, Event.clinical_time, Event.end_time)
    return {key: str(value) if key in times and value else value for key, value in row.items()}


def _unused(out: Path) -> list[list[str]]:
    files = sorted((out / "rejects").glob("*.parquet"))
    return [
        list(row)
        for file in files
        for row in pl.read_parquet(file).select("resource_id", "outcome", "reason").rows()
    ]
