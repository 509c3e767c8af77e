"""A JSON Schema of source.yaml and of mapping files, so that an editor completes keys and marks typos."""

from functools import cache
from typing import Any

from ehrseq.fhir import elements
from ehrseq.mapping.parse import MAPPING_KEYS
from ehrseq.sources.declaration import COLUMN_TYPES, SOURCE_KEYS, TABLE_KEYS

_HELPED = {
    "Reference": "$reference", "Quantity": "$quantity", "SimpleQuantity": "$quantity", "Age": "$quantity",
    "Duration": "$quantity", "Distance": "$quantity", "Count": "$quantity", "Range": "$range", "Ratio": "$ratio",
    "CodeableConcept": "$concept", "Coding": "$concept",
}  # fmt: skip
_LEAVES = {"date": "$datetime", "dateTime": "$datetime", "instant": "$datetime", "base64Binary": "$base64",
           "code": "$concept", "string": "$text", "markdown": "$text"}  # fmt: skip
_SCALAR = ["string", "number", "boolean", "null"]


@cache
def mapping_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of both kinds of files; a file with `tables` or `source` is a source.yaml.

    >>> sorted(mapping_schema()["$defs"]["Observation"]["properties"])[:2]
    ['basedOn', 'bodySite']
    """
    resources = elements.resource_types()
    defs: dict[str, Any] = {"source": _source(), "mapping": _mapping(resources), **_helpers()}
    waiting = list(resources)
    while waiting:
        name = waiting.pop()
        if name in defs:
            continue
        defs[name] = _type(name)
        below = elements.children(name).values()
        waiting += [child.type for child in below if not child.primitive and child.type != "Resource"]
    declared = {"anyOf": [{"required": ["tables"]}, {"required": ["source"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ehrseq: source.yaml or a mapping to FHIR R4B",
        "type": "object",
        "if": declared,
        "then": {"$ref": "#/$defs/source"},
        "else": {"$ref": "#/$defs/mapping"},
        "$defs": dict(sorted(defs.items())),
    }


def _type(name: str) -> dict[str, Any]:
    """A resource, datatype or backbone element: its elements by FHIR's names, and the helper that makes it."""
    found = {child.name: _child(child) for child in elements.children(name).values()}
    if helper := _HELPED.get(name):
        found[helper] = {"$ref": f"#/$defs/{helper}"}
    return {"type": ["object", "null"], "properties": found, "additionalProperties": False}


def _child(child: elements.Element) -> dict[str, Any]:
    one = _leaf(child) if child.primitive else {"$ref": f"#/$defs/{child.type}"}
    if child.type == "Resource":
        one = {"type": "object", "required": ["resourceType"]}
    return {"type": ["array", "null"], "items": one} if child.is_list else one


def _leaf(child: elements.Element) -> dict[str, Any]:
    helper = _LEAVES.get(child.type)
    if helper is None:
        return {"type": _SCALAR}
    made = {"type": [*_SCALAR, "object"], "properties": {helper: {"$ref": f"#/$defs/{helper}"}}}
    return made | {"additionalProperties": False}


def _helpers() -> dict[str, Any]:
    text, ucum = {"type": ["string", "number"]}, {"type": ["string", "boolean"]}

    def keys(required: list[str], **properties: Any) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    one = {"type": ["string", "array"], "items": {"type": "string"}}
    return {
        "$reference": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": one},
        "$quantity": keys([], value=text, unit=text, comparator=text, text=text, ucum=ucum),
        "$range": keys(["text"], text=text, unit=text, ucum=ucum),
        "$concept": keys(["map", "value"], map={"type": "string"}, value=text),
        **{name: {"type": "string"} for name in ("$datetime", "$ratio", "$text", "$base64")},
    }


def _mapping(resources: tuple[str, ...]) -> dict[str, Any]:
    texts = {"type": ["string", "array", "null"], "items": {"type": "string"}}
    reasons = {
        "type": ["array", "null"],
        "items": {
            "type": "object",
            "properties": {"when": {"type": "string"}, "reason": {"type": "string"}},
            "required": ["when", "reason"],
            "additionalProperties": False,
        },
    }
    told = {
        "version": {"type": "integer"}, "resource": {"enum": list(resources)}, "from": {"type": "string"},
        "key": texts, "winner": texts, "gather": texts, "skip": reasons, "reject": reasons,
        "ignore": {"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
        "join": {"type": ["object", "null"]}, "let": {"type": ["object", "null"]},
        "explode": {"type": ["object", "null"]},
        "knowable": {"type": ["object", "null"], "additionalProperties": {"type": "array"}},
        "template": {"type": "object"}, "extends": {"type": "string"}, "remove": {"type": "string"},
    }  # fmt: skip
    of_type = [
        {
            "if": {"properties": {"resource": {"const": name}}, "required": ["resource"]},
            "then": {"properties": {"template": {"$ref": f"#/$defs/{name}"}}},
        }
        for name in resources
    ]
    laid_over = {"anyOf": [{"required": ["extends"]}, {"required": ["remove"]}]}
    needed = {"required": ["version", "resource", "from", "key", "template"]}
    return {
        "type": "object",
        "properties": {key: told.get(key, {}) for key in sorted({*MAPPING_KEYS, "extends", "remove"})},
        "additionalProperties": False,
        "allOf": [{"if": laid_over, "else": needed}, *of_type],
    }


def _source() -> dict[str, Any]:
    kinds = {"type": "object", "additionalProperties": {"enum": [*COLUMN_TYPES, None]}}
    told: dict[str, Any] = {"columns": kinds, "shared": {"type": "boolean"}, "optional": {"type": "boolean"}}
    table = {
        "type": ["object", "null"],
        "properties": {key: told.get(key, {}) for key in sorted(TABLE_KEYS)},
        "additionalProperties": False,
    }
    properties: dict[str, Any] = {key: {} for key in sorted(SOURCE_KEYS)}
    properties["tables"] = {"type": "object", "additionalProperties": table}
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": ["source"]}
