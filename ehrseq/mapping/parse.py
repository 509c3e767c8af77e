"""Mapping files to specifications. Only the grammar is looked at here; `check` knows FHIR and the tables."""

import json
import re
from collections.abc import Mapping as Map
from dataclasses import replace
from pathlib import Path
from typing import Any

from ehrseq.core.errors import MappingError, closest
from ehrseq.core.yaml_lines import Document, Where, check_keys
from ehrseq.mapping.specification import (
    Base64,
    Concept,
    ConceptMap,
    Constant,
    DateTime,
    Explode,
    Expression,
    Join,
    Let,
    ListOf,
    Mapping,
    Node,
    Object,
    Quantity,
    Range,
    Ratio,
    Reference,
    Skip,
    Text,
)
from ehrseq.sources.declaration import Source

MAPPING_KEYS = {"version", "resource", "title", "from", "explode", "join", "let", "key", "skip", "reject", "winner",
                "gather", "ignore", "knowable", "template"}  # fmt: skip
_QUERY = re.compile(r"read_(csv|ndjson|json|parquet|ipc)|\bscan_\w+\s*\(", re.IGNORECASE)
_SELECT = re.compile(r"\bselect\b|\(\s*(from|with|table|values)\b", re.IGNORECASE)
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|/\*.*?\*/|--[^\n]*", re.DOTALL)
_PROSE = ("title", "ignore", "reason", "knowable")
_TYPE = "resourceType"
_HELPERS = ("$reference", "$datetime", "$quantity", "$range", "$ratio", "$text", "$concept", "$base64")
_READERS = {Quantity: "number", Range: "range", Ratio: "ratio"}


def parse_mapping(document: Document, name: str, source: Source) -> Mapping:
    """Read the mapping `name`. Raises: MappingError with file and line."""
    value, path = document.value, document.path
    check_keys(document, (), value, MAPPING_KEYS, MappingError)
    _refuse_queries(document, (), value)
    for key in ("version", "resource", "from", "key", "template"):
        if key not in value:
            raise MappingError(
                f"{path}:1  lacks `{key}`. See fhir_mappings/README.md for the keys of a mapping."
            )
    if not isinstance(value["version"], int):
        raise MappingError(f"{document.at(('version',))}  `version` is a whole number, e.g. 1.")
    template = _node(document, ("template",), value["template"], source.constants)
    if not isinstance(template, Object):
        raise MappingError(f"{document.at(('template',))}  `template` is an object shaped like the resource.")
    return Mapping(
        name=name,
        source=source.name,
        version=value["version"],
        resource=str(value["resource"]),
        table=str(value["from"]),
        key=_texts(document, ("key",), value["key"]),
        explode=_explode(document, value["explode"]) if "explode" in value else None,
        joins=_joins(document, value.get("join", {})),
        lets=_lets(document, value.get("let", {}), source.constants),
        skips=_reasons(document, "skip", value.get("skip", [])),
        rejects=_reasons(document, "reject", value.get("reject", [])),
        winner=_texts(document, ("winner",), value.get("winner", [])),
        gather=_texts(document, ("gather",), value.get("gather", [])),
        ignore=_ignored(document, value.get("ignore", {})),
        knowable=_knowable(document, value.get("knowable", {})),
        template=template,
        document=document,
    )


def _knowable(document: Document, given: Any) -> Map[str, Any]:
    """Rules of time for the timeline, which knows kinds and columns; here only their shape is looked at."""
    where: Where = ("knowable",)
    if not isinstance(given, dict) or not all(isinstance(sources, list) for sources in given.values()):
        raise MappingError(
            f"{document.at(where)}  `knowable` is {{KIND: [{{from: column, guarantee: stated}}]}}."
        )
    return dict(given)


def _refuse_queries(document: Document, where: Where, value: Any) -> None:
    """Polars would run a query inside an expression while it is parsed, and show the file it reads in its error."""
    if isinstance(value, dict | list):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in _PROSE:
                _refuse_queries(document, (*where, key), child)
    elif isinstance(value, str) and (_QUERY.search(value) or _SELECT.search(_QUOTED.sub(" ", value))):
        raise MappingError(
            f"{document.at(where)}  holds a query. An expression is over the columns of its row: no SELECT, no "
            "function that reads files. Use `join` for other tables."
        )


