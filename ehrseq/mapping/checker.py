"""One mapping against FHIR R4B and the declared tables: everything that is wrong with it."""

from collections.abc import Hashable, Iterable
from collections.abc import Mapping as Map
from dataclasses import dataclass

import polars as pl
from polars.exceptions import PolarsError

from ehrseq.core.errors import closest
from ehrseq.fhir import elements
from ehrseq.mapping.rows import dtype_in, dtype_of, joined_schema, row_schema, table_schema
from ehrseq.mapping.specification import (
    Base64,
    Concept,
    ConceptMap,
    Constant,
    DateTime,
    Expression,
    Join,
    ListOf,
    Mapping,
    Node,
    Object,
    Quantity,
    Range,
    Ratio,
    Reference,
    Text,
    expressions,
)
from ehrseq.sources.declaration import Source, Table
from ehrseq.sources.tables import COLUMN_DTYPES

_TEMPORAL = ("date", "dateTime", "instant")


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with one place of one file."""

    place: str
    message: str

    def __str__(self) -> str:
        """`file:line  message`."""
        return f"{self.place}  {self.message}"


def problems_of(
    source: Source, mapping: Mapping, others: Map[str, Mapping], maps: Map[str, ConceptMap]
) -> list[Problem]:
    """All problems of a mapping. `others`: every mapping of the source by name; `maps`: its ConceptMaps."""
    return _Checker(source, mapping, others, maps).problems()


class _Checker:
    """Walks one mapping and gathers what is wrong with it."""

    def __init__(
        self, source: Source, mapping: Mapping, others: Map[str, Mapping], maps: Map[str, ConceptMap]
    ) -> None:
        self.source, self.mapping, self.others, self.maps = source, mapping, others, maps
        self.found: list[Problem] = []
        self.schema = pl.Schema()

    def problems(self) -> list[Problem]:
        """All problems of the mapping."""
        mapping, tables = self.mapping, self.source.tables
        if not elements.is_resource(mapping.resource):
            hint = closest(mapping.resource, elements.resource_types())
            self._say(("resource",), f"`{mapping.resource}` is not a resource type of FHIR R4B.{hint}")
        if mapping.table not in tables:
            hint = closest(mapping.table, tables)
            self._say(("from",), f"table `{mapping.table}` is not declared in source.yaml.{hint}")
        if not self.found:
            self._explode()
        if not self.found:
            self._joins()
        if self.found:
            return self.found
        self._lets()
        if self.found:
            return self.found
        for column in set(mapping.ignore) - set(self.schema):
            self._say(
                ("ignore", column), f"no column `{column}` to ignore.{closest(column, self.schema.names())}"
            )
        self._gathered()
        for index, sql in enumerate(mapping.key):
            self._dtype(("key", index), sql)
        for index, sql in enumerate(mapping.winner):
            self._dtype(("winner", index), sql)
        for skip in (*mapping.skips, *mapping.rejects):
            if (dtype := self._dtype((*skip.where, "when"), skip.when)) not in (None, pl.Boolean):
                self._say((*skip.where, "when"), f"`{skip.when}` gives {dtype}, expected a condition.")
        self._object(mapping.template, mapping.resource, "")
        return self.found

    def _say(self, where: Iterable[Hashable], message: str) -> None:
        self.found.append(Problem(self.mapping.document.at(tuple(where)), message))

    def _explode(self) -> None:
        explode, table = self.mapping.explode, self.source.tables[self.mapping.table]
        if explode is None:
            return
        for name in explode.columns:
            if name not in table.columns:
                self._say(
                    explode.where, f"{table.name} has no column `{name}`.{closest(name, table.columns)}"
                )
            elif explode.by and table.columns[name] != "string":
                self._say(explode.where, f"`{name}` is {table.columns[name]}; only text can be split.")
        new = [name for name in (explode.name, explode.value, *explode.attributes) if name]
        kept = set(table.columns) - set(explode.columns)
        for name in new:
            if name in kept or new.count(name) > 1:
                self._say(
                    explode.where, f"column `{name}` is there already. Give the new column another name."
                )

    def _lets(self) -> None:
        self.schema = joined_schema(self.source, self.mapping)
        for let in self.mapping.lets:
            if let.name in self.schema:
                self._say(
                    let.node.where, f"column `{let.name}` is there already. Give the expression another name."
                )
            elif isinstance(let.node, Constant):
                self.schema[let.name] = dtype_of(let.node, self.schema)
            elif (dtype := self._dtype(let.node.where, let.node.sql)) is not None:
                self.schema[let.name] = dtype

    def _gathered(self) -> None:
        for name in self.mapping.gather:
            node = self.mapping.template.children.get(name)
            if not isinstance(node, ListOf):
                lists = [
                    key for key, child in self.mapping.template.children.items() if isinstance(child, ListOf)
                ]
                self._say(("gather",), f"`{name}` is not a list of the template.{closest(name, lists)}")

    def _joins(self) -> None:
        tables, table = self.source.tables, self.source.tables[self.mapping.table]
        columns = dict(table_schema(self.source, self.mapping))
        taken = set(columns)
        for join in self.mapping.joins:
            if join.table not in tables:
                self._say(join.where, f"table `{join.table}` is not declared.{closest(join.table, tables)}")
                continue
            right = tables[join.table]
            if table.shared and not right.shared:
                self._say(
                    join.where,
                    f"{table.name} belongs to no subject, so it cannot join {right.name}, which does.",
                )
            for left, other in join.on:
                if left not in taken:
                    self._say(join.where, f"no column `{left}` to join on.{closest(left, taken)}")
                if other not in right.columns:
                    self._say(
                        join.where, f"{right.name} has no column `{other}`.{closest(other, right.columns)}"
                    )
            self._asof(join, columns, right)
            new = {join.prefix + name for name in right.columns if name not in join.right_keys}
            if clash := sorted(new & taken):
                self._say(join.where, f"column `{clash[0]}` is there already. Give the join a `prefix`.")
            taken |= new
            columns |= {join.prefix + name: COLUMN_DTYPES[kind] for name, kind in right.columns.items()}

    def _asof(self, join: Join, columns: dict[str, pl.DataType], right: Table) -> None:
        if join.asof is None:
            return
        left, other = join.asof
        where = (*join.where, "asof")
        if left not in columns:
            self._say(where, f"no column `{left}`.{closest(left, columns)}")
        elif other not in right.columns:
            self._say(where, f"{right.name} has no column `{other}`.{closest(other, right.columns)}")
        elif not columns[left].is_temporal() or columns[left] != COLUMN_DTYPES[right.columns[other]]:
            self._say(
                where,
                f"`{left}` is {columns[left]}, `{other}` is a {right.columns[other]}: expected two datetimes or dates.",
            )

    def _dtype(self, where: Iterable[Hashable], sql: str) -> pl.DataType | None:
        """Dtype of an expression; None after a problem."""
        try:
            expression = pl.sql_expr(sql)
            names = dict.fromkeys(expression.meta.root_names())
            for name in names:
                if name not in self.schema:
                    hint = closest(name, self.schema.names())
                    self._say(
                        where, f"unknown column `{name}`.{hint} Text constants are quoted: \"'{name}'\"."
                    )
                    return None
            if "~" in sql or "REGEXP" in sql.upper():  # a pattern is only looked at when it runs
                nothing = pl.DataFrame([pl.Series(name, [None], self.schema[name]) for name in names])
                nothing.select(expression.alias("x"))
            return dtype_in(self.schema, expression)
        except PolarsError as error:
            reason = str(error).splitlines()[0]
            self._say(where, f"`{sql}` is not a SQL expression that polars understands: {reason}.")
            return None

    def _object(self, node: Object, type_name: str, path: str) -> None:
        children = elements.children(type_name)
        choices: dict[str, str] = {}
        for name, child in node.children.items():
            place = f"{path}.{name}" if path else name
            element = children.get(name)
            if element is None or (not path and name == "id"):
                say = "is made from `key`" if element else f"is not an element of {type_name}."
                self._say(child.where, f"`{place}` {say}{closest(name, children) if not element else ''}")
                continue
            if element.choice is not None and element.choice in choices and not path:
                pass  # several of value[x] may be declared: a row must fill at most one, which validation checks
            choices[element.choice or ""] = name
            self._list_or_element(child, element, place)
        for name, element in children.items():
            if element.required and name not in node.children:
                self._say(node.where, f"{path or type_name} lacks `{name}`, which FHIR requires.")
        required = {e.choice for e in children.values() if e.choice_required and e.choice}
        for choice in sorted(required - set(choices)):
            self._say(node.where, f"{path or type_name} lacks one of `{choice}[x]`, which FHIR requires.")

    def _list_or_element(self, node: Node, element: elements.Element, path: str) -> None:
        if isinstance(node, ListOf):
            if not element.is_list:
                self._say(node.where, f"`{path}` is not a list in FHIR. Take the brackets away.")
                return
            for item in node.items:
                self._element(item, element, path)
        elif element.is_list:
            self._say(node.where, f"`{path}` is a list in FHIR. Write [...] around it.")
        else:
            self._element(node, element, path)

    def _element(self, node: Node, element: elements.Element, path: str) -> None:
        dtypes = {role: self._dtype(node.where, sql) for role, sql in expressions(node)}
        if None in dtypes.values():
            return
        match node:
            case Object() if element.type == "Resource":
                if node.resource is None or not elements.is_resource(node.resource):
                    self._say(node.where, f"`{path}` holds a resource of its own: say its `resourceType`.")
                else:
                    self._object(node, node.resource, f"{path}.{node.resource}")
            case Object() if node.resource:
                self._say(node.where, f"`{path}` has a `resourceType`, which is for `contained` alone.")
            case Object():
                if element.primitive:
                    self._say(node.where, f"`{path}` is a {element.type}, which has no children.")
                else:
                    self._object(node, element.type, path)
            case Constant(value=value):
                self._primitive(node, element, path, pl.lit(value))
                if element.enum and value not in element.enum:
                    self._enum(node, element, path, str(value))
            case Expression(sql=sql):
                self._primitive(node, element, path, dtypes["value"])
                text = sql.strip()
                if element.enum and text[:1] == text[-1:] == "'" and text[1:-1] not in element.enum:
                    self._enum(node, element, path, text[1:-1])
            case DateTime():
                self._temporal(node, element, path, dtypes["value"])
            case Quantity():
                if element.type not in ("Quantity", "Age", "Duration", "Distance", "Count", "SimpleQuantity"):
                    self._say(node.where, f"`{path}` is a {element.type}; $quantity makes a Quantity.")
                if (dtype := dtypes.get("value")) is not None and not dtype.is_numeric():
                    self._say(
                        node.where,
                        f"$quantity value is {dtype}, expected a number. Use TRY_CAST(… AS DOUBLE).",
                    )
                self._texts(node, "$quantity", dtypes, ("unit", "comparator", "text"))
                self._ucum(node)
            case Range() | Ratio():
                kind = type(node).__name__
                if element.type != kind:
                    self._say(node.where, f"`{path}` is a {element.type}; ${kind.lower()} makes a {kind}.")
                self._texts(node, f"${kind.lower()}", dtypes, tuple(dtypes))
                if isinstance(node, Range):
                    self._ucum(node)
            case Text():
                self._primitive(node, element, path, dtypes["value"])
                self._texts(node, "$text", dtypes, ("value",))
            case Concept(map=name):
                if element.type not in ("code", "Coding", "CodeableConcept"):
                    self._say(
                        node.where,
                        f"`{path}` is a {element.type}; $concept makes code, Coding, CodeableConcept.",
                    )
                if name not in self.maps:
                    self._say(node.where, f"no conceptmaps/{name}.json.{closest(name, self.maps)}")
            case Base64():
                if element.type != "base64Binary":
                    self._say(node.where, f"`{path}` is a {element.type}; $base64 makes a base64Binary.")
            case Reference():
                self._reference(
                    node, element, path, [dtype for dtype in dtypes.values() if dtype is not None]
                )

    def _texts(self, node: Node, helper: str, dtypes: Map[str, object], roles: tuple[str, ...]) -> None:
        for role in roles:
            if (dtype := dtypes.get(role, pl.String)) != pl.String:
                self._say(node.where, f"{helper} {role} is {dtype}, expected text.")

    def _ucum(self, node: Quantity | Range) -> None:
        if isinstance(node.ucum, str) and node.ucum not in self.maps:
            self._say(node.where, f"no conceptmaps/{node.ucum}.json.{closest(node.ucum, self.maps)}")

    def _enum(self, node: Node, element: elements.Element, path: str, value: str) -> None:
        allowed = element.enum or ()
        self._say(
            node.where,
            f"'{value}' is not a code of `{path}`.{closest(value, allowed)} Expected one of {', '.join(allowed)}.",
        )

    def _primitive(self, node: Node, element: elements.Element, path: str, found: object) -> None:
        if not element.primitive:
            self._say(node.where, f"`{path}` is a {element.type}: give its elements, or a helper.")
            return
        dtype = found if isinstance(found, pl.DataType) else _literal_dtype(found)
        if not _fits(dtype, element.type):
            remedy = "Use {$datetime: …}." if dtype.is_temporal() else "Cast it, e.g. CAST(x AS VARCHAR)."
            self._say(node.where, f"`{path}` is a {element.type}, but the expression gives {dtype}. {remedy}")

    def _temporal(self, node: Node, element: elements.Element, path: str, dtype: object) -> None:
        if element.type not in _TEMPORAL:
            self._say(
                node.where, f"`{path}` is a {element.type}; $datetime makes a date, dateTime or instant."
            )
        elif not isinstance(dtype, pl.Date | pl.Datetime | pl.String):
            self._say(
                node.where, f"$datetime takes a date, a datetime or text; the expression gives {dtype}."
            )
        elif element.type == "instant" and not isinstance(dtype, pl.Datetime):
            self._say(
                node.where, f"`{path}` is an instant, which needs a time of day; the expression gives a date."
            )

    def _reference(
        self, node: Reference, element: elements.Element, path: str, dtypes: list[pl.DataType]
    ) -> None:
        target = self.others.get(node.mapping)
        if element.type != "Reference":
            self._say(node.where, f"`{path}` is a {element.type}, not a Reference.")
        elif target is None:
            hint = closest(node.mapping, self.others)
            self._say(node.where, f"no mapping `{node.mapping}` to refer to.{hint}")
        elif not elements.is_resource(target.resource):
            pass  # reported where it stands
        elif element.targets and target.resource not in element.targets and "Resource" not in element.targets:
            self._say(
                node.where,
                f"`{path}` may refer to {', '.join(element.targets)}; `{node.mapping}` makes {target.resource}.",
            )
        elif len(node.keys) != len(target.key):
            self._say(node.where, f"`{node.mapping}` has {len(target.key)} keys, not {len(node.keys)}.")
        elif target.table in self.source.tables and all(
            join.table in self.source.tables for join in target.joins
        ):
            self._reference_keys(node, target, dtypes)

    def _reference_keys(self, node: Reference, target: Mapping, dtypes: list[pl.DataType]) -> None:
        tables = self.source.tables
        if tables[self.mapping.table].shared and not tables[target.table].shared:
            self._say(
                node.where,
                f"{self.mapping.table} belongs to no subject, so it cannot refer to {target.name}.",
            )
        try:
            there = row_schema(self.source, target)
        except PolarsError:
            return  # reported where it stands
        for index, (dtype, sql) in enumerate(zip(dtypes, target.key, strict=True)):
            try:
                expected = dtype_in(there, pl.sql_expr(sql))
            except PolarsError:
                continue  # reported where it stands
            if dtype != expected:
                self._say(
                    node.where, f"key {index + 1} is {dtype}, but that of `{target.name}` is {expected}."
                )


def _literal_dtype(value: object) -> pl.DataType:
    expression = value if isinstance(value, pl.Expr) else pl.lit(value)
    return pl.select(expression.alias("x")).schema["x"]


def _fits(dtype: pl.DataType, type_name: str) -> bool:
    """Whether a column of `dtype` can stand for a FHIR primitive; whole numbers may stand for text."""
    match type_name:
        case "boolean":
            return dtype == pl.Boolean
        case "decimal":
            return dtype.is_numeric()
        case "integer" | "positiveInt" | "unsignedInt":
            return dtype.is_integer()
        case _:
            return dtype == pl.String or (dtype.is_integer() and type_name not in _TEMPORAL)
