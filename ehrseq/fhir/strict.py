"""Strict decoding of single resources: the first thing in a JSON document that R4B does not allow.

This is the slow and exact way. `ehrseq.fhir.structure` uses it on one document that stands for a whole file; only
where that fails is a file gone through line by line, to name the line.
"""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from ehrseq.core.errors import SourceError
from ehrseq.fhir.elements import Element, children, is_resource, suggest

_INTEGERS = ("integer", "positiveInt", "unsignedInt")
_INT64 = range(-(2**63), 2**63)
LONGEST_LINE = 16 * 2**20
"""Bytes; DuckDB reserves twice as much for each of its threads."""


def resource_fault(document: Any, resource_type: str, seen: set[str]) -> str | None:
    """What is wrong with a decoded JSON document, without quoting a value; None if nothing.

    Adds the dotted paths of the primitives that it holds to `seen`. Nulls and empty lists count as absent, and
    the `_x` shadows of primitives (their ids and extensions) are passed over.

    >>> resource_fault({"resourceType": "Patient", "gender": 1}, "Patient", set())
    '`gender` must be text: it is a code.'
    """
    if not isinstance(document, dict):
        return "is not a JSON object."
    if document.get("resourceType") != resource_type:
        return f"has no resourceType {resource_type}."
    return _object_fault(document, resource_type, "", seen)


def fault_in_lines(paths: Iterable[Path], resource_type: str) -> set[str]:
    """Go through NDJSON files line by line; the dotted paths of the primitives found.

    Raises: SourceError naming file and line of the first fault.
    """
    seen: set[str] = set()
    for path in paths:
        for number, line in _lines(path):
            fault = _line_fault(line, resource_type, seen)
            if fault is not None:
                raise SourceError(
                    f"{path}:{number}  {fault} Expected one {resource_type} of FHIR R4B per line."
                )
    return seen


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    try:
        with cast(IO[bytes], gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
            yield from ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
    except (OSError, EOFError) as error:
        raise SourceError(f"{path}: cannot be read ({type(error).__name__}). Is the file whole?") from error


def _line_fault(line: bytes, resource_type: str, seen: set[str]) -> str | None:
    if len(line) > LONGEST_LINE:
        return f"is longer than {LONGEST_LINE >> 20} MiB."
    try:
        document = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "is not valid JSON."
    return resource_fault(document, resource_type, seen)


def _object_fault(value: dict[str, Any], type_name: str, path: str, seen: set[str]) -> str | None:
    known = children(type_name)
    for name, child in value.items():
        place = f"{path}.{name}" if path else name
        found = known.get(name)
        if found is None:
            if _is_shadow(name, known) or (name == "resourceType" and is_resource(type_name)):
                continue
            return f"`{place}` is not an element of {type_name}.{suggest(type_name, name)}"
        if child is not None and (fault := _element_fault(child, found, place, seen)) is not None:
            return fault
    return None


def _is_shadow(name: str, known: dict[str, Element]) -> bool:
    return name.startswith("_") and name[1:] in known and known[name[1:]].primitive


def _element_fault(value: Any, found: Element, path: str, seen: set[str]) -> str | None:
    if isinstance(value, list) != found.is_list:
        return f"`{path}` must {'' if found.is_list else 'not '}be a list."
    faults = (_item_fault(item, found, path, seen) for item in (value if found.is_list else [value]))
    return next((fault for fault in faults if fault is not None), None)


def _item_fault(value: Any, found: Element, path: str, seen: set[str]) -> str | None:
    if value is None:
        return None
    if found.primitive:
        seen.add(path)
        wanted = _wanted(value, found.type)
        return f"`{path}` must be {wanted}: it is a {found.type}." if wanted else None
    if not isinstance(value, dict):
        return f"`{path}` must be an object: it is a {found.type}."
    if found.type != "Resource":
        return _object_fault(value, found.type, path, seen)
    type_name = value.get("resourceType")
    if not isinstance(type_name, str) or not is_resource(type_name):
        return f"`{path}` has no resourceType of FHIR R4B."
    return _object_fault(value, type_name, f"{path}.{type_name}", seen)


def _wanted(value: Any, type_name: str) -> str | None:
    """What a primitive ought to be, if it is not."""
    if type_name == "boolean":
        return None if isinstance(value, bool) else "true or false"
    if type_name == "decimal":
        return None if isinstance(value, int | float) and not isinstance(value, bool) else "a number"
    if type_name in _INTEGERS:
        good = isinstance(value, int) and not isinstance(value, bool) and value in _INT64
        return None if good else "a whole number"
    return None if isinstance(value, str) else "text"
