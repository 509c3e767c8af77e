"""FHIR types as polars dtypes. Dates and times stay the text that FHIR exchanges, since they may be partial."""

from collections.abc import Iterable, Iterator

import polars as pl
from polars.datatypes import DataTypeClass

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.elements import Element, children, element, is_resource

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


def pruned_dtype(resource_type: str, paths: Iterable[str]) -> pl.Schema:
    """Columns of a resource that has exactly the elements in `paths` (dotted, down to primitives), in FHIR's order.

    Contained resources are one struct with the elements of all types that the paths name, and `resourceType`.
    Raises: SchemaError for a path that R4B does not have or that ends above a primitive, and for contained
    types that give one name two dtypes.

    >>> pruned_dtype("Observation", ["valueQuantity.value", "id", "valueQuantity.unit"])
    Schema({'id': String, 'valueQuantity': Struct({'value': Float64, 'unit': String})})
    >>> pruned_dtype("MedicationRequest", ["contained.Medication.code.text"])["contained"]
    List(Struct({'resourceType': String, 'code': Struct({'text': String})}))
    """
    tree: _Tree = {}
    for path in paths:
        if not element(resource_type, path).primitive:
            raise SchemaError(f"{resource_type}.{path} has elements of its own. Name those that are used.")
        below = tree
        for name in path.split("."):
            below = below.setdefault(name, {})
    return pl.Schema(_fields(resource_type, tree))


def fields_of(dtype: pl.DataType) -> dict[str, pl.DataType]:
    """Fields of a struct or of a list of structs, by name; none for other dtypes.

    >>> fields_of(pl.List(pl.Struct({"system": pl.String})))
    {'system': String}
    """
    inner = item_dtype(dtype)
    return {name: _instance(below) for name, below in inner} if isinstance(inner, pl.Struct) else {}


def item_dtype(dtype: pl.DataType) -> pl.DataType:
    """Dtype of a list's items; any other dtype as it is."""
    return _instance(dtype.inner) if isinstance(dtype, pl.List) else dtype


def _instance(dtype: pl.DataType | DataTypeClass) -> pl.DataType:
    return dtype if isinstance(dtype, pl.DataType) else dtype()


def _fields(type_name: str, tree: _Tree) -> Iterator[tuple[str, pl.DataType]]:
    """Names and dtypes of the children of a type that are in the tree."""
    for name, found in children(type_name).items():
        if name in tree:
            yield name, _dtype(found, tree[name])


def _dtype(found: Element, tree: _Tree) -> pl.DataType:
    inner: pl.DataType
    if found.primitive:
        inner = primitive_dtype(found.type)
    elif found.type == "Resource":
        inner = pl.Struct(_resource_fields(tree))
    else:
        inner = pl.Struct(dict(_fields(found.type, tree)))
    return pl.List(inner) if found.is_list else inner


def _resource_fields(tree: _Tree) -> dict[str, pl.DataType]:
    """Fields of a struct that holds resources of several types: those that any of them has."""
    fields: dict[str, pl.DataType] = {"resourceType": pl.String(), **dict(_fields("Resource", tree))}
    merged: dict[str, tuple[Element, _Tree]] = {}
    for type_name in sorted(filter(is_resource, tree)):
        for name, found in children(type_name).items():
            if name in tree[type_name]:
                first, below = merged.setdefault(name, (found, {}))
                if (first.type, first.is_list) != (found.type, found.is_list):
                    raise SchemaError(
                        f"Contained resources have `{name}` as {_kind(first)} and, in {type_name}, as {_kind(found)}: "
                        "one column cannot hold both. Leave one of them out."
                    )
                _merge(below, tree[type_name][name])
    return fields | {name: _dtype(found, below) for name, (found, below) in merged.items()}


def _merge(into: _Tree, other: _Tree) -> None:
    for name, below in other.items():
        _merge(into.setdefault(name, {}), below)


def _kind(found: Element) -> str:
    return f"list of {found.type}" if found.is_list else found.type
