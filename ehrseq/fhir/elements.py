"""The R4B element model: what children a resource or datatype has, and what is known about each.

Names are FHIR's own (`class`, not `class_fhir`). `resourceType` and the `_x` shadows of primitives are not children.
Source: `r4b.ndjson` beside this module, which `ehrseq.fhir.derived` makes from the classes of `fhir.resources.R4B`. To
load those would take longer than many a command.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ehrseq.core.errors import SchemaError, closest

_TABLE = Path(__file__).with_name("r4b.ndjson")


@dataclass(frozen=True, slots=True)
class Element:
    """One child of a resource, datatype or backbone element.

    `type` is a primitive ("dateTime"), a datatype ("Quantity"), the name of a backbone element
    ("ObservationComponent"), or "Resource" for a resource of any type (`contained`). `choice` is the stem of a
    choice element ("value" for `valueQuantity`), of which one must be present if `choice_required`. `enum` holds
    the codes of a required binding, None where there is none. `targets` are the resource types that a Reference
    may point to (empty: any).
    """

    name: str
    type: str
    is_list: bool
    required: bool
    primitive: bool
    choice: str | None = None
    choice_required: bool = False
    enum: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()


@cache
def resource_types() -> tuple[str, ...]:
    """Names of all concrete R4B resource types, sorted.

    >>> "Observation" in resource_types(), "Quantity" in resource_types()
    (True, False)
    """
    return tuple(name for name, line in _lines().items() if '"resource":true' in line)


def is_resource(name: str) -> bool:
    """Whether R4B has a resource type of this name.

    >>> is_resource("Patient"), is_resource("patient"), is_resource("DomainResource")
    (True, False, False)
    """
    return '"resource":true' in _lines().get(name, "")


@cache
def children(type_name: str) -> dict[str, Element]:
    """Children of a resource, datatype or backbone element by their FHIR names, in FHIR's order. Do not change it.

    Raises: SchemaError if R4B has no such type.

    >>> children("Observation")["valueQuantity"].choice
    'value'
    >>> children("Encounter")["class"].required
    True
    """
    if type_name not in _lines():
        raise SchemaError(f"`{type_name}` is not a type of FHIR R4B.{closest(type_name, resource_types())}")
    found: dict[str, dict[str, object]] = json.loads(_lines()[type_name])["children"]
    return {name: _element(name, fields) for name, fields in found.items()}


def _element(name: str, fields: dict[str, object]) -> Element:
    listed = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return Element(name, **(_ABSENT | fields | listed))  # type: ignore[arg-type]


_ABSENT = {"is_list": False, "required": False, "primitive": False}


@cache
def _lines() -> dict[str, str]:
    """Types in order of their names, each with its line of the table."""
    lines = _TABLE.read_text().splitlines()
    return {line[9 : line.index('"', 9)]: line for line in lines}  # {"type":"Account", ...


def element(type_name: str, path: str) -> Element:
    """The element at a dotted path below a type. Lists are transparent.

    What is contained is reached by naming its type: `contained.Medication.code`.
    Raises: SchemaError with the closest name, or if the path goes on below a primitive.

    >>> element("Observation", "code.coding.system").type
    'uri'
    >>> element("MedicationRequest", "contained.Medication.code.text").type
    'string'
    >>> element("Observation", "valueQuanttiy")
    Traceback (most recent call last):
    ...
    ehrseq.core.errors.SchemaError: `valueQuanttiy` is not an element of Observation. Closest: "valueQuantity".
    """
    found = Element(type_name, type_name, is_list=False, required=False, primitive=False)
    for name in path.split("."):
        if found.primitive:
            raise SchemaError(
                f"`{path}` goes below `{found.name}`, which is a {found.type} and has no elements."
            )
        below = children(found.type).get(name)
        if below is None and found.type == "Resource" and is_resource(name):
            below = Element(name, name, is_list=False, required=False, primitive=False)
        if below is None:
            raise SchemaError(f"`{name}` is not an element of {found.type}.{suggest(found.type, name)}")
        found = below
    return found


def suggest(type_name: str, name: str) -> str:
    """' Closest: "x".' for the child of `type_name` that is nearest to `name`, or ''.

    >>> suggest("Patient", "birthdate")
    ' Closest: "birthDate".'
    """
    return closest(name, children(type_name))
