"""Columnar rules: what R4B demands of a resource, as one polars expression for each element and demand.

An object is present where any primitive below it is: a struct of nulls is as good as none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.dtypes import fields_of, item_dtype, primitive_dtype
from ehrseq.fhir.elements import Element, children, element
from ehrseq.fhir.formats import malformed, misdirected

type _Fields = Mapping[str, pl.DataType]


@dataclass(frozen=True)
class Rule:
    """One demand on one element. `fails` is true in the rows that break it; null counts as false.

    `rule` is required, choice, code or reference, or the primitive type whose format is asked for.
    """

    element: str
    rule: str
    message: str
    fails: pl.Expr


@dataclass(frozen=True)
class Rules:
    """All rules of a resource type for one schema; `any_fails` is true where at least one of them is broken."""

    each: tuple[Rule, ...]
    any_fails: pl.Expr


def rules(resource_type: str, schema: pl.Schema, *, known_good: frozenset[str] = frozenset()) -> Rules:
    """Rules for frames of `schema` (columns: FHIR elements; those that begin with "_" are passed over).

    Inside `contained`, whose rows may be of any type, and inside columns that are `known_good` nothing is asked for.
    Raises: SchemaError for a column or field that is not an element of its type, or has another dtype.

    >>> found = rules("Condition", pl.Schema({"code": pl.Struct({"text": pl.String})}))
    >>> [(rule.element, rule.rule) for rule in found.each]
    [('subject', 'required'), ('code.text', 'string')]
    """
    columns = tuple((name, dtype) for name, dtype in schema.items() if name[0] != "_")
    return _rules(resource_type, columns, known_good)


@cache
def _rules(
    resource_type: str, columns: tuple[tuple[str, pl.DataType], ...], known_good: frozenset[str]
) -> Rules:
    present = pl.repeat(True, pl.len())
    found = _object(resource_type, dict(columns), pl.col, present, known_good=known_good)
    any_fails = pl.any_horizontal(pl.repeat(False, pl.len()), *found.quick)
    return Rules(tuple(found.each), any_fails.fill_null(False))


@dataclass(frozen=True)
class _Found:
    """Rules one by one, and `quick`: fewer expressions that together are true in the same rows."""

    each: list[Rule]
    quick: list[pl.Expr]

    @classmethod
    def of(cls, each: Iterable[Rule]) -> "_Found":
        kept = list(each)
        return cls(kept, [rule.fails for rule in kept])

    def __add__(self, other: "_Found") -> "_Found":
        return _Found(self.each + other.each, self.quick + other.quick)

    def under(self, name: str) -> "_Found":
        """The same, where the elements are below `name`."""
        return _Found(
            [replace(rule, element=f"{name}.{rule.element}".rstrip(".")) for rule in self.each], self.quick
        )

    def in_list(self, value: pl.Expr) -> "_Found":
        """The same for the items of a list: a row fails if any item does. `quick` passes through the list once."""
        each = [replace(rule, fails=_any_item(value, rule.fails)) for rule in self.each]
        return _Found(each, [_any_item(value, pl.any_horizontal(self.quick))] if self.quick else [])


def _object(
    type_name: str,
    fields: _Fields,
    below: Callable[[str], pl.Expr],
    present: pl.Expr,
    known_good: frozenset[str] = frozenset(),
) -> _Found:
    """Rules of an object; `below(name)` is its field, and `present` is true where there is such an object."""
    found = _Found.of(_absences(type_name, fields, below, present))
    for name, dtype in fields.items():
        child = element(type_name, name)
        if not _fits(child, dtype):
            raise SchemaError(f"{type_name}.{name} has dtype {dtype}, which {_words(child)} cannot have.")
        if name not in known_good:
            found += _element(child, dtype, below(name)).under(name)
    return found


def _element(child: Element, dtype: pl.DataType, value: pl.Expr) -> _Found:
    if isinstance(dtype, pl.List):
        return _item(child, item_dtype(dtype), pl.element()).in_list(value)
    return _item(child, dtype, value)


def _item(child: Element, dtype: pl.DataType, value: pl.Expr) -> _Found:
    if child.primitive:
        return _Found.of(_primitive(child, value))
    if child.type == "Resource":
        return _Found.of([])
    fields, present = fields_of(dtype), _present(value, dtype)
    link = fields.pop("reference", None) if child.type == "Reference" else None
    found = _object(child.type, fields, value.struct.field, present)
    if link is not None:
        fails, message = misdirected(child.targets, value.struct.field("reference"))
        found += _Found.of([Rule("reference", "reference", message, fails)])
    return found


def _primitive(child: Element, value: pl.Expr) -> Iterator[Rule]:
    if child.enum:
        yield Rule("", "code", f"must be one of {', '.join(child.enum)}", ~value.is_in(list(child.enum)))
    elif found := malformed(child.type, value):
        yield Rule("", child.type, found[1], found[0])


def _absences(
    type_name: str, fields: _Fields, below: Callable[[str], pl.Expr], present: pl.Expr
) -> Iterator[Rule]:
    """Rules about elements that must be there, and about choices of which one may be there."""
    known = children(type_name)
    for name, child in known.items():
        if child.required:
            there = _present(below(name), fields[name]) if name in fields else None
            yield Rule(name, "required", "is required", present if there is None else present & ~there)
    for stem in dict.fromkeys(child.choice for child in known.values() if child.choice):
        options = [child for child in known.values() if child.choice == stem]
        there_are = [
            _present(below(child.name), fields[child.name]) for child in options if child.name in fields
        ]
        if options[0].choice_required:
            none = present & ~pl.any_horizontal(there_are) if there_are else present
            yield Rule(f"{stem}[x]", "required", "is required in one of its types", none)
        if len(there_are) > 1:
            yield Rule(
                f"{stem}[x]", "choice", "may have only one of its types", pl.sum_horizontal(there_are) > 1
            )


def _present(value: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """True where any primitive is there; never null outside lists."""
    if isinstance(dtype, pl.Struct):
        parts = [_present(value.struct.field(name), inner) for name, inner in fields_of(dtype).items()]
        return pl.any_horizontal(parts) if parts else pl.lit(False)
    if isinstance(dtype, pl.List):
        return _any_item(value, _present(pl.element(), item_dtype(dtype))).fill_null(False)
    return value.is_not_null()


def _any_item(value: pl.Expr, fails: pl.Expr) -> pl.Expr:
    return value.list.eval(fails).list.any()


def _fits(child: Element, dtype: pl.DataType) -> bool:
    if child.is_list != isinstance(dtype, pl.List):
        return False
    inner = item_dtype(dtype)
    return inner == primitive_dtype(child.type) if child.primitive else isinstance(inner, pl.Struct)


def _words(child: Element) -> str:
    kind = str(primitive_dtype(child.type)) if child.primitive else "Struct"
    return (
        f"a {'list of ' if child.is_list else ''}{child.type} ({f'List({kind})' if child.is_list else kind})"
    )
