"""What the first rows of tables nobody has declared yet say of them: separator, encoding, types, formats."""

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet

from ehrseq.core.errors import SourceError
from ehrseq.sources.database import Database, is_database, shown
from ehrseq.sources.declaration import Table
from ehrseq.sources.numbers import plain_number
from ehrseq.sources.raw import SUFFIXES, raw_batches

ROWS = 2_000
"""Rows that are looked at."""

_TEXT = {**{suffix: sep for suffix, sep in SUFFIXES.items() if sep}, ".txt": ",", ".psv": ","}
_USUAL_SCHEMAS = ("public", "main", "dbo")
_SYSTEM_SCHEMAS = ("pg_catalog", "information_schema", "pg_toast")
_SNIFFED = 4 << 20
_SEPARATORS = ",;\t|"
_NULLS = (
    "NULL",
    "null",
    "NA",
    "N/A",
    "n/a",
    "NaN",
    "nan",
    "\\N",
    "None",
    "-",
    "--",
    "?",
    ".",
    "k.A.",
    "k. A.",
)
_MARKS: tuple[tuple[str, str | None], ...] = ((".", None), (",", None), (",", "."), (".", ","))
_DATES = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%d.%m.%y", "%Y%m%d")
_CLOCKS = ("%H:%M:%S%.f", "%H:%M:%S", "%H:%M")
_DATETIMES = (
    "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d %H:%M:%S%z",
    *(f"{date}{gap}{clock}" for clock in _CLOCKS[1:] + _CLOCKS[:1] for date in _DATES[:-1] for gap in " T"),
    "%Y%m%d%H%M%S", "%Y%m%d%H%M",
)  # fmt: skip
_WORDS = ("t", "f", "true", "false", "y", "n", "yes", "no")
_ENOUGH = 0.98  # of the values; what is left will be rejects, which is where an impossible date belongs


@dataclass
class Sampled:
    """A table as its first rows show it. `options` are keys of a table in source.yaml; `rows` is a typed guess away."""

    name: str
    columns: dict[str, str]
    options: dict[str, Any]
    rows: pl.DataFrame = field(repr=False)
    doubts: list[str] = field(default_factory=list)

    def unique(self, columns: Sequence[str]) -> bool:
        """Whether these columns name a row of the sample, and are never null."""
        part = self.rows.select(columns)
        return bool(columns) and not any(part.null_count().row(0)) and part.is_unique().all()


def sample_tables(data: str | Path, only: Sequence[str] = ()) -> tuple[list[Sampled], dict[str, str]]:
    """Tables of `data`, a folder or a database (of the names `only`, if given), and why others cannot be read.

    Raises: SourceError if there is no table at all.
    """
    found, unread = _of_database(data, only) if is_database(data) else _of_folder(Path(data), only)
    place = shown(str(data))
    if missing := sorted(set(only) - {table.name for table in found} - set(unread)):
        raise SourceError(
            f"{place}: has no table {missing[0]}. Say names without suffix, e.g. --table hosp/labs."
        )
    if not found:
        raise SourceError(f"{place}: has no table that can be read ({', '.join((*_TEXT, '.parquet'))}).")
    return found, unread


def _of_database(data: str | Path, only: Sequence[str]) -> tuple[list[Sampled], dict[str, str]]:
    found: list[Sampled] = []
    with Database(data) as database:
        for schema, relation in database.relations():
            name = relation if schema in _USUAL_SCHEMAS else f"{schema}/{relation}"
            if schema in _SYSTEM_SCHEMAS or relation.startswith("sqlite_") or (only and name not in only):
                continue
            rows = pl.DataFrame(pl.from_arrow(database.head(schema, relation, ROWS)))
            found.append(_typed(Sampled(name, {}, {}, rows)))
    return found, {}


def _of_folder(data: Path, only: Sequence[str]) -> tuple[list[Sampled], dict[str, str]]:
    """Tables, and why other files cannot be read."""
    found: list[Sampled] = []
    unread: dict[str, str] = {}
    for path in sorted(path for path in data.rglob("*") if path.is_file() and _suffix(path)):
        file = path.relative_to(data).as_posix()
        name = file.removesuffix(_suffix(path))
        if only and name not in only:
            continue
        try:
            if any(other.name == name for other in found):
                raise SourceError(f"{path}: table {name} stands there more than once.")
            found.append(_sample(name, path, file))
        except SourceError as error:
            unread[file] = str(error).removeprefix(f"{path}: ")
    return found, unread


def _suffix(path: Path) -> str:
    return next((suffix for suffix in (*_TEXT, ".parquet") if path.name.endswith(suffix)), "")


def _sample(name: str, path: Path, file: str) -> Sampled:
    suffix, options = _suffix(path), {}
    if suffix == ".parquet":
        header = pyarrow.parquet.read_schema(path).names
    else:
        text, options["encoding"] = _beginning(path)
        options["separator"], header = _header(text)
        if options["separator"] == SUFFIXES.get(suffix):
            del options["separator"]
        if options["encoding"] == "utf-8":
            del options["encoding"]
        if suffix not in SUFFIXES:
            options["files"] = file
    if not header or any(not column.strip() for column in header):
        raise SourceError(f"{path}: its header has a column without a name. Name it, or take it out.")
    given: dict[str, Any] = {key: options[key] for key in ("separator", "encoding") if key in options}
    table = Table(name, dict.fromkeys(header, "string"), None, null_values=("",), **given)
    first = next((part.rows for part in raw_batches(table, path) if part.rows.height), None)
    rows = (first if first is not None else pl.DataFrame(schema=dict.fromkeys(header, pl.String))).head(ROWS)
    return _typed(Sampled(name, {}, options, rows.select(header)))


