"""Deliveries and mappings as they come at night: what each fault is called, its exit code, and that nothing is lost."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, PATIENTS, SOURCE, TABLES, write_mappings, write_tables

import ehrseq
from ehrseq.core.errors import ConfigError, DataQualityError, EhrseqError, MappingError, SourceError
from ehrseq.core.manifest import read_manifest
from ehrseq.mapping.check import check


def run(tmp_path: Path, *, limit: float = 1.0, mappings: dict[str, str] | None = None, **tables: str):
    source = write_mappings(tmp_path / "source", **(mappings or {}))
    return ehrseq.map(
        source, write_tables(tmp_path / "data", **tables), tmp_path / "fhir", max_reject_fraction=limit
    )


def rejected(tmp_path: Path) -> list[tuple]:
    frame = (
        pl.read_parquet(tmp_path / "fhir/rejects/*.parquet").filter(outcome="rejected").sort("table", "row")
    )
    return frame.select("table", "file", "row", "rule", "element").rows()


def test_a_clean_delivery_is_accounted_for_row_by_row(tmp_path: Path):
    books = run(tmp_path).manifest.sources
    assert {name: (a.rows_in, a.used, a.rejected, a.filtered) for name, a in books.items()} == {
        "patients": (3, 3, 0, 0), "visits": (2, 2, 0, 0), "labs": (5, 4, 0, 1), "tests": (3, 2, 0, 1),
    }  # fmt: skip
    assert books["labs"].reasons == {"no result": 1}
    assert books["tests"].reasons == {"not referenced": 1}


LAB = "lab,pid,visit,test,at,filed,number,text,unit\n"
GOOD = "1,1,5,7,2020-01-01 09:00:00,2020-01-01 09:30:00,1.5,,mg/dL\n"


@pytest.mark.parametrize(
    ("row", "rule", "element"),
    [
        ("2,1,5,7,2020-02-30 09:00:00,,1,,\n", "type", "at"),
        ("2,1,5,7,yesterday,,1,,\n", "type", "at"),
        ("2,1,5,7,2020-01-01 09:00:00,,high,,\n", "type", "number"),
        ("2,1,5,7,2020-01-01 09:00:00,,NaN,,\n", "type", "number"),
        ("2,1,5,7,2020-01-01 09:00:00,,inf,,\n", "type", "number"),
        ("2,one,5,7,2020-01-01 09:00:00,,1,,\n", "type", "pid"),
        ("2,,5,7,2020-01-01 09:00:00,,1,,\n", "subject", None),
        ("2,99,5,7,2020-01-01 09:00:00,,1,,\n", "reference", "subject.reference"),
        ("2,1,77,7,2020-01-01 09:00:00,,1,,\n", "reference", "encounter.reference"),
        (",1,5,7,2020-01-01 09:00:00,,1,,\n", "key", "key"),
        ("2,1,5,7,2020-01-01 09:00:00\n", "ragged", None),
        ("2,1,5,7,2020-01-01 09:00:00,,1,,mg,extra\n", "ragged", None),
    ],
)
def test_a_bad_row_is_a_reject_and_the_others_live(tmp_path: Path, row: str, rule: str, element: str | None):
    result = run(tmp_path, labs=LAB + GOOD + row + GOOD.replace("1,1,5", "3,1,5", 1))
    assert rejected(tmp_path) == [("labs", "labs.csv", 2, rule, element)]
    books = result.manifest.sources["labs"]
    assert (books.rows_in, books.used, books.rejected) == (3, 2, 1)
    made = pl.read_parquet(tmp_path / "fhir/Observation/*.parquet")
    assert sorted(made.select("id", "_row").rows()) == [("tiny-labs.1", 1), ("tiny-labs.3", 3)]


def test_equal_rows_and_later_versions_of_a_row_have_one_winner(tmp_path: Path):
    later = "1,1,5,7,2020-01-01 09:00:00,2020-01-01 12:00:00,1.7,,mg/dL\n"
    books = run(tmp_path, labs=LAB + later + GOOD + later).manifest.sources["labs"]
    assert books.reasons == {"duplicate row": 1, "superseded": 1}
    made = pl.read_parquet(tmp_path / "fhir/Observation/*.parquet")
    assert made["valueQuantity"].struct.field("value").to_list() == [1.7]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: (data / "visits.csv").unlink(), "table visits is missing (looked for visits.csv"),
        (
            lambda data: (data / "labs.csv").write_text(LAB.replace("unit", "untt") + GOOD),
            'lacks column "unit". Closest: "untt"',
        ),
        (lambda data: (data / "labs.csv").write_text(""), "it is empty, without even a header"),
        (lambda data: truncate(data / "labs.csv"), "the compressed stream is truncated or damaged"),
        (
            lambda data: (data / "labs.csv").write_bytes(LAB.encode() + b"1,1,5,7,,,1,caf\xe9,\n"),
            "bytes that are not UTF-8",
        ),
        (lambda data: (data / "labs.tsv").write_text("x"), "table labs stands there more than once"),
    ],
)
def test_a_delivery_that_cannot_be_read_is_refused_whole(tmp_path: Path, damage, message: str):
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    damage(data)
    with pytest.raises(SourceError) as error:
        ehrseq.map(source, data, tmp_path / "fhir")
    assert message in str(error.value)
    assert str(data) in str(error.value)
    assert error.value.exit_code == 3
    assert not (tmp_path / "fhir").exists()


def truncate(path: Path) -> None:
    text = (LAB + GOOD * 20_000).encode()
    whole = gzip.compress(text, mtime=0)
    path.unlink()
    path.with_suffix(".csv.gz").write_bytes(whole[: len(whole) // 2])


def test_only_a_header_is_no_fault(tmp_path: Path):
    books = run(tmp_path, labs=LAB).manifest.sources
    assert books["labs"].rows_in == 0
    assert not (tmp_path / "fhir/Observation").exists()


def test_a_failed_run_leaves_the_old_store_as_it_was(tmp_path: Path):
    run(tmp_path)
    before = (tmp_path / "fhir/manifest.json").read_bytes()
    (tmp_path / "data/labs.csv").write_text("")
    with pytest.raises(SourceError):
        ehrseq.map(tmp_path / "source", tmp_path / "data", tmp_path / "fhir")
    assert (tmp_path / "fhir/manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fhir", "source"]


def test_too_many_rejects_stop_the_run_and_are_kept(tmp_path: Path):
    bad = "".join(f"{n},99,5,7,2020-01-01 09:00:00,,1,,\n" for n in range(10, 20))
    with pytest.raises(DataQualityError) as error:
        run(tmp_path, limit=0.05, labs=LAB + GOOD + bad)
    assert error.value.exit_code == 3
    assert "10 of 19 rows were rejected" in str(error.value)
    assert "labs reference 10" in str(error.value)
    assert not (tmp_path / "fhir").exists()
    kept = pl.read_parquet(tmp_path / "fhir.rejects.parquet")
    assert kept["row"].sort().to_list() == list(range(2, 12))


def test_the_same_again_does_nothing_and_a_changed_mapping_does(tmp_path: Path):
    assert run(tmp_path).status == "made"
    assert run(tmp_path).status == "unchanged"
    changed = run(tmp_path, mappings={"labs": LABS.replace("'final'", "'amended'")})
    assert changed.status == "made"
    assert pl.read_parquet(tmp_path / "fhir/Observation/*.parquet")["status"].unique().to_list() == [
        "amended"
    ]


def test_workers_and_buckets_do_not_change_what_is_made(tmp_path: Path):
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    one, two = (ehrseq.map(source, data, tmp_path / str(n), workers=n).manifest for n in (1, 2))
    assert one == two


def test_clocks_are_read_in_the_hospitals_zone(tmp_path: Path):
    """At the end of March an hour does not exist in Berlin: a reject. In October one comes twice: the first."""
    source = {"source": SOURCE.replace("timezone: UTC", "timezone: Europe/Berlin")}
    times = ["2020-01-15 12:00:00", "2020-07-15 12:00:00", "2020-03-29 02:30:00", "2020-10-25 02:30:00"]
    labs = LAB + "".join(f"{n},1,5,7,{time},,1,,\n" for n, time in enumerate(times, 1))
    run(tmp_path, mappings=source, labs=labs)
    made = pl.read_parquet(tmp_path / "fhir/Observation/*.parquet").sort("id")["effectiveDateTime"].to_list()
    assert made == [
        "2020-01-15T12:00:00+01:00",
        "2020-07-15T12:00:00+02:00",
        "2020-10-25T02:30:00+02:00",
    ]
    assert rejected(tmp_path) == [("labs", "labs.csv", 3, "clock", "effectiveDateTime")]


def test_quoted_newlines_and_quotes_stay_in_their_row(tmp_path: Path):
    run(
        tmp_path,
        labs=LAB + '1,1,5,7,2020-01-01 09:00:00,,,"two\nlines, ""quoted""",\n' + GOOD.replace("1,", "2,", 1),
    )
    made = pl.read_parquet(tmp_path / "fhir/Observation/*.parquet").sort("id")
    assert made["valueString"].to_list() == ['two\nlines, "quoted"', None]
    assert made["_row"].to_list() == [1, 2]


