"""Readers of files: nothing is guessed, nothing swallowed, and every row keeps its number."""

import csv
import gzip
import io
from datetime import date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.errors import MappingError, SourceError
from ehrseq.sources import raw
from ehrseq.sources.declaration import Source, load_source
from ehrseq.sources.rejects import Reject
from ehrseq.sources.tables import find_tables, read_batches

COLUMNS = "pid: integer, at: datetime, number: number, text: string"
HEAD = "pid,at,number,text\n"
GOOD = "1,2020-01-01 09:00:00,1.5,x\n"


def declared(folder: Path, table: str = "", zone: str = "UTC", columns: str = COLUMNS) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text(
        f"source: s\ntimezone: {zone}\nsubject: pid\ntables:\n  t: {{{table}columns: {{{columns}}}}}\n"
    )
    return load_source(folder)


def read(source: Source, data: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    files = find_tables(source, data)["t"]
    parts = list(read_batches(source.tables["t"], [(path, path.name) for path in files]))
    rows = pl.concat(part[0] for part in parts)
    bad = pl.concat([Reject.empty(), *(part[1] for part in parts)])
    Reject.check(bad)
    return rows, bad


def text(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> tuple[pl.DataFrame, pl.DataFrame]:
    source = declared(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(source, tmp_path)


def typed(tmp_path: Path, zone: str = "UTC", **columns: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    source = declared(tmp_path, zone=zone)
    whole = {"pid": [1], "at": [datetime(2020, 1, 1, 9)], "number": [1.5], "text": ["x"], **columns}
    pl.DataFrame(whole, strict=False).write_parquet(tmp_path / "t.parquet")
    return read(source, tmp_path)


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ('1,2020-01-01 09:00:00,1.5,"x\n' + GOOD * 3, 1),
        (GOOD + '1,2020-01-01 09:00:00,1.5,"x\n' + GOOD * 3, None),
        ('1,2020-01-01 09:00:00,1.5,"x\n' + GOOD * 2 + GOOD[:-1], 1),
        (GOOD + '1,"2020-01-01 09:00:00,1.5,x\n' + GOOD * 3, 2),
        ('1,2020-01-01 09:00:00,1.5,"x\n' + GOOD * 3 + '1,,,"y"\n', 1),
    ],
)
def test_a_quote_that_is_never_closed_swallows_no_rows(tmp_path: Path, rows: str, first: int | None):
    with pytest.raises(
        SourceError, match=r"t\.csv: the quote that opens in data row \d+ is never closed"
    ) as e:
        text(tmp_path, HEAD + rows)
    assert first is None or f"data row {first} is" in str(e.value)


@pytest.mark.parametrize(
    "last", ['"two\nlines"', '"ends in a quote\n""so"""', '5" tube', '"a\n"', "plain", '"a ""b"" c"']
)
@pytest.mark.parametrize("end", ["\n", "", "\r\n", "\n\n"])
def test_well_quoted_ends_are_no_fault(tmp_path: Path, last: str, end: str):
    rows, bad = text(tmp_path, f"{HEAD}{GOOD}1,,,{last}{end}")
    assert (rows.height, bad.height) == (2, 0)


def test_a_short_row_after_a_value_of_two_lines_is_only_a_short_row(tmp_path: Path):
    rows, bad = text(tmp_path, HEAD + '1,,,"two\nlines"\n1,2\n')
    assert rows["text"].to_list() == ["two\nlines"]
    assert bad.select("row", "rule").rows() == [(2, "ragged")]


@pytest.mark.parametrize("shown", ["4711,SMITH,1950,secret\n", "4711;SMITH;1950;secret\n"])
def test_a_row_of_data_in_place_of_the_header_is_not_quoted(tmp_path: Path, shown: str):
    with pytest.raises(
        SourceError, match="is no header of table t: it holds none of the columns pid, at"
    ) as e:
        text(tmp_path, shown * 2)
    assert "SMITH" not in str(e.value)
    assert "4711" not in str(e.value)


def test_a_column_that_comes_twice_is_refused(tmp_path: Path):
    with pytest.raises(SourceError, match=r't\.csv:1  has column "text" more than once'):
        text(tmp_path, "pid,at,number,text,text\n1,,,a,b\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "it is empty, without even a header"),
        ("t.csv", b"\n\n", "it is empty, without even a header"),
        ("t.csv.gz", gzip.compress(b"", mtime=0), "it is empty, without even a header"),
        ("t.csv.gz", gzip.compress(b"x" * 9, mtime=0)[:-4], "truncated or damaged"),
        ("t.csv.gz", b"PK no gzip at all", "truncated or damaged"),
        ("t.csv.zst", pa.compress(b"x" * 9, codec="zstd", asbytes=True)[:-1], "truncated or damaged"),
        ("t.parquet", b"PAR1 and no more", "not a whole Parquet file"),
        ("t.parquet", b"", "not a whole Parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str):
    with pytest.raises(SourceError) as error:
        text(tmp_path, content, name)
    assert message in str(error.value)
    assert name in str(error.value)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("where", [20, 40, 60, -6])
def test_a_flipped_byte_in_a_compressed_file_is_found(tmp_path: Path, where: int):
    content = bytearray(gzip.compress((HEAD + GOOD * 500).encode(), mtime=0))
    content[where] ^= 0xFF
    with pytest.raises(SourceError, match=r"damaged|UTF-8|is no header"):
        text(tmp_path, bytes(content), "t.csv.gz")


def test_several_gzip_members_are_one_file(tmp_path: Path):
    rows, _ = text(tmp_path, gzip.compress((HEAD + GOOD).encode()) + gzip.compress(GOOD.encode()), "t.csv.gz")
    assert rows["_row"].to_list() == [1, 2]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path):
    source = declared(tmp_path)
    (tmp_path / "t.csv").write_text(HEAD)
    assert (
        sum(
            good.height + bad.height
            for good, bad in read_batches(source.tables["t"], [(tmp_path / "t.csv", "t.csv")])
        )
        == 0
    )


def test_marks_and_line_ends_of_other_systems(tmp_path: Path):
    rows, bad = text(tmp_path, b"\xef\xbb\xbf" + (HEAD + GOOD).replace("\n", "\r\n").encode())
    assert rows.select("pid", "text").rows() == [(1, "x")]
    assert bad.is_empty()


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (" 7 ", "integer", 7), ("+7", "integer", 7), ("7.0", "integer", None), ("1e3", "integer", None),
        ("9" * 20, "integer", None), ("7 mg", "integer", None), (" 1.5", "number", 1.5), ("1e-3", "number", 0.001),
        ("1,5", "number", None), ("inf", "number", None), ("nan", "number", None), ("1e999", "number", None),
        ("2020-02-29", "date", date(2020, 2, 29)), ("2021-02-29", "date", None), ("2020-02-29 00:00:00", "date", None),
        ("2020-01-01 23:59:59", "datetime", datetime(2020, 1, 1, 23, 59, 59)),
        ("2020-01-01 24:00:00", "datetime", None),
        ("2020-01-01", "datetime", None), ("2020-01-01 09:00:00 ", "datetime", None),
        ("Yes", "boolean", True), ("0", "boolean", False), ("2", "boolean", None), ("x  ", "string", "x  "),
    ],
)  # fmt: skip
def test_a_value_is_what_its_type_says_or_a_reject(tmp_path: Path, value: str, kind: str, expected: object):
    source = declared(tmp_path, columns=f"pid: integer, v: {kind}")
    (tmp_path / "t.csv").write_text(f'pid,v\n1,"{value}"\n2,\n')
    rows, bad = read(source, tmp_path)
    found = dict(rows.select("pid", "v").rows())
    assert found[2] is None
    if expected is None:
        assert bad.select("table", "file", "row", "rule", "element").rows() == [
            ("t", "t.csv", 1, "type", "v")
        ]
        assert f"not a valid {kind}" in bad["message"][0]
        assert value not in bad["message"][0]
    else:
        assert (found[1], bad.height) == (expected, 0)


@pytest.mark.parametrize(
    ("columns", "element"),
    [
        ({"pid": [1.5]}, "pid"),
        ({"pid": pl.Series([2**63], dtype=pl.UInt64)}, "pid"),
        ({"number": [float("nan")]}, "number"),
        ({"number": [float("inf")]}, "number"),
        ({"at": ["yesterday"]}, "at"),
    ],
)
def test_parquet_values_that_do_not_fit_are_rejects(tmp_path: Path, columns: dict[str, object], element: str):
    rows, bad = typed(tmp_path, **columns)
    assert rows.is_empty()
    assert bad.select("file", "row", "rule", "element").rows() == [("t.parquet", 1, "type", element)]


@pytest.mark.parametrize(
    ("column", "values", "found"),
    [("at", [5], "Int64"), ("number", [{"a": 1}], "Struct"), ("pid", [True], "Boolean"), ("text", [[1]], "List"),
     ("text", [b"x"], "Binary")],
)  # fmt: skip
def test_parquet_columns_of_another_kind_are_refused(tmp_path: Path, column: str, values: list, found: str):
    with pytest.raises(
        SourceError, match=rf't\.parquet: column "{column}" holds {found}.*declares it as'
    ) as e:
        typed(tmp_path, **{column: values})
    assert e.value.exit_code == 3


def test_parquet_types_that_mean_the_same_are_taken(tmp_path: Path):
    rows, bad = typed(
        tmp_path, pid=pl.Series([7.0]), at=[date(2020, 1, 1)], number=pl.Series([3], dtype=pl.Int8), text=[12]
    )
    assert bad.is_empty()
    assert rows.drop("_file", "_row").rows() == [(7, datetime(2020, 1, 1), 3.0, "12")]


def test_clocks_with_an_offset_become_the_wall_clock_of_the_zone(tmp_path: Path):
    utc = pl.Series([datetime(2020, 7, 1, 10)]).dt.replace_time_zone("UTC")
    assert typed(tmp_path / "p", zone="Europe/Berlin", at=utc)[0]["at"].to_list() == [
        datetime(2020, 7, 1, 12)
    ]
    source = declared(tmp_path / "c", 'datetime_format: "%Y-%m-%dT%H:%M:%S%z", ', zone="Europe/Berlin")
    (tmp_path / "c/t.csv").write_text(HEAD + "1,2020-07-01T10:00:00+0500,,\n1,2020-07-01T10:00:00,,\n")
    rows, bad = read(source, tmp_path / "c")
    assert rows["at"].to_list() == [datetime(2020, 7, 1, 7)]
    assert bad["row"].to_list() == [2]


def test_a_folder_of_files_of_several_kinds_is_one_table(tmp_path: Path):
    source = declared(tmp_path)
    (tmp_path / "t").mkdir()
    (tmp_path / "t/a.csv").write_text(HEAD + GOOD)
    for name, dtype in (("b", pl.Int64), ("c", pl.Int32)):
        frame = pl.DataFrame({"pid": [2], "at": [datetime(2020, 1, 1)], "number": [None], "text": ["y"]})
        frame.cast({"pid": dtype, "number": pl.Float64}).write_parquet(tmp_path / f"t/{name}.parquet")
    rows, bad = read(source, tmp_path)
    assert bad.is_empty()
    assert rows.select("_file", "_row", "pid").rows() == [
        ("a.csv", 1, 1),
        ("b.parquet", 1, 2),
        ("c.parquet", 1, 2),
    ]


def test_a_folder_without_the_tables(tmp_path: Path):
    source = declared(tmp_path / "s")
    with pytest.raises(SourceError, match=r"nowhere: no such folder\. Expected the tables of s"):
        find_tables(source, tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"table t is missing \(looked for t\.csv, .*optional: true"):
        find_tables(source, tmp_path / "s")


values = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=6
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.tuples(values, values), st.tuples(values.filter(str.strip))), max_size=25),
    st.integers(64, 200),
)
def test_every_row_comes_back_with_its_number_wherever_a_block_ends(
    tmp_path_factory, rows: list[tuple], block: int
):
    """Rows of two fields are read as written; those of one are ragged; blocks end anywhere."""
    folder = tmp_path_factory.mktemp("any")
    source = declared(folder, columns="pid: string, v: string")
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([("pid", "v"), *rows])
    (folder / "t.csv").write_bytes(stream.getvalue().encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw, "_BLOCK_BYTES", block)
        found, bad = read(source, folder) if rows else (None, None)
    if found is None or bad is None:
        return
    expected = [(n, row[0] or None, row[1] or None) for n, row in enumerate(rows, 1) if len(row) == 2]
    assert found.sort("_row").select("_row", "pid", "v").rows() == expected
    assert bad["row"].sort().to_list() == [n for n, row in enumerate(rows, 1) if len(row) == 1]


