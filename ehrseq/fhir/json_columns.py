"""JSON text → typed columns: one parse, and of each resource only the elements that are asked for."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import duckdb
import polars as pl

from ehrseq.core.database import cursor
from ehrseq.core.errors import SourceError
from ehrseq.fhir.dtypes import fields_of, item_dtype, pruned_dtype

JSON = "_json"
_WORDS: dict[type[pl.DataType], str] = {
    pl.String: "VARCHAR", pl.Float64: "DOUBLE", pl.Int64: "BIGINT", pl.Boolean: "BOOLEAN",
}  # fmt: skip


def json_columns(texts: pl.Series, resource_type: str, paths: Iterable[str]) -> pl.DataFrame:
    """The elements in `paths` (dotted, down to primitives) of resources given as JSON text, one row for each text.

    Columns and dtypes are those of `pruned_dtype`; what a text lacks is null, and so is a value that cannot be of the
    element's type. Raises: SourceError if a text is not JSON; SchemaError for a path that R4B does not have.

    >>> json_columns(pl.Series(['{"id": "a", "code": {"text": "Hb"}}']), "Observation", ["id", "code.text"]).rows()
    [('a', {'text': 'Hb'})]
    """
    return structured(texts, _schema(resource_type, frozenset(paths)))


def structured(texts: pl.Series, schema: pl.Schema) -> pl.DataFrame:
    """JSON objects as columns of `schema`, which may nest lists and structs. Raises: SourceError."""
    if texts.is_empty():
        return pl.DataFrame(schema=schema)
    frame = texts.alias(JSON).to_frame()
    names = ", ".join(f'x."{name}"' for name in schema)
    with cursor() as database:
        database.register("texts", frame.to_arrow())
        query = f"SELECT {names} FROM (SELECT from_json({JSON}, $structure) AS x FROM texts)"
        try:
            made = database.sql(query, params={"structure": _structure(schema)}).to_arrow_table()
        except duckdb.InvalidInputException as error:
            raise SourceError("a resource is not valid JSON. Import the files again.") from error
    return pl.DataFrame(made).cast(dict(schema))  # type: ignore[arg-type]


@lru_cache(maxsize=256)
def _schema(resource_type: str, paths: frozenset[str]) -> pl.Schema:
    return pruned_dtype(resource_type, sorted(paths))


def _structure(schema: pl.Schema) -> str:
    """The schema as DuckDB's `from_json` wants it told."""
    return json.dumps({name: _told(dtype) for name, dtype in schema.items()})


def _told(dtype: pl.DataType) -> Any:
    if isinstance(dtype, pl.List):
        return [_told(item_dtype(dtype))]
    if isinstance(dtype, pl.Struct):
        return {name: _told(below) for name, below in fields_of(dtype).items()}
    return _WORDS[type(dtype)]
