"""Tables as typed batches with provenance; what cannot be read becomes a reject.

Every column is read as text and then cast to its declared type, so that a bad value is one rejected row with
a reason, never a crash, a guess or a silent null. Types that a file gives itself (Parquet) are held against the
declared ones: 1.5 is no integer, and a number is no date. A clock with an offset (`%z`, or a Parquet time with a
zone) becomes the wall clock of the source's zone. A ragged row (too few or too many fields) is a reject too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SourceError
from ehrseq.sources.database import Partition
from ehrseq.sources.declaration import Source, Table
from ehrseq.sources.formats import format_batches, format_files
from ehrseq.sources.numbers import plain_number
from ehrseq.sources.raw import SUFFIXES, raw_batches
from ehrseq.sources.rejects import Reject, join_rejects

COLUMN_DTYPES: dict[str, pl.DataType] = {
    "string": pl.String(), "integer": pl.Int64(), "number": pl.Float64(), "boolean": pl.Boolean(),
    "date": pl.Date(), "datetime": pl.Datetime("us"),
}  # fmt: skip
_ROWS_AT_ONCE = 262_144
_TRUE, _FALSE = ("1", "t", "true", "y", "yes"), ("0", "f", "false", "n", "no")


def table_files(data: Path, table: Table) -> list[Path]:
    """Files that hold `table` below `data`: those of its pattern, or `TABLE.csv.gz` (or another suffix), or all in
    a folder `TABLE/`.

    Raises: SourceError if the same table stands there twice under different suffixes.
    """
    if table.format:
        return format_files(data, table.format)
    if table.files:
        return sorted(path for path in data.glob(table.files) if path.is_file())
    found = [path for suffix in SUFFIXES if (path := _named(data / f"{table.name}{suffix}", table)).is_file()]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(
            f"{data}: table {table.name} stands there more than once ({names}). Keep one of them."
        )
    folder = _named(data / table.name, table)
    if not found and folder.is_dir():
        found = sorted(p for p in folder.iterdir() if any(p.name.endswith(s) for s in SUFFIXES))
    return found


def _named(path: Path, table: Table) -> Path:
    """The path, or one whose name differs in case only where the source allows it."""
    if not table.ignore_case or path.exists() or not path.parent.is_dir():
        return path
    return next((other for other in path.parent.iterdir() if other.name.lower() == path.name.lower()), path)


def find_tables(source: Source, data: Path) -> dict[str, list[Path]]:
    """Files of every declared table that is there. Raises: SourceError if a required table is missing."""
    if not data.is_dir():
        raise SourceError(f"{data}: no such folder. Expected the tables of {source.name}.")
    files = {name: table_files(data, table) for name, table in source.tables.items()}
    missing = [name for name, paths in files.items() if not paths and not source.tables[name].optional]
    if missing:
        pattern = source.tables[missing[0]].files
        looked = pattern or f"{missing[0]}.csv, .csv.gz, .csv.zst, .tsv, .parquet and a folder {missing[0]}/"
        raise SourceError(
            f"{data}: table {missing[0]} is missing (looked for {looked})"
            + (f"; so are {len(missing) - 1} more: {', '.join(missing[1:])}" if missing[1:] else "")
            + f". Add it, or declare it `optional: true` in {source.folder / 'source.yaml'}."
        )
    return {name: paths for name, paths in files.items() if paths}


def read_batches(
    table: Table, files: Sequence[tuple[Path | Partition, str]]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) for the files of a table, each a path and the name it has in provenance.

    rows: the declared columns, typed, with `_file` and `_row` (Int64, data rows of the file from 1). Small files come
    together in one batch. Raises: SourceError when a header differs from the declaration, or a file cannot be decoded.
    """
    if table.format:
        paths = [(path, name) for path, name in files if isinstance(path, Path)]
        for rows, unread in format_batches(table.format, table, paths):
            typed, wrong = typed_rows(table, rows)
            yield typed, join_rejects([unread, wrong])
        return
    held: list[pl.DataFrame] = []
    for path, name in files:
        named = {column: _from_name(table, column, path) for column in table.file_name}
        for part in raw_batches(table, path):
            if part.ragged:
                yield (
                    typed_rows(table, _provenance(table, part.rows, name, named))[0],
                    _ragged(table, part.ragged, name),
                )
                continue
            rows = _provenance(table, part.rows, name, named)
            if held and rows.schema != held[0].schema:
                yield typed_rows(table, pl.concat(held))
                held = []
            held.append(rows)
            if sum(frame.height for frame in held) >= _ROWS_AT_ONCE:
                yield typed_rows(table, pl.concat(held))
                held = []
    if held:
        yield typed_rows(table, pl.concat(held))


