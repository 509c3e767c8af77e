"""Nothing is dropped in silence: every element of a store reaches the timeline, or there is a reason."""

import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fhir_store import Resource, about, coded, encounter, patient, write_store

import ehrseq
from ehrseq.timeline.coverage import coverage, present, read_reasons, reason_of
from ehrseq.timeline.knowable import load_knowledge


def result(name: str = "o1", **more: Any) -> Resource:
    return about(1, "Observation", name, status="final", code=coded("http://loinc.org", "1"), **more)


def test_each_element_goes_somewhere_or_has_a_reason(tmp_path: Path) -> None:
    value: dict[str, Any] = {
        "valueQuantity": {"value": 1.0, "unit": "mg", "system": "http://unitsofmeasure.org"}
    }
    told = result(issued="2020-01-01T00:00:00Z", identifier=[{"value": "7"}], **value)
    store = write_store(tmp_path / "fhir", [patient(1), told, result("o2"), encounter("e1", 1, "2020")])
    rows = {(row["resource_type"], row["path"]): row for row in coverage(store).elements.to_dicts()}
    assert rows["Observation", "issued"] | {"reason": None} == {
        "resource_type": "Observation", "path": "issued", "resources": 1, "goes_to": "time", "reason": None,
    }  # fmt: skip
    assert rows["Observation", "code.coding.code"]["resources"] == 2
    assert rows["Observation", "code.coding.code"]["goes_to"] == "code"
    assert rows["Observation", "valueQuantity.unit"]["goes_to"] == "value"
    assert rows["Observation", "identifier.value"]["goes_to"] == ""
    assert rows["Observation", "identifier.value"]["reason"].startswith("names or finds")
    assert rows["Encounter", "subject.reference"]["goes_to"] == "reference"


def test_what_nobody_has_explained_is_said(tmp_path: Path) -> None:
    """An element that FHIR has, that no view reads and no reason names; here and in the command's output."""
    flagged = about(1, "Flag", "f1", status="active", code=coded("http://h.org", "fall"))
    found = coverage(write_store(tmp_path / "fhir", [patient(1), flagged]), out=tmp_path / "table.parquet")
    paths = found.unexplained["path"].to_list()
    assert "code.coding.code" in paths
    assert "status" not in paths
    assert found.summary()["unexplained"] == [("Flag", path) for path in paths]
    assert pl.read_parquet(tmp_path / "table.parquet").equals(found.elements)


def test_lists_count_resources_not_items() -> None:
    notes = [[{"text": "a"}, {"text": None}, {"text": "b"}], [], None, [{"text": None}], [{"text": "c"}]]
    assert present(pl.DataFrame({"id": list("abcde"), "note": notes})) == {"note.text": 2}


def test_imported_json_counts_the_same(tmp_path: Path) -> None:
    texts = [
        '{"resourceType": "X", "id": "a", "note": [{"text": "a"}, {}], "b": null}',
        '{"id": "b", "note": []}',
    ]
    assert present(pl.DataFrame({"id": ["a", "b"], "_json": texts})) == {"note.text": 1}


def test_a_reason_holds_for_all_below() -> None:
    reasons = {"identifier": "one", "Patient.name": "two", "*.coding.system": "three"}
    assert reason_of("Claim", "identifier.value", reasons) == "one"
    assert reason_of("Claim", "specimen.identifier.value", reasons) is None
    assert reason_of("Patient", "name.given", reasons) == "two"
    assert reason_of("Claim", "priority.coding.system", reasons) == "three"


def test_no_reason_hides_what_a_view_reads() -> None:
    """A code or a value of a shipped view is never among the elements that are explained away."""
    knowledge, reasons = load_knowledge(), read_reasons()
    assert "Observation.valueQuantity.value" not in reasons
    for path in ("code.coding.code", "valueQuantity.value", "dosage.route.coding.code", "note.text"):
        assert reason_of("Observation", path, reasons) is None, path
    assert knowledge.kinds


def test_the_generated_hospital_is_explained(tmp_path: Path) -> None:
    ehrseq.generate(tmp_path / "tables", patients=12, seed=3)
    store = ehrseq.map("mimic_iv", tmp_path / "tables", tmp_path / "fhir", validate="none").out
    assert coverage(store).unexplained.rows() == []


@pytest.mark.slow
def test_synthea_is_explained(data_dir: Path, tmp_path: Path) -> None:
    archive = data_dir / "synthea-r4.tar.xz"
    if not archive.is_file():
        pytest.skip(f"{archive} is absent")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "files", filter="data")
    store = ehrseq.import_fhir(tmp_path / "files", tmp_path / "fhir").out
    assert coverage(store).unexplained.rows() == []
