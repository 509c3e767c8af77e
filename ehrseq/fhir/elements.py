"""The R4B element model: what children a resource or datatype has, and what is known about each.

Names are FHIR's own (`class`, not `class_fhir`). `resourceType` and the `_x` shadows of primitives are not children.
Source: HL7 FHIR R4B (4.3.0) as published in the classes of `fhir.resources.R4B`, which are read once, on demand.
"""

import pkgutil
import types
from dataclasses import dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin

from ehrseq.core.errors import SchemaError, closest
from ehrseq.fhir.bindings import CORRECTED

_ABSTRACT = ("Resource", "DomainResource")
_OPEN = "+"  # how fhir.resources marks a list of codes that it cut short


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
    """Names of all concrete R4B resource types, sorted. Takes seconds once: it loads every class.

    >>> "Observation" in resource_types(), "Quantity" in resource_types()
    (True, False)
    """
    from fhir.resources import R4B
    from fhir.resources.R4B import fhirtypes

    modules = {module.name for module in pkgutil.iter_modules(R4B.__path__)}
    names = [name.removesuffix("Type") for name in vars(fhirtypes) if name.endswith("Type")]
    return tuple(sorted(name for name in names if name.lower() in modules and is_resource(name)))


@cache
def is_resource(name: str) -> bool:
    """Whether `name` is a concrete resource type of R4B.

    >>> is_resource("Patient"), is_resource("patient"), is_resource("DomainResource")
    (True, False, False)
    """
    if not name[:1].isupper() or name in _ABSTRACT:
        return False
    model = _model(name)
    return model is not None and any(base.__name__ == "Resource" for base in model.__mro__)


@cache
def children(type_name: str) -> dict[str, Element]:
    """Children of a resource, datatype or backbone element by their FHIR names, in FHIR's order. Do not change it.

    Raises: SchemaError if R4B has no such type.

    >>> children("Observation")["valueQuantity"].choice
    'value'
    >>> children("Encounter")["class"].required
    True
    """
    model = _model(type_name)
    if model is None:
        raise SchemaError(f"`{type_name}` is not a type of FHIR R4B.{closest(type_name, resource_types())}")
    found = {}
    for key, field in model.model_fields.items():
        extra = field.json_schema_extra or {}
        if extra.get("element_property", False):
            name = field.alias or key
            found[name] = _element(type_name, name, field, extra)
    order = {name: index for index, name in enumerate(model.elements_sequence())}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


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


def _model(name: str) -> Any:
    """The class of a type; None if R4B has none of that name, or it is a primitive."""
    from fhir.resources.R4B import fhirtypes, get_fhir_model_class

    if not hasattr(fhirtypes, f"{name}Type"):
        return None
    try:
        return get_fhir_model_class(name)
    except ValueError:  # a primitive
        return None


def _element(owner: str, name: str, field: Any, extra: dict[str, Any]) -> Element:
    annotation, is_list = _unwrapped(field.annotation)
    type_name, primitive = _type_name(annotation)
    listed = tuple(extra.get("enum_values", ()))
    enum = CORRECTED.get((owner, name), listed or None)
    if enum and _OPEN in enum:
        enum = None
    return Element(
        name=name,
        type=type_name,
        is_list=is_list,
        required=field.is_required() or bool(extra.get("element_required")),
        primitive=primitive,
        choice=extra.get("one_of_many"),
        choice_required=bool(extra.get("one_of_many_required")),
        enum=enum,
        targets=tuple(extra.get("enum_reference_types", ())),
    )


def _unwrapped(annotation: Any) -> tuple[Any, bool]:
    """Strip Optional and List; returns the bare annotation and whether it was a list."""
    is_list = False
    while True:
        origin = get_origin(annotation)
        if origin in (Union, types.UnionType):
            annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
        elif origin is list:
            annotation, is_list = get_args(annotation)[0], True
        else:
            return annotation, is_list


def _type_name(annotation: Any) -> tuple[str, bool]:
    """FHIR name of an annotation, and whether it is a primitive: Annotated[str, DateTime()] -> ("dateTime", True)."""
    metadata = getattr(annotation, "__metadata__", None)
    if metadata:
        name = type(metadata[-1]).__name__.removesuffix("Version")  # UuidVersion is FHIR's uuid
        return name[0].lower() + name[1:], True
    if annotation is bool:
        return "boolean", True
    return str(annotation.__name__).removesuffix("Type"), False