def _texts(document: Document, where: Where, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise MappingError(
            f"{document.at(where)}  `{where[-1]}` is a list of SQL expressions, e.g. [subject_id]."
        )
    return tuple(value)


def _joins(document: Document, value: Any) -> tuple[Join, ...]:
    if not isinstance(value, dict):
        raise MappingError(f"{document.at(('join',))}  `join` is a mapping: {{TABLE: column}}.")
    return tuple(_join(document, table, given) for table, given in value.items())


def _join(document: Document, table: str, given: Any) -> Join:
    where, prefix, asof = ("join", table), "", None
    if isinstance(given, dict):
        check_keys(document, where, given, {"table", "on", "prefix", "asof"}, MappingError)
        if "asof" in given:
            asof = _pair(document, (*where, "asof"), given["asof"])
        table = str(given.get("table", table))
        prefix, given = str(given.get("prefix", "")), given.get("on")
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(item, str) for item in given):
        given = {column: column for column in given}
    if not isinstance(given, dict) or not given:
        raise MappingError(
            f"{document.at(where)}  a join is `TABLE: column`, `TABLE: [columns]` or "
            "`TABLE: {on: {left: right}, prefix: p_}`."
        )
    return Join(table, tuple((str(left), str(right)) for left, right in given.items()), prefix, where, asof)


def _pair(document: Document, where: Where, given: Any) -> tuple[str, str]:
    if not isinstance(given, dict) or len(given) != 1:
        raise MappingError(f"{document.at(where)}  `asof` is {{left time: right time}}.")
    left, right = next(iter(given.items()))
    return str(left), str(right)


def _explode(document: Document, given: Any) -> Explode:
    where: Where = ("explode",)
    if isinstance(given, dict) and "split" in given:
        check_keys(document, where, given, {"split", "by", "as"}, MappingError)
        if not all(isinstance(given.get(key), str) and given[key] for key in ("split", "by", "as")):
            raise MappingError(
                f"{document.at(where)}  a split is {{split: column, by: text between, as: new column}}."
            )
        return Explode((given["split"],), "", given["as"], where, by=given["by"])
    check_keys(document, where, given, {"columns", "name", "value"}, MappingError)
    columns = given.get("columns")
    attributes: dict[str, tuple[Any, ...]] = {}
    if isinstance(columns, dict):
        about = {str(name): item or {} for name, item in columns.items()}
        for name, item in about.items():
            if not isinstance(item, dict) or not all(
                isinstance(v, str | int | float | bool | None) for v in item.values()
            ):
                raise MappingError(
                    f"{document.at((*where, 'columns', name))}  expected plain values by name, e.g. {{unit: mmHg}}."
                )
        names = sorted({str(key) for item in about.values() for key in item})
        attributes = {key: tuple(item.get(key) for item in about.values()) for key in names}
    if not isinstance(columns, dict | list) or not columns:
        raise MappingError(
            f"{document.at(where)}  `columns` lists columns, or says more of each: {{HR: {{unit: /min}}}}."
        )
    return Explode(
        tuple(str(column) for column in columns), str(given.get("name", "name")), str(given.get("value", "value")),
        where, attributes=attributes,
    )  # fmt: skip


def _lets(document: Document, given: Any, constants: Map[str, Any]) -> tuple[Let, ...]:
    if not isinstance(given, dict):
        raise MappingError(
            f"{document.at(('let',))}  `let` gives names to expressions: {{name: expression}}."
        )
    found = []
    for name, value in given.items():
        node = _node(document, ("let", name), value, constants)
        if not isinstance(node, Constant | Expression):
            raise MappingError(
                f"{document.at(('let', name))}  `let` takes one SQL expression or constant for a name."
            )
        found.append(Let(str(name), node))
    return tuple(found)


def _ignored(document: Document, given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(reason, str) for reason in given.values()):
        raise MappingError(f"{document.at(('ignore',))}  `ignore` is {{column: why it is left out}}.")
    return {str(column): reason for column, reason in given.items()}


def _reasons(document: Document, key: str, value: Any) -> tuple[Skip, ...]:
    """`skip` or `reject`."""
    if not isinstance(value, list):
        raise MappingError(f"{document.at((key,))}  `{key}` is a list of {{when, reason}}.")
    found = []
    for index, item in enumerate(value):
        where: Where = (key, index)
        check_keys(document, where, item, {"when", "reason"}, MappingError)
        if not isinstance(item.get("when"), str) or not isinstance(item.get("reason"), str):
            raise MappingError(f"{document.at(where)}  a {key} has `when` (SQL) and `reason` (plain words).")
        found.append(Skip(item["when"], item["reason"], where))
    return tuple(found)


def _node(document: Document, where: Where, value: Any, constants: Map[str, Any]) -> Node:
    match value:
        case dict() if any(str(key).startswith("$") for key in value):
            return _helper(document, where, value)
        case dict():
            children = {
                name: _node(document, (*where, name), child, constants)
                for name, child in value.items()
                if name != _TYPE
            }
            kinds = frozenset(_READERS[type(child)] for child in children.values() if type(child) in _READERS)
            told = {
                name: replace(c, kinds=kinds) if isinstance(c, Text) else c for name, c in children.items()
            }
            return Object(where, told, str(value[_TYPE]) if _TYPE in value else None)
        case list():
            return ListOf(
                where, tuple(_node(document, (*where, i), item, constants) for i, item in enumerate(value))
            )
        case str() if value.startswith("$"):
            return Constant(where, _constant(document, where, value[1:], constants))
        case str():
            return Expression(where, value)
        case bool() | int() | float():
            return Constant(where, value)
        case _:
            raise MappingError(
                f"{document.at(where)}  is empty. Give an expression, or take the element out."
            )


