"""Delimited and Parquet files as batches of untyped columns with row numbers, and the numbers of ragged rows."""

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ehrseq.core.errors import SourceError, closest
from ehrseq.sources.database import Partition, batches
from ehrseq.sources.declaration import Table

SUFFIXES = {
    ".csv": ",",
    ".csv.gz": ",",
    ".csv.zst": ",",
    ".tsv": "\t",
    ".tsv.gz": "\t",
    ".tsv.zst": "\t",
    ".parquet": None,
}
"""What a table's file may end in, and the separator of its columns."""

_BLOCK_BYTES = 16 << 20
_BATCH_ROWS = 262_144
_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Raw:
    """Rows as they stand in the file, with `_row` (from 1); or the numbers of rows that do not fit the header."""

    rows: pl.DataFrame
    ragged: tuple[int, ...] = ()


def raw_batches(table: Table, path: Path | Partition) -> Iterator[Raw]:
    """Batches of a file: text columns of delimited files, typed ones of Parquet; or of a partition of a database.

    Raises: SourceError when the header differs from the declaration, or the file cannot be decoded to its end;
    DatabaseLostError.
    """
    if isinstance(path, Partition):
        yield from _database_batches(table, path)
        return
    seen = 0
    try:
        for part in (
            _parquet_batches(table, path) if path.suffix == ".parquet" else _text_batches(table, path)
        ):
            seen += part.rows.height
            yield part
    except (pa.ArrowInvalid, OSError, UnicodeError) as error:
        raise SourceError(
            f"{path}: cannot be read past data row {seen}: {_reason(error, table, path)}. "
            "Nothing was written. Deliver the file again, complete and in its declared encoding."
        ) from error


def delivered_columns(table: Table, path: Path | Partition) -> dict[str, str]:
    """Names of a file's columns with their types (`text` in delimited files); none where reading it will fail."""
    if isinstance(path, Partition):
        return dict(path.columns)
    if table.format:
        return dict.fromkeys(table.columns, "text")
    try:
        if path.suffix == ".parquet":
            schema = pyarrow.parquet.read_schema(path)
            found = {name: str(schema.field(name).type) for name in schema.names}
        else:
            compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
            with pa.input_stream(str(path), compression=compression) as stream:
                block = stream.read(_HEADER_BYTES).decode(table.encoding, errors="ignore")
            names = next(csv.reader(io.StringIO(block), delimiter=_separator(table, path)), [])
            found = dict.fromkeys((name.removeprefix("\ufeff") for name in names), "text")
        _columns(table, list(found), path)
    except (pa.ArrowInvalid, OSError, SourceError, csv.Error):
        return {}
    return found


def _reason(error: Exception, table: Table, path: Path) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if path.suffix == ".parquet":
        return "it is not a whole Parquet file"
    if isinstance(error, OSError) or "runcated" in text or "EOF" in text or "incorrect" in text:
        return "the compressed stream is truncated or damaged"
    if "UTF8" in text or "utf-8" in text.lower() or isinstance(error, UnicodeError):
        return f"it holds bytes that are not {table.encoding.upper()}{_bad_byte(table, path)}"
    if "Empty CSV" in text:
        return "it is empty, without even a header"
    if "straddling" in text or "out of sync" in text:
        return f"a row is longer than {_BLOCK_BYTES >> 20} MB, which most often means that a quote is never closed"
    return type(error).__name__


def _bad_byte(table: Table, path: Path) -> str:
    """Where the first byte stands that the encoding does not have, counted from 0 in the unpacked text."""
    decoder, read = codecs.getincrementaldecoder(table.encoding)(), 0
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.input_stream(str(path), compression=compression) as stream:
        while True:
            block, held = stream.read(_HEADER_BYTES), len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return f", the first at byte {read - held + error.start}"
            if not block:
                return ""
            read += len(block)


def _text_batches(table: Table, path: Path) -> Iterator[Raw]:
    ragged: list[int] = []
    separator, unclosed = _separator(table, path), []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)  # pyarrow counts the header as row 1
        if _is_open(row.text, separator):
            unclosed.append(row.number - 1)
        return "skip"

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.input_stream(str(path), compression=compression) as stream:
        tail = _Tail(stream)
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(tail, mode="r"),
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, encoding=table.encoding
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(_spellings(table), pa.string()),
                strings_can_be_null=True,
                null_values=list(table.null_values),
            ),
        )
        found = _columns(table, reader.schema.names, path)
        counted, last = 0, None
        for batch in reader:
            frame = pl.DataFrame(pl.from_arrow(batch)).select(found)
            last = batch.column(batch.num_columns - 1)[-1].as_py() if batch.num_rows else last
            rows = counted + 1 + pl.int_range(frame.height, eager=True)
            yield Raw(frame.with_columns(_row=_skipping(rows, ragged)))
            counted += frame.height
    total = counted + len(ragged)
    if total not in ragged[-1:] and tail.left_open(last):
        unclosed.append(total)
    if unclosed:
        raise SourceError(
            f"{path}: the quote that opens in data row {unclosed[0]} is never closed, so the rows after it cannot be "
            "told apart. Nothing was written. Close or double the quote, or deliver the file again."
        )
    if ragged:
        nothing = pl.DataFrame(schema={**dict.fromkeys(table.header, pl.String), "_row": pl.Int64})
        yield Raw(nothing, tuple(ragged))


