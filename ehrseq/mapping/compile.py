"""A mapping as polars expressions: flat leaves first, then the nested resource around them.

Each leaf is computed once into a column of its own (`~3.value`); nesting only refers to these columns.
"""

import atexit
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import polars as pl

from ehrseq.fhir import elements, ucum
from ehrseq.fhir.dtypes import pruned_dtype
from ehrseq.fhir.ids import resource_id
from ehrseq.mapping.lists import list_of
from ehrseq.mapping.results import PARTIAL_DATE, Reader, partial_date
from ehrseq.mapping.rows import dtype_in, row_schema
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
    Range,
    Ratio,
    Reference,
    Text,
    walk,
)

_TRANSLATION = "http://hl7.org/fhir/StructureDefinition/iso21090-PQ-translation"


@dataclass(frozen=True)
class Link:
    """A reference to check: the column that holds it, the element it stands in, the mapping it points to."""

    column: str
    element: str
    target: str


@dataclass(frozen=True)
class Translation:
    """A translation to count: columns of the local value and of the code found, wherever `present` has a value."""

    value: str
    code: str
    map: str
    present: str


@dataclass(frozen=True)
class Clock:
    """A time to check: its column, null where the expression behind it cannot be one, and what to say then."""

    column: str
    reading: pl.Expr
    element: str
    rule: str
    message: str


@dataclass(frozen=True)
class Plan:
    """A compiled mapping. `lets` one after the other, then `leaves`, then `resource` over them.

    `schema` is that of the resource type; `owners` gives the subject column of every table that has one; `constant`
    names the elements that are of one form in every resource, `dated` those that are written from dates and clocks.
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
    dated: frozenset[str] = frozenset()


@lru_cache(maxsize=8)
def compile_mappings(mappings: MappingSet) -> tuple[Plan, ...]:
    """Plans in the order of the mappings; all mappings to one type share that type's schema."""
    schemas = resource_schemas(mappings)
    return tuple(
        _Compiler(mappings, mapping).plan(schemas[mapping.resource]) for mapping in mappings.mappings
    )


atexit.register(compile_mappings.cache_clear)  # else what plans hold outlives Python's own end, noisily


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
        case Constant() | Expression() | DateTime() | Base64() | Text():
            return [path]
        case Reference():
            return [f"{path}.reference"]
        case Quantity():
            return _measured(path, node, compared=bool(node.comparator or node.text))
        case Range():
            return [*_measured(f"{path}.low", node), *_measured(f"{path}.high", node)]
        case Ratio():
            return [f"{path}.numerator.value", f"{path}.denominator.value"]
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


