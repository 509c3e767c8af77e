"""The lines of a stream are those that Python finds, wherever the blocks end."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrseq.sources.fhir import lines
from ehrseq.sources.fhir.lines import LongLineError, blocks_of_lines

objects = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=40).map(
    lambda text: '{"id": "' + text + '"}'
)
rows = st.lists(
    st.one_of(objects, st.sampled_from(["", "  ", "{}", "[1]", "null", "\ufeff{}", '{"a": 1}  ']))
)


@given(rows, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 60))
def test_lines_are_those_of_the_text(given: list[str], end: str, ended: bool, block: int):
    text = end.join(given) + (end if ended and given else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        found = [line for part in blocks_of_lines(pa.BufferReader(text.encode())) for line in part.to_list()]
    wanted = text.split("\n")[: -1 if text.endswith("\n") or not text else None]
    assert found == [line.strip("\ufeff \r\n\t") or None for line in wanted]


def test_a_line_that_is_no_text_is_no_json():
    (found,) = blocks_of_lines(pa.BufferReader(b'{"id": "long enough"}\n{"id": "\xff, long enough"}\n'))
    assert found.to_list() == ['{"id": "long enough"}', "not UTF-8"]


def test_a_line_without_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lines, "BLOCK", 10)
    monkeypatch.setattr(lines, "LONGEST_LINE", 25)
    stream = pa.BufferReader(b"x" * 1000)
    with pytest.raises(LongLineError):
        list(blocks_of_lines(stream))
    assert stream.tell() <= 40
