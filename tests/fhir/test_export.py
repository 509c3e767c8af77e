"""What is exported can be imported again, and is what was imported."""

import json
from pathlib import Path

import polars as pl
import pytest

import ehrseq
from ehrseq.core.errors import ConfigError, SchemaError

PEOPLE = [
    {"resourceType": "Patient", "id": name, "name": [{"text": 'Ä "quoted", and, more\\'}]} for name in "abc"
]
STAYS = [
    {"resourceType": "Encounter", "id": f"e{i}", "status": "finished", "class": {"code": "IMP"},
     "subject": {"reference": f"Patient/{'abc'[i % 3]}"}, "length": {"value": 1.50}}
    for i in range(9)
]  # fmt: skip
PLACES = [{"resourceType": "Location", "id": "ward", "name": "Ward\n1"}]
ALL = {f"{r['resourceType']}/{r['id']}": r for r in [*PEOPLE, *STAYS, *PLACES]}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/all.ndjson").write_text("".join(json.dumps(one) + "\n" for one in ALL.values()))
    return ehrseq.import_fhir(tmp_path / "in", tmp_path / "store").out


def resources(out: Path) -> dict[str, dict]:
    paths = list(out.rglob("[A-Z]*/*.parquet"))
    found = [json.loads(text) for path in paths for text in pl.read_parquet(path)["_json"]]
    assert len(found) == len({f"{r['resourceType']}/{r['id']}" for r in found})
    return {f"{r['resourceType']}/{r['id']}": r for r in found}


@pytest.mark.parametrize("form", ["ndjson", "bundles", "transactions"])
@pytest.mark.parametrize("compress", [False, True])
def test_out_and_in_again(store: Path, tmp_path: Path, form: str, compress: bool):
    result = ehrseq.export_fhir(store, tmp_path / "out", form=form, compress=compress)
    assert result.manifest.made == {"Encounter": 9, "Location": 1, "Patient": 3}
    again = ehrseq.import_fhir(result.out, tmp_path / "again")
    assert again.manifest.rows == {"in": 13, "used": 13, "rejected": 0, "filtered": 0}
    assert resources(again.out) == ALL
    assert ehrseq.export_fhir(store, tmp_path / "out", form=form, compress=compress).status == "unchanged"


def test_bulk_manifest_lists_every_file(store: Path, tmp_path: Path):
    out = ehrseq.export_fhir(store, tmp_path / "out").out
    told = json.loads((out / "bulk-manifest.json").read_text())
    assert {item["type"]: item["count"] for item in told["output"]} == {
        "Encounter": 9,
        "Location": 1,
        "Patient": 3,
    }
    for item in told["output"]:
        assert len((out / item["url"]).read_text().splitlines()) == item["count"]


def test_a_bundle_holds_one_patient(store: Path, tmp_path: Path):
    out = ehrseq.export_fhir(store, tmp_path / "out", form="bundles").out
    by_name = {
        path.stem: json.loads(path.read_text()) for path in out.rglob("*.json") if "bundles" in path.parts
    }
    by_name = {name: bundle for name, bundle in by_name.items() if bundle.get("resourceType") == "Bundle"}
    assert set(by_name) == {"a", "b", "c", "nobody"}
    for name in "abc":
        entries = [entry["resource"] for entry in by_name[name]["entry"]]
        assert entries[0]["resourceType"] == "Patient"
        assert {one["subject"]["reference"] for one in entries[1:]} == {f"Patient/{name}"}


def test_transactions_put_what_others_refer_to_first(store: Path, tmp_path: Path):
    out = ehrseq.export_fhir(store, tmp_path / "out", form="transactions").out
    bundles = [json.loads(path.read_text()) for path in sorted(out.glob("transactions/*/*.json"))]
    assert all(bundle["type"] == "transaction" for bundle in bundles)
    for bundle in bundles:
        for entry in bundle["entry"]:
            resource = entry["resource"]
            url = f"{resource['resourceType']}/{resource['id']}"
            assert entry["request"] == {"method": "PUT", "url": url}
        there = {entry["request"]["url"] for entry in bundle["entry"]}
        asked = {e["resource"]["subject"]["reference"] for e in bundle["entry"] if "subject" in e["resource"]}
        assert asked <= there


def test_a_view_as_a_file(store: Path, tmp_path: Path):
    view = tmp_path / "stays.yaml"
    columns = "{name: id, path: id}, {name: length, path: length.value}, {name: who, path: subject.getReferenceKey()}"
    view.write_text(f"resource: Encounter\nselect: [{{column: [{columns}]}}]\n")
    expected = {(stay["id"], 1.5, stay["subject"]["reference"][-1]) for stay in STAYS}
    for suffix, read in ((".parquet", pl.read_parquet), (".csv", pl.read_csv), (".ndjson", pl.read_ndjson)):
        made = ehrseq.export_view(view, store, tmp_path / f"stays{suffix}")
        assert made.rows == 9
        assert set(read(made.out).rows()) == expected
    with pytest.raises(ConfigError, match=r"\.parquet, \.csv, \.ndjson"):
        ehrseq.export_view(view, store, tmp_path / "stays.xlsx")
    with pytest.raises(SchemaError):
        ehrseq.export_view(view, tmp_path / "in", tmp_path / "stays.csv")