def _measured(path: str, node: Quantity | Range, compared: bool = False) -> list[str]:
    """Element paths of leaves that a Quantity fills."""
    names = ["value", *(["comparator"] if compared else []), *(["unit"] if node.unit else [])]
    if node.ucum:
        canonical = [*names, "system", "code"]
        names += [
            "system",
            "code",
            "extension.url",
            *(f"extension.valueQuantity.{name}" for name in canonical),
        ]
    return [f"{path}.{name}" for name in names]


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
        self.constant: set[str] = set()
        self.dated: set[str] = set()
        self.count = 0
        table = mappings.source.tables[mapping.table]
        self.reader = Reader(table.decimal, table.thousands)

    def plan(self, schema: pl.Schema) -> Plan:
        children = self.mapping.template.children
        types = elements.children(self.mapping.resource)
        columns = []
        for name, dtype in schema.items():
            if name == "id":
                continue
            built = self._node(children[name], dtype, types[name].type, name) if name in children else None
            if built is None or not built.leaves:
                self.constant.add(name)
            columns.append((built.expression if built else pl.lit(None, dtype)).cast(dtype).alias(name))
        lets = {
            let.name: pl.lit(let.node.value) if isinstance(let.node, Constant) else pl.sql_expr(let.node.sql)
            for let in self.mapping.lets
        }
        return Plan(
            self.mapping, schema, lets, self._id(self.mapping, self.mapping.key, "id"), self.leaves, columns,
            self.links, self.translations, self.clocks,
            {name: table.subject for name, table in self.mappings.source.tables.items() if table.subject},
            frozenset(self.constant), frozenset(self.dated),
        )  # fmt: skip

    def _id(self, target: Mapping, keys: Sequence[str], path: str) -> pl.Expr:
        """Id of what `target` makes from these keys, for the element at `path`."""
        numbers = all(self._dtype(sql).is_integer() for sql in keys)
        if numbers:
            self.constant.add(path)
        return resource_id(target.id_prefix, [pl.sql_expr(sql) for sql in keys], numbers=numbers)

    def _dtype(self, sql: str) -> pl.DataType:
        return dtype_in(self.row_schema, pl.sql_expr(sql))

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
            case Range():
                low, high = self.reader.range(pl.sql_expr(node.text))
                return self._pair(dtype, {"low": self._amount(node, low), "high": self._amount(node, high)})
            case Ratio(sql=sql):
                over, under = self.reader.ratio(pl.sql_expr(sql))
                sides = {"numerator": Quantity(node.where), "denominator": Quantity(node.where)}
                return self._pair(
                    dtype,
                    {n: self._amount(q, v) for (n, q), v in zip(sides.items(), (over, under), strict=True)},
                )
            case Text(sql=sql, kinds=kinds):
                return self._single("value", _filled_text(self.reader.unread(pl.sql_expr(sql), kinds)))
            case Concept():
                return self._concept(node, dtype, type_name)
            case ListOf(items=items):
                return self._list(items, dtype, type_name, path)
            case Object(children=children):
                return self._object(children, dtype, node.resource or type_name, path)
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
            if item.name == "resourceType":  # of what is contained
                fields.append(pl.lit(type_name).alias(item.name))
            elif item.name in children:
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
        parts = [item.expression.cast(inner) for item in built]
        together = list_of(parts, inner) if len(built) > 1 else pl.concat_list(parts)
        always = any(not item.leaves for item in built)
        leaves = () if always else tuple(name for item in built for name in item.leaves)
        return _wrap(together, leaves)

    def _reference(self, node: Reference, dtype: pl.DataType, path: str) -> _Built:
        target = self.mappings[node.mapping]
        link = pl.lit(f"{target.resource}/") + self._id(target, node.keys, path)
        name = self._leaf("reference", link)
        self.links.append(Link(name, f"{path}.reference", node.mapping))
        return self._struct(dtype, {"reference": pl.col(name)}, (name,))

    def _quantity(self, node: Quantity, dtype: pl.DataType) -> _Built:
        value = pl.sql_expr(node.value).cast(pl.Float64) if node.value else pl.lit(None, pl.Float64)
        comparator = pl.sql_expr(node.comparator) if node.comparator else None
        if node.text:
            text = pl.sql_expr(node.text)
            _, sign = self.reader.number(text)
            number, _ = self.reader.number(pl.when(value.is_null()).then(text) if node.value else text)
            value = pl.coalesce(value, number)
            comparator = sign if comparator is None else pl.coalesce(comparator, sign)
        fields, leaf = self._amount(node, value, comparator)
        return self._struct(dtype, self._translated(dtype, fields), (leaf,))

    def _amount(
        self, node: Quantity | Range, value: pl.Expr, comparator: pl.Expr | None = None
    ) -> tuple[dict[str, pl.Expr], str]:
        """Elements of a Quantity, and the leaf that decides whether it is present."""
        number = self._leaf(f"value{len(self.leaves)}", value)
        fields = {"value": pl.col(number)}
        if comparator is not None:
            fields["comparator"] = pl.col(self._leaf("comparator", comparator))
        if node.unit:
            unit = _filled_text(pl.sql_expr(node.unit))
            local = self._leaf(f"unit{len(self.leaves)}", unit)
            fields["unit"] = pl.col(local)
            if node.ucum:
                fields["~ucum"] = pl.col(self._ucum(node, unit, local, number))
        return fields, number

    def _ucum(self, node: Quantity | Range, unit: pl.Expr, local: str, number: str) -> str:
        """The leaf of the unit looked up, `ucum.CANONICAL`; `local` and `number` are the leaves of unit and value."""
        name, spellings = "ucum", {}
        if isinstance(node.ucum, str):
            name = node.ucum
            spellings = {
                local: code for local, (_, code, _) in self.mappings.concept_maps[name].targets.items()
            }
        found = unit.map_batches(
            lambda units: ucum.look_up(units, spellings), return_dtype=ucum.CANONICAL, is_elementwise=True
        )
        code = self._leaf(f"ucum{len(self.leaves)}", found)
        self.translations.append(Translation(local, code, name, number))
        return code

    def _translated(self, dtype: pl.DataType, fields: dict[str, pl.Expr]) -> dict[str, pl.Expr]:
        """`~ucum` becomes system and code, and the canonical pair in an extension."""
        if "~ucum" not in fields:
            return fields
        found = fields.pop("~ucum")
        assert isinstance(dtype, pl.Struct)
        extensions = next(_dtype(item.dtype) for item in dtype.fields if item.name == "extension")
        assert isinstance(extensions, pl.List)
        extension = _dtype(extensions.inner)
        assert isinstance(extension, pl.Struct)
        quantity = next(_dtype(item.dtype) for item in extension.fields if item.name == "valueQuantity")
        unit = found.struct.field("unit")
        canonical = fields | {
            "value": ucum.converted(fields["value"], found), "unit": unit, "code": unit, "system": pl.lit(ucum.SYSTEM)
        }  # fmt: skip
        told = {
            "url": pl.lit(_TRANSLATION),
            "valueQuantity": self._struct(quantity, canonical, ()).expression,
        }
        listed = pl.concat_list([self._struct(extension, told, ()).expression])
        return fields | {
            "system": pl.when(found.is_not_null()).then(pl.lit(ucum.SYSTEM)),
            "code": found.struct.field("code"),
            "extension": pl.when(unit.is_not_null()).then(listed),
        }

    def _pair(self, dtype: pl.DataType, sides: dict[str, tuple[dict[str, pl.Expr], str]]) -> _Built:
        """A Range or Ratio of two Quantities, which are both present or both absent."""
        assert isinstance(dtype, pl.Struct)
        types = {item.name: _dtype(item.dtype) for item in dtype.fields}
        made = {
            name: self._struct(types[name], self._translated(types[name], fields), (leaf,)).expression
            for name, (fields, leaf) in sides.items()
        }
        return self._struct(dtype, made, tuple(leaf for _, leaf in sides.values()))

    def _concept(self, node: Concept, dtype: pl.DataType, type_name: str) -> _Built:
        local = self._leaf("local", pl.sql_expr(node.value).cast(pl.String))
        concepts = self.mappings.concept_maps[node.map]
        system, code, display = (
            self._leaf(role, _translate(pl.sql_expr(node.value).cast(pl.String), concepts, index))
            for index, role in enumerate(("system", "code", "display"))
        )
        self.translations.append(Translation(local, code, node.map, local))
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
        if found == pl.String:
            built = self._single("value", partial_date(expression))
            reading = _filled_text(expression)
            self.clocks += [Clock(name, reading, path, "date", PARTIAL_DATE) for name in built.leaves]
            return built
        self.dated.add(path)
        if type_name == "date" or found == pl.Date:
            return self._single("value", expression.dt.to_string("%Y-%m-%d"))
        zone = self.mappings.source.timezone
        if zone == "UTC":
            return self._single("value", expression.dt.to_string("%Y-%m-%dT%H:%M:%S%.f+00:00"))
        local = expression.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        built = self._single("value", local.dt.to_string("%Y-%m-%dT%H:%M:%S%.f%:z"))
        skipped = "clocks skipped this hour"
        self.clocks += [Clock(name, expression, path, "clock", skipped) for name in built.leaves]
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