def _provenance(table: Table, rows: pl.DataFrame, name: str, named: dict[str, str]) -> pl.DataFrame:
    given = {column: pl.lit(text) for column, text in named.items()}
    return rows.select(*table.header, _file=pl.lit(name), _row=pl.col("_row").cast(pl.Int64), **given)


def _from_name(table: Table, column: str, path: Path | Partition) -> str:
    # a pattern that takes linear time, whatever it is
    found = pl.Series([path.name]).str.extract(table.file_name[column], 1)[0]
    if found is None:
        raise SourceError(
            f"{path}: the name does not give column `{column}` ({table.file_name[column]}). Rename the file."
        )
    return str(found)


def typed_rows(table: Table, frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Cast text to the declared types; rows with a value that does not fit go to the rejects.

    `frame`: the declared columns as text (or typed, from Parquet), `_file` and `_row`. Raises: SourceError if a typed
    column holds another kind of thing than declared.
    """
    if table.nulls_of:
        frame = frame.with_columns(_without(table, name, frame.schema[name]) for name in table.nulls_of)
    cast, wrong, bad = _casts(table, frame)
    if bad.any():  # perhaps for blanks around a number alone, which cost time to look for
        cast, wrong, bad = _casts(table, frame.with_columns(_trimmed(table, frame)))
    rows = cast.select(
        "_file",
        pl.col("_row").cast(pl.Int64),
        *(pl.col(f"_typed_{name}").alias(name) for name in table.columns),
    )
    if not bad.any():
        return rows, Reject.empty()
    found = cast.filter(bad)
    reasons = [
        found.filter(is_wrong).select(*_reject_columns(table, name)) for name, is_wrong in wrong.items()
    ]
    first = join_rejects(reasons).unique(["file", "row"], keep="first", maintain_order=True)
    return rows.filter(~bad), first.sort("row")


def _casts(table: Table, frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, pl.Expr], pl.Series]:
    """The frame with typed columns beside the given ones; where each is wrong; whether any is, by row."""
    cast = frame.with_columns(**{f"_typed_{name}": _cast(table, name, frame) for name in table.columns})
    wrong = {
        name: pl.col(name).is_not_null() & pl.col(f"_typed_{name}").is_null()
        for name, kind in table.columns.items()
        if kind != "string"
    }
    return cast, wrong, cast.select(pl.any_horizontal(False, *wrong.values())).to_series()


def _trimmed(table: Table, frame: pl.DataFrame) -> list[pl.Expr]:
    numbers = [name for name, kind in table.columns.items() if kind in ("integer", "number")]
    return [pl.col(name).str.strip_chars() for name in numbers if frame.schema[name] == pl.String]


def _without(table: Table, name: str, found: pl.DataType) -> pl.Expr:
    """The column, null where it holds one of the texts that its declaration says are no value."""
    column = pl.col(name)
    text = (
        column.dt.to_string(table.datetime_format[0])
        if isinstance(found, pl.Datetime)
        else column.cast(pl.String)
    )
    return pl.when(~text.str.strip_chars().is_in(table.nulls_of[name])).then(column).alias(name)


def _cast(table: Table, name: str, frame: pl.DataFrame) -> pl.Expr:
    kind, column = table.columns[name], pl.col(name)
    if frame.schema[name] != pl.String:
        return _cast_typed(table, name, frame)
    match kind:
        case "integer":
            return plain_number(column, table.decimal, table.thousands).cast(pl.Int64, strict=False)
        case "number":
            number = plain_number(column, table.decimal, table.thousands).cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "datetime":
            return pl.coalesce(_time(column, table, form) for form in table.datetime_format)
        case "date":
            return pl.coalesce(column.str.to_date(form, strict=False) for form in table.date_format)
        case "boolean":
            low = column.str.strip_chars().str.to_lowercase()
            return pl.when(low.is_in(_TRUE)).then(True).when(low.is_in(_FALSE)).then(False)
        case _:
            return column


def _cast_typed(table: Table, name: str, frame: pl.DataFrame) -> pl.Expr:
    """Cast a column that a typed file (Parquet) already gives a type; what does not fit becomes null."""
    kind, column, found = table.columns[name], pl.col(name), frame.schema[name]
    fits: pl.Expr | None = None
    if found in (pl.Date, pl.Datetime):
        column = _of_a_calendar(column, found)
    match kind:
        case "string" if not found.is_nested() and found not in (pl.Binary, pl.Object):
            fits = pl.lit(True)
        case "integer" if found.is_numeric():
            fits = pl.lit(True) if found.is_integer() else column == column.round()
        case "number" if found.is_numeric():
            column = column.cast(pl.Float64)
            fits = column.is_finite()
        case "boolean" if found == pl.Boolean or found.is_integer():
            fits = pl.lit(True) if found == pl.Boolean else column.is_in([0, 1])
        case "date" if found in (pl.Date, pl.Datetime):
            fits = column.cast(pl.Date).cast(pl.Datetime("us")) == column.cast(pl.Datetime("us"))
        case "datetime" if found in (pl.Date, pl.Datetime):
            column = _wall_clock(column, table) if getattr(found, "time_zone", None) else column
            fits = pl.lit(True)
        case _ if found == pl.Null:
            fits = pl.lit(True)
    if fits is None:
        raise SourceError(
            f'{next(iter(frame["_file"]), table.name)}: column "{name}" holds {found}, but source.yaml declares it as '
            f"{kind}. Correct the declaration of table {table.name}, or deliver another file."
        )
    return pl.when(fits).then(column.cast(COLUMN_DTYPES[kind], strict=False))


def _of_a_calendar(column: pl.Expr, found: pl.DataType) -> pl.Expr:
    """The date or time, null outside the years 1 to 9999, such as the infinity of PostgreSQL."""
    if not isinstance(found, pl.Datetime):
        a_day = 1
    elif found.time_unit == "ns":  # from 1677 to 2262
        return column
    else:
        a_day = 86_400_000 if found.time_unit == "ms" else 86_400_000_000
    return pl.when(column.to_physical().is_between(-719_162 * a_day, 2_932_897 * a_day - 1)).then(column)


def _time(column: pl.Expr, table: Table, form: str) -> pl.Expr:
    time = column.str.to_datetime(form, time_unit="us", strict=False)
    return _wall_clock(time, table) if "%z" in form else time


def _wall_clock(time: pl.Expr, table: Table) -> pl.Expr:
    return time.dt.convert_time_zone(table.timezone).dt.replace_time_zone(None)


def _reject_columns(table: Table, name: str) -> list[pl.Expr]:
    kind = table.columns[name]
    form = {
        "datetime": f" like {' or '.join(table.datetime_format)}",
        "date": f" like {' or '.join(table.date_format)}",
        "number": f', finite and written with "{table.decimal}"',
    }.get(kind, "")
    return _reject_row(table.name, "type", name, f'column "{name}" is not a valid {kind}{form}')


def _reject_row(table: str, rule: str, element: str | None, message: str) -> list[pl.Expr]:
    none = pl.lit(None, pl.String)
    return [
        pl.lit(table).alias("table"), pl.col("_file").alias("file"), pl.col("_row").cast(pl.Int64).alias("row"),
        none.alias("key"), none.alias("mapping"), none.alias("mapping_version"), pl.lit("rejected").alias("outcome"),
        pl.lit(rule).alias("rule"), pl.lit(element, pl.String).alias("element"), pl.lit(message).alias("message"),
    ]  # fmt: skip


def _ragged(table: Table, numbers: Sequence[int], file: str) -> pl.DataFrame:
    frame = pl.DataFrame({"_row": numbers}, schema={"_row": pl.Int64}).with_columns(_file=pl.lit(file))
    message = f"the row does not have the {len(table.header)} fields of the header"
    return frame.select(_reject_row(table.name, "ragged", None, message))
