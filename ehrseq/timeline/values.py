"""What a FHIRPath step stands for while a view is compiled: a polars expression and what is known about it.

FHIR prunes: an element that no row has is no column. So the frame's schema is asked first and the R4B element model
second; a legal element that the frame lacks is `empty`, and anything else is an error with the closest name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import polars as pl

from ehrseq.core.errors import SchemaError, TimelineError, closest
from ehrseq.fhir import elements

DATES = frozenset({"date", "dateTime", "instant"})


@dataclass(frozen=True)
class Value:
    """A FHIRPath collection of one column: at most one item a row, or a list of them (`many`).

    `dtype` is that of an item; Null means that no row can have one. `type` is the FHIR type ("HumanName"), None
    where it is not known. `choices` holds the columns of a choice element that nobody has chosen from yet.
    """

    expr: pl.Expr
    dtype: pl.DataType
    many: bool = False
    type: str | None = None
    root: bool = False
    choices: Mapping[str, "Value"] | None = field(default=None, compare=False)

    @property
    def empty(self) -> bool:
        """Whether no row has an item."""
        return isinstance(self.dtype, pl.Null)


def nothing(type_name: str | None = None) -> Value:
    """The empty collection, of a type if known."""
    return Value(pl.lit(None), pl.Null(), type=type_name)


def resource(schema: pl.Schema, type_name: str) -> Value:
    """The resource itself: one a row, its elements are the columns of the frame."""
    dtype = pl.Struct(dict(schema))
    return Value(pl.struct(*schema), dtype, type=type_name, root=True)


def mapped(
    value: Value, step: Callable[[pl.Expr], pl.Expr], dtype: pl.DataType, type_name: str | None
) -> Value:
    """Apply `step` to each item; items that come out null are no items."""
    if not value.many:
        return Value(step(value.expr), dtype, type=type_name)
    return Value(value.expr.list.eval(step(pl.element()).drop_nulls()), dtype, many=True, type=type_name)


def member(value: Value, name: str) -> Value:
    """`value.name`, lists within lists made flat. Raises: TimelineError if the type has no such element."""
    value = settled(value)
    known = _children(value.type)
    columns = _columns(value.dtype)
    stem = _choices(name, columns, known)
    if stem is not None and name not in columns:
        options = {suffix: member(value, full) for suffix, full in stem.items() if full in columns}
        return replace(nothing(), choices=options, type=None)
    if known is not None and name not in known and not (value.root and name.startswith("_")):
        raise TimelineError(f"{value.type} has no element `{name}`.{closest(name, [*known, *_stems(known)])}")
    type_name = known[name].type if known and name in known else None
    if name not in columns:
        return nothing(type_name)
    return _step(value, name, columns[name], type_name)


def _step(value: Value, name: str, dtype: pl.DataType, type_name: str | None) -> Value:
    if isinstance(dtype, pl.List):
        item = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
        if not value.many:
            return Value(_field(value, name), item, many=True, type=type_name)
        flat = value.expr.list.eval(pl.element().struct.field(name).explode(empty_as_null=False).drop_nulls())
        return Value(flat, item, many=True, type=type_name)
    if not value.many:
        return Value(_field(value, name), dtype, type=type_name)
    return mapped(value, lambda item: item.struct.field(name), dtype, type_name)


def _field(value: Value, name: str) -> pl.Expr:
    return pl.col(name) if value.root else value.expr.struct.field(name)


def settled(value: Value) -> Value:
    """Choose the only column of a choice element. Raises: TimelineError if there are several to choose from."""
    if value.choices is None:
        return value
    if not value.choices:
        return nothing()
    if len(value.choices) > 1:
        options = ", ".join(sorted(value.choices))
        raise TimelineError(f"a choice of several types ({options}): say which with ofType(...)")
    return next(iter(value.choices.values()))


def of_type(value: Value, type_name: str) -> Value:
    """`value.ofType(type_name)`: the column of a choice element, or the value itself if it has that type."""
    if value.choices is None:
        return value if value.empty or value.type in (None, type_name) else nothing(type_name)
    return value.choices.get(type_name[0].upper() + type_name[1:], nothing(type_name))


def single(value: Value) -> Value:
    """The only item. Polars raises, when the view is run, on a row that has several."""
    value = settled(value)
    if not value.many:
        return value
    return Value(value.expr.list.item(allow_empty=True), value.dtype, type=value.type)


def first(value: Value, index: int = 0) -> Value:
    """The item at `index` (-1: the last), or none."""
    value = settled(value)
    if value.empty:
        return value
    if value.many:
        return Value(value.expr.list.get(index, null_on_oob=True), value.dtype, type=value.type)
    return value if index in (0, -1) else nothing(value.type)


def exists(value: Value) -> pl.Expr:
    """Whether there is an item; never null."""
    if value.choices is not None:
        found = [exists(option) for option in value.choices.values()]
        return pl.any_horizontal(found) if found else pl.lit(False)
    if value.empty:
        return pl.lit(False)
    return value.expr.list.len().fill_null(0) > 0 if value.many else value.expr.is_not_null()


def _columns(dtype: pl.DataType) -> dict[str, pl.DataType]:
    if not isinstance(dtype, pl.Struct):
        return {}
    return {
        part.name: part.dtype if isinstance(part.dtype, pl.DataType) else part.dtype()
        for part in dtype.fields
    }


def _children(type_name: str | None) -> dict[str, elements.Element] | None:
    """Elements of a type; None where the type is unknown, so that anything may be asked of it."""
    if type_name is None:
        return None
    if type_name[0].islower():
        return {}
    try:
        return elements.children(type_name)
    except SchemaError:
        return None


def _stems(known: Mapping[str, elements.Element]) -> set[str]:
    return {element.choice for element in known.values() if element.choice}


def _choices(
    name: str, columns: Mapping[str, pl.DataType], known: Mapping[str, elements.Element] | None
) -> dict[str, str] | None:
    """Types and columns of choice element `name` ("Quantity": "valueQuantity"), None if it is not one."""
    if known is not None:
        found = [full for full, element in known.items() if element.choice == name]
        return {full.removeprefix(name): full for full in found} or None
    if name in columns:
        return None
    found = [full for full in columns if full.startswith(name) and full[len(name) : len(name) + 1].isupper()]
    return {full.removeprefix(name): full for full in found} or None
