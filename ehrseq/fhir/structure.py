"""Which elements the lines of NDJSON files hold: DuckDB finds the distinct shapes of the lines, we check those.

A shape is a line with the names of JSON types in place of values. Millions of lines have few shapes, and a line is
good if its shape is.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.dtypes import fields_of, item_dtype
from ehrseq.fhir.elements import children, is_resource
from ehrseq.fhir.strict import LONGEST_LINE, fault_in_lines, resource_fault

_EXAMPLES: dict[str, Any] = {
    "VARCHAR": "",
    "UBIGINT": 0,
    "BIGINT": 0,
    "DOUBLE": 0.5,
    "BOOLEAN": True,
    "NULL": None,
}
_TYPES: dict[type[pl.DataType], str] = {
    pl.String: "VARCHAR", pl.Float64: "DOUBLE", pl.Int64: "BIGINT", pl.Boolean: "BOOLEAN",
}  # fmt: skip
_LINES = f"read_ndjson_objects($paths, maximum_object_size = {LONGEST_LINE})"


def element_paths(database: duckdb.DuckDBPyConnection, paths: Sequence[Path], resource_type: str) -> set[str]:
    """Dotted paths of all primitives in NDJSON files, every line checked strictly.

    Raises: SchemaError for Bundle and Parameters; SourceError with file and line for a line that is not valid
    JSON, is another resource, or has an element that R4B does not have or has as another JSON type.
    """
    if any(child.type == "Resource" for child in _descendants(resource_type) if child.name != "contained"):
        raise SchemaError(
            f"{resource_type} holds resources of other types. Unpack it into one file per type first."
        )
    seen: set[str] = set()
    try:
        shapes = _shapes(database, [str(path) for path in paths], resource_type)
    except duckdb.Error:
        return fault_in_lines(paths, resource_type)
    if any(resource_fault(shape, resource_type, seen) is not None for shape in shapes):
        return fault_in_lines(paths, resource_type)
    return seen


def duckdb_type(dtype: pl.DataType) -> str:
    """A FHIR column's dtype in DuckDB's words.

    >>> duckdb_type(pl.List(pl.Struct({"end": pl.String})))
    'STRUCT("end" VARCHAR)[]'
    """
    if isinstance(dtype, pl.List):
        return f"{duckdb_type(item_dtype(dtype))}[]"
    if isinstance(dtype, pl.Struct):
        return f"STRUCT({', '.join(f'"{name}" {duckdb_type(below)}' for name, below in fields_of(dtype).items())})"
    return _TYPES[type(dtype)]


def _descendants(resource_type: str) -> list[Any]:
    """The children of a resource and of its backbone elements one level down."""
    below = list(children(resource_type).values())
    backbones = [child for child in below if child.type.startswith(resource_type)]
    return below + [child for backbone in backbones for child in children(backbone.type).values()]


def _shapes(database: duckdb.DuckDBPyConnection, paths: list[str], resource_type: str) -> list[Any]:
    """One document for each shape, with values of the types that its lines have there.

    What DuckDB saw as of no one type becomes a value that no element accepts.
    """
    query = f"SELECT DISTINCT json_structure(json), NULL FROM {_LINES}"
    found = database.execute(query, {"paths": paths}).fetchall()
    if any('"contained":' in shape for shape, _ in found):  # then their types, which shapes do not tell
        types = "json_extract_string(json, '$.contained[*].resourceType')"
        query = f"SELECT DISTINCT json_structure(json), {types} FROM {_LINES}"
        found = database.execute(query, {"paths": paths}).fetchall()
    return [_document(json.loads(shape), types, resource_type) for shape, types in found]


def _document(shape: Any, contained_types: list[str] | None, resource_type: str) -> Any:
    document = _with_examples(shape)
    if isinstance(document, dict) and document.get("resourceType") == "":
        document["resourceType"] = resource_type  # the reader looks at what it is in each line
        contained = document.get("contained")
        if isinstance(contained, list) and contained and isinstance(contained[0], dict):
            document["contained"] = _of_each_type(contained[0], sorted(set(contained_types or ())))
    return document


def _with_examples(shape: Any) -> Any:
    if isinstance(shape, dict):
        return {name: _with_examples(below) for name, below in shape.items()}
    if isinstance(shape, list):
        return [_with_examples(below) for below in shape]
    return _EXAMPLES.get(shape, ...)


def _of_each_type(merged: dict[str, Any], types: list[str]) -> list[dict[str, Any]]:
    """Contained resources of several types, merged into one, as one for each type again."""
    known = [type_name for type_name in types if is_resource(type_name)]
    if len(known) < len(types) or not known:
        return [merged]  # which has no resourceType, and so is a fault
    nobody = {name: value for name, value in merged.items() if not any(name in children(t) for t in known)}
    each = [{name: value for name, value in merged.items() if name in children(t)} for t in known]
    each[0] |= nobody
    return [{**fields, "resourceType": type_name} for fields, type_name in zip(each, known, strict=True)]
