"""Delimited and Parquet files as typed batches with row numbers; what cannot be read becomes a reject.

Every column is read as text and then cast to its declared type, so that a bad value is one rejected row with
a reason, never a crash, a guess or a silent null. A ragged row (too few or too many fields) is a reject too.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ehrseq.core.errors import SourceError, closest
from ehrseq.sources.declaration import Source, Table
from ehrseq.sources.rejects import Reject, join_rejects

COLUMN_DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(), "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(),
    "date": pl.Date(), "datetime": pl.Datetime("us"),
}  # fmt: skip
_SUFFIXES = {".csv": ",", ".csv.gz": ",", ".csv.zst": ",", ".tsv": "\t", ".tsv.gz": "\t", ".parquet": None}
_BLOCK_BYTES = 16 << 20
_BATCH_ROWS = 262_144
_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


def table_files(data: Path, table: str) -> list[Path]:
    """Files that hold `table` below `data`: `TABLE.csv.gz` (or another suffix), or all in a folder `TABLE/`.

    Raises: SourceError if the same table stands there twice under different suffixes.
    """
    found = [path for suffix in _SUFFIXES if (path := data / f"{table}{suffix}").is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{data}: table {table} stands there more than once ({names}). Keep one of them.")
    folder = data / table
    if not found and folder.is_dir():
        found = sorted(p for p in folder.iterdir() if any(p.name.endswith(s) for s in _SUFFIXES))
    return found


def find_tables(source: Source, data: Path) -> dict[str, list[Path]]:
    """Files of every declared table that is there. Raises: SourceError if a required table is missing."""
    if not data.is_dir():
        raise SourceError(f"{data}: no such folder. Expected the tables of {source.name}.")
    files = {name: table_files(data, name) for name in source.tables}
    missing = [name for name, paths in files.items() if not paths and not source.tables[name].optional]
    if missing:
        raise SourceError(
            f"{data}: table {missing[0]} is missing (looked for {missing[0]}.csv, .csv.gz, .csv.zst, .tsv, .parquet "
            f"and a folder {missing[0]}/)"
            + (f"; so are {len(missing) - 1} more: {', '.join(missing[1:])}" if missing[1:] else "")
            + f". Add it, or declare it `optional: true` in {source.folder / 'source.yaml'}."
        )
    return {name: paths for name, paths in files.items() if paths}


def read_batches(table: Table, path: Path, file: str) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) for each batch of a file.

    rows: the declared columns, typed, with `_file` (as given) and `_row` (Int64, data rows from 1).
    Raises: SourceError when the header differs from the declaration, or the file cannot be decoded.
    """
    raw = _parquet_batches(table, path) if path.suffix == ".parquet" else _text_batches(table, path)
    seen = 0
    try:
        for frame, ragged in raw:
            if ragged is not None:
                yield typed_rows(table, frame, file)[0].clear(), _ragged(table, ragged, file)
                continue
            seen += frame.height
            rows, bad = typed_rows(table, frame, file)
            yield rows, bad
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"{path}: cannot be read past data row {seen}: {_reason(error)}. "
            "Nothing was written. Deliver the file again, complete and in UTF-8."
        ) from error


def _reason(error: Exception) -> str:
    text = str(error)
    if "runcated" in text or "EOF" in text or "incorrect" in text:
        return "the compressed stream is truncated or damaged"
    if "UTF8" in text or "utf-8" in text.lower():
        return "it holds bytes that are not UTF-8"
    if "Empty CSV" in text:
        return "it is empty, without even a header"
    return type(error).__name__


def _text_batches(table: Table, path: Path) -> Iterator[tuple[pl.DataFrame, list[int] | None]]:
    """Batches of text columns with `_row`; then one last item with the numbers of the ragged rows."""
    ragged: list[int] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1)  # pyarrow counts the header as row 1
        return "skip"

    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    separator = next(s for suffix, s in _SUFFIXES.items() if path.name.endswith(suffix))
    with pa.input_stream(str(path), compression=compression) as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=separator, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(table.columns, pa.string()),
                strings_can_be_null=True,
                null_values=list(table.null_values),
            ),
        )
        _check_columns(table, reader.schema.names, path)
        counted = 0
        for batch in reader:
            frame = pl.DataFrame(pl.from_arrow(batch))
            rows = counted + 1 + pl.int_range(frame.height, eager=True)
            yield frame.with_columns(_row=_skipping(rows, ragged)), None
            counted += frame.height
    if ragged:
        yield (
            pl.DataFrame(schema=dict.fromkeys(table.columns, pl.String)).with_columns(
                _row=pl.lit(None, pl.Int64)
            ),
            ragged,
        )


