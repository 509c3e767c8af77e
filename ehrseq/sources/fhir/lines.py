"""The lines of a text stream, block by block, without a copy of the text: each is a view into its block."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

BLOCK = 16 << 20
LONGEST_LINE = 32 << 20

_BREAK, _RETURN, _OPENS, _CLOSES = b"\n\r{}"
_INLINE = 12  # bytes; strings as short as this stand in an Arrow view itself
_NOT_TEXT = "not UTF-8"
_AROUND = "\ufeff \r\n\t"
_VIEW = np.dtype([("length", "<i4"), ("prefix", "<u4"), ("buffer", "<i4"), ("offset", "<i4")])


class LongLineError(Exception):
    """A line is longer than `LONGEST_LINE` bytes."""


def blocks_of_lines(stream: pa.NativeFile) -> Iterator[pl.Series]:
    r"""The stream's lines, String, without white space and byte order marks around them; null where blank.

    A line that is not UTF-8 becomes a text that is no JSON.

    Raises: LongLineError; what reading the stream raises.

    >>> [block.to_list() for block in blocks_of_lines(pa.BufferReader(b'{"id": "a", "x": 1}\n \n{"id": "b"}\n'))]
    [['{"id": "a", "x": 1}', None, '{"id": "b"}']]
    """
    rest = b""
    while chunk := stream.read(BLOCK):
        text = rest + chunk if rest else chunk
        end = text.rfind(b"\n") + 1
        if end:
            yield _lines(text, end)
        rest = text[end:] if end < len(text) else b""
        if len(rest) > LONGEST_LINE:
            raise LongLineError
    if rest:
        yield _lines(rest + b"\n", len(rest) + 1)


def _lines(text: bytes, end: int) -> pl.Series:
    """The lines of the first `end` bytes, the last of which is a line break."""
    data = np.frombuffer(text, np.uint8, count=end)
    breaks = np.flatnonzero(data == _BREAK)
    starts = np.empty_like(breaks)
    starts[0], starts[1:] = 0, breaks[:-1] + 1
    ends = breaks - (data[breaks - 1] == _RETURN)
    lengths = ends - starts
    plain = lengths.min() > _INLINE and (data[starts] == _OPENS).all() and (data[ends - 1] == _CLOSES).all()
    if plain and _is_text(text, end):
        return _views(text, data, starts, lengths)
    lines = pl.Series([_text_of(line) for line in text[: end - 1].split(b"\n")], dtype=pl.String)
    stripped = lines.str.strip_chars(_AROUND)
    return stripped.set(stripped == "", None)


def _is_text(text: bytes, end: int) -> bool:
    whole = pa.LargeStringArray.from_buffers(1, pa.py_buffer(np.array([0, end])), pa.py_buffer(text))
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _views(
    text: bytes, data: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> pl.Series:
    views = np.zeros(len(starts), _VIEW)
    views["length"], views["offset"] = lengths, starts
    views["prefix"] = np.ascontiguousarray(data[starts[:, None] + np.arange(4)]).view("<u4")[:, 0]
    array = pa.Array.from_buffers(
        pa.string_view(), len(starts), [None, pa.py_buffer(views), pa.py_buffer(text)]
    )
    return pl.Series(array)


def _text_of(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return _NOT_TEXT
