"""SQL-on-FHIR v2 ViewDefinitions as checked data: YAML or JSON in, dataclasses out.

Every key is checked and every path parsed here, so that a mistake is told with file and line before a row is read.
Keys that only describe (`url`, `title`, `description`, ...) are accepted and not looked at.
Source: https://sql-on-fhir.org/ig/StructureDefinition-ViewDefinition.html
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ehrseq.core.errors import TimelineError
from ehrseq.core.yaml_lines import Document, Where, check_keys, load_yaml
from ehrseq.timeline import fhirpath

_DESCRIPTIVE = {
    *("resourceType", "id", "meta", "text", "url", "identifier", "name", "title", "status", "experimental"),
    *(
        "publisher",
        "contact",
        "description",
        "useContext",
        "copyright",
        "fhirVersion",
        "profile",
        "version",
        "date",
    ),
    *("jurisdiction", "purpose", "versionAlgorithmString", "versionAlgorithmCoding", "extension"),
}
_VIEW_KEYS = {"resource", "constant", "select", "where"} | _DESCRIPTIVE
_SELECT_KEYS = {"column", "select", "forEach", "forEachOrNull", "repeat", "unionAll"}
_COLUMN_KEYS = {"name", "path", "type", "collection", "description", "tag"}
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
_NUMBERS = {"decimal": float, "integer": int, "integer64": int, "unsignedInt": int, "positiveInt": int}
_TEXTS = {
    *(
        "base64Binary",
        "canonical",
        "code",
        "date",
        "dateTime",
        "id",
        "instant",
        "markdown",
        "oid",
        "string",
        "time",
    ),
    *("uri", "url", "uuid"),
}


@dataclass(frozen=True)
class Column:
    """One column of the result: the FHIRPath `path`, a FHIR type, and whether it may hold several values."""

    name: str
    path: str
    type: str | None
    collection: bool
    where: Where


@dataclass(frozen=True)
class Select:
    """Columns, further selects and a union, all seen from each item of `paths` (none: from where we are)."""

    mode: str  # "", forEach, forEachOrNull or repeat
    paths: tuple[str, ...]
    columns: "tuple[Column, ...]"
    selects: "tuple[Select, ...]"
    union: "tuple[Select, ...]"
    where: Where

    def names(self) -> list[str]:
        """Names of the columns that this select makes, in order."""
        own = [column.name for column in self.columns]
        nested = [name for select in self.selects for name in select.names()]
        return own + nested + (self.union[0].names() if self.union else [])


@dataclass(frozen=True)
class View:
    """A checked ViewDefinition. `document` knows the lines; `constants` are (value, FHIR type) by name."""

    name: str
    resource: str
    select: Select
    where: tuple[str, ...]
    constants: dict[str, tuple[str | int | float | bool, str]]
    document: Document = field(repr=False, compare=False)
    compiled: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)  # kept by views.py

    @property
    def columns(self) -> list[str]:
        """Names of the result's columns, in order."""
        return self.select.names()


def load_view(path: Path) -> View:
    """Read a ViewDefinition from a YAML or JSON file. Raises: TimelineError with file and line."""
    return read_view(load_yaml(path, TimelineError), path.stem)


def view_of(definition: dict[str, Any], name: str = "view") -> View:
    """Check a ViewDefinition given as plain data. Raises: TimelineError.

    >>> view_of({"resource": "Patient", "select": [{"column": [{"name": "id", "path": "id"}]}]}).columns
    ['id']
    """
    return read_view(Document(Path(name), definition, {}), name)


def read_view(document: Document, name: str) -> View:
    """Check a ViewDefinition. Raises: TimelineError with file and line."""
    found = document.value
    check_keys(document, (), found, _VIEW_KEYS, TimelineError)
    resource = found.get("resource")
    if not isinstance(resource, str):
        raise _fault(
            document, ("resource",), "a view needs `resource`, the FHIR type it reads, e.g. Observation"
        )
    parts = _list(document, ("select",), found.get("select"))
    selects = tuple(_select(document, ("select", index), part) for index, part in enumerate(parts))
    if not selects:
        raise _fault(document, ("select",), "a view needs `select`, a list with at least one item")
    top = Select("", (), (), selects, (), ("select",))
    names = top.names()
    if twice := sorted({column for column in names if names.count(column) > 1}):
        raise _fault(document, ("select",), f"column `{twice[0]}` is made twice. Rename one")
    filters = enumerate(_list(document, ("where",), found.get("where", [])))
    conditions = tuple(_condition(document, ("where", index), item) for index, item in filters)
    return View(name, resource, top, conditions, _constants(document, found.get("constant", [])), document)


