"""A mapping as polars expressions: flat leaves first, then the nested resource around them.

Each leaf is computed once into a column of its own (`~3.value`); nesting only refers to these columns.
"""

from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from ehrseq.fhir import elements
from ehrseq.fhir.dtypes import pruned_dtype
from ehrseq.fhir.ids import resource_id
from ehrseq.mapping.rows import row_schema
from ehrseq.mapping.specification import (
    Base64,
    Concept,
    ConceptMap,
    Constant,
    DateTime,
    Expression,
    ListOf,
    Mapping,
    MappingSet,
    Node,
    Object,
    Quantity,
    Reference,
    walk,
)

_NUMBER = r"^\s*(<=|>=|<|>)?\s*(-?[0-9]+(?:\.[0-9]+)?)\s*$"


@dataclass(frozen=True)
class Link:
    """A reference to check: the column that holds it, the element it stands in, the mapping it points to."""

    column: str
    element: str
    target: str


@dataclass(frozen=True)
class Translation:
    """A concept translation to count: columns of the local value and of the code found."""

    value: str
    code: str
    map: str


@dataclass(frozen=True)
class Clock:
    """A clock reading to check: its column, the expression behind it, the element it stands in."""

    column: str
    reading: pl.Expr
    element: str


@dataclass(frozen=True)
class Plan:
    """A compiled mapping. `lets` one after the other, then `leaves`, then `resource` over them.

    `schema` is that of the resource type; `owners` gives the subject column of every table that has one; `constant`
    names the elements that are the same in every resource.
    """

    mapping: Mapping
    schema: pl.Schema
    lets: dict[str, pl.Expr]
    identifier: pl.Expr
    leaves: dict[str, pl.Expr]
    resource: list[pl.Expr]
    links: list[Link] = field(default_factory=list)
    translations: list[Translation] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    owners: Map[str, str] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()


@lru_cache(maxsize=8)
def compile_mappings(mappings: MappingSet) -> tuple[Plan, ...]:
    """Plans in the order of the mappings; all mappings to one type share that type's schema."""
    schemas = resource_schemas(mappings)
    return tuple(
        _Compiler(mappings, mapping).plan(schemas[mapping.resource]) for mapping in mappings.mappings
    )


def resource_schemas(mappings: MappingSet) -> dict[str, pl.Schema]:
    """Columns of each resource type: exactly the elements that the source's mappings fill."""
    paths: dict[str, set[str]] = {}
    for mapping in mappings.mappings:
        used = paths.setdefault(mapping.resource, {"id"})
        for path, node in walk(mapping.template):
            used.update(_filled(mapping.resource, path, node))
    return {resource: pruned_dtype(resource, sorted(used)) for resource, used in sorted(paths.items())}


def _filled(resource: str, path: str, node: Node) -> list[str]:
    """Element paths of leaves that a node fills."""
    match node:
        case Constant() | Expression() | DateTime() | Base64():
            return [path]
        case Reference():
            return [f"{path}.reference"]
        case Quantity():
            optional = [("unit", node.unit), ("comparator", node.comparator or node.text)]
            return [f"{path}.value", *(f"{path}.{name}" for name, sql in optional if sql)]
        case Concept():
            match elements.element(resource, path).type:
                case "code":
                    return [path]
                case "Coding":
                    return [f"{path}.{name}" for name in ("system", "code", "display")]
                case _:
                    return [
                        *(f"{path}.coding.{name}" for name in ("system", "code", "display")),
                        f"{path}.text",
                    ]
        case _:
            return []


@dataclass(frozen=True)
class _Built:
    """An expression and the leaf columns that decide whether it is present (none: always)."""

    expression: pl.Expr
    leaves: tuple[str, ...]

    @property
    def present(self) -> pl.Expr:
        return pl.any_horizontal([pl.col(name).is_not_null() for name in self.leaves])


