"""Tables that are not one UTF-8 CSV file of their name: patterns, telling names, other encodings, other headers."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from ehrseq.core.errors import MappingError, SourceError
from ehrseq.sources.declaration import load_source
from ehrseq.sources.tables import find_tables, read_batches


def source(folder: Path, table: str, top: str = ""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text(f"source: s\nsubject: pid\n{top}\ntables:\n  visits: {{{table}}}\n")
    return load_source(folder)


def rows(made, data: Path) -> pl.DataFrame:
    files = find_tables(made, data)["visits"]
    parts = list(read_batches(made.tables["visits"], [(path, path.name) for path in files]))
    assert all(bad.is_empty() for _, bad in parts)
    return pl.concat(good for good, _ in parts)


COLUMNS = "columns: {pid: integer, name: string}"


def test_one_file_a_patient_with_the_patient_in_its_name(tmp_path: Path):
    made = source(
        tmp_path / "s", r"files: 'b*/*.psv', separator: '|', file_name: {pid: 'p0*(\d+)'}, " + COLUMNS
    )
    (tmp_path / "d/b1").mkdir(parents=True)
    for number in range(300):
        (tmp_path / f"d/b1/p{number:04d}.psv").write_text("name\nx\ny\n")
    (tmp_path / "d/readme.txt").write_text("not a table")
    found = rows(made, tmp_path / "d")
    assert found["pid"].to_list() == [number for number in range(300) for _ in range(2)]
    assert found["_row"].to_list() == [1, 2] * 300
    assert found["_file"][2:4].to_list() == ["p0001.psv"] * 2


def test_a_name_without_the_value(tmp_path: Path):
    made = source(tmp_path / "s", r"files: '*.psv', file_name: {pid: 'p(\d+)'}, " + COLUMNS)
    (tmp_path / "s/q1.psv").write_text("name\nx\n")
    with pytest.raises(SourceError, match=r"q1\.psv: the name does not give column `pid`"):
        rows(made, tmp_path / "s")


def test_declared_encoding(tmp_path: Path):
    made = source(tmp_path / "s", "encoding: latin-1, " + COLUMNS)
    (tmp_path / "s/visits.csv.gz").write_bytes(gzip.compress("pid,name\n1,Zoë\n".encode("latin-1")))
    assert rows(made, tmp_path / "s")["name"].to_list() == ["Zoë"]


def test_undeclared_encoding_is_refused(tmp_path: Path):
    made = source(tmp_path / "s", COLUMNS)
    (tmp_path / "s/visits.csv").write_bytes("pid,name\n1,Zoë\n".encode("latin-1"))
    with pytest.raises(SourceError, match="bytes that are not UTF-8"):
        rows(made, tmp_path / "s")


@pytest.mark.parametrize("header", ["PID,NAME", "Pid,Name", "pid,name"])
def test_case_may_be_ignored(tmp_path: Path, header: str):
    made = source(tmp_path / "s", COLUMNS, top="ignore_case: true")
    (tmp_path / "s/VISITS.csv").write_text(f"{header}\n1,x\n")
    assert rows(made, tmp_path / "s").select("pid", "name").rows() == [(1, "x")]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_may_be_absent_only_if_declared_so(tmp_path: Path, suffix: str):
    frame = pl.DataFrame({"pid": [1], "ward": ["A"]})
    frame.write_csv(tmp_path / "visits.csv") if suffix == "csv" else frame.write_parquet(
        tmp_path / "visits.parquet"
    )
    made = source(tmp_path / "s", "may_lack: [name], columns: {pid: integer, name: string, ward: string}")
    assert rows(made, tmp_path).select("pid", "name", "ward").rows() == [(1, None, "A")]
    strict = source(tmp_path / "t", "columns: {pid: integer, name: string, wart: string}")
    with pytest.raises(
        SourceError, match=r'"name".*"wart"\. Closest: "ward".*"ward", which is not declared'
    ) as error:
        rows(strict, tmp_path)
    assert error.value.exit_code == 3


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("files: '../*.csv', " + COLUMNS, "below the folder of the data"),
        ("files: '/etc/*', " + COLUMNS, "below the folder of the data"),
        ("encoding: utf-9, " + COLUMNS, "`utf-9` is not an encoding"),
        ("file_name: {pjd: '(x)'}, " + COLUMNS, 'column `pjd` is not declared. Closest: "pid"'),
        ("file_name: {pid: 'x'}, " + COLUMNS, "has 0 groups; exactly one names the value"),
        ("file_name: {pid: '(x'}, " + COLUMNS, "is not a regular expression"),
        ("columns: {pid: integr}", 'has type `integr`. Closest: "integer"'),
    ],
)
def test_what_a_declaration_may_not_say(tmp_path: Path, table: str, message: str):
    with pytest.raises(MappingError, match=r"source\.yaml:5") as error:
        source(tmp_path, table)
    assert message in str(error.value)
