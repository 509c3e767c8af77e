"""The R4B element model: what children a resource or datatype has, and what is known about each.

Source: HL7 FHIR R4B (4.3.0) as published in the classes of `fhir.resources.R4B`, which are read once, on demand.
"""

import pkgutil
import types
from dataclasses import dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin

from ehrseq.core.errors import SchemaError, closest

_HIDDEN = {"resource_type", "fhir_comments", "resourceType"}
_OPEN_ENUM = "+"  # fhir.resources lists only the first codes of a long binding and marks it so


@dataclass(frozen=True, slots=True)
class Element:
    """One child of a resource, datatype or backbone element.

    `type` is a primitive ("dateTime"), a datatype ("Quantity"), or the name of a backbone element
    ("ObservationComponent"). `choice` is the stem of a choice element ("value" for `valueQuantity`) of which
    one must be present if `choice_required`. `enum` holds the codes of a required binding, where they are known
    in full. `targets` are the resource types a Reference may point to (empty: any).
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
    import fhir.resources.R4B as package
    from fhir.resources.R4B import fhirtypes

    modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
    names = [name.removesuffix("Type") for name in vars(fhirtypes) if name.endswith("Type")]
    return tuple(sorted(name for name in names if name.lower() in modules and is_resource(name)))


@cache
def is_resource(name: str) -> bool:
    """Whether `name` is a concrete resource type of R4B."""
    from fhir.resources.R4B import fhirtypes

    if name in ("Resource", "DomainResource") or not hasattr(fhirtypes, f"{name}Type"):
        return False
    return any(base.__name__ == "Resource" for base in _model(name).__mro__)


def _model(name: str) -> Any:
    from fhir.resources.R4B import fhirtypes, get_fhir_model_class

    if not hasattr(fhirtypes, f"{name}Type"):
        raise SchemaError(f"`{name}` is not a type of FHIR R4B.{closest(name, resource_types())}")
    return get_fhir_model_class(name)


@cache
def children(type_name: str) -> dict[str, Element]:
    """Children of a resource, datatype or backbone element by their FHIR names, in FHIR's order.

    Raises: SchemaError if there is no such type.

    >>> children("Observation")["valueQuantity"].choice
    'value'
    >>> children("Encounter")["class"].required
    True
    """
    model = _model(type_name)
    order = {name: index for index, name in enumerate(model.elements_sequence())}
    found = {}
    for key, field in model.model_fields.items():
        extra = field.json_schema_extra or {}
        if key in _HIDDEN or key.endswith("__ext") or not extra.get("element_property", False):
            continue
        name = field.alias or key
        found[name] = _element(name, field, extra)
    return dict(sorted(found.items(), key=lambda item: order.get(item[0], -1)))


def _element(name: str, field: Any, extra: dict[str, Any]) -> Element:
    annotation, is_list = _unwrapped(field.annotation)
    type_name, primitive = _type_name(annotation)
    enum = tuple(extra.get("enum_values", ()))
    return Element(
        name=name,
        type=type_name,
        is_list=is_list,
        required=field.is_required() or bool(extra.get("element_required")),
        primitive=primitive,
        choice=extra.get("one_of_many"),
        choice_required=bool(extra.get("one_of_many_required")),
        enum=enum if enum and _OPEN_ENUM not in enum else None,
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
    metadata = getattr(annotation, "__metadata__", None)
    if metadata:
        name = type(metadata[-1]).__name__.removesuffix("Version")
        return name[0].lower() + name[1:], True
    name = getattr(annotation, "__name__", str(annotation))
    if annotation is bool or name == "bool":
        return "boolean", True
    return name.removesuffix("Type"), False


def element(type_name: str, path: str) -> Element:
    """The element at a dotted path below a type; lists are transparent. Raises: SchemaError with the closest name.

    >>> element("Observation", "code.coding.system").type
    'uri'
    >>> element("Observation", "valueQuanttiy")
    Traceback (most recent call last):
    ...
    ehrseq.core.errors.SchemaError: `valueQuanttiy` is not an element of Observation. Closest: "valueQuantity".
    """
    found = None
    for name in path.split("."):
        below = found.type if found else type_name
        options = children(below)
        if name not in options:
            raise SchemaError(f"`{name}` is not an element of {below}.{closest(name, options)}")
        found = options[name]
    assert found is not None
    return found
