"""Validation: what must pass passes, and each single fault is found by its own rule."""

import json
import tarfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from small_resources import observations, patients

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.dtypes import primitive_dtype
from ehrseq.fhir.formats import malformed
from ehrseq.fhir.ndjson import read_ndjson
from ehrseq.fhir.validate import Violation, full, missing_references, rules, sample, violations

FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"status": None}, "status", "required"),
    ({"status": "Final"}, "status", "code"),
    ({"code": None}, "code", "required"),
    ({"code": {"coding": [{"system": None, "code": None}]}}, "code", "required"),
    ({"component": [{"code": {"text": "a"}}, {"valueInteger": 3}]}, "component.code", "required"),
    ({"valueInteger": 3}, "value[x]", "choice"),
    (
        {"component": [{"code": {"text": "a"}, "valueInteger": 1, "valueString": "x"}]},
        "component.value[x]",
        "choice",
    ),
    ({"id": "a_b"}, "id", "id"),
    ({"id": "x" * 65}, "id", "id"),
    ({"subject.reference": "Patient/"}, "subject.reference", "reference"),
    ({"subject.reference": "Encounter/1"}, "subject.reference", "reference"),
    ({"subject.reference": ""}, "subject.reference", "reference"),
    ({"issued": "2180-05-06"}, "issued", "instant"),
    ({"issued": "2180-02-30T00:00:00Z"}, "issued", "instant"),
    ({"effectiveDateTime": "2180-05-06T22:23:00"}, "effectiveDateTime", "dateTime"),
    ({"effectiveDateTime": "2180-13"}, "effectiveDateTime", "dateTime"),
    ({"valueQuantity.comparator": "=<"}, "valueQuantity.comparator", "code"),
    ({"valueQuantity.unit": ""}, "valueQuantity.unit", "string"),
    ({"valueQuantity.value": float("inf")}, "valueQuantity.value", "decimal"),
    ({"code": {"coding": [{"code": "a"}, {"code": " b"}]}}, "code.coding.code", "code"),
    ({"code": {"coding": [{"system": "http://a b"}]}}, "code.coding.system", "uri"),
    ({"component": [{"code": {"text": "a"}, "valueInteger": 2**31}]}, "component.valueInteger", "integer"),
]


def test_a_valid_resource_has_no_violations() -> None:
    frame = observations(
        {}, {"subject": None}, {"effectiveDateTime": "2180"}, {"component": []}, {"category": None}
    )
    assert violations(frame, "Observation").is_empty()
    assert violations(frame, "Observation").schema == Violation.polars_schema()
    assert full(frame, "Observation").is_empty()


@pytest.mark.parametrize(
    ("change", "path", "rule"), FAULTS, ids=[f"{path}-{i}" for i, (_, path, _) in enumerate(FAULTS)]
)
def test_one_fault_is_one_violation(change: dict[str, Any], path: str, rule: str) -> None:
    found = violations(observations({}, change, {}), "Observation")
    assert found.select("index", "element", "rule").rows() == [(1, path, rule)]


def test_all_faults_at_once_in_the_order_of_rows() -> None:
    frame = observations(*[change for change, _, _ in FAULTS])
    found = violations(frame, "Observation")
    assert found.select("index", "element", "rule").rows() == [
        (i, p, r) for i, (_, p, r) in enumerate(FAULTS)
    ]
    Violation.check(found)


def test_messages_quote_no_values() -> None:
    secret = "Zaphod-Beeblebrox_42"
    changes = [{"id": secret}, {"status": secret}, {"issued": secret}, {"subject.reference": secret}]
    frame = observations(*changes, {"valueInteger": 3}, {"code": None})
    assert violations(frame, "Observation").height == 6
    decoded = full(frame, "Observation")
    assert set(decoded["index"]) >= {2, 4, 5}
    words = [*violations(frame, "Observation")["message"], *decoded["message"], *decoded["element"]]
    assert not [text for text in words if secret in text or "Zaphod" in text]