@pytest.mark.parametrize(
    ("mapping", "old", "new", "message"),
    [
        (
            "labs",
            "valueString",
            "valueStrin",
            '`valueStrin` is not an element of Observation. Closest: "valueString"',
        ),
        ("labs", "\"'final'\"", "\"'finale'\"", "'finale' is not a code of `status`"),
        ("labs", "unit: unit", "unit: units", 'unknown column `units`. Closest: "unit"'),
        ("labs", "{tests: test}", "{test: test}", 'table `test` is not declared. Closest: "tests"'),
        ("labs", "{$datetime: at}", "{$date: at}", 'unknown helper `$date`. Closest: "$datetime"'),
        ("labs", "effectiveDateTime: {$datetime: at}", "effectiveDateTime: at", "Use {$datetime: …}"),
        (
            "labs",
            "{patients: pid}",
            "{patient: pid}",
            'no mapping `patient` to refer to. Closest: "patients"',
        ),
        ("labs", "REGEXP_LIKE(text,", "REGEXP_LIKE(text", "is not a SQL expression"),
        ("labs", "coding: [{system", "coding: {system", "is not valid YAML"),
        (
            "labs",
            "coding: [{system: $systems.lab, code: test, display: name}]",
            "coding: {code: test}",
            "is a list in FHIR",
        ),
        (
            "labs",
            "$systems.lab",
            "$systems.lap",
            '$systems.lap is not a constant of source.yaml. Closest: "lab"',
        ),
        ("patients", "map: sex", "map: gender", "no conceptmaps/gender.json"),
        (
            "patients",
            "resource: Patient",
            "resource: Patent",
            'not a resource type of FHIR R4B. Closest: "Patient"',
        ),
    ],
)
def test_a_wrong_mapping_says_where_and_what_is_meant(
    tmp_path: Path, mapping: str, old: str, new: str, message: str
):
    text = {"labs": LABS, "patients": PATIENTS}[mapping]
    assert text.count(old) == 1
    wrong = text.replace(old, new)
    line = wrong[: wrong.index(new)].count("\n") + 1
    folder = write_mappings(tmp_path, **{mapping: wrong})
    problems = check(folder)[1]
    assert [problem.place for problem in problems if message in problem.message] == [
        f"{folder / mapping}.yaml:{line}"
    ]
    assert len(problems) <= 2  # the fault, and at most one thing that follows from it


