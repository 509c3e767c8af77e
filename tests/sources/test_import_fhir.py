"""`ehrseq import fhir`: every resource is kept as it came, once, under the right patient; or it is in the rejects."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import ehrseq
from ehrseq.core.errors import DataQualityError, SourceError
from ehrseq.fhir.ndjson import write_ndjson
from ehrseq.timeline import read_timeline


def patient(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "birthDate": "1980-01-02", **more}


def sodium(name: str, of: str, value: float = 140, **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "id": name, "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "2951-2"}]},
        "subject": {"reference": of}, "effectiveDateTime": "2020-01-01T08:00:00Z",
        "valueQuantity": {"value": value, "unit": "mmol/L"}, **more,
    }  # fmt: skip


def lines(path: Path, *resources: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in resources).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def bundle(*entries: dict[str, Any], kind: str = "transaction", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


def stored(out: Path, kind: str) -> dict[str, dict[str, Any]]:
    paths = sorted((out / kind).glob("*.parquet"))
    return {row["id"]: json.loads(row["_json"]) for path in paths for row in pl.read_parquet(path).to_dicts()}


def rejects(out: Path) -> list[tuple[str, str, int, str]]:
    found = pl.read_parquet(out / "rejects/*.parquet")
    return sorted(found.select("table", "rule", "row", "outcome").rows())


def imported(tmp_path: Path, **options: Any) -> Any:
    return ehrseq.import_fhir(tmp_path / "in", tmp_path / "out", **options)


def test_ndjson_is_kept_as_it_came_and_grouped_by_patient(tmp_path: Path):
    odd = sodium("o1", "Patient/a", 140.50, extension=[{"url": "http://x.test", "valueString": "é\u2028\\"}])
    lines(tmp_path / "in/one/Patient.ndjson", patient("a"), patient("b"))
    lines(
        tmp_path / "in/two.ndjson.gz", odd, sodium("o2", "http://server.test/fhir/Patient/b/_history/3"),
        {"resourceType": "Organization", "id": "o"},
    )  # fmt: skip
    result = imported(tmp_path)
    assert result.manifest.rows == {"in": 5, "used": 5, "rejected": 0, "filtered": 0}
    assert stored(result.out, "Observation")["o1"] == odd
    assert (result.out / "Organization/shared.parquet").is_file()
    for of, observation in (("a", "o1"), ("b", "o2")):
        buckets = {
            path.stem
            for kind, name in (("Patient", of), ("Observation", observation))
            for path in (result.out / kind).glob("*.parquet")
            if name in pl.read_parquet(path)["id"]
        }
        assert len(buckets) == 1
    row = pl.read_parquet(result.out / "Observation/*.parquet").filter(id="o2").row(0, named=True)
    assert (row["_file"], row["_row"]) == ("two.ndjson.gz", 2)
    assert imported(tmp_path).status == "unchanged"


@pytest.mark.parametrize("kind", ["transaction", "batch", "collection", "searchset", "history"])
def test_bundles_are_opened_however_deep(tmp_path: Path, kind: str):
    inner = bundle({"resource": sodium("o", "Patient/a")}, kind=kind)
    whole = bundle({"fullUrl": "urn:uuid:1", "resource": patient("a")}, {"resource": inner}, kind=kind)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.json").write_text(json.dumps(whole, indent=3))
    (tmp_path / "in/single.json").write_text(json.dumps(patient("b")))
    lines(tmp_path / "in/by-line.ndjson", bundle({"resource": patient("c")}))
    result = imported(tmp_path)
    assert set(stored(result.out, "Patient")) == {"a", "b", "c"}
    assert set(stored(result.out, "Observation")) == {"o"}
    assert result.manifest.rows["in"] == 4


def test_references_within_a_bundle_lead_to_ids_as_on_a_server(tmp_path: Path):
    person, stay = "urn:uuid:0f1e1f3e-1111-4c11-8c11-000000000001", "http://old.test/fhir/Encounter/77"
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.json").write_text(json.dumps(bundle(
        {"fullUrl": person, "resource": patient("a")},
        {"fullUrl": stay, "resource": {"resourceType": "Encounter", "status": "finished",
                                       "subject": {"reference": person}, "class": {"code": "IMP"}}},
        {"resource": sodium("o", person)},
    )))  # fmt: skip
    result = imported(tmp_path)
    assert stored(result.out, "Observation")["o"]["subject"] == {"reference": "Patient/a"}
    assert stored(result.out, "Encounter")["77"]["subject"] == {"reference": "Patient/a"}
    assert not (result.out / "Observation/shared.parquet").exists()


def test_the_newest_version_counts_and_deletions_delete(tmp_path: Path):
    def at(version: str, **more: Any) -> dict[str, Any]:
        return {"meta": {"lastUpdated": f"2020-01-0{version}T00:00:00Z", "versionId": version}, **more}

    lines(
        tmp_path / "in/1.ndjson", patient("a"), sodium("new", "Patient/a", 3, **at("3")),
        sodium("new", "Patient/a", 2, **at("2")), sodium("gone", "Patient/a", **at("1")),
        sodium("again", "Patient/a", **at("4")), sodium("same", "Patient/a"), sodium("same", "Patient/a"),
    )  # fmt: skip
    deleted = [{"request": {"method": "DELETE", "url": f"Observation/{name}"}} for name in ("gone", "again")]
    (tmp_path / "in/2.json").write_text(json.dumps(bundle(*deleted, timestamp="2020-01-02T00:00:00Z")))
    result = imported(tmp_path)
    found = stored(result.out, "Observation")
    assert set(found) == {"new", "again", "same"}
    assert found["new"]["valueQuantity"]["value"] == 3
    account = result.manifest.sources["Observation"]
    assert (account.rows_in, account.used, account.filtered) == (8, 3, 5)
    assert account.reasons == {"deleted": 1, "deletion": 2, "superseded": 2}


def test_a_resource_that_moves_to_another_patient_is_there_once(tmp_path: Path):
    moves = [
        sodium(f"o{i}", f"Patient/p{i}", meta={"lastUpdated": "2020-01-01T00:00:00+01:00"}) for i in range(9)
    ]
    lines(tmp_path / "in/1.ndjson", *moves, *(patient(f"p{i}") for i in range(10)))
    later = [
        sodium(f"o{i}", f"Patient/p{i + 1}", meta={"lastUpdated": "2020-01-01T00:00:00Z"}) for i in range(9)
    ]
    lines(tmp_path / "in/0.ndjson", *later)
    result = imported(tmp_path)
    found = [r for path in (result.out / "Observation").glob("*") for r in pl.read_parquet(path)["_json"]]
    assert sorted(json.loads(r)["subject"]["reference"] for r in found) == [
        f"Patient/p{i}" for i in range(1, 10)
    ]
    assert result.manifest.sources["Observation"].reasons == {"superseded": 9}


def test_what_cannot_be_kept_is_rejected_with_its_line(tmp_path: Path):
    whole = json.dumps(sodium("cut", "Patient/a"))
    lines(
        tmp_path / "in/x.ndjson", "\ufeff" + json.dumps(patient("a")), "", '{"resourceType": "Pateint", "id": "x"}',
        '{"resourceType": "Patient"}', '{"resourceType": "Patient", "id": "not legal"}', "[1, 2]",
        {"resourceType": "OperationOutcome", "issue": []}, sodium("good", "Patient/a"), "\r", whole[: len(whole) // 2],
    )  # fmt: skip
    with pytest.raises(DataQualityError, match=r"x|6 of 10 resources were rejected"):
        imported(tmp_path)
    result = imported(tmp_path, max_reject_fraction=1)
    assert rejects(result.out) == [
        ("(no type)", "blank", 2, "filtered"),
        ("(no type)", "blank", 9, "filtered"),
        ("(no type)", "json", 10, "rejected"),
        ("(no type)", "resourceType", 6, "rejected"),
        ("OperationOutcome", "OperationOutcome", 7, "filtered"),
        ("Pateint", "resourceType", 3, "rejected"),
        ("Patient", "id", 4, "rejected"),
        ("Patient", "id", 5, "rejected"),
    ]
    assert result.manifest.rows == {"in": 10, "used": 2, "rejected": 5, "filtered": 3}


def test_bytes_that_are_no_text_and_json_without_end(tmp_path: Path):
    deep = (
        '{"resourceType": "Patient", "id": "deep", "birthDate": "1980", "extension": '
        + "[" * 100_000
        + "]" * 100_000
        + "}"
    )
    path = lines(tmp_path / "in/x.ndjson", patient("a"), deep)
    path.write_bytes(path.read_bytes() + b'{"resourceType": "Patient", "id": "\xff"}\n')
    result = imported(tmp_path, max_reject_fraction=1)
    assert set(stored_ids(result.out)) == {"a", "deep"}
    assert rejects(result.out) == [("(no type)", "json", 3, "rejected")]
    assert ehrseq.timeline(result.out, tmp_path / "timeline").manifest.rows["used"] == 2


def stored_ids(out: Path) -> list[str]:
    return pl.read_parquet(out / "Patient/*.parquet")["id"].to_list()


def test_unknown_elements_are_kept_and_counted_or_rejected(tmp_path: Path):
    lines(tmp_path / "in/x.ndjson", patient("a"), patient("b", favouriteColour="red", _birthDate={"id": "x"}))
    result = imported(tmp_path)
    assert result.manifest.notes["unknown_elements"] == {"Patient": {"favouriteColour": 1}}
    assert stored(result.out, "Patient")["b"]["favouriteColour"] == "red"
    strict = imported(tmp_path, strict=True, max_reject_fraction=1)
    assert set(stored(strict.out, "Patient")) == {"a"}
    assert rejects(strict.out) == [("Patient", "element", 2, "rejected")]


@pytest.mark.parametrize(
    ("resource", "version", "sign"),
    [
        ({"resourceType": "Condition", "id": "c", "assertedDate": "2020"}, "STU3", "Condition.assertedDate"),
        ({"resourceType": "ProcedureRequest", "id": "c"}, "STU3", "ProcedureRequest"),
        ({"resourceType": "Encounter", "id": "c", "actualPeriod": {}}, "R5", "Encounter.actualPeriod"),
        ({"resourceType": "GenomicStudy", "id": "c"}, "R5", "GenomicStudy"),
    ],
)
def test_other_versions_of_fhir_are_refused(
    tmp_path: Path, resource: dict[str, Any], version: str, sign: str
):
    lines(tmp_path / "in/x.ndjson", patient("a"), resource)
    with pytest.raises(SourceError, match=rf"x\.ndjson: this is FHIR {version}.*{sign}.*row 2"):
        imported(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "holds no FHIR"),
        (lambda folder: (folder / "x.ndjson.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 99)[:-9]), "x.ndjson.gz"),
        (lambda folder: (folder / "x.json.gz").write_bytes(b"no gzip"), "x.json.gz"),
        (lambda folder: (folder / "x.ndjson").write_text('{"a": "' + "x" * (40 << 20) + '"}'), "longer than"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_stop_the_import(tmp_path: Path, make: Any, message: str):
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    with pytest.raises(SourceError, match=message):
        imported(tmp_path)
    assert not (tmp_path / "out").exists()


def test_workers_do_not_change_a_byte(tmp_path: Path):
    for number in range(3):
        people = [patient(f"p{number}{i}") for i in range(20)]
        results = [sodium(f"o{number}{i}", f"Patient/p{(number + 1) % 3}{i % 20}") for i in range(60)]
        lines(tmp_path / f"in/{number}.ndjson", *people, *results)
    one = ehrseq.import_fhir(tmp_path / "in", tmp_path / "one").out
    two = ehrseq.import_fhir(tmp_path / "in", tmp_path / "two", workers=2).out
    names = sorted(
        path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.name != "run.json"
    )
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)
    assert len(names) == len([path for path in two.rglob("*") if path.is_file()]) - 1


def test_a_mapped_store_written_as_ndjson_and_imported_gives_the_same_events(tmp_path: Path):
    from ehrseq.synthetic.generate import generate

    generate(tmp_path / "tables", patients=40, seed=5)
    mapped = ehrseq.map("mimic_iv", tmp_path / "tables", tmp_path / "mapped").out
    for shard in sorted(mapped.glob("[A-Z]*/*.parquet")):
        name = f"{shard.parent.name}-{shard.stem}.ndjson"
        (tmp_path / "in").mkdir(exist_ok=True)
        write_ndjson(pl.read_parquet(shard), shard.parent.name, tmp_path / "in" / name)
    again = imported(tmp_path).out
    first = read_timeline(ehrseq.timeline(mapped, tmp_path / "first").out)
    second = read_timeline(ehrseq.timeline(again, tmp_path / "second").out)
    assert first.height > 5_000
    assert first.sort(pl.all()).equals(second.sort(pl.all()))