def _skipping(rows: pl.Series, ragged: list[int]) -> pl.Series:
    """Turn the n-th good row into its row number in the file, given the numbers of the skipped ones."""
    shift = pl.Series([number - index for index, number in enumerate(sorted(ragged))], dtype=pl.Int64)
    return rows + shift.search_sorted(rows, side="right").cast(pl.Int64) if len(shift) else rows


def _parquet_batches(table: Table, path: Path) -> Iterator[tuple[pl.DataFrame, list[int] | None]]:
    with pyarrow.parquet.ParquetFile(path) as parquet:
        _check_columns(table, parquet.schema_arrow.names, path)
        counted = 0
        for batch in parquet.iter_batches(batch_size=_BATCH_ROWS):
            frame = pl.DataFrame(pl.from_arrow(batch))
            yield frame.with_columns(_row=counted + 1 + pl.int_range(frame.height, eager=True)), None
            counted += frame.height


def _check_columns(table: Table, header: list[str], path: Path) -> None:
    for column in table.columns:
        if column not in header:
            raise SourceError(
                f'{path}:1  lacks column "{column}" of table {table.name}.{closest(column, header)} '
                "Fix the delivery, or the declaration in source.yaml."
            )
    extra = [name for name in header if name not in table.columns]
    if extra:
        raise SourceError(
            f'{path}:1  has column "{extra[0]}", which table {table.name} does not declare.'
            f"{closest(extra[0], table.columns)} Declare it in source.yaml, so that nothing is dropped unseen."
        )


def typed_rows(table: Table, frame: pl.DataFrame, file: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cast text to the declared types; rows with a value that does not fit go to the rejects."""
    cast = frame.with_columns(_file=pl.lit(file, pl.String)).with_columns(
        **{f"_typed_{name}": _cast(table, name, frame.schema[name]) for name in table.columns}
    )
    wrong = {
        name: pl.col(name).is_not_null() & pl.col(f"_typed_{name}").is_null()
        for name, kind in table.columns.items()
        if kind != "string"
    }
    rows = cast.select(
        "_file",
        pl.col("_row").cast(pl.Int64),
        *(pl.col(f"_typed_{name}").alias(name) for name in table.columns),
    )
    bad = cast.select(pl.any_horizontal(False, *wrong.values())).to_series()
    if not bad.any():
        return rows, Reject.empty()
    found = cast.filter(bad)
    reasons = [
        found.filter(is_wrong).select(*_reject_columns(table, name)) for name, is_wrong in wrong.items()
    ]
    first = join_rejects(reasons).unique(["file", "row"], keep="first", maintain_order=True)
    return rows.filter(~bad), first.sort("row")


def _cast(table: Table, name: str, found: pl.DataType) -> pl.Expr:
    kind, column = table.columns[name], pl.col(name)
    if found != pl.String:
        return _cast_typed(kind, column)
    match kind:
        case "integer":
            return column.str.strip_chars().cast(pl.Int64, strict=False)
        case "number":
            number = column.str.strip_chars().cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "datetime":
            return column.str.to_datetime(table.datetime_format, time_unit="us", strict=False)
        case "date":
            return column.str.to_date(table.date_format, strict=False)
        case "boolean":
            low = column.str.strip_chars().str.to_lowercase()
            return pl.when(low.is_in(_TRUE)).then(True).when(low.is_in(_FALSE)).then(False)
        case _:
            return column


def _cast_typed(kind: str, column: pl.Expr) -> pl.Expr:
    """Cast a column that a typed file (Parquet) already gives a type."""
    return column.cast(COLUMN_DTYPES[kind], strict=False)


def _reject_columns(table: Table, name: str) -> list[pl.Expr]:
    kind = table.columns[name]
    form = {"datetime": f" like {table.datetime_format}", "date": f" like {table.date_format}"}.get(kind, "")
    return _reject_row(table.name, "type", name, f'column "{name}" is not a valid {kind}{form}')


def _reject_row(table: str, rule: str, element: str | None, message: str) -> list[pl.Expr]:
    none = pl.lit(None, pl.String)
    return [
        pl.lit(table).alias("table"), pl.col("_file").alias("file"), pl.col("_row").cast(pl.Int64).alias("row"),
        none.alias("key"), none.alias("mapping"), none.alias("mapping_version"), pl.lit("rejected").alias("outcome"),
        pl.lit(rule).alias("rule"), pl.lit(element, pl.String).alias("element"), pl.lit(message).alias("message"),
    ]  # fmt: skip


def _ragged(table: Table, numbers: list[int], file: str) -> pl.DataFrame:
    frame = pl.DataFrame({"_row": numbers}, schema={"_row": pl.Int64}).with_columns(_file=pl.lit(file))
    message = f"the row does not have the {len(table.columns)} fields of the header"
    return frame.select(_reject_row(table.name, "ragged", None, message))
