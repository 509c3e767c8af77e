# ruff: noqa: E501
"""`mappings new`: a clinic nobody has seen gets valid Encounters and Observations without a line written by hand."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import duckdb
import jsonschema
import polars as pl
import pytest
import yaml

import ehrseq
from ehrseq.core.errors import MappingError, SourceError
from ehrseq.mapping.cases import run_cases
from ehrseq.mapping.check import check, load_mappings, shipped_sources
from ehrseq.mapping.coverage import coverage
from ehrseq.mapping.first import new
from ehrseq.mapping.listing import listing
from ehrseq.mapping.preview import preview
from ehrseq.mapping.schema import mapping_schema


def odd_clinic(data: Path) -> Path:
    """Six tables as a small German clinic exports them: semicolons, decimal commas, days first, Latin letters."""
    tables = {
        "Stammdaten": ("PatNr;Nachname;Geschl;GebDat;Größe cm", lambda n: f"{n:05d};Müller{n};{'mw'[n % 2]};0{n % 9 + 1}.02.19{40 + n};{160 + n},5"),
        "Faelle": ("FallNr;PatNr;Aufn.Datum;Entl.Datum;Art", lambda n: f"F{n};{n:05d};0{n % 9 + 1}.03.2023 08:{n:02d};{'' if n == 3 else '21.03.2023 11:00'};stat"),
        "Laborwerte": ("LfdNr;FallNr;PatNr;Abnahme-Zeit;Parameter;Ergebnis;Einheit", lambda n: f"{n};F{n};{n:05d};12.03.2023 0{n % 9}:15;KREA;{['1,2', '140', '<0,5', 'neg.'][n % 4]};mg/dl"),
        "Kurve": ("FallNr;PatNr;Zeitpkt;Puls;RR_sys;Temp", lambda n: f"F{n};{n:05d};12.03.2023 00:{n:02d};{60 + n};{110 + n};36,{n % 10}"),
        "Diagnosen": ("FallNr;PatNr;ICD;Diagnosetext;Art", lambda n: f"F{n};{n:05d};I10.{n % 9};Hypertonie;HD"),
        "Medikamentengabe": ("PatNr;FallNr;Handelsname;Dosis;Einheit;Gabe_am", lambda n: f"{n:05d};F{n};Ramipril;2,5;mg;12.03.2023 08:{n:02d}"),
    }  # fmt: skip
    data.mkdir()
    for name, (header, row) in tables.items():
        text = "\n".join([header, *(row(n) for n in range(1, 31))]) + "\n"
        (data / f"{name}.csv").write_bytes(text.encode("cp1252"))
    return data


def test_an_odd_clinic_gets_encounters_and_observations(tmp_path: Path):
    data, folder, store = odd_clinic(tmp_path / "export"), tmp_path / "clinic", tmp_path / "fhir"
    first = new(folder, data, timezone="Europe/Berlin")
    assert first.subject == "PatNr"
    assert check(folder)[1] == []
    assert all(outcome.passed for outcome in run_cases(load_mappings(folder)))
    assert coverage(folder).forgotten == []
    result = ehrseq.map(str(folder), data, store, validate="full")
    assert result.manifest.made == {"Condition": 30, "Encounter": 30, "MedicationAdministration": 30,
                                    "Observation": 120, "Patient": 30}  # fmt: skip
    assert result.manifest.rows["rejected"] == 0
    patients = pl.read_parquet(store / "Patient" / "*.parquet")
    assert set(patients["gender"]) == {"male", "female"}
    assert patients["birthDate"].str.contains(r"^19\d\d-02-0\d$").all()
    stays = pl.read_parquet(store / "Encounter" / "*.parquet")
    assert stays["period"].struct.field("start").str.ends_with("+01:00").all()
    labs = pl.read_parquet(store / "Observation" / "*.parquet").filter(
        pl.col("_mapping").str.ends_with("laborwerte")
    )
    given = labs["valueQuantity"].struct
    assert {1.2, 140.0, 0.5} == set(given.field("value").drop_nulls())
    assert set(labs["valueString"].drop_nulls()) == {"neg."}
    assert set(given.field("comparator").drop_nulls()) == {"<"}
    systems = {item.system: item for item in coverage(folder, store).systems}
    about = systems["urn:ehrseq:clinic:kurve"]
    assert (about.values, about.patients, about.codes) == (90, 30, 3)


def test_standard_codes_release_times_and_the_circumstances_of_a_stay_are_found(tmp_path: Path):
    data, folder, store = tmp_path / "export", tmp_path / "ward", tmp_path / "fhir"
    data.mkdir()
    tables = {
        "Patients": "PatID,Birth_Date,Sex\n1,1950-03-12,M\n",
        "Stays": "StayNo,PatID,Ward,AdmitTS,DischargeTS,Type,Admit_From,Discharge_To\n"
                 "9,1,ICU-2,2021-05-03 14:20:00,2021-05-09 10:00:00,emergency,home,expired\n",
        "Labs": "LabID,PatID,StayNo,Test,LOINC,Result,Unit,TakenAt,ReleasedAt\n"
                "1,1,9,Creatinine,2160-0,1.8,mg/dL,2021-05-03 15:00:00,2021-05-03 16:10:00\n",
        "Diagnoses": "StayNo,PatID,ICD10,Text\n9,1,I50.1,Left ventricular failure\n",
    }  # fmt: skip
    for name, text in tables.items():
        (data / f"{name}.csv").write_text(text)
    new(folder, data, timezone="UTC")
    assert all(outcome.passed for outcome in run_cases(load_mappings(folder)))
    ehrseq.map(str(folder), data, store, validate="full")
    lab, stay, diagnosis = (pl.read_parquet(store / kind / "*.parquet").to_dicts()[0]
                            for kind in ("Observation", "Encounter", "Condition"))  # fmt: skip
    assert lab["issued"] == "2021-05-03T16:10:00+00:00"
    assert [(coding["system"], coding["code"]) for coding in lab["code"]["coding"]] == [
        ("urn:ehrseq:ward:labs", "Creatinine"), ("http://loinc.org", "2160-0")]  # fmt: skip
    assert [coding["system"] for coding in diagnosis["code"]["coding"]] == ["http://hl7.org/fhir/sid/icd-10"]
    assert stay["type"] == [{"text": "emergency"}]
    assert stay["location"] == [{"location": {"display": "ICU-2"}}]
    assert stay["hospitalization"] == {
        "admitSource": {"text": "home"},
        "dischargeDisposition": {"text": "expired"},
    }


@pytest.mark.parametrize("suffix", ["sqlite", "duckdb"])
def test_the_odd_clinic_in_a_database(tmp_path: Path, suffix: str):
    export, place = odd_clinic(tmp_path / "export"), tmp_path / f"clinic.{suffix}"
    tables = {path.stem: pl.read_csv(path, separator=";", encoding="cp1252", infer_schema=False)
              for path in sorted(export.glob("*.csv"))}  # fmt: skip
    numbers = pl.col("Temp").str.replace(",", ".").cast(pl.Float64)
    tables["Kurve"] = tables["Kurve"].with_columns(numbers)  # a number, where results beside it are texts
    with closing(sqlite3.connect(place) if suffix == "sqlite" else duckdb.connect(place)) as opened:
        for name, frame in tables.items():
            kinds = {pl.Float64: "DOUBLE"}
            columns = ", ".join(
                f'"{column}" {kinds.get(kind, "TEXT")}' for column, kind in frame.schema.items()
            )
            opened.execute(f'CREATE TABLE "{name}" ({columns})')
            opened.executemany(f'INSERT INTO "{name}" VALUES ({", ".join("?" * frame.width)})', frame.rows())
        opened.commit()
    first = new(tmp_path / "clinic", str(place), timezone="Europe/Berlin")
    assert (first.subject, check(tmp_path / "clinic")[1]) == ("PatNr", [])
    source = tmp_path / "clinic" / "source.yaml"  # as a person would, who knows how all its texts are written
    source.write_text(source.read_text().replace("  Kurve:\n", "  Kurve:\n    decimal: ','\n"))
    (shown,) = preview(tmp_path / "clinic", str(place), "kurve", rows=1)[:1]
    assert shown.resource is not None
    assert shown.row["Temp"] == 36.1
    made = ehrseq.map(tmp_path / "clinic", str(place), tmp_path / "fhir", validate="full").manifest
    assert made.rows["rejected"] == 0
    assert made.made == {"Condition": 30, "Encounter": 30, "MedicationAdministration": 30, "Observation": 120,
                         "Patient": 30}  # fmt: skip


def test_nothing_of_a_patient_is_copied(tmp_path: Path):
    new(tmp_path / "clinic", odd_clinic(tmp_path / "export"))
    written = "".join(path.read_text("utf-8") for path in (tmp_path / "clinic").rglob("*.yaml"))
    for value in ("Müller", "00001", "F1\n", "KREA", "neg.", "Hypertonie", "Ramipril", "2023"):
        assert value not in written


def test_a_folder_is_not_overwritten(tmp_path: Path):
    data = odd_clinic(tmp_path / "export")
    new(tmp_path / "clinic", data, ["Stammdaten"])
    before = (tmp_path / "clinic" / "source.yaml").read_bytes()
    with pytest.raises(MappingError, match="is not overwritten"):
        new(tmp_path / "clinic", data)
    assert (tmp_path / "clinic" / "source.yaml").read_bytes() == before
    with pytest.raises(SourceError, match="has no table Labor"):
        new(tmp_path / "other", data, ["Labor"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clinic", "export"]


def test_tables_without_patients_say_so(tmp_path: Path):
    (tmp_path / "codes.csv").write_text("k,v\n1,2\n")
    with pytest.raises(MappingError, match="no column looks like the number of a patient"):
        new(tmp_path / "clinic", tmp_path)


def test_the_schema_takes_every_shipped_file_and_no_typo():
    validator = jsonschema.Draft202012Validator(mapping_schema())
    validator.check_schema(mapping_schema())
    paths = [path for folder in shipped_sources().values() for path in folder.glob("*.yaml")]
    assert len(paths) > 80
    for path in paths:
        value = yaml.safe_load(path.read_text("utf-8").replace("{on:", '{"on":').replace(" on:", ' "on":'))
        assert [
            f"{path}: {error.message[:200]}" for error in validator.iter_errors(json.loads(json.dumps(value)))
        ] == []
    good = {"version": 1, "resource": "Observation", "from": "t", "key": ["a"],
            "template": {"valueQuantity": {"$quantity": {"value": "a"}}}}  # fmt: skip
    assert validator.is_valid(good)
    for wrong in (
        {**good, "tempalte": {}},
        {**good, "template": {"valueQuanttiy": {}}},
        {**good, "template": {"valueQuantity": {"$quantity": {"vaule": "a"}}}},
        {**good, "resource": "Observatoin"},
        {"source": "s", "tables": {"t": {"columns": {"a": "text"}}}},
    ):
        assert not validator.is_valid(wrong)


def test_one_broken_source_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "source.yaml").write_text("source: x\n")
    good = shipped_sources()["physionet2019"]
    monkeypatch.setattr(
        "ehrseq.mapping.listing.shipped_sources", lambda: {"a": tmp_path / "broken", "good": good}
    )
    listed = listing()
    assert {row[0] for row in listed.rows} == {"good"}
    assert "lacks `tables`" in listed.broken["a"]
    assert listed.exit_code == 2