def test_what_fhir_requires_may_not_be_left_out(tmp_path: Path):
    (problem,) = check(write_mappings(tmp_path, labs=LABS.replace("  status: \"'final'\"\n", "")))[1]
    assert "lacks `status`, which FHIR requires" in problem.message


def test_all_problems_are_told_at_once(tmp_path: Path):
    labs = LABS.replace("unit: unit", "unit: units").replace("valueString", "valueStrin")
    folder = write_mappings(tmp_path, labs=labs, patients=PATIENTS.replace("birthDate", "birthdate"))
    with pytest.raises(MappingError) as error:
        ehrseq.map(folder, write_tables(tmp_path / "data"), tmp_path / "fhir")
    assert error.value.exit_code == 2
    assert all(word in str(error.value) for word in ("3 problems", "units", "valueStrin", "birthdate"))


def test_errors_quote_no_patient(tmp_path: Path):
    secret = "2,1,5,7,SECRET-NAME,,1,,\n" * 50
    with pytest.raises(DataQualityError) as error:
        run(tmp_path, limit=0.05, labs=LAB + secret)
    assert "SECRET" not in str(error.value)
    assert "SECRET" not in str(pl.read_parquet(tmp_path / "fhir.rejects.parquet").to_dicts())


@pytest.mark.parametrize("source", ["mimic-iv", "nowhere"])
def test_an_unknown_source_names_those_that_ship(tmp_path: Path, source: str):
    with pytest.raises(MappingError, match=r"Shipped: .*mimic_iv"):
        ehrseq.map(source, tmp_path, tmp_path / "fhir")


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path):
    (tmp_path / "fhir").mkdir()
    (tmp_path / "fhir/thesis.txt").write_text("years of work")
    with pytest.raises((ConfigError, EhrseqError)):
        run(tmp_path)
    assert (tmp_path / "fhir/thesis.txt").read_text() == "years of work"


def test_the_books_name_every_table(tmp_path: Path):
    run(tmp_path, notes="pid,note\n1,hello\n")
    books = read_manifest(tmp_path / "fhir").sources
    assert set(books) == {*TABLES, "notes"}
    assert books["notes"].reasons == {"free text is not mapped here": 1}
