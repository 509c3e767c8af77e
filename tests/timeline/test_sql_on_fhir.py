"""Every case of the SQL-on-FHIR v2 suite passes, and a wrong expectation would not."""

from pathlib import Path

from sql_on_fhir import cases, fault, table

PATIENTS = [{"resourceType": "Patient", "id": "a"}, {"resourceType": "Patient", "id": "b"}]
IDS = {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id"}]}]}


def test_the_cases_of_the_specification_pass(data_dir: Path) -> None:
    done = list(cases(data_dir / "conformance" / "sql_on_fhir_v2"))
    assert len(done) > 90
    assert not any(case.fault for case in done), table(done)


def test_the_runner_sees_what_is_wrong() -> None:
    right = {"view": IDS, "expect": [{"id": "b"}, {"id": "a"}]}
    assert fault(PATIENTS, right) == ""
    assert "rows" in fault(PATIENTS, {"view": IDS, "expect": [{"id": "a"}]})
    assert "columns" in fault(PATIENTS, {"view": IDS, "expectColumns": ["key"]})
    assert fault(PATIENTS, {"view": IDS, "expectError": True})
    wrong = {"resource": "Patient", "select": [{"column": [{"name": "id", "path": "nothing()"}]}]}
    assert "refused" in fault(PATIENTS, {"view": wrong, "expect": []})
    assert fault(PATIENTS, {"view": wrong, "expectError": True}) == ""
