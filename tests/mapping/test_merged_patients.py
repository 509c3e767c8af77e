"""Patients who turned out to be one: one timeline, and nothing lost if they turn out to be two after all."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hospital import PATIENTS, SOURCE, TABLES, write_mappings, write_tables
from hypothesis import given
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.dataset import verify
from ehrseq.core.errors import DataQualityError, MappingError
from ehrseq.fhir.merged import survivors
from ehrseq.mapping.check import check

LINKED = SOURCE.replace(
    "tables:\n",
    """merge: {table: links, retired: old, into: new}
tables:
  links: {optional: true, subject: old, primary_key: [old], columns: {old: integer, new: integer}}
""",
).replace("labs: {", "labs: {primary_key: [lab], ")
LINK = PATIENTS.replace("from: patients\n", "from: patients\njoin: {links: {on: {pid: old}}}\n").replace(
    "  gender:",
    """  active: new IS NULL
  link: [{other: {$reference: {patients: new}}, type: "CASE WHEN new IS NOT NULL THEN 'replaced-by' END"}]
  gender:""",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_mappings(tmp_path / "source", source=LINKED, patients=LINK)


def resources(store: Path) -> dict[str, Any]:
    found = {}
    for path in sorted(store.glob("[A-Z]*/*.parquet")):
        for row in pl.read_parquet(path).select(pl.exclude("_mapping", "_file", "_row")).to_dicts():
            found[f"{path.parent.name}/{row['id']}"] = (path.stem, row)
    return found


def events(timeline: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted(timeline.glob("data/*.parquet"))])


def test_two_who_are_one_have_one_timeline(tmp_path: Path, source: Path) -> None:
    data = write_tables(tmp_path / "data", links="old,new\n2,1\n")
    fhir = ehrseq.map(source, data, tmp_path / "fhir")
    assert fhir.manifest.rows["rejected"] == 0
    made = resources(fhir.out)
    assert made["Patient/tiny-patients.2"][1]["link"] == [
        {"other": {"reference": "Patient/tiny-patients.1"}, "type": "replaced-by"}
    ]
    assert made["Observation/tiny-labs.3"][1]["subject"] == {"reference": "Patient/tiny-patients.2"}
    assert made["Observation/tiny-labs.3"][0] == made["Patient/tiny-patients.1"][0], "one bucket"
    timeline = ehrseq.timeline(fhir.out, tmp_path / "timeline")
    found = events(timeline.out)
    assert sorted(found["subject_id"].unique()) == [1, 3]
    assert set(found.filter(subject_id=1)["resource_id"]) >= {"tiny-labs.1", "tiny-labs.3", "tiny-visits.6"}
    assert found.filter(subject_id=1, code="MEDS_BIRTH").height == 1
    assert timeline.manifest.notes["patients_merged"] == 1
    assert timeline.manifest.sources["Patient"].reasons == {"merged into another patient": 1}


def test_a_merge_can_be_taken_back(tmp_path: Path, source: Path) -> None:
    apart = ehrseq.map(source, write_tables(tmp_path / "a", links="old,new\n"), tmp_path / "apart").out
    write_tables(tmp_path / "b", links="old,new\n2,1\n")
    together = ehrseq.map(source, tmp_path / "b", tmp_path / "fhir").out
    assert resources(together) != resources(apart)
    back = ehrseq.map(source, tmp_path / "a", together).out
    assert resources(back) == resources(apart)


def test_a_merge_may_come_and_go_in_deltas(tmp_path: Path, source: Path) -> None:
    """Rows that the store has kept move to the bucket of who survives, and back."""
    full = write_tables(tmp_path / "full", links="old,new\n")
    out = ehrseq.map(source, full, tmp_path / "fhir", keep_rows=True).out
    before = resources(out)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/links.csv").write_text("old,new\n2,3\n1,2\n")
    ehrseq.map(source, tmp_path / "one", out, delta=True)
    write_tables(tmp_path / "whole", links="old,new\n2,3\n1,2\n")
    whole = ehrseq.map(source, tmp_path / "whole", tmp_path / "whole-fhir").out
    assert resources(out) == resources(whole)
    assert len({bucket for name, (bucket, _) in resources(out).items() if name.startswith("Patient")}) == 1
    (tmp_path / "two").mkdir()
    (tmp_path / "two/links.deleted.csv").write_text("old\n2\n1\n")
    ehrseq.map(source, tmp_path / "two", out, delta=True)
    assert resources(out) == before
    verify(out)


def test_what_one_has_ordered_the_other_may_refer_to(tmp_path: Path, source: Path) -> None:
    """A result under the new number of a stay under the old one."""
    labs = TABLES["labs"].replace("5,3,,7,2020-03-01", "5,3,6,7,2020-03-01")
    tables = {"labs": labs, "links": "old,new\n"}
    loose = ehrseq.map(
        source, write_tables(tmp_path / "a", **tables), tmp_path / "apart", max_reject_fraction=1
    )
    assert loose.manifest.sources["labs"].reasons["reference"] == 1
    tables["links"] = "old,new\n2,3\n"
    merged = ehrseq.map(source, write_tables(tmp_path / "b", **tables), tmp_path / "merged")
    assert "reference" not in merged.manifest.sources["labs"].reasons


def test_a_circle_is_refused(tmp_path: Path, source: Path) -> None:
    data = write_tables(tmp_path / "data", links="old,new\n1,2\n2,3\n3,1\n")
    with pytest.raises(DataQualityError, match=r"3 patients are merged in a circle"):
        ehrseq.map(source, data, tmp_path / "fhir")
    assert not (tmp_path / "fhir").exists()


@given(st.dictionaries(st.integers(0, 30), st.integers(0, 30), max_size=20))
def test_survivors_follow_every_chain(links: dict[int, int]) -> None:
    def end(start: int) -> int | None:
        seen = [start]
        while seen[-1] in links:
            if links[seen[-1]] in seen:
                return None
            seen.append(links[seen[-1]])
        return seen[-1]

    ends = {retired: end(retired) for retired in links}
    frame = pl.DataFrame(
        {"retired": list(links), "survivor": list(links.values())},
        schema=dict.fromkeys(["retired", "survivor"], pl.Int64),
    )
    if None in ends.values():
        with pytest.raises(DataQualityError, match="circle"):
            survivors(frame)
    else:
        assert dict(survivors(frame).rows()) == ends


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("merge: {table: links", "merge: {table: lonks", 'table lonks is not declared. Closest: "links"'),
        ("into: new}", "into: nu}", "column `nu` is not declared"),
        ("subject: old, ", "subject: new, ", "must be about the patients in `old`"),
        (", into: new", "", "lacks into"),
    ],
)
def test_a_wrong_declaration(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = write_mappings(tmp_path / "source", source=LINKED.replace(old, new, 1), patients=LINK)
    _, problems = check(source)
    assert message in str(problems[0])
    with pytest.raises(MappingError):
        ehrseq.map(source, write_tables(tmp_path / "data"), tmp_path / "fhir")