def _beginning(path: Path) -> tuple[str, str]:
    """The first text of a file and its encoding."""
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    try:
        with pa.input_stream(str(path), compression=compression) as stream:
            block: bytes = stream.read(_SNIFFED)
    except (OSError, pa.ArrowInvalid) as error:
        raise SourceError(f"{path}: cannot be read ({type(error).__name__}).") from error
    if block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return block.decode("utf-16", errors="ignore"), "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            return codecs.getincrementaldecoder(encoding)().decode(block).removeprefix("\ufeff"), encoding
        except UnicodeDecodeError:
            continue
    return block.decode("latin-1"), "latin-1"


def _header(text: str) -> tuple[str, list[str]]:
    """The separator that gives the most columns, and the header."""
    rows = {sep: next(csv.reader(io.StringIO(text), delimiter=sep), []) for sep in _SEPARATORS}
    best = max(rows, key=lambda sep: len(rows[sep]))
    return best, rows[best]


def _typed(table: Sampled) -> Sampled:
    """Fill in types, formats, how numbers are written and texts that are no value."""
    texts = {name: table.rows[name].drop_nulls() for name in table.rows.columns}
    texts = {name: text for name, text in texts.items() if text.dtype == pl.String}
    nulls = {name: sorted(set(text.unique()) & set(_NULLS)) for name, text in texts.items()}
    values = {name: text.filter(~text.is_in(nulls[name])).str.strip_chars() for name, text in texts.items()}
    marks = max(_MARKS, key=lambda mark: sum(_numbers(text, mark) for text in values.values()))
    formats: dict[str, list[str]] = {"datetime": [], "date": []}
    for name in table.rows.columns:
        if name not in values:
            table.columns[name] = _of_dtype(table.rows[name].dtype)
            continue
        kind, forms = _kind(name, values[name], marks)
        table.columns[name] = kind
        if forms:
            formats[kind] += [form for form in forms if form not in formats[kind]]
            if any(form.startswith(("%d/%m", "%m/%d")) for form in forms):
                table.doubts.append(f"`{name}`: is it day/month or month/day? Taken as {forms[0]}.")
    if marks != (".", None):
        table.options |= {"decimal": marks[0]} | ({"thousands": marks[1]} if marks[1] else {})
    for kind, usual in (("datetime", "%Y-%m-%d %H:%M:%S"), ("date", "%Y-%m-%d")):
        if formats[kind] and formats[kind] != [usual]:
            table.options[f"{kind}_format"] = formats[kind] if len(formats[kind]) > 1 else formats[kind][0]
    held = {name: ["", *found] for name, found in nulls.items() if found and table.columns[name] != "string"}
    if held:
        table.options["null_values"] = held
    cleaned = [
        pl.when(~pl.col(name).is_in(found)).then(pl.col(name)).alias(name) for name, found in held.items()
    ]
    table.rows = table.rows.with_columns(cleaned)
    return table


def _kind(name: str, text: pl.Series, marks: tuple[str, str | None]) -> tuple[str, list[str]]:
    """Type of a column of text, and the formats if it holds dates."""
    if text.is_empty():
        return "string", []
    dated = text.str.contains(r"\d{1,4}[-./]\d{1,2}[-./]\d{2,4}").mean() == 1
    packed = text.str.contains(r"^(19|20)\d{6}(\d{4}|\d{6})?$").all() and _dated(name)
    if dated or packed or text.str.contains(r"^\d{1,4}[-./]\d{1,2}[-./]\d{2,4}").mean() >= _ENOUGH:  # type: ignore[operator]
        for kind, options in (("date", _DATES), ("datetime", _DATETIMES)):
            if forms := _formats(text, options):
                return kind, forms
    if text.str.to_lowercase().is_in(_WORDS).all() and text.n_unique() <= 2:
        return "boolean", []
    if text.str.contains(r"^[-+]?(0|[1-9]\d{0,17})$").all():
        return "integer", []
    leading = text.str.contains(r"^0\d").any()
    return ("number" if _is_number(text, marks) and not leading else "string"), []


def _dated(name: str) -> bool:
    return any(word in name.lower() for word in ("dat", "time", "zeit", "day", "tag", "birth", "geb"))


def _formats(text: pl.Series, options: Sequence[str]) -> list[str]:
    """At most three formats that read nearly all of a column, the commonest first; none if that takes more."""
    left = text
    forms: list[str] = []
    while len(left) > (1 - _ENOUGH) * len(text) and len(forms) < 3:
        read = {form: left.str.to_datetime(form, strict=False).is_not_null() if "%H" in form
                else left.str.to_date(form, strict=False).is_not_null() for form in options}  # fmt: skip
        best = max(read, key=lambda form: int(read[form].sum()))
        if not read[best].any():
            return []
        forms.append(best)
        left = left.filter(~read[best])
    return forms


def _numbers(text: pl.Series, marks: tuple[str, str | None]) -> int:
    """How many values are numbers written so, perhaps with a comparator: results are often text."""
    bare = text.str.replace(r"^\s*[<>≤≥]=?", "").str.strip_chars()
    return int(pl.select(plain_number(pl.lit(bare), *marks).cast(pl.Float64, strict=False).count()).item())


def _is_number(text: pl.Series, marks: tuple[str, str | None]) -> bool:
    if text.is_empty():
        return False
    read = pl.select(
        plain_number(pl.lit(text.str.strip_chars()), *marks).cast(pl.Float64, strict=False)
    ).to_series()
    return bool(read.is_not_null().all())


def _of_dtype(dtype: pl.DataType) -> str:
    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        return "number"
    kinds = {pl.Boolean: "boolean", pl.Date: "date", pl.Datetime: "datetime"}
    return next((kind for found, kind in kinds.items() if dtype == found), "string")
