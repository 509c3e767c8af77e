"""`ehrseq timeline` as a whole: a valid MEDS dataset, the same for any number of workers, and nothing lost."""

import json
import shutil
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest
from fhir_store import Resource, about, coded, encounter, patient, write_store

import ehrseq
from ehrseq.core.dataset import verify
from ehrseq.core.errors import DataQualityError, SchemaError, TimelineError
from ehrseq.core.manifest import total
from ehrseq.timeline import Code, Event, codes, read_timeline, scan_events, shards, splits, timeline
from ehrseq.timeline.meds import split_subjects

LABS = "http://h.org/labs"


def hospital(subjects: int = 12) -> list[Resource]:
    """A few stays with laboratory results, diagnoses and resources that give no event."""
    resources: list[Resource] = []
    for n in range(1, subjects + 1):
        stay = {"reference": f"Encounter/e{n}"}
        local = {
            "coding": [
                {"system": LABS, "code": f"{n % 3}", "display": "Sodium"},
                {"system": "http://loinc.org", "code": "2951-2"},
            ]
        }
        resources += [
            patient(n),
            encounter(f"e{n}", n, f"2020-01-{n:02}T10:00:00Z", f"2020-02-{n:02}T10:00:00Z"),
            about(n, "Condition", f"c{n}", encounter=stay, code=coded("http://hl7.org/fhir/sid/icd-10-cm", "I10")),
            about(n, "Observation", f"o{n}", status="final", encounter=stay, code=local,
                  issued=f"2020-01-{n:02}T12:00:00Z", valueQuantity={"value": 140.0 + n, "unit": "mmol/L"}),
            about(n, "Observation", f"x{n}", status="entered-in-error", code=local, issued="2020-01-01T00:00:00Z"),
            about(n, "Flag", f"g{n}", status="active"),
        ]  # fmt: skip
    return [
        *resources,
        {"resourceType": "Practitioner", "id": "doctor"},
        {"resourceType": "Location", "id": "l1", "name": "Ward"},
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timeline")
    timeline(write_store(folder / "fhir", hospital()), folder / "out")
    return folder


def test_is_valid_meds(made: Path) -> None:
    out = made / "out"
    for path in shards(out):
        meds.DataSchema.validate(pq.read_table(path))
    meds.CodeMetadataSchema.validate(pq.read_table(out / meds.code_metadata_filepath))
    meds.SubjectSplitSchema.validate(pq.read_table(out / meds.subject_splits_filepath))
    meds.DatasetMetadataSchema.validate(json.loads((out / meds.dataset_metadata_filepath).read_text()))
    assert {path.relative_to(out).parts[0] for path in shards(out)} == {meds.data_subdirectory}
    verify(out, "timeline")


def test_each_subject_is_in_one_shard_sorted_by_time(made: Path) -> None:
    frames = [pl.read_parquet(path) for path in shards(made / "out")]
    subjects = pl.concat([frame[Event.subject_id].unique() for frame in frames])
    assert subjects.n_unique() == len(subjects) == 12
    for frame in frames:
        Event.check(frame)
        assert frame.equals(frame.sort(Event.subject_id, Event.time, nulls_last=False, maintain_order=True))


def test_readers(made: Path) -> None:
    out = made / "out"
    assert scan_events(out).collect().equals(read_timeline(out))
    assert read_timeline(out, 3)[Event.subject_id].unique().to_list() == [3]
    with pytest.raises(TimelineError, match="no subject 99"):
        read_timeline(out, 99)
    with pytest.raises(SchemaError, match="kind 'fhir'"):
        shards(made / "fhir")


def test_codes_carry_descriptions_counts_and_further_codings(made: Path) -> None:
    table = codes(made / "out")
    Code.check(table)
    events = read_timeline(made / "out")
    assert set(table["code"]) == set(events["code"])
    assert table["events"].sum() == events.height
    sodium = table.row(by_predicate=pl.col("code") == "Observation//labs//1", named=True)
    assert (sodium["description"], sodium["parent_codes"]) == ("Sodium", ["Observation//LOINC//2951-2"])


def test_every_resource_is_accounted_for(made: Path) -> None:
    manifest = timeline(made / "fhir", made / "out").manifest
    resources = hospital()
    assert total(manifest.sources.values()).rows_in == len(resources)
    assert all(account.balanced for account in manifest.sources.values())
    assert manifest.sources["Observation"].reasons == {"left out by its views": 12}
    assert manifest.sources["Flag"].reasons == {"no view reads this type": 12}
    assert manifest.sources["Practitioner"].reasons == {"no view reads this type": 1}
    assert manifest.sources["Location"].reasons == {"only joined to others": 1}
    unused = pl.read_parquet(made / "out" / "rejects" / "*.parquet")
    assert unused.height == 24  # resources of nobody are counted, not listed
    listed = unused.select("row", "resource_id").rows()
    assert all(resources[row - 1]["id"] == name for row, name in listed)
    assert manifest.notes["elements_never_read"]["Flag"] == ["status", "subject"]
    assert manifest.notes["knowable"]["condition"] == [
        {"time": "encounter_end.end", "guarantee": "derived", "events": 12}
    ]


def test_workers_do_not_change_a_byte_and_a_second_run_does_nothing(made: Path, tmp_path: Path) -> None:
    two = timeline(made / "fhir", tmp_path / "out", workers=2)
    files = {path.relative_to(made / "out"): path for path in (made / "out").rglob("*") if path.is_file()}
    for name, path in files.items():
        if name.name not in ("run.json", "dataset.json", "manifest.json"):
            assert (tmp_path / "out" / name).read_bytes() == path.read_bytes(), name
    assert [s.sha256 for s in two.manifest.shards] == [
        s.sha256 for s in timeline(made / "fhir", made / "out").manifest.shards
    ]
    assert timeline(made / "fhir", tmp_path / "out").status == "unchanged"


def test_only_touched_buckets_are_made_again(tmp_path: Path) -> None:
    resources = hospital(8)
    timeline(write_store(tmp_path / "fhir", resources), tmp_path / "out")
    before = {path.name: path.stat().st_ino for path in shards(tmp_path / "out")}
    late = about(
        1, "Observation", "late", status="final", code=coded(LABS, "9"), issued="2021-01-01T00:00:00Z"
    )
    again = timeline(write_store(tmp_path / "fhir", [*resources, late]), tmp_path / "out")
    kept = [path for path in shards(tmp_path / "out") if path.stat().st_ino == before[path.name]]
    assert again.status == "made"
    assert len(kept) == 1
    timeline(tmp_path / "fhir", tmp_path / "anew")
    for path in shards(tmp_path / "anew"):
        assert path.read_bytes() == (tmp_path / "out" / "data" / path.name).read_bytes()
    assert again.manifest.sources["Observation"].rows_in == 17


def test_too_many_rejects_leave_the_old_timeline_and_the_rejects_beside(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "out", tmp_path / "out")
    wrong = [about(1, "Observation", f"o{n}", status="final", code=coded(LABS, "1")) for n in range(5)]
    with pytest.raises(DataQualityError, match=r"5 of 6 resources were rejected.*Observation no date 5"):
        timeline(write_store(tmp_path / "fhir", [patient(1), *wrong]), tmp_path / "out")
    assert read_timeline(tmp_path / "out").equals(read_timeline(made / "out"))
    assert pl.read_parquet(tmp_path / "out.rejects.parquet").height == 5


def test_a_subject_in_two_buckets_is_refused(tmp_path: Path) -> None:
    resources = [
        about(1, "Observation", "o1", status="final", code=coded(LABS, "1"), issued="2020-01-01T00:00:00Z")
    ]
    write_store(tmp_path / "fhir", [*resources, *hospital(4)])
    manifest = json.loads((tmp_path / "fhir" / "manifest.json").read_text())
    shard = next(s for s in manifest["shards"] if s["path"].startswith("Observation"))
    other = f"Observation/{9:04d}.parquet"
    shutil.copy(tmp_path / "fhir" / shard["path"], tmp_path / "fhir" / other)
    manifest["shards"].append(shard | {"path": other})
    (tmp_path / "fhir" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataQualityError, match="a subject is in several buckets"):
        timeline(tmp_path / "fhir", tmp_path / "out")


def test_the_package_is_also_the_verb(tmp_path: Path) -> None:
    store = write_store(tmp_path / "fhir", [])
    for name in ("first", "second"):  # the first call imports the package over the function's name
        assert ehrseq.timeline(store, tmp_path / name).status == "made"


def test_an_empty_store_gives_an_empty_timeline(tmp_path: Path) -> None:
    timeline(write_store(tmp_path / "fhir", []), tmp_path / "out")
    assert read_timeline(tmp_path / "out").schema == Event.polars_schema()
    assert splits(tmp_path / "out").height == 0


def test_split_is_by_subject_stable_and_near_its_fractions() -> None:
    everyone = split_subjects(pl.Series(range(1, 20_001)))
    shares = dict(everyone.group_by("split").len().iter_rows())
    assert {name: round(count / 20_000, 2) for name, count in shares.items()} == {
        "train": 0.8,
        "tuning": 0.1,
        "held_out": 0.1,
    }
    few = split_subjects(pl.Series([5, 17]))
    assert few.equals(everyone.filter(pl.col("subject_id").is_in([5, 17])))
    assert not everyone.equals(split_subjects(pl.Series(range(1, 20_001)), seed=1))