def test_elements_that_no_column_holds() -> None:
    frame = pl.DataFrame({"id": ["a", "b"], "onsetString": ["x", None]})
    found = violations(frame, "Condition").select("index", "element", "rule").rows()
    assert found == [(0, "subject", "required"), (1, "subject", "required")]
    found = violations(pl.DataFrame({"id": ["a"]}), "MedicationRequest")["element"]
    assert sorted(found) == ["intent", "medication[x]", "status", "subject"]


def test_frames_that_are_not_the_type() -> None:
    with pytest.raises(SchemaError, match='Closest: "status"'):
        violations(pl.DataFrame({"statu": ["a"]}), "Observation")
    with pytest.raises(SchemaError, match=r"Observation\.category has dtype String"):
        violations(pl.DataFrame({"category": ["a"]}), "Observation")
    with pytest.raises(SchemaError, match=r"Quantity\.value has dtype String"):
        violations(pl.DataFrame({"valueQuantity": [{"value": "1"}]}), "Observation")
    assert violations(pl.DataFrame({"_row": [1], "_file": ["x"]}), "Basic")["element"].to_list() == ["code"]
    assert violations(observations({}).clear(), "Observation").is_empty()


@given(patients())
@settings(deadline=None, max_examples=60)
def test_the_quick_pass_agrees_with_the_rules_one_by_one(frame: pl.DataFrame) -> None:
    found = rules("Patient", frame.schema)
    slow = frame.select(pl.any_horizontal([rule.fails.fill_null(False) for rule in found.each])).to_series()
    assert frame.select(found.any_fails).to_series().to_list() == slow.to_list()
    assert sorted(set(violations(frame, "Patient")["index"])) == slow.arg_true().to_list()


UUID = "c757873d-ec9a-4326-a141-556f43239520"
FORMATS: dict[str, tuple[list[Any], list[Any]]] = {
    "date": (
        ["2024", "2024-02", "2024-02-29"],
        ["24", "2024-2", "2023-02-29", "2024-04-31", "2024-01-01T00:00:00Z", ""],
    ),
    "dateTime": (
        [
            "2024",
            "2024-02",
            "2024-02-29",
            "2024-02-29T23:59:59Z",
            "2024-02-29T00:00:60.5+14:00",
            "0001-01-01",
        ],
        ["2024-02-29T23:59Z", "2024-02-29T24:00:00Z", "2024-02-29T23:59:59", "2024-02-29 23:59:59Z", "x", ""],
    ),
    "instant": (
        ["2024-02-29T23:59:59.123-05:00"],
        ["2024-02-29", "2023-02-29T23:59:59Z", "2024-02-29T23:59:59", ""],
    ),
    "time": (["00:00:00", "23:59:60.1"], ["24:00:00", "12:05", "12:05:00Z", ""]),
    "id": (["a", "A-1.b", "x" * 64], ["", "a_b", "a b", "x" * 65, "a\n"]),
    "code": (["a", "a b c"], ["", " a", "a ", "a  b"]),
    "uri": (["urn:x", "http://a.b/c#d|1"], ["", "a b", " "]),
    "oid": (["urn:oid:1.2.840"], ["1.2.840", "urn:oid:3.1", "urn:oid:1.02", ""]),
    "uuid": ([f"urn:uuid:{UUID}"], [UUID, "urn:uuid:1", ""]),
    "base64Binary": (
        ["AAAA", "QQ==", "QUI=", "AAAA\nAAAA", "JVBERi0xLjUNJeLjz9MNCjEwIDAg"],
        ["A", "AAA", "A&A=", "QQ==AAAA", ""],
    ),
    "string": (["a", " ", "a\nb"], [""]),
    "markdown": (["# a"], [""]),
    "positiveInt": ([1, 2**31 - 1], [0, -1, 2**31]),
    "unsignedInt": ([0, 2**31 - 1], [-1, 2**31]),
    "integer": ([-(2**31), 2**31 - 1], [-(2**31) - 1, 2**31]),
    "decimal": ([1.5, -1e300], [float("nan"), float("inf")]),
}