def test_a_row_longer_than_a_block_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(raw, "_BLOCK_BYTES", 1 << 20)
    with pytest.raises(SourceError, match="a row is longer than 1 MB, which most often means that a quote"):
        text(tmp_path, HEAD + GOOD * 10 + '1,,,"' + GOOD * 100_000)


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("source: s\ntables: {t: {columns: {pid: integer}}}", "has no subject column `None`"),
        ("source: s\nsubject: pdi\ntables: {t: {columns: {pid: integer}}}", "has no subject column `pdi`"),
        ("source: s\nsubject: pid\ntables: {t: {}}", "table t declares no `columns`"),
        ("source: s\nsubject: pid\ntable: {}", 'unknown key `table`. Closest: "tables"'),
        ("source: s\nsubject: pid\n", ":1  lacks `tables`"),
        (
            "source: s\ntimezone: Europe/Brelin\ntables: {}",
            "source.yaml:2  `Europe/Brelin` is not an IANA time zone",
        ),
        ("source: s\nsource: t\ntables: {}", "source.yaml:2  has `source` twice"),
        ("source: s\ntables: [t", "is not valid YAML"),
    ],
)
def test_what_a_source_may_not_say(tmp_path: Path, declaration: str, message: str):
    (tmp_path / "source.yaml").write_text(declaration)
    with pytest.raises(MappingError) as error:
        load_source(tmp_path)
    assert message in str(error.value)
    assert error.value.exit_code == 2