def _constant(
    document: Document, where: Where, name: str, constants: Map[str, Any]
) -> str | int | float | bool:
    found: Any = constants
    for part in name.split("."):
        if not isinstance(found, dict) or part not in found:
            options = found if isinstance(found, dict) else ()
            raise MappingError(
                f"{document.at(where)}  ${name} is not a constant of source.yaml.{closest(part, map(str, options))}"
            )
        found = found[part]
    if not isinstance(found, str | int | float | bool):
        raise MappingError(f"{document.at(where)}  ${name} is a group of constants, not one value.")
    return found


def _helper(document: Document, where: Where, value: dict[str, Any]) -> Node:
    name = next(str(key) for key in value if str(key).startswith("$"))
    if name not in _HELPERS:
        raise MappingError(
            f"{document.at((*where, name))}  unknown helper `{name}`.{closest(name, _HELPERS)} "
            f"Expected one of {', '.join(_HELPERS)}."
        )
    if len(value) > 1:
        raise MappingError(f"{document.at(where)}  `{name}` stands alone; take its neighbours out.")
    given = value[name]
    match name:
        case "$reference":
            if not isinstance(given, dict) or len(given) != 1:
                raise MappingError(f"{document.at(where)}  write {{$reference: {{MAPPING: expression}}}}.")
            target, keys = next(iter(given.items()))
            return Reference(where, str(target), _texts(document, (*where, name, target), keys))
        case "$quantity":
            keys = {"value", "unit", "comparator", "text", "ucum"}
            check_keys(document, (*where, name), given, keys, MappingError)
            if "value" not in given and "text" not in given:
                raise MappingError(
                    f"{document.at(where)}  $quantity lacks `value`, or a `text` to read it from."
                )
            return Quantity(where, **_measured(document, where, given))
        case "$range":
            check_keys(document, (*where, name), given, {"text", "unit", "ucum"}, MappingError)
            if "text" not in given:
                raise MappingError(f"{document.at(where)}  $range lacks `text`.")
            return Range(where, **_measured(document, where, given))
        case "$concept":
            check_keys(document, (*where, name), given, {"map", "value"}, MappingError)
            if set(given) != {"map", "value"}:
                raise MappingError(f"{document.at(where)}  $concept needs `map` and `value`.")
            return Concept(where, str(given["map"]), str(given["value"]))
        case _:
            if not isinstance(given, str):
                raise MappingError(f"{document.at(where)}  `{name}` takes one SQL expression.")
            kinds = {"$datetime": DateTime, "$base64": Base64, "$ratio": Ratio, "$text": Text}
            return kinds[name](where, given)


def _measured(document: Document, where: Where, given: dict[str, Any]) -> dict[str, Any]:
    """What $quantity and $range say, as text; `ucum` is true or names a ConceptMap."""
    ucum = given.get("ucum", False)
    if ucum is not False and "unit" not in given:
        raise MappingError(f"{document.at(where)}  `ucum` needs a `unit`.")
    if not isinstance(ucum, str | bool):
        raise MappingError(f"{document.at(where)}  `ucum` is true, or the name of a ConceptMap, e.g. units.")
    return {key: str(sql) for key, sql in given.items() if key != "ucum"} | {"ucum": ucum}


def load_concept_map(path: Path) -> ConceptMap:
    """Read a FHIR ConceptMap (JSON). Raises: MappingError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MappingError(f"{path}: is not readable JSON ({type(error).__name__}).") from error
    if not isinstance(content, dict) or content.get("resourceType") != "ConceptMap":
        raise MappingError(f"{path}: is not a FHIR ConceptMap (resourceType).")
    targets: dict[str, tuple[str, str, str | None]] = {}
    other = None
    for group in content.get("group", []):
        system = str(group.get("target", ""))
        for element in group.get("element", []):
            found = [
                t for t in element.get("target", []) if t.get("code") and t.get("equivalence") != "unmatched"
            ]
            if found:
                targets[str(element["code"])] = (system, str(found[0]["code"]), found[0].get("display"))
        unmapped = group.get("unmapped", {})
        if unmapped.get("mode") == "fixed":
            other = (system, str(unmapped["code"]), unmapped.get("display"))
    return ConceptMap(path.stem, targets, other)
