"""NDJSON, FHIR's form of exchange: one resource per line. `read_ndjson` and `write_ndjson` mirror each other."""

import gzip
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import duckdb
import polars as pl

from ehrseq.core.errors import SchemaError, SourceError
from ehrseq.core.files import storage_errors
from ehrseq.fhir.dtypes import pruned_dtype
from ehrseq.fhir.elements import children, suggest
from ehrseq.fhir.json_text import json_text
from ehrseq.fhir.strict import LONGEST_LINE, fault_in_lines
from ehrseq.fhir.structure import duckdb_type, element_paths

_ROWS_AT_ONCE = 50_000
_GZIP_LEVEL = 6
_FILE, _ROW = "_file", "_row"


def write_ndjson(frame: pl.DataFrame, resource_type: str, target: Path | IO[bytes]) -> int:
    """Write rows as FHIR JSON, one resource per line, and return how many.

    `frame`: columns are top-level FHIR elements; nulls, empty objects and empty lists are left out. Columns that
    begin with "_" are not written, but where `_file` and `_row` are there, `meta.source` is `<_file>#<_row>`
    unless the row has one. A path ending in .gz is compressed. A file appears whole or not at all.

    Raises: SchemaError for a column that is not an element of the type, a dtype that JSON does not have, NaN or
    infinity; StorageError if the disk refuses.
    """
    for name in frame.columns:
        if not name.startswith("_") and name not in children(resource_type):
            raise SchemaError(f"`{name}` is not an element of {resource_type}.{suggest(resource_type, name)}")
    with _opened(target) as stream:
        for part in frame.iter_slices(_ROWS_AT_ONCE):
            text = json_text(_with_source(part), resource_type)
            text.to_frame().write_csv(stream, include_header=False, quote_style="never")
    return frame.height


def read_ndjson(
    paths: Path | Sequence[Path], resource_type: str, *, provenance: bool = False
) -> pl.DataFrame:
    """Read NDJSON files of one resource type (.gz too) in order: one row per line, one column per element used.

    Columns and dtypes are those of `pruned_dtype` for the elements that any line has; `id` is always there. With
    `provenance`, `_file` (the path as given) and `_row` (resources of the file, from 1) follow. Blank lines are
    skipped, nulls are absent values, and `_x` members (ids and extensions of primitives) are left out.

    Raises: SourceError with file and line for a line that is not valid JSON, is another resource, or has an
    unknown element or a wrong JSON type; SchemaError for Bundle and Parameters, which hold other resources, and
    where contained resources of two types give one name two dtypes.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    for path in files:
        if not path.is_file():
            raise SourceError(f"{path}: no such file.")
    with duckdb.connect() as database:
        found = element_paths(database, files, resource_type) if files else set()
        schema = pruned_dtype(resource_type, {"id", *found})
        frame = (
            _read(database, files, resource_type, schema)
            if files
            else pl.DataFrame(schema={**schema, _FILE: str})
        )
    if not provenance:
        return frame.drop(_FILE)
    return frame.with_columns(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(_FILE).alias(_ROW))


def _read(
    database: duckdb.DuckDBPyConnection, files: list[Path], resource_type: str, schema: pl.Schema
) -> pl.DataFrame:
    """Typed columns and `_file`; every line's resourceType checked."""
    columns = {"resourceType": "VARCHAR", **{name: duckdb_type(dtype) for name, dtype in schema.items()}}
    query = f"""
        SELECT * FROM read_json(
            $paths, columns = $columns, format = 'newline_delimited', filename = '{_FILE}',
            maximum_object_size = {LONGEST_LINE})"""
    try:
        frame: pl.DataFrame = database.sql(
            query, params={"paths": [str(path) for path in files], "columns": columns}
        ).pl()
    except duckdb.Error as error:
        fault_in_lines(files, resource_type)
        raise SourceError(
            f"{', '.join(map(str, files))}: DuckDB cannot read this as {resource_type} ({type(error).__name__}). "
            "Has an object one name twice?"
        ) from None
    wrong = pl.col("resourceType").ne_missing(resource_type)
    if "contained" in schema:
        wrong |= pl.col("contained").list.eval(pl.element().struct.field("resourceType").is_null()).list.any()
    if frame.select(wrong.any()).item():
        fault_in_lines(files, resource_type)
    return frame.select(*schema.names(), _FILE)


def _with_source(frame: pl.DataFrame) -> pl.DataFrame:
    """Drop provenance columns; what they say goes to `meta.source`."""
    kept = pl.exclude("^_.*$")
    if _FILE not in frame.columns or _ROW not in frame.columns:
        return frame.select(kept)
    file = pl.col(_FILE).str.replace_all(" ", "%20", literal=True)  # a uri has no spaces
    parts = {"source": pl.concat_str(file, pl.col(_ROW), separator="#")}
    if isinstance(meta := frame.schema.get("meta"), pl.Struct):
        given = {field.name: pl.col("meta").struct.field(field.name) for field in meta.fields}
        parts = given | {
            "source": pl.coalesce(given["source"], parts["source"]) if "source" in given else parts["source"]
        }
    ordered = [parts[name].alias(name) for name in children("Meta") if name in parts]
    first = [pl.col("id")] if "id" in frame.columns else []
    return frame.select(*first, pl.struct(ordered).alias("meta"), kept.exclude("id", "meta"))


@contextmanager
def _opened(target: Path | IO[bytes]) -> Iterator[IO[bytes]]:
    """The stream to write to; a path gets its content when all is written."""
    if not isinstance(target, Path):
        yield target
        return
    draft = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    with storage_errors(target):
        try:
            with draft.open("wb") as raw:
                if target.suffix == ".gz":
                    with gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed:
                        yield cast(IO[bytes], packed)
                else:
                    yield raw
                raw.flush()
                os.fsync(raw.fileno())
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
