"""What a mapping file says, as plain data: a tree of nodes shaped like the resource it makes."""

from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ehrseq.core.yaml_lines import Document, Where
from ehrseq.sources.declaration import Source


@dataclass(frozen=True, slots=True)
class Node:
    """A place in a template; `where` finds its line in the file."""

    where: Where


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A value that is the same for every row."""

    value: str | int | float | bool


@dataclass(frozen=True, slots=True)
class Expression(Node):
    """A SQL scalar expression over the columns of the row."""

    sql: str


@dataclass(frozen=True, slots=True)
class Reference(Node):
    """`$reference`: what another mapping makes from these key expressions."""

    mapping: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DateTime(Node):
    """`$datetime`: a clock reading in the source's time zone, a date, or the text of a date that may be partial."""

    sql: str


@dataclass(frozen=True, slots=True)
class Quantity(Node):
    """`$quantity`: value with comparator and unit as given; `text` is read where `value` is null.

    `ucum` adds the UCUM code and the canonical pair: True where units are UCUM already, else the ConceptMap for them.
    """

    value: str | None = None
    unit: str | None = None
    comparator: str | None = None
    text: str | None = None
    ucum: str | bool = False


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`$range`: low and high of a text such as `3-5`, with the unit as given (`ucum` as in `$quantity`)."""

    text: str
    unit: str | None = None
    ucum: str | bool = False


@dataclass(frozen=True, slots=True)
class Ratio(Node):
    """`$ratio`: numerator and denominator of a text such as `1:160`."""

    sql: str


@dataclass(frozen=True, slots=True)
class Text(Node):
    """`$text`: the text where none of its neighbours reads it: `kinds` of number, range and ratio."""

    sql: str
    kinds: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Concept(Node):
    """`$concept`: a local value translated through a ConceptMap."""

    map: str
    value: str


@dataclass(frozen=True, slots=True)
class Base64(Node):
    """`$base64`: text as base64."""

    sql: str


@dataclass(frozen=True, slots=True)
class ListOf(Node):
    """A list of elements; absent ones are left out."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Object(Node):
    """An element with children (a resource, a datatype, a backbone element)."""

    children: Map[str, Node]
    resource: str | None = None


@dataclass(frozen=True, slots=True)
class Join:
    """A lookup, N rows to 1: `on` maps columns of the left to columns of `table`.

    With `asof`, a (left, right) pair of times, the partner is the latest row of `table` that is not after the left.
    """

    table: str
    on: tuple[tuple[str, str], ...]
    prefix: str
    where: Where
    asof: tuple[str, str] | None = None

    @property
    def right_keys(self) -> tuple[str, ...]:
        """Columns of `table` that are found on the left already."""
        return tuple(right for _, right in self.on)


@dataclass(frozen=True, slots=True)
class Explode:
    """One row to several: one for each of `columns` that has a value, or for each piece of the text in `columns[0]`.

    `name` and `value` are the new columns (`name` is "" when a text is split `by` something). `attributes` are more
    columns, the same for all rows of one name.
    """

    columns: tuple[str, ...]
    name: str
    value: str
    where: Where
    by: str = ""
    attributes: Map[str, tuple[str | int | float | bool | None, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Let:
    """A named expression, or constant, that later expressions may use like a column."""

    name: str
    node: "Constant | Expression"


@dataclass(frozen=True, slots=True)
class Skip:
    """Rows that are left out on purpose (`skip`), or that cannot be right (`reject`), and why."""

    when: str
    reason: str
    where: Where


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping file: rows of one table to resources of one type.

    In this order: `explode`, `joins`, `lets`, `skips`, `key`, `rejects`, `winner`, `template`, `gather`.
    """

    name: str
    source: str
    version: int
    resource: str
    table: str
    key: tuple[str, ...]
    explode: Explode | None
    joins: tuple[Join, ...]
    lets: tuple[Let, ...]
    skips: tuple[Skip, ...]
    rejects: tuple[Skip, ...]
    winner: tuple[str, ...]
    gather: tuple[str, ...]
    ignore: Map[str, str]
    knowable: Map[str, Any]  # kind of event → sources of its time, in place of the timeline's own
    template: Object
    document: Document = field(repr=False)

    @property
    def id_prefix(self) -> str:
        """What the ids of its resources start with, e.g. `mimic-iv-labevents`."""
        return f"{self.source}-{self.name}".replace("_", "-")

    @property
    def label(self) -> str:
        """Name that stands in provenance and rejects, e.g. `mimic_iv/labevents`."""
        return f"{self.source}/{self.name}"


@dataclass(frozen=True, eq=False)
class MappingSet:
    """All mappings of a source, checked, each after the mappings it refers to."""

    source: Source
    mappings: tuple[Mapping, ...]
    concept_maps: Map[str, "ConceptMap"]
    folder: Path

    def __getitem__(self, name: str) -> Mapping:
        """The mapping called `name`."""
        return next(mapping for mapping in self.mappings if mapping.name == name)

    def of_table(self, table: str) -> list[Mapping]:
        """Mappings whose rows come from `table`."""
        return [mapping for mapping in self.mappings if mapping.table == table]


@dataclass(frozen=True, slots=True)
class ConceptMap:
    """A FHIR ConceptMap as a table: local code to (system, code, display); `other` is for unmapped codes."""

    name: str
    targets: Map[str, tuple[str, str, str | None]]
    other: tuple[str, str, str | None] | None


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Every node below (and with) `node`, with its dotted element path; lists are transparent."""
    yield path, node
    if isinstance(node, Object):
        inside = f"{path}.{node.resource}" if node.resource else path
        for name, child in node.children.items():
            yield from walk(child, f"{inside}.{name}" if inside else name)
    elif isinstance(node, ListOf):
        for item in node.items:
            yield from walk(item, path)


def expressions(node: Node) -> list[tuple[str, Any]]:
    """SQL expressions a leaf needs, by role."""
    match node:
        case Expression(sql=sql) | DateTime(sql=sql) | Base64(sql=sql) | Ratio(sql=sql) | Text(sql=sql):
            return [("value", sql)]
        case Quantity():
            roles = (
                ("value", node.value),
                ("unit", node.unit),
                ("comparator", node.comparator),
                ("text", node.text),
            )
            return [(role, sql) for role, sql in roles if sql is not None]
        case Range():
            return [("text", node.text), *([("unit", node.unit)] if node.unit else [])]
        case Concept(value=value):
            return [("value", value)]
        case Reference(keys=keys):
            return [(f"key{index}", sql) for index, sql in enumerate(keys)]
        case _:
            return []
