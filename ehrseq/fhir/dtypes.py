"""FHIR types as polars dtypes. Dates and times stay the text that FHIR exchanges, since they may be partial."""

from collections.abc import Iterable

import polars as pl

from ehrseq.fhir.elements import Element, children

_NUMBERS: dict[str, pl.DataType] = {
    "decimal": pl.Float64(), "integer": pl.Int64(), "positiveInt": pl.Int64(), "unsignedInt": pl.Int64(),
    "boolean": pl.Boolean(),
}  # fmt: skip

type _Tree = dict[str, "_Tree"]


def primitive_dtype(type_name: str) -> pl.DataType:
    """Dtype of a FHIR primitive: numbers and booleans as such, all else text.

    >>> primitive_dtype("decimal"), primitive_dtype("dateTime")
    (Float64, String)
    """
    return _NUMBERS.get(type_name, pl.String())


def pruned_dtype(type_name: str, paths: Iterable[str]) -> pl.Schema:
    """Columns of a resource that has exactly the elements in `paths` (dotted, down to primitives), in FHIR's order.

    Raises: SchemaError for a path that R4B does not have, or that ends above a primitive.

    >>> pruned_dtype("Observation", ["valueQuantity.value", "id", "valueQuantity.unit"])
    Schema({'id': String, 'valueQuantity': Struct({'value': Float64, 'unit': String})})
    """
    tree: _Tree = {}
    for path in paths:
        below = tree
        for name in path.split("."):
            below = below.setdefault(name, {})
    return pl.Schema({name: _dtype(found, tree[name]) for name, found in _ordered(type_name, tree)})


def _ordered(type_name: str, tree: _Tree) -> list[tuple[str, Element]]:
    from ehrseq.fhir.elements import element

    for name in tree:
        element(type_name, name)  # raises for what R4B does not have
    return [(name, found) for name, found in children(type_name).items() if name in tree]


def _dtype(found: Element, tree: _Tree) -> pl.DataType:
    inner: pl.DataType
    if found.primitive:
        inner = primitive_dtype(found.type)
    else:
        inner = pl.Struct({name: _dtype(child, tree[name]) for name, child in _ordered(found.type, tree)})
    return pl.List(inner) if found.is_list else inner
