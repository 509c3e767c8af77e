"""Small FHIR stores for the tests: resources as JSON objects in, a store as `ehrseq map` writes it out."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.core.hashing import stable_hash

type Resource = dict[str, Any]
SUBJECT_KEYS = ("subject", "patient")


def write_store(
    folder: Path, resources: Sequence[Resource], *, buckets: int = 2, notes: Resource | None = None
) -> Path:
    """Write a store at `folder`; a resource goes to the bucket of its patient, or to the shared shard."""
    tables: dict[tuple[str, str], list[Resource]] = {}
    for row, resource in enumerate(resources, start=1):
        content = {key: value for key, value in resource.items() if key != "resourceType"}
        content = {"_mapping": "test/all", "_file": "all.json", "_row": row} | content
        tables.setdefault((resource["resourceType"], _bucket(resource, buckets)), []).append(content)
    schemas = {name: frame_of([r for (kind, _), rows in tables.items() if kind == name for r in rows]).schema
               for name, _ in tables}  # fmt: skip
    with Build(
        folder, kind="fhir", config={"resources": repr(resources), "buckets": buckets}, inputs=[]
    ) as build:
        if not build.unchanged:
            build.notes |= notes or {}
            for (name, bucket), rows in sorted(tables.items()):
                build.write(
                    f"{name}/{bucket}.parquet", pl.DataFrame(rows, schema=schemas[name], strict=False)
                )
    return folder


def frame_of(resources: Iterable[Resource]) -> pl.DataFrame:
    """Resources of one type as a frame, with only the elements that they have."""
    rows = [
        {key: value for key, value in resource.items() if key != "resourceType"} for resource in resources
    ]
    return pl.from_dicts(rows, infer_schema_length=None, strict=False)


def _bucket(resource: Resource, buckets: int) -> str:
    patient = resource["id"] if resource["resourceType"] == "Patient" else None
    for key in SUBJECT_KEYS:
        patient = patient or resource.get(key, {}).get("reference", "").removeprefix("Patient/")
    return f"{int(stable_hash([patient])[0]) % buckets:04d}" if patient else "shared"


def patient(number: int = 1, **more: Any) -> Resource:
    """A Patient born in 1950."""
    return {
        "resourceType": "Patient",
        "id": f"p.{number}",
        "birthDate": "1950-03-01",
        "gender": "female",
    } | more


def encounter(
    name: str = "e1", number: int = 1, start: str | None = None, end: str | None = None, **more: Any
) -> Resource:
    """An inpatient Encounter."""
    period = {key: value for key, value in (("start", start), ("end", end)) if value}
    act = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"}
    return about(number, "Encounter", name, status="finished", period=period, **{"class": act}) | more


def about(number: int, resource_type: str, name: str, **elements: Any) -> Resource:
    """Any resource whose subject is patient `number`."""
    return {
        "resourceType": resource_type,
        "id": name,
        "subject": {"reference": f"Patient/p.{number}"},
    } | elements


def coded(system: str, code: str, display: str | None = None) -> dict[str, Any]:
    """A CodeableConcept of one coding."""
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]}
