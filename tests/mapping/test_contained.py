"""Resources inside others, in the mapping language."""

from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, write_mappings, write_tables

import ehrseq
from ehrseq.mapping.cases import as_json
from ehrseq.mapping.check import check


def test_a_resource_may_stand_inside_another(tmp_path: Path) -> None:
    inside = """template:
  contained:
    - {resourceType: Specimen, id: "'s'", type: {text: unit}}
    - {resourceType: Device, id: "'d'", deviceName: [{name: name, type: "'user-friendly-name'"}]}
  specimen: {reference: "CASE WHEN unit IS NOT NULL THEN '#s' END"}
"""
    source = write_mappings(tmp_path / "source", labs=LABS.replace("template:\n", inside))
    store = ehrseq.map(source, write_tables(tmp_path / "data"), tmp_path / "fhir", validate="full")
    assert store.manifest.rows["rejected"] == 0
    frame = pl.read_parquet(sorted(store.out.glob("Observation/*.parquet")))
    made = {row["id"]: row for row in as_json(frame, "Observation")}
    assert made["tiny-labs.1"]["contained"] == [
        {"resourceType": "Specimen", "id": "s", "type": {"text": "mg/dL"}},
        {
            "resourceType": "Device",
            "id": "d",
            "deviceName": [{"name": "Creatinine", "type": "user-friendly-name"}],
        },
    ]
    assert made["tiny-labs.1"]["specimen"] == {"reference": "#s"}
    assert [item["resourceType"] for item in made["tiny-labs.3"]["contained"]] == ["Device"]
    assert "specimen" not in made["tiny-labs.3"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("template:\n", "template:\n  contained: [{id: \"'s'\"}]\n", "say its `resourceType`"),
        (
            "template:\n",
            "template:\n  contained: [{resourceType: Specimn, id: \"'s'\"}]\n",
            "say its `resourceType`",
        ),
        (
            "template:\n",
            "template:\n  contained: [{resourceType: Specimen, typ: {text: unit}}]\n",
            'Closest: "type"',
        ),
        ("    coding: [{", "    resourceType: Basic\n    coding: [{", "which is for `contained` alone"),
    ],
)
def test_what_is_wrong_inside_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    _, problems = check(write_mappings(tmp_path / "source", labs=LABS.replace(old, new, 1)))
    assert any(message in str(problem) for problem in problems)
