"""Side arrays: what is written is read back, and what is damaged is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrseq.core.errors import SchemaError
from ehrseq.core.spans import SpanArray, SpanWriter, narrowed, widened


def written(folder: Path, dtype: str = "float32") -> Path:
    with SpanWriter(folder, "xray", dim=3, encoder="toy 1", dtype=dtype) as spans:
        assert spans.append(np.arange(6).reshape(2, 3)) == 0
        assert spans.append(np.ones((1, 3))) == 2
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_come_back_in_any_order(tmp_path, dtype):
    array = SpanArray.open(written(tmp_path, dtype), "xray")
    assert array.header.encoder == "toy 1"
    assert array.header.rows == 3
    assert array.read([2, 0]).tolist() == [[1, 1, 1], [0, 1, 2]]
    assert array.read([2, 0]).dtype == np.float32
    size = {"float32": 4, "bfloat16": 2}[dtype]
    assert (tmp_path / "spans/xray.bin").stat().st_size == 3 * 3 * size  # no header: any program can map it


def test_array_without_rows(tmp_path):
    with SpanWriter(tmp_path, "none", dim=4, encoder="toy"):
        pass
    assert SpanArray.open(tmp_path, "none").read([]).shape == (0, 4)


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1))
def test_bfloat16_is_the_nearest(values):
    exact = np.asarray(values, np.float32)
    near = widened(narrowed(exact))
    assert np.all(np.abs(near - exact) <= np.abs(exact) * 2.0**-8 + 1e-38)
    assert np.array_equal(widened(narrowed(near)), near)


def test_damage_is_named(tmp_path):
    written(tmp_path)
    with pytest.raises(SchemaError, match=r"other\.json: missing"):
        SpanArray.open(tmp_path, "other")
    file = tmp_path / "spans/xray.bin"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(SchemaError, match="32 bytes, its header says 3 rows of 3 float32"):
        SpanArray.open(tmp_path, "xray")
    header = tmp_path / "spans/xray.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"dtype": "float16"}))
    with pytest.raises(SchemaError, match="dtype 'float16'"):
        SpanArray.open(tmp_path, "xray")


def test_what_cannot_be_an_array_is_refused(tmp_path):
    with pytest.raises(SchemaError, match="expected a-z"):
        SpanWriter(tmp_path, "../up", dim=3, encoder="toy")
    with pytest.raises(SchemaError, match="expected finite numbers"):
        with SpanWriter(tmp_path, "xray", dim=3, encoder="toy") as spans:
            spans.append([[1, 2, np.nan]])
    assert not (tmp_path / "spans/xray.json").exists()  # a writer that failed leaves nothing to open
