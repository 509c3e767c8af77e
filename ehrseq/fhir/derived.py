"""Derives the element model (`r4b.ndjson`) from the classes of `fhir.resources.R4B`: one line for each type.

    python -m ehrseq.fhir.derived    # writes it again; a test holds the two against each other

Source: HL7 FHIR R4B (4.3.0) as published in those classes, with the corrections of `ehrseq.fhir.bindings`.
"""

import json
import pkgutil
import types
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.bindings import CORRECTED
from ehrseq.fhir.elements import Element

_ABSTRACT = ("Resource", "DomainResource")
_OPEN = "+"  # how fhir.resources marks a list of codes that it cut short


def table() -> Iterator[str]:
    """The lines of the table, by name of type: its children with what differs from an optional, complex, single one."""
    resources = set(_resource_types())
    todo, known = sorted(resources), dict[str, dict[str, Element]]()
    while todo:
        if (name := todo.pop()) not in known:
            known[name] = _children(name)
            todo += [child.type for child in known[name].values() if not child.primitive]
    for name, children in sorted(known.items()):
        fields = {
            child.name: {key: value for key, value in asdict(child).items() if value and key != "name"}
            for child in children.values()
        }
        line = {"type": name} | ({"resource": True} if name in resources else {}) | {"children": fields}
        yield json.dumps(line, separators=(",", ":"))


def _resource_types() -> list[str]:
    from fhir.resources import R4B
    from fhir.resources.R4B import fhirtypes

    modules = {module.name for module in pkgutil.iter_modules(R4B.__path__)}
    names = [name.removesuffix("Type") for name in vars(fhirtypes) if name.endswith("Type")]
    return sorted(name for name in names if name.lower() in modules and _is_resource(name))


def _is_resource(name: str) -> bool:
    if not name[:1].isupper() or name in _ABSTRACT:
        return False
    model = _model(name)
    return model is not None and any(base.__name__ == "Resource" for base in model.__mro__)


@cache
def _children(type_name: str) -> dict[str, Element]:
    model = _model(type_name)
    if model is None:
        raise SchemaError(f"`{type_name}` is not a type of FHIR R4B.")
    found = {}
    for key, field in model.model_fields.items():
        extra = field.json_schema_extra or {}
        if extra.get("element_property", False):
            name = field.alias or key
            found[name] = _element(type_name, name, field, extra)
    order = {name: index for index, name in enumerate(model.elements_sequence())}
    return dict(sorted(found.items(), key=lambda item: order[item[0]]))


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


if __name__ == "__main__":
    Path(__file__).with_name("r4b.ndjson").write_text("".join(f"{line}\n" for line in table()))
