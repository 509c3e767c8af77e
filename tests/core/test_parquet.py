"""Parquet files: the rows come back as they were, in groups, whatever their shape."""

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrseq.core import parquet

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(max_size=3),
            "code": st.none()
            | st.lists(st.fixed_dictionaries({"system": st.none() | st.sampled_from("ab")})),
            "value": st.none() | st.floats(allow_nan=False),
        }
    ),
    max_size=20,
)
SCHEMA = {"id": pl.String, "code": pl.List(pl.Struct({"system": pl.String})), "value": pl.Float64}


@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["zstd", "lz4", "none"]))
def test_what_is_written_comes_back(tmp_path_factory, parts, compression):
    frames = [pl.DataFrame(rows, schema=SCHEMA) for rows in parts]
    path = tmp_path_factory.mktemp("p") / "a.parquet"
    written = parquet.write_parquet(frames, path, compression=compression)
    whole = pl.concat(frames)
    assert written == whole.height
    assert pl.read_parquet(path).equals(whole)
    assert pl.read_parquet_schema(path) == whole.schema


def test_groups_are_full_however_the_rows_come(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP", 10)
    frames = [pl.DataFrame({"n": range(start, start + size)}) for start, size in [(0, 3), (3, 21), (24, 1)]]
    parquet.write_parquet(frames, tmp_path / "a.parquet")
    metadata = pq.ParquetFile(tmp_path / "a.parquet").metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [10, 10, 5]
    groups = parquet.row_groups(pl.scan_parquet(tmp_path / "a.parquet"), 25)
    assert [group["n"].to_list() for group in groups] == [[*range(10)], [*range(10, 20)], [*range(20, 25)]]


@pytest.mark.parametrize("repeats", [True, False])
def test_only_texts_that_repeat_get_a_dictionary(tmp_path, repeats):
    frame = pl.DataFrame({"x": ["a"] * 100 if repeats else [str(n) for n in range(100)]})
    parquet.write_parquet(frame, tmp_path / "a.parquet")
    encodings = pq.ParquetFile(tmp_path / "a.parquet").metadata.row_group(0).column(0).encodings
    assert ("RLE_DICTIONARY" in encodings) == repeats
