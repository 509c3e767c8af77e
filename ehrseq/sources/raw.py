"""Delimited and Parquet files as batches of untyped columns with row numbers, and the numbers of ragged rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ehrseq.core.errors import SourceError, closest
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


@dataclass(frozen=True, slots=True)
class Raw:
    """Rows as they stand in the file, with `_row` (from 1); or the numbers of rows that do not fit the header."""

    rows: pl.DataFrame
    ragged: tuple[int, ...] = ()


def raw_batches(table: Table, path: Path) -> Iterator[Raw]:
    """Batches of a file: text columns of delimited files, typed ones of Parquet.

    Raises: SourceError when the header differs from the declaration, or the file cannot be decoded to its end.
    """
    seen = 0
    try:
        for part in (
            _parquet_batches(table, path) if path.suffix == ".parquet" else _text_batches(table, path)
        ):
            seen += part.rows.height
            yield part
    except (pa.ArrowInvalid, OSError, UnicodeError) as error:
        raise SourceError(
            f"{path}: cannot be read past data row {seen}: {_reason(error, table)}. "
            "Nothing was written. Deliver the file again, complete and in its declared encoding."
        ) from error


def _reason(error: Exception, table: Table) -> str:
    text = str(error)
    if "runcated" in text or "EOF" in text or "incorrect" in text:
        return "the compressed stream is truncated or damaged"
    if "UTF8" in text or "utf-8" in text.lower() or isinstance(error, UnicodeError):
        return f"it holds bytes that are not {table.encoding.upper()}"
    if "Empty CSV" in text:
        return "it is empty, without even a header"
    return type(error).__name__


def _text_batches(table: Table, path: Path) -> Iterator[Raw]:
    ragged: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)  # pyarrow counts the header as row 1
        return "skip"

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    with pa.input_stream(str(path), compression=compression) as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, encoding=table.encoding
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_separator(table, path), newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(_spellings(table), pa.string()),
                strings_can_be_null=True,
                null_values=list(table.null_values),
            ),
        )
        found = _columns(table, reader.schema.names, path)
        counted = 0
        for batch in reader:
            frame = pl.DataFrame(pl.from_arrow(batch)).select(found)
            rows = counted + 1 + pl.int_range(frame.height, eager=True)
            yield Raw(frame.with_columns(_row=_skipping(rows, ragged)))
            counted += frame.height
    if ragged:
        nothing = pl.DataFrame(schema={**dict.fromkeys(table.header, pl.String), "_row": pl.Int64})
        yield Raw(nothing, tuple(ragged))


def _separator(table: Table, path: Path) -> str:
    if table.separator:
        return table.separator
    return next((text for suffix, text in SUFFIXES.items() if text and path.name.endswith(suffix)), ",")


def _skipping(rows: pl.Series, ragged: list[int]) -> pl.Series:
    """Turn the n-th good row into its row number in the file, given the numbers of the skipped ones."""
    shift = pl.Series([number - index for index, number in enumerate(sorted(ragged))], dtype=pl.Int64)
    return rows + shift.search_sorted(rows, side="right").cast(pl.Int64) if len(shift) else rows


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


def _columns(table: Table, header: list[str], path: Path) -> list[pl.Expr]:
    """The declared columns as they are found under a header.

    Raises: SourceError that names every column that is missing or not declared.
    """
    there = {name.lower() if table.ignore_case else name: name for name in header}
    at = {name: there.get(name.lower() if table.ignore_case else name) for name in table.header}
    lacking = [name for name, found in at.items() if found is None and name not in table.may_lack]
    extra = [name for name in header if name not in at.values()]
    if lacking or extra:
        parts = [f'lacks column "{name}".{closest(name, extra)}' for name in lacking]
        parts += [f'has column "{name}", which is not declared.' for name in extra]
        raise SourceError(
            f"{path}:1  differs from the declaration of table {table.name}: {' It '.join(parts)} "
            "Fix the delivery, or declare its columns in source.yaml, so that nothing is dropped unseen."
        )
    nothing = pl.lit(None, pl.String)
    return [(pl.col(found) if found else nothing).alias(name) for name, found in at.items()]