class _Compiler:
    def __init__(self, mappings: MappingSet, mapping: Mapping) -> None:
        self.mappings, self.mapping = mappings, mapping
        self.row_schema = row_schema(mappings.source, mapping)
        self.leaves: dict[str, pl.Expr] = {}
        self.links: list[Link] = []
        self.translations: list[Translation] = []
        self.clocks: list[Clock] = []
        self.count = 0

    def plan(self, schema: pl.Schema) -> Plan:
        children = self.mapping.template.children
        types = elements.children(self.mapping.resource)
        columns, constant = [], set()
        for name, dtype in schema.items():
            if name == "id":
                continue
            built = self._node(children[name], dtype, types[name].type, name) if name in children else None
            if built is None or not built.leaves:
                constant.add(name)
            columns.append((built.expression if built else pl.lit(None, dtype)).cast(dtype).alias(name))
        lets = {
            let.name: pl.lit(let.node.value) if isinstance(let.node, Constant) else pl.sql_expr(let.node.sql)
            for let in self.mapping.lets
        }
        return Plan(
            self.mapping, schema, lets, self._id(self.mapping, self.mapping.key), self.leaves, columns,
            self.links, self.translations, self.clocks,
            {name: table.subject for name, table in self.mappings.source.tables.items() if table.subject},
            frozenset(constant),
        )  # fmt: skip

    def _id(self, target: Mapping, keys: Sequence[str]) -> pl.Expr:
        """Id of what `target` makes from these keys."""
        numbers = all(self._dtype(sql).is_integer() for sql in keys)
        return resource_id(target.id_prefix, [pl.sql_expr(sql) for sql in keys], numbers=numbers)

    def _dtype(self, sql: str) -> pl.DataType:
        return pl.LazyFrame(schema=self.row_schema).select(pl.sql_expr(sql).alias("x")).collect_schema()["x"]

    def _leaf(self, role: str, expression: pl.Expr) -> str:
        name = f"~{self.count}.{role}"
        self.leaves[name] = expression
        return name

    def _node(self, node: Node, dtype: pl.DataType, type_name: str, path: str) -> _Built:
        self.count += 1
        match node:
            case Constant(value=value):
                return _Built(pl.lit(value).cast(dtype), ())
            case Expression(sql=sql):
                return self._single("value", _as(pl.sql_expr(sql), dtype), literal=not _columns(sql))
            case DateTime(sql=sql):
                return self._datetime(sql, type_name, path)
            case Base64(sql=sql):
                return self._single("value", pl.sql_expr(sql).str.encode("base64"))
            case Reference():
                return self._reference(node, dtype, path)
            case Quantity():
                return self._quantity(node, dtype)
            case Concept():
                return self._concept(node, dtype, type_name)
            case ListOf(items=items):
                return self._list(items, dtype, type_name, path)
            case Object(children=children):
                return self._object(children, dtype, type_name, path)
        raise AssertionError(f"unknown node {node}")

    def _single(self, role: str, expression: pl.Expr, literal: bool = False) -> _Built:
        if literal:
            return _Built(expression, ())
        name = self._leaf(role, expression)
        return _Built(pl.col(name), (name,))

    def _object(self, children: Map[str, Node], dtype: pl.DataType, type_name: str, path: str) -> _Built:
        assert isinstance(dtype, pl.Struct)
        types = elements.children(type_name)
        fields: list[pl.Expr] = []
        leaves: list[str] = []
        for item in dtype.fields:
            inner = _dtype(item.dtype)
            if item.name in children:
                place = f"{path}.{item.name}"
                built = self._node(children[item.name], inner, types[item.name].type, place)
                leaves += built.leaves
                fields.append(built.expression.cast(inner).alias(item.name))
            else:
                fields.append(pl.lit(None, inner).alias(item.name))
        return _wrap(pl.struct(fields), tuple(leaves))

    def _list(self, items: tuple[Node, ...], dtype: pl.DataType, type_name: str, path: str) -> _Built:
        assert isinstance(dtype, pl.List)
        inner = _dtype(dtype.inner)
        built = [self._node(item, inner, type_name, path) for item in items]
        together = pl.concat_list([item.expression.cast(inner) for item in built])
        always = any(not item.leaves for item in built)
        leaves = () if always else tuple(name for item in built for name in item.leaves)
        if len(built) > 1:
            together = together.list.drop_nulls()
        return _wrap(together, leaves)

    def _reference(self, node: Reference, dtype: pl.DataType, path: str) -> _Built:
        target = self.mappings[node.mapping]
        link = pl.lit(f"{target.resource}/") + self._id(target, node.keys)
        name = self._leaf("reference", link)
        self.links.append(Link(name, f"{path}.reference", node.mapping))
        return self._struct(dtype, {"reference": pl.col(name)}, (name,))

    def _quantity(self, node: Quantity, dtype: pl.DataType) -> _Built:
        value = pl.sql_expr(node.value).cast(pl.Float64)
        comparator = pl.sql_expr(node.comparator) if node.comparator else pl.lit(None, pl.String)
        if node.text:
            parsed = pl.sql_expr(node.text).str.extract_groups(_NUMBER)
            value = pl.coalesce(value, parsed.struct[1].cast(pl.Float64, strict=False))
            comparator = pl.coalesce(comparator, parsed.struct[0])
        number = self._leaf("value", value)
        fields = {"value": pl.col(number)}
        if node.text or node.comparator:
            fields["comparator"] = pl.col(self._leaf("comparator", comparator))
        if node.unit:
            fields["unit"] = pl.col(self._leaf("unit", _filled_text(pl.sql_expr(node.unit))))
        return self._struct(dtype, fields, (number,))

    def _concept(self, node: Concept, dtype: pl.DataType, type_name: str) -> _Built:
        local = self._leaf("local", pl.sql_expr(node.value).cast(pl.String))
        concepts = self.mappings.concept_maps[node.map]
        system, code, display = (
            self._leaf(role, _translate(pl.sql_expr(node.value).cast(pl.String), concepts, index))
            for index, role in enumerate(("system", "code", "display"))
        )
        self.translations.append(Translation(local, code, node.map))
        if type_name == "code":
            return _Built(pl.col(code), (code,))
        fields = {"system": pl.col(system), "code": pl.col(code), "display": pl.col(display)}
        if type_name == "Coding":
            return self._struct(dtype, fields, (code,))
        assert isinstance(dtype, pl.Struct)
        types = {item.name: _dtype(item.dtype) for item in dtype.fields}
        codings = types["coding"]
        assert isinstance(codings, pl.List)
        coding = self._struct(_dtype(codings.inner), fields, (code,))
        return self._struct(
            dtype,
            {"coding": _wrap(pl.concat_list([coding.expression]), (code,)).expression, "text": pl.col(local)},
            (local,),
        )

    def _struct(self, dtype: pl.DataType, fields: dict[str, pl.Expr], leaves: tuple[str, ...]) -> _Built:
        assert isinstance(dtype, pl.Struct)
        made = [
            fields.get(item.name, pl.lit(None, _dtype(item.dtype))).cast(_dtype(item.dtype)).alias(item.name)
            for item in dtype.fields
        ]
        return _wrap(pl.struct(made), leaves)

    def _datetime(self, sql: str, type_name: str, path: str) -> _Built:
        expression, found = pl.sql_expr(sql), self._dtype(sql)
        if type_name == "date" or found == pl.Date:
            return self._single("value", expression.dt.to_string("%Y-%m-%d"))
        zone = self.mappings.source.timezone
        if zone == "UTC":
            return self._single("value", expression.dt.to_string("%Y-%m-%dT%H:%M:%S%.f+00:00"))
        local = expression.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        built = self._single("value", local.dt.to_string("%Y-%m-%dT%H:%M:%S%.f%:z"))
        self.clocks += [Clock(name, expression, path) for name in built.leaves]
        return built


def _wrap(expression: pl.Expr, leaves: tuple[str, ...]) -> _Built:
    """Null where none of the leaves has a value; as it is where there is no leaf to ask."""
    built = _Built(expression, leaves)
    return _Built(pl.when(built.present).then(expression), leaves) if leaves else built


def _columns(sql: str) -> list[str]:
    return pl.sql_expr(sql).meta.root_names()


def _as(expression: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Cast to the element's dtype; empty text is absent, as FHIR forbids empty strings."""
    return _filled_text(expression.cast(pl.String)) if dtype == pl.String else expression.cast(dtype)


def _filled_text(expression: pl.Expr) -> pl.Expr:
    return pl.when(expression.str.strip_chars() != "").then(expression)


def _translate(value: pl.Expr, concepts: ConceptMap, index: int) -> pl.Expr:
    table = {local: target[index] for local, target in concepts.targets.items()}
    found = value.replace_strict(table, default=None, return_dtype=pl.String)
    if concepts.other is None:
        return found
    return (
        pl.when(value.is_in(list(table)) | value.is_null())
        .then(found)
        .otherwise(pl.lit(concepts.other[index]))
    )


def _dtype(dtype: object) -> pl.DataType:
    assert isinstance(dtype, pl.DataType)
    return dtype