def _select(document: Document, where: Where, found: Any) -> Select:
    check_keys(document, where, found, _SELECT_KEYS, TimelineError)
    modes = [mode for mode in ("forEach", "forEachOrNull", "repeat") if mode in found]
    if len(modes) > 1:
        raise _fault(document, where, f"has {' and '.join(modes)}; one select walks one way. Keep one")
    mode = modes[0] if modes else ""
    raw = found.get(mode) if mode else []
    paths = tuple(
        _path(document, (*where, mode), path)
        for path in (_list(document, (*where, mode), raw) if mode == "repeat" else [raw] if mode else [])
    )
    parts = {
        key: _list(document, (*where, key), found.get(key, [])) for key in ("column", "select", "unionAll")
    }
    if not any(parts.values()):
        raise _fault(document, where, "a select needs `column`, `select` or `unionAll`")
    union = tuple(
        _select(document, (*where, "unionAll", i), part) for i, part in enumerate(parts["unionAll"])
    )
    for index, branch in enumerate(union):
        if branch.names() != union[0].names():
            raise _fault(
                document,
                (*where, "unionAll", index),
                f"this part of unionAll makes columns {', '.join(branch.names())}; the first makes "
                f"{', '.join(union[0].names())}. Names and order must be the same",
            )
    return Select(
        mode,
        paths,
        tuple(_column(document, (*where, "column", i), part) for i, part in enumerate(parts["column"])),
        tuple(_select(document, (*where, "select", i), part) for i, part in enumerate(parts["select"])),
        union,
        where,
    )


def _column(document: Document, where: Where, found: Any) -> Column:
    check_keys(document, where, found, _COLUMN_KEYS, TimelineError)
    name = found.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise _fault(
            document, where, "a column needs a `name` of letters, digits and _, beginning with a letter"
        )
    collection, type_name = found.get("collection", False), found.get("type")
    if not isinstance(collection, bool) or not isinstance(type_name, str | None):
        raise _fault(document, where, f"column `{name}`: `collection` is true or false, `type` a FHIR type")
    type_name = type_name.rsplit("/", 1)[-1] if type_name else None
    return Column(name, _path(document, (*where, "path"), found.get("path")), type_name, collection, where)


def _condition(document: Document, where: Where, found: Any) -> str:
    check_keys(document, where, found, {"path", "description"}, TimelineError)
    return _path(document, (*where, "path"), found.get("path"))


def _constants(document: Document, found: Any) -> dict[str, tuple[str | int | float | bool, str]]:
    constants = {}
    for index, item in enumerate(_list(document, ("constant",), found)):
        where: Where = ("constant", index)
        keys = [key for key in item if str(key).startswith("value")] if isinstance(item, dict) else []
        if not isinstance(item, dict) or not _NAME.match(str(item.get("name", ""))) or len(keys) != 1:
            raise _fault(document, where, "a constant needs a `name` and one value, e.g. `valueString`")
        type_name = keys[0][5:6].lower() + keys[0][6:]
        constants[item["name"]] = (
            _constant(document, (*where, keys[0]), item[keys[0]], type_name),
            type_name,
        )
    return constants


def _constant(document: Document, where: Where, value: Any, type_name: str) -> str | int | float | bool:
    if type_name == "boolean" and isinstance(value, bool):
        return value
    if type_name in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        number: int | float = _NUMBERS[type_name](value)
        return number
    if type_name in _TEXTS and isinstance(value, str):
        return value
    known = sorted(_TEXTS | set(_NUMBERS) | {"boolean"})
    raise _fault(
        document, where, f"not a constant of a known type ({', '.join(known)}); quote texts and dates"
    )


def _path(document: Document, where: Where, found: Any) -> str:
    if not isinstance(found, str):
        raise _fault(document, where, "expected a FHIRPath expression as text")
    try:
        fhirpath.parse(found)
    except TimelineError as error:
        raise TimelineError(f"{document.at(where)}  {error}") from error
    return found


def _list(document: Document, where: Where, found: Any) -> list[Any]:
    if not isinstance(found, list):
        raise _fault(document, where, "expected a list")
    return found


def _fault(document: Document, where: Where, problem: str) -> TimelineError:
    return TimelineError(f"{document.at(where)}  {problem}.")
