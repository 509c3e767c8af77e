"""Night after night: a delivery touches the patients it is about, and nobody else."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hospital import SOURCE, TABLES, write_mappings, write_tables
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.dataset import verify
from ehrseq.core.errors import ConfigError, DataQualityError, EhrseqError, SchemaError, SourceError

KEYED = (
    SOURCE.replace("patients: {", "patients: {primary_key: [pid], ")
    .replace("visits: {", "visits: {primary_key: [visit], ")
    .replace("labs: {", "labs: {primary_key: [lab], ")
    .replace("tests: {", "tests: {primary_key: [test], ")
)
LAB = "lab,pid,visit,test,at,filed,number,text,unit\n"


def resources(store: Path) -> dict[str, Any]:
    """Every resource by type and id, without where it stands in the source."""
    found = {}
    for path in sorted(store.glob("[A-Z]*/*.parquet")):
        for row in pl.read_parquet(path).select(pl.exclude("_mapping", "_file", "_row")).to_dicts():
            found[f"{path.parent.name}/{row['id']}"] = row
    return found


def changed(store: Path) -> set[tuple[str, str, str | None]]:
    path = store / "changes/changes.parquet"
    return set(pl.read_parquet(path).select("id", "change", "patient").rows()) if path.is_file() else set()


def people(count: int) -> dict[str, str]:
    """Tables of `count` patients with a stay and a result each."""
    return {
        "patients": "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in range(1, count + 1)),
        "visits": "visit,pid,began,ended\n"
        + "".join(f"{n},{n},2020-01-01 08:00:00,\n" for n in range(1, count + 1)),
        "labs": LAB + "".join(f"{n},{n},{n},7,2020-01-01 09:00:00,,{n},,mg\n" for n in range(1, count + 1)),
    }


def test_a_full_delivery_maps_again_only_what_changed(tmp_path: Path) -> None:
    source, old = write_mappings(tmp_path / "source"), people(20)
    out = ehrseq.map(source, write_tables(tmp_path / "night1", **old), tmp_path / "fhir").out
    before = {path: path.stat().st_ino for path in out.glob("[A-Z]*/*.parquet")}
    new = old | {
        "labs": old["labs"].replace(
            "\n5,5,5,7,2020-01-01 09:00:00,,5,,mg\n", "\n5,5,5,7,2020-01-01 09:00:00,,6,,mg\n"
        )
    }
    result = ehrseq.map(source, write_tables(tmp_path / "night2", **new), out)
    assert changed(out) == {("tiny-labs.5", "changed", "tiny-patients.5")}
    assert result.manifest.notes["changes"] == {"resources": {"Observation": {"changed": 1}}, "patients": 1}
    after = {path: path.stat().st_ino for path in out.glob("[A-Z]*/*.parquet")}
    kept = {path for path in before if after[path] == before[path]}
    assert {path.stem for path in before} - {path.stem for path in kept} == {
        path.stem for path in out.glob("Observation/*") if path not in kept
    }
    assert len({path.stem for path in before} - {path.stem for path in kept}) == 1
    scratch = ehrseq.map(source, tmp_path / "night2", tmp_path / "scratch")
    assert resources(out) == resources(scratch.out)
    assert result.manifest.rows == scratch.manifest.rows
    assert result.manifest.sources == scratch.manifest.sources
    verify(out)


def test_rows_that_only_moved_in_the_file_change_nothing(tmp_path: Path) -> None:
    source, tables = write_mappings(tmp_path / "source"), people(12)
    out = ehrseq.map(source, write_tables(tmp_path / "night1", **tables), tmp_path / "fhir").out
    more = tables | {"patients": tables["patients"].replace("born\n", "born\n99,M,1940-01-01\n")}
    result = ehrseq.map(source, write_tables(tmp_path / "night2", **more), out)
    assert result.manifest.notes["changes"] == {"resources": {"Patient": {"added": 1}}, "patients": 1}
    again = ehrseq.map(source, tmp_path / "night2", out, force=True)
    assert "changes" not in again.manifest.notes


def delta(folder: Path, **tables: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture
def first(tmp_path: Path) -> tuple[Path, Path]:
    """The source, and a store that keeps its rows."""
    source = write_mappings(tmp_path / "source", source=KEYED)
    out = ehrseq.map(source, write_tables(tmp_path / "full"), tmp_path / "fhir", keep_rows=True).out
    return source, out


def test_a_delta_adds_corrects_and_deletes(tmp_path: Path, first: tuple[Path, Path]) -> None:
    source, out = first
    night = delta(
        tmp_path / "2020-03-02",
        labs=LAB + "1,1,5,7,2020-01-01 09:00:00,2020-01-01 11:00:00,1.7,,mg/dL\n"
        "6,3,,7,2020-03-02 09:00:00,2020-03-02 09:30:00,2.0,,mg/dL\n",
    )
    (night / "labs.deleted.csv").write_text("lab\n3\n77\n")
    result = ehrseq.map(source, night, out, delta=True)
    assert changed(out) == {
        ("tiny-labs.1", "changed", "tiny-patients.1"),
        ("tiny-labs.3", "removed", "tiny-patients.2"),
        ("tiny-labs.6", "added", "tiny-patients.3"),
    }
    assert result.manifest.notes["delivered"] == {
        "labs": {"delivered": 2, "deleted": 2, "replaced": 1, "removed": 1}
    }
    file = pl.read_parquet(sorted(out.glob("Observation/*.parquet"))).filter(id="tiny-labs.1")["_file"].item()
    assert file == "2020-03-02/labs.csv"
    labs = (
        TABLES["labs"]
        .replace("09:00:00,2020-01-01 09:30:00,1.5", "09:00:00,2020-01-01 11:00:00,1.7")
        .replace("3,2,6,8,2020-02-01 09:00:00,2020-02-01 09:30:00,,NEGATIVE,\n", "")
    ) + "6,3,,7,2020-03-02 09:00:00,2020-03-02 09:30:00,2.0,,mg/dL\n"
    whole = write_tables(tmp_path / "whole", labs=labs)
    scratch = ehrseq.map(source, whole, tmp_path / "scratch").manifest
    assert resources(out) == resources(tmp_path / "scratch")
    assert result.manifest.sources == scratch.sources
    assert ehrseq.map(source, night, out, delta=True).status == "unchanged"


def test_a_row_may_move_to_another_patient(tmp_path: Path, first: tuple[Path, Path]) -> None:
    """Results filed under the wrong patient: the right one gets them, the wrong one loses them."""
    source, out = first
    night = delta(tmp_path / "n", labs=LAB + "1,2,6,7,2020-01-01 09:00:00,2020-01-01 09:30:00,1.5,,mg/dL\n")
    ehrseq.map(source, night, out, delta=True)
    assert resources(out)["Observation/tiny-labs.1"]["subject"] == {"reference": "Patient/tiny-patients.2"}
    assert len([name for name in resources(out) if name == "Observation/tiny-labs.1"]) == 1
    assert sum(pl.read_parquet(path).height for path in out.glob("Observation/*")) == 4


def test_a_dictionary_that_changes_reaches_everybody_it_is_about(
    tmp_path: Path, first: tuple[Path, Path]
) -> None:
    source, out = first
    ehrseq.map(source, delta(tmp_path / "n", tests="test,name\n7,Kreatinin\n"), out, delta=True)
    assert {patient for _, _, patient in changed(out)} == {"tiny-patients.1", "tiny-patients.3"}


def test_what_could_not_be_read_stays_on_the_books(tmp_path: Path) -> None:
    source = write_mappings(tmp_path / "source", source=KEYED)
    labs = TABLES["labs"] + "8,2,6,8,yesterday,,1,,\n"
    out = tmp_path / "fhir"
    ehrseq.map(source, write_tables(tmp_path / "f", labs=labs), out, keep_rows=True, max_reject_fraction=1)
    night = delta(tmp_path / "n", labs=LAB + "9,2,6,8,tomorrow,,1,,\n")
    result = ehrseq.map(source, night, out, delta=True, max_reject_fraction=1)
    account = result.manifest.sources["labs"]
    assert account.reasons["type"] == 2
    assert account.balanced
    rejects = pl.read_parquet(sorted(out.glob("rejects/*.parquet"))).filter(rule="type")
    assert sorted(rejects["file"]) == ["labs.csv", "n/labs.csv"]


NUMBERS = st.integers(1, 6)
ROW = st.tuples(NUMBERS, st.integers(1, 4), st.integers(7, 9), st.integers(0, 9))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.lists(ROW, max_size=6, unique_by=lambda row: row[0]),
    nights=st.lists(
        st.tuples(st.lists(ROW, max_size=4), st.lists(NUMBERS, max_size=2, unique=True)),
        min_size=1,
        max_size=3,
    ),
)
def test_deltas_come_to_the_same_as_one_full_delivery(
    tmp_path_factory: pytest.TempPathFactory, start: list[Any], nights: list[tuple[list[Any], list[int]]]
) -> None:
    folder = tmp_path_factory.mktemp("deltas")
    source = write_mappings(folder / "source", source=KEYED)
    patients = "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in range(1, 5))
    tables = {"patients": patients, "visits": "visit,pid,began,ended\n"}
    out = folder / "fhir"
    ehrseq.map(source, write_tables(folder / "full", labs=_labs(start), **tables), out, keep_rows=True)
    state = {row[0]: row for row in start}
    for number, (rows, gone) in enumerate(nights):
        night = delta(folder / f"night{number}", labs=_labs(rows))
        (night / "labs.deleted.csv").write_text("lab\n" + "".join(f"{lab}\n" for lab in gone))
        ehrseq.map(source, night, out, delta=True)
        state = {lab: row for lab, row in state.items() if lab not in gone} | {row[0]: row for row in rows}
        scratch = folder / f"scratch{number}"
        write_tables(folder / f"whole{number}", labs=_labs(state.values()), **tables)
        ehrseq.map(source, folder / f"whole{number}", scratch)
        assert resources(out) == resources(scratch)
    verify(out)


def _labs(rows: Iterable[tuple[int, int, int, int]]) -> str:
    return LAB + "".join(f"{lab},{pid},,{test},2020-01-01 09:00:00,,{n},,mg\n" for lab, pid, test, n in rows)


def _without_rows(folder: Path, source: Path) -> tuple[Path, Path]:
    ehrseq.map(source, write_tables(folder / "d"), folder / "plain")
    return delta(folder / "n", labs=LAB), folder / "plain"


def _no_key(folder: Path, source: Path) -> tuple[Path, Path]:
    return delta(folder / "n", notes="pid,note\n1,hm\n"), folder / "fhir"


def _nothing(folder: Path, source: Path) -> tuple[Path, Path]:
    return delta(folder / "n", other="a\n"), folder / "fhir"


def _bad_key(folder: Path, source: Path) -> tuple[Path, Path]:
    return delta(folder / "n", **{"labs.deleted": "lab\nfive\n"}), folder / "fhir"


def _misspelt(folder: Path, source: Path) -> tuple[Path, Path]:
    return delta(folder / "n", labs=LAB, **{"labs.delete": "lab\n5\n"}), folder / "fhir"


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        (_misspelt, SourceError, r'labs.delete.csv is no table of tiny. Closest: "labs.deleted"'),
        (_without_rows, ConfigError, "without --keep-rows"),
        (_no_key, SourceError, "table notes has no `primary_key`"),
        (_nothing, SourceError, "holds no table of tiny"),
        (_bad_key, SourceError, "labs.deleted.csv: row 1 is no key"),
        (
            lambda folder, _: (delta(folder / "n", labs=LAB), folder / "nowhere"),
            SchemaError,
            "no such folder",
        ),
    ],
)
def test_a_delta_that_cannot_be_laid_over_the_store(
    tmp_path: Path,
    first: tuple[Path, Path],
    case: Callable[[Path, Path], tuple[Path, Path]],
    error: type[EhrseqError],
    message: str,
) -> None:
    source, kept = first
    before = json.loads((kept / "manifest.json").read_text())
    night, out = case(tmp_path, source)
    with pytest.raises(error, match=message):
        ehrseq.map(source, night, out, delta=True)
    assert json.loads((kept / "manifest.json").read_text()) == before


def test_columns_that_are_not_those_of_the_last_delivery_stop_the_run(tmp_path: Path) -> None:
    source = write_mappings(
        tmp_path / "source",
        source=SOURCE.replace("tests: {shared: true,", "tests: {shared: true, may_lack: [name],"),
    )
    out = ehrseq.map(source, write_tables(tmp_path / "one"), tmp_path / "fhir").out
    before = (out / "manifest.json").read_bytes()
    two = write_tables(tmp_path / "two", tests="test\n7\n8\n", notes="pid,note\n1,hm\n")
    with pytest.raises(
        DataQualityError, match=r"table notes is new; tests lacks name.*--allow-changed-columns"
    ):
        ehrseq.map(source, two, out)
    assert (out / "manifest.json").read_bytes() == before
    result = ehrseq.map(source, two, out, allow_changed_columns=True)
    assert result.manifest.notes["columns"]["tests"] == {"test": "text"}
    three = write_tables(tmp_path / "three", tests="test\n7\n8\n")
    (three / "tests.csv").unlink()
    pl.DataFrame({"test": [7, 8]}).write_parquet(three / "tests.parquet")
    with pytest.raises(DataQualityError, match=r"table notes is gone; tests\.test is int64 and was text"):
        ehrseq.map(source, three, out)