@pytest.mark.parametrize("type_name", FORMATS)
def test_formats(type_name: str) -> None:
    good, bad = FORMATS[type_name]
    frame = pl.DataFrame({"x": [*good, *bad, None]}, schema={"x": primitive_dtype(type_name)})
    found = malformed(type_name, pl.col("x"))
    assert found is not None
    assert frame.select(found[0])["x"].to_list() == [False] * len(good) + [True] * len(bad) + [None]


def test_references_may_lead_elsewhere() -> None:
    elsewhere = [
        "#p",
        "urn:uuid:c757873d-ec9a-4326-a141-556f43239520",
        "http://h.org/Patient/1",
        "Patient/1/_history/2",
    ]
    frame = observations(*[{"subject.reference": reference} for reference in elsewhere])
    assert violations(frame, "Observation").is_empty()


def test_missing_references_at_any_depth() -> None:
    frame = observations(
        {"encounter": {"reference": "Encounter/1"}},
        {"subject.reference": "Patient/lost"},
        {"performer": [{"reference": "Practitioner/1"}, {"reference": "Practitioner/9"}]},
        {"note": [{"authorReference": {"reference": "Patient/nobody"}, "text": "t"}]},
        {"subject.reference": "#contained"},
        {"subject.reference": "http://h.org/Patient/elsewhere"},
    )
    known = {"Patient": pl.Series(["p.1", "p.2"]), "Practitioner": pl.Series(["1"])}
    assert missing_references(frame, "Observation", known).rows() == [
        (0, "encounter.reference"),
        (1, "subject.reference"),
        (2, "performer.reference"),
        (3, "note.authorReference.reference"),
    ]
    assert missing_references(frame.head(0), "Observation", known).is_empty()


def test_samples_are_nested_and_know_only_ids() -> None:
    frame = pl.DataFrame({"id": [f"a{n}" for n in range(1000)]})
    small, large = sample(frame, 0.1), sample(frame, 0.3)
    assert 60 < len(small) < 140
    assert set(small) < set(large)
    assert set(frame[small]["id"]) == set(frame.reverse()[sample(frame.reverse(), 0.1)]["id"])
    assert len(sample(frame, limit=5)) == 5
    assert set(sample(frame, limit=5)) < set(sample(frame, limit=50))
    assert sample(frame).to_list() == list(range(1000))
    assert len(sample(frame, 0.0)) == 0


def test_full_names_the_row_of_the_frame() -> None:
    frame = observations(*[{"id": f"a{n}", "code": None if n == 7 else {"text": "t"}} for n in range(10)])
    assert full(frame, "Observation").rows() == [(7, "code", "fhir.resources", "is required")]
    assert full(frame, "Observation", limit=0).is_empty()


def test_official_examples_pass(data_dir: Path, tmp_path: Path) -> None:
    """Two official examples refer to types that R4 itself does not allow there; nothing else is found."""
    by_type: dict[str, list[str]] = {}
    with tarfile.open(data_dir / "conformance" / "fhir_r4_examples.tar.xz") as archive:
        for member in archive:
            if member.name.endswith(".json") and (stream := archive.extractfile(member)):
                resource = json.load(stream)
                by_type.setdefault(resource["resourceType"], []).append(json.dumps(resource))
    found = set()
    for resource_type, lines in by_type.items():
        path = tmp_path / f"{resource_type}.ndjson"
        path.write_text("\n".join(lines))
        frame = read_ndjson(path, resource_type)
        assert frame.height == len(lines)
        found |= {
            (resource_type, *row) for row in violations(frame, resource_type).select("element", "rule").rows()
        }
    assert found <= {
        ("MedicationRequest", "dispenseRequest.performer.reference", "reference"),
        ("Observation", "performer.reference", "reference"),
    }
