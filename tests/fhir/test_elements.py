"""The element model against the classes it is read from, by building resources of every type."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B import get_fhir_model_class
from pydantic import ValidationError

import ehrseq.fhir.elements
from ehrseq.core.errors import SchemaError
from ehrseq.fhir import derived
from ehrseq.fhir.elements import Element, children, element, is_resource, resource_types, suggest

_EXAMPLES: dict[str, Any] = {
    "boolean": True, "decimal": 1.5, "integer": 1, "positiveInt": 1, "unsignedInt": 1, "date": "2020-02-03",
    "dateTime": "2020-02-03T04:05:06Z", "instant": "2020-02-03T04:05:06Z", "time": "04:05:06",
    "base64Binary": "AAAA", "oid": "urn:oid:1.2", "uuid": "c757873d-ec9a-4326-a141-556f43239520",
    "xhtml": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>',
}  # fmt: skip
_ANY = {"resourceType": "Basic", "code": {"text": "x"}}


def minimal(type_name: str) -> dict[str, Any]:
    """The least that the element model says a type must have; ids make objects without demands not empty."""
    known = children(type_name)
    chosen = {name: child for name, child in known.items() if child.required}
    for child in known.values():
        if child.choice_required and not any(other.choice == child.choice for other in chosen.values()):
            chosen[child.name] = child
    return {name: example(child) for name, child in chosen.items()} or {"id": "x"}


def example(child: Element) -> Any:
    if child.primitive:
        value = child.enum[0] if child.enum else _EXAMPLES.get(child.type, "x")
    else:
        value = _ANY if child.type == "Resource" else minimal(child.type)
    return [value] if child.is_list else value


def is_valid(type_name: str, resource: dict[str, Any]) -> bool:
    try:
        get_fhir_model_class(type_name).model_validate(resource)
    except ValidationError:
        return False
    return True


def test_the_table_is_what_the_classes_say() -> None:
    """If this fails, fhir.resources has changed: `python -m ehrseq.fhir.derived` writes the table again."""
    shipped = Path(ehrseq.fhir.elements.__file__).with_name("r4b.ndjson").read_text().splitlines()
    assert list(derived.table()) == shipped


@pytest.mark.parametrize("type_name", resource_types())
def test_minimal_resource_is_valid_and_nothing_can_be_taken_away(type_name: str) -> None:
    least = minimal(type_name)
    assert is_valid(type_name, least)
    for name, child in children(type_name).items():
        if name in least and (child.required or child.choice_required):
            assert not is_valid(type_name, {key: value for key, value in least.items() if key != name}), name


@pytest.mark.parametrize(
    "type_name", ["Patient", "Observation", "Encounter", "MedicationRequest", "Claim", "Timing"]
)
def test_every_element_is_accepted_by_the_class(type_name: str) -> None:
    least = minimal(type_name)
    for name, child in children(type_name).items():
        chosen = {
            key: value for key, value in least.items() if children(type_name)[key].choice != child.choice
        }
        resource = {**(chosen if child.choice else least), name: example(child)}
        assert is_valid(type_name, resource), name


def test_names_are_those_of_fhir() -> None:
    for type_name in ("Observation", "Encounter", "Patient", "Claim"):
        fields = get_fhir_model_class(type_name).model_fields
        names = {field.alias or key for key, field in fields.items()}
        shadows = {name for name in names if name.startswith("_")}
        assert set(children(type_name)) == names - shadows - {
            "resource_type",
            "fhir_comments",
            "resourceType",
        }
    assert element("Encounter", "class.code").type == "code"
    assert "for" in children("Task")


def test_every_type_that_is_named_exists() -> None:
    open_types, seen = list(resource_types()), set()
    while open_types:
        name = open_types.pop()
        if name not in seen:
            seen.add(name)
            open_types += [child.type for child in children(name).values() if not child.primitive]
    assert {"ObservationComponent", "Quantity", "Resource"} <= seen


def test_what_is_known_about_an_element() -> None:
    value = element("Observation", "valueQuantity")
    assert (value.type, value.choice, value.choice_required, value.is_list) == (
        "Quantity",
        "value",
        False,
        False,
    )
    assert element("Observation", "status").enum is not None
    assert "cancelled" in (element("Observation", "status").enum or ())
    assert element("Observation", "component.valueQuantity.comparator").enum == ("<", "<=", ">=", ">")
    assert element("Encounter", "subject").targets == ("Patient", "Group")
    assert element("MedicationRequest", "medicationReference").choice_required
    assert element("Patient", "contact.name.given").is_list
    assert element("Expression", "language").enum is None


def test_order_is_that_of_fhir() -> None:
    names = list(children("Observation"))
    assert names[:2] == ["id", "meta"]
    assert (
        names.index("status") < names.index("code") < names.index("valueQuantity") < names.index("component")
    )


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("valueQuantiti", '"valueQuantity"'),
        ("code.codng.system", '"coding"'),
        ("status.x", "has no elements"),
        ("resourceType", "not an element"),
        ("_status", "not an element"),
        ("contained.Medicaton.code", "not an element of Resource"),
    ],
)
def test_wrong_paths_are_named(path: str, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        element("Observation", path)


def test_unknown_type_is_suggested() -> None:
    with pytest.raises(SchemaError, match='Closest: "Observation"'):
        children("Observaton")
    assert suggest("Patient", "birthdat") == ' Closest: "birthDate".'
    assert not is_resource("Boolean")
    assert not is_resource("Quantity")


def test_import_is_cheap() -> None:
    heavy = "('fhir', 'pydantic', 'polars')"
    code = f"import sys, ehrseq.fhir.elements as e; sys.exit(any(n in {heavy} for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
