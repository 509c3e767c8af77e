"""FHIR NDJSON in and out. FHIR JSON has no nulls and no empty objects or lists (R4B, JSON format, section 2.6.2).

polars writes nulls and reads nested NDJSON slowly, so writing strips them and reading goes through DuckDB.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import duckdb
import polars as pl

from ehrseq.core.errors import SourceError, closest
from ehrseq.fhir.dtypes import primitive_dtype
from ehrseq.fhir.elements import children

_CHUNK = 50_000
# A quote inside a JSON string is always escaped, so `"name":null` with bare quotes is a member, never text.
_LATER_NULL, _FIRST_NULL = r',"\w+":null', r'\{"\w+":null,?'
_EMPTY = r'"\w+":(?:\{\}|\[(?:(?:null|\{\}),?)*\])'
_LATER_EMPTY, _FIRST_EMPTY = f",{_EMPTY}", rf"\{{{_EMPTY},?"


def to_json(frame: pl.DataFrame, resource_type: str) -> pl.Series:
    """One FHIR JSON text per row. `_file` and `_row` become `meta.source`; other `_` columns are left out.

    >>> frame = pl.DataFrame({"id": ["a"], "active": [True], "name": [[{"family": None, "given": ["Ann"]}]]})
    >>> to_json(frame, "Patient").to_list()
    ['{"resourceType":"Patient","id":"a","active":true,"name":[{"given":["Ann"]}]}']
    """
    columns = [pl.col(name) for name in frame.columns if not name.startswith("_")]
    members = [pl.lit(resource_type).alias("resourceType"), *columns]
    if {"_file", "_row"} <= set(frame.columns) and "meta" not in frame.columns:
        source = pl.format("{}#{}", "_file", "_row").alias("source")
        members.insert(2, pl.struct(source).alias("meta"))
    text = frame.select(pl.struct(members).struct.json_encode().alias("json")).to_series()
    text = text.str.replace_all(_LATER_NULL, "").str.replace_all(_FIRST_NULL, "{")
    while text.str.contains(_EMPTY).any():  # once for each level of nesting that is empty
        text = text.str.replace_all(_LATER_EMPTY, "").str.replace_all(_FIRST_EMPTY, "{")
    return text


def write_ndjson(frame: pl.DataFrame, resource_type: str, target: Path | IO[bytes]) -> int:
    """Write one resource a line; returns the number of lines."""
    if isinstance(target, Path):
        with target.open("wb") as stream:
            return write_ndjson(frame, resource_type, stream)
    for chunk in frame.iter_slices(_CHUNK):
        target.write(("\n".join(to_json(chunk, resource_type).to_list()) + "\n").encode())
    return frame.height


def read_ndjson(paths: Iterable[Path], resource_type: str) -> pl.DataFrame:
    """Read resources of one type into typed, nested columns: only the elements that occur.

    Raises: SourceError, with file and line, for a line that is not JSON, of another type, or has an element
    that R4B does not know.
    """
    files = [str(path) for path in paths]
    with duckdb.connect() as connection:
        try:
            found = connection.execute(
                "SELECT json_group_structure(json) FROM read_ndjson_objects(?)", [files]
            ).fetchone()
        except duckdb.Error as error:
            raise SourceError(f"{_bad_line(files)}  is not a JSON object.") from error
        structure: Any = json.loads(found[0]) if found and found[0] else {}
        if not structure:
            return pl.DataFrame(schema={"id": pl.String})
        structure.pop("resourceType", None)
        columns = {"resourceType": "VARCHAR", **_columns(resource_type, structure, resource_type, files)}
        spelled = ", ".join(f"'{name}': '{kind}'" for name, kind in columns.items())
        rows = connection.execute(f"SELECT * FROM read_ndjson(?, columns={{{spelled}}})", [files])
        table = pl.DataFrame(pl.from_arrow(rows.to_arrow_table()))
    wrong = table["resourceType"].ne_missing(resource_type)
    if wrong.any():
        place = _line_where(files, lambda item: item.get("resourceType") != resource_type)
        raise SourceError(f"{place}  is not a {resource_type}. Put one resource type in a file.")
    return table.drop("resourceType")


def _columns(type_name: str, structure: dict[str, Any], path: str, files: Sequence[str]) -> dict[str, str]:
    """DuckDB types of the elements in `structure`, strictly those of R4B."""
    known, found = children(type_name), {}
    for name, below in structure.items():
        if name.startswith("_"):
            continue  # extensions of primitives: kept in the file, not in columns
        if name not in known:
            place = _line_where(files, lambda item, wanted=name: _holds(item, wanted))
            raise SourceError(f"{place}  has `{path}.{name}`, which R4B does not know.{closest(name, known)}")
        element = known[name]
        inner = below[0] if element.is_list and isinstance(below, list) else below
        if element.primitive:
            kind = {"Float64": "DOUBLE", "Int64": "BIGINT", "Boolean": "BOOLEAN"}.get(
                str(primitive_dtype(element.type)), "VARCHAR"
            )
        elif isinstance(inner, dict):
            fields = _columns(element.type, inner, f"{path}.{name}", files)
            kind = "STRUCT(" + ", ".join(f'"{field}" {dtype}' for field, dtype in fields.items()) + ")"
        else:
            place = _line_where(files, lambda item, wanted=name: _holds(item, wanted))
            raise SourceError(f"{place}  `{path}.{name}` is not an object of type {element.type}.")
        found[name] = kind + "[]" * element.is_list
    return found


def _holds(item: Any, name: str) -> bool:
    """Whether a member called `name` stands anywhere in a JSON value."""
    if isinstance(item, dict):
        return name in item or any(_holds(value, name) for value in item.values())
    return isinstance(item, list) and any(_holds(value, name) for value in item)


def _bad_line(files: Sequence[str]) -> str:
    def broken(text: str) -> bool:
        try:
            return not isinstance(json.loads(text), dict)
        except ValueError:
            return True

    return _first_line(files, broken)


def _line_where(files: Sequence[str], wrong: Any) -> str:
    return _first_line(files, lambda text: wrong(json.loads(text)))


def _first_line(files: Sequence[str], wrong: Any) -> str:
    """`file:line` of the first line that is wrong; only walked once an error is certain."""
    import gzip

    for name in files:
        with gzip.open(name, "rt") if name.endswith(".gz") else open(name, encoding="utf-8") as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip() and wrong(text):
                    return f"{name}:{number}"
    return files[0]