class _Tail:
    """A stream that remembers its last bytes."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.end = stream, b""

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.stream.read(size)
        self.end = (self.end + data[-64:])[-64:] if data else self.end
        return data

    def left_open(self, last: object) -> bool:
        """Whether the stream ended inside quotes, given the last value of its last row."""
        if not isinstance(last, str) or "\n" not in last:
            return False
        end = self.end.replace(b"\0", b"").rstrip(b"\r\n")  # UTF-16 has zeros
        return not end.endswith(b'"""' if last.endswith('"') else b'"')


def _is_open(row: str, separator: str) -> bool:
    """Whether a row ends inside quotes, so that it has swallowed all that came after it."""
    if '"' not in row:
        return False
    starts = rf"(?:^|[{re.escape(separator)}\n])"
    return bool(re.search(f'{starts}"', re.sub(rf'{starts}"[^"]*(?:""[^"]*)*"', "", row)))


def _separator(table: Table, path: Path) -> str:
    if table.separator:
        return table.separator
    return next((text for suffix, text in SUFFIXES.items() if text and path.name.endswith(suffix)), ",")


def _skipping(rows: pl.Series, ragged: list[int]) -> pl.Series:
    """Turn the n-th good row into its row number in the file, given the numbers of the skipped ones."""
    shift = pl.Series([number - index for index, number in enumerate(sorted(ragged))], dtype=pl.Int64)
    return rows + shift.search_sorted(rows, side="right").cast(pl.Int64) if len(shift) else rows


def _database_batches(table: Table, partition: Partition) -> Iterator[Raw]:
    found = _columns(table, [name for name, _ in partition.columns], partition)
    counted = 0
    for batch in batches(partition):
        frame = pl.DataFrame(pl.from_arrow(batch)).select(found)
        yield Raw(frame.with_columns(_row=counted + 1 + pl.int_range(frame.height, eager=True)))
        counted += frame.height


def _parquet_batches(table: Table, path: Path) -> Iterator[Raw]:
    with pyarrow.parquet.ParquetFile(path) as parquet:
        found = _columns(table, parquet.schema_arrow.names, path)
        counted = 0
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            frame = pl.DataFrame(pl.from_arrow(batch)).select(found)
            yield Raw(frame.with_columns(_row=counted + 1 + pl.int_range(frame.height, eager=True)))
            counted += frame.height


def _spellings(table: Table) -> list[str]:
    """Names that the columns may have in a header."""
    if not table.ignore_case:
        return table.header
    return [form for name in table.header for form in (name, name.lower(), name.upper(), name.capitalize())]


def _columns(table: Table, header: list[str], path: Path | Partition) -> list[pl.Expr]:
    """The declared columns as they are found under a header.

    Raises: SourceError that names every column that is missing or not declared.
    """
    there = {name.lower() if table.ignore_case else name: name for name in header}
    at = {name: there.get(name.lower() if table.ignore_case else name) for name in table.header}
    lacking = [name for name, found in at.items() if found is None and name not in table.may_lack]
    extra = [name for name in header if name not in at.values()]
    if twice := [name for name, count in Counter(header).items() if count > 1 and name in at.values()]:
        raise SourceError(
            f'{path}:1  has column "{twice[0]}" more than once. Deliver the file with one of them.'
        )
    if lacking and not any(at.values()):  # perhaps a row of data, so it is not quoted
        raise SourceError(
            f"{path}:1  is no header of table {table.name}: it holds none of the columns {', '.join(table.header)}. "
            "The header is missing, or the separator or encoding is another than declared in source.yaml."
        )
    if lacking or extra:
        parts = [f'lacks column "{name}".{closest(name, extra)}' for name in lacking]
        parts += [f'has column "{name}", which is not declared.' for name in extra]
        raise SourceError(
            f"{path}:1  differs from the declaration of table {table.name}: {' It '.join(parts)} "
            "Fix the delivery, or declare its columns in source.yaml, so that nothing is dropped unseen."
        )
    nothing = pl.lit(None, pl.String)
    return [(pl.col(found) if found else nothing).alias(name) for name, found in at.items()]
