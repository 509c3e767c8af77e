"""No row is joined to, or refers to, another patient's; references that lead nowhere are rejects."""

from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, SOURCE, TABLES, write_mappings, write_tables

import ehrseq
from ehrseq.core.errors import MappingError
from ehrseq.mapping import spill
from ehrseq.mapping.check import check

LAB = "lab,pid,visit,test,at,filed,number,text,unit\n"
VISITS = "visit,pid,began,ended\n" + "".join(f"{n},{n},2020-01-0{n} 08:00:00,\n" for n in range(1, 9))
PATIENTS = "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in range(1, 9))
# patient 1 has results of the visits of all patients, in whichever bucket these may be
CROSSED = LAB + "".join(f"{n},1,{n},7,2020-01-01 09:00:00,,1,,mg\n" for n in range(1, 9))
PARTS = """\
version: 1
resource: Observation
from: labs
join: {tests: test}
key: [lab]
template:
  status: "'final'"
  code: {text: unit}
  subject: {$reference: {patients: pid}}
  derivedFrom: [{$reference: {parts: visit}}]
"""


def run(tmp_path: Path, mappings: dict[str, str], **tables: str):
    source = write_mappings(tmp_path / "source", **mappings)
    return ehrseq.map(
        source, write_tables(tmp_path / "data", **tables), tmp_path / "fhir", max_reject_fraction=1
    )


def observations(tmp_path: Path) -> pl.DataFrame:
    return pl.read_parquet(tmp_path / "fhir/Observation/*.parquet").sort("id")


@pytest.mark.parametrize("buckets", [1, 4, 64])
def test_a_reference_into_another_patients_record_is_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: int
):
    """Whatever the buckets: a visit of patient 2 is none of patient 1's, even if both are mapped together."""
    monkeypatch.setattr("ehrseq.mapping.stage.buckets_for", lambda _: buckets)
    result = run(tmp_path, {}, labs=CROSSED, visits=VISITS, patients=PATIENTS)
    assert observations(tmp_path)["id"].to_list() == ["tiny-labs.1"]
    assert result.manifest.sources["labs"].reasons == {"reference": 7}


@pytest.mark.parametrize("buckets", [1, 4, 64])
def test_a_join_stays_within_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: int):
    monkeypatch.setattr("ehrseq.mapping.stage.buckets_for", lambda _: buckets)
    joined = LABS.replace("{tests: test}", "{tests: test, visits: {on: {visit: visit}, prefix: stay_}}")
    joined = joined.replace("  encounter: {$reference: {visits: visit}}\n", "").replace(
        "$datetime: at", "$datetime: stay_began"
    )
    assert joined.count("stay_") == 2
    run(tmp_path, {"labs": joined}, labs=CROSSED, visits=VISITS, patients=PATIENTS)
    times = observations(tmp_path)["effectiveDateTime"].to_list()
    assert times == ["2020-01-01T08:00:00+00:00"] + [None] * 7


def test_the_same_key_of_two_patients_is_no_duplicate_in_a_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Visit number 1 of patient 2 is not a second visit 1 of patient 1."""
    monkeypatch.setattr("ehrseq.mapping.stage.buckets_for", lambda _: 1)
    joined = LABS.replace("{tests: test}", "{tests: test, visits: {on: {visit: visit}, prefix: stay_}}")
    joined = joined.replace("  encounter: {$reference: {visits: visit}}\n", "").replace(
        "$datetime: at", "$datetime: stay_began"
    )
    visits = "visit,pid,began,ended\n1,1,2020-01-01 08:00:00,\n1,2,2020-02-02 08:00:00,\n"
    labs = LAB + "1,1,1,7,2020-01-01 09:00:00,,1,,mg\n2,2,1,7,2020-01-01 09:00:00,,1,,mg\n"
    run(tmp_path, {"labs": joined}, labs=labs, visits=visits, patients=PATIENTS)
    assert observations(tmp_path)["effectiveDateTime"].to_list() == [
        "2020-01-01T08:00:00+00:00",
        "2020-02-02T08:00:00+00:00",
    ]


def test_a_chain_of_references_to_its_own_kind_falls_with_its_first_link(tmp_path: Path):
    """1 refers to nothing, 2 to 1, 3 to itself; 4 leads nowhere, and so 5, which leads to 4, and 6 to 5."""
    links = {1: "", 2: "1", 3: "3", 4: "99", 5: "4", 6: "5"}
    labs = LAB + "".join(f"{n},1,{to},7,,,1,,mg\n" for n, to in links.items())
    source = {"labs": PARTS.replace("parts:", "labs:")}
    books = run(tmp_path, source, labs=labs).manifest.sources["labs"]
    assert observations(tmp_path)["id"].to_list() == ["tiny-labs.1", "tiny-labs.2", "tiny-labs.3"]
    assert (books.used, books.reasons) == (3, {"reference": 3})


def test_mappings_that_refer_to_each_other_in_a_circle_are_refused(tmp_path: Path):
    ring = PARTS.replace("parts:", "labs:").replace("derivedFrom: [", "hasMember: [")
    labs = PARTS.replace("parts:", "ring:")
    _, problems = check(write_mappings(tmp_path, labs=labs, ring=ring))
    assert [problem.message for problem in problems if "circle" in problem.message] == [
        "mappings refer to each other in a circle: labs, ring."
    ]


def test_all_rows_of_a_patient_meet_in_one_bucket(tmp_path: Path):
    people = range(1, 200)
    tables = {
        "patients": "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in people),
        "visits": "visit,pid,began,ended\n" + "".join(f"{n},{n},2020-01-01 08:00:00,\n" for n in people),
        "labs": LAB + "".join(f"{n},{n},{n},7,2020-01-01 09:00:00,,1,,mg\n" for n in people),
    }
    run(tmp_path, {}, **tables)
    found: dict[str, set[str]] = {}
    for path in (tmp_path / "fhir").glob("[A-Z]*/*.parquet"):
        for number in pl.read_parquet(path)["id"].str.split(".").list.last():
            found.setdefault(number, set()).add(path.stem)
    assert len(found) == 199
    assert all(len(buckets) == 1 for buckets in found.values())
    assert len(set.union(*found.values())) == 4


def test_a_subject_of_another_type_would_never_meet_its_rows(tmp_path: Path):
    """Buckets are by value and type: text "1" and number 1 are two patients, which no one can have meant."""
    source = SOURCE.replace(
        "visits: {columns: {visit: integer, pid: integer", "visits: {columns: {visit: integer, pid: string"
    )
    assert source != SOURCE
    with pytest.raises(MappingError, match=r"`pid` is string in table visits, but integer in patients"):
        run(tmp_path, {"source": source}, **TABLES)


def test_there_is_a_bucket_for_4_megabytes(tmp_path: Path):
    path = tmp_path / "t.csv"
    found = []
    for size in (0, 17 << 20, 10 << 30):
        with path.open("wb") as stream:
            stream.truncate(size)
        found.append(spill.buckets_for({"t": [path]}))
    assert found == [4, 5, 1024]
