"""Pruned dtypes: exactly what was asked for, in FHIR's shape and order."""

import polars as pl
import pytest

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.dtypes import primitive_dtype, pruned_dtype

CODING = pl.List(pl.Struct({"system": pl.String, "code": pl.String}))


def test_lists_and_structs_in_the_order_of_fhir() -> None:
    paths = ["component.valueInteger", "code.coding.code", "id", "valueQuantity.value", "code.coding.system"]
    assert pruned_dtype("Observation", paths) == pl.Schema(
        {
            "id": pl.String,
            "code": pl.Struct({"coding": CODING}),
            "valueQuantity": pl.Struct({"value": pl.Float64}),
            "component": pl.List(pl.Struct({"valueInteger": pl.Int64})),
        }
    )
    assert list(pruned_dtype("Observation", paths)) == ["id", "code", "valueQuantity", "component"]


def test_extensions_as_deep_as_asked() -> None:
    found = pruned_dtype("Patient", ["extension.extension.valueCoding.code", "extension.url", "name.given"])
    inner = pl.List(pl.Struct({"valueCoding": pl.Struct({"code": pl.String})}))
    assert found["extension"] == pl.List(pl.Struct({"extension": inner, "url": pl.String}))
    assert found["name"] == pl.List(pl.Struct({"given": pl.List(pl.String)}))


def test_contained_resources_share_a_struct() -> None:
    paths = [
        "contained.Medication.code.text",
        "contained.Substance.code.coding.code",
        "contained.Substance.id",
    ]
    code = pl.Struct({"coding": pl.List(pl.Struct({"code": pl.String})), "text": pl.String})
    expected = pl.List(pl.Struct({"resourceType": pl.String, "code": code, "id": pl.String}))
    found = pruned_dtype("MedicationRequest", paths)["contained"]
    assert isinstance(found, pl.List)
    assert sorted(found.inner.to_schema()) == sorted(expected.inner.to_schema())
    assert found.inner.to_schema()["code"] == code
    assert found == pruned_dtype("MedicationRequest", paths[::-1])["contained"]


def test_contained_resources_that_disagree() -> None:
    with pytest.raises(SchemaError, match="`name` as string and, in Practitioner, as list of HumanName"):
        pruned_dtype("Patient", ["contained.Organization.name", "contained.Practitioner.name.family"])


@pytest.mark.parametrize("path", ["code", "code.coding", "id.x", "nothing", "valueQuantity.valu"])
def test_paths_must_end_at_a_primitive(path: str) -> None:
    with pytest.raises(SchemaError):
        pruned_dtype("Observation", [path])


def test_primitives() -> None:
    texts = (
        "date",
        "dateTime",
        "instant",
        "time",
        "string",
        "code",
        "uri",
        "id",
        "markdown",
        "base64Binary",
        "xhtml",
    )
    assert {primitive_dtype(name) for name in texts} == {pl.String()}
    assert {primitive_dtype(name) for name in ("integer", "positiveInt", "unsignedInt")} == {pl.Int64()}
    assert (primitive_dtype("decimal"), primitive_dtype("boolean")) == (pl.Float64(), pl.Boolean())
