"""Synthea wrote the same patients as CSV and as FHIR: what we make of the CSV agrees with its own FHIR.

Resources are compared as multisets of facts: patient, code, time and value, ids aside. What only one of the two
exports carries is named here, and explained in `fhir_mappings/synthea_csv/README.md`.
"""

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from ehrseq.core import progress
from ehrseq.mapping.stage import map as map_tables

type Resource = dict[str, Any]
type Fact = tuple[Any, ...]


@dataclass(frozen=True)
class Exports:
    """Resources by type: Synthea's own, and ours of the same people; and the manifest of ours."""

    theirs: dict[str, list[Resource]]
    ours: dict[str, list[Resource]]
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def exports(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    folder, name = tmp_path_factory.mktemp("synthea"), "synthea-csv-fhir-paired"
    if not (data_dir / f"{name}.tar.xz").is_file():
        pytest.skip(f"{data_dir / name}.tar.xz is absent")
    subprocess.run([data_dir / "unpack", folder, name], check=True, capture_output=True)
    theirs = _theirs(folder / name / "fhir")
    progress.set_quiet(True)
    map_tables("synthea_csv", folder / name / "csv", folder / "out", validate="none")
    people = {resource["id"] for resource in theirs["Patient"]}
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    return Exports(theirs, _ours(folder / "out", people), manifest)


def _theirs(folder: Path) -> dict[str, list[Resource]]:
    """Synthea's resources; a drug that stands in a resource of its own is put into its order."""
    found: dict[str, list[Resource]] = {}
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text())["entry"]:
            found.setdefault(entry["resource"]["resourceType"], []).append(entry["resource"])
    drugs = {one["id"]: one["code"] for one in found["Medication"]}
    for order in found["MedicationRequest"]:
        if reference := order.get("medicationReference"):
            order["medicationCodeableConcept"] = drugs[_last(reference["reference"])]
    return found


def _ours(out: Path, people: set[str]) -> dict[str, list[Resource]]:
    """Our resources of `people` (one more is in the CSV), and those of nobody."""
    folders = [path for path in out.iterdir() if path.is_dir() and path.name[0].isupper()]
    found = {
        path.name: [
            row for file in sorted(path.glob("*.parquet")) for row in pl.read_parquet(file).to_dicts()
        ]
        for path in folders
    }
    found = {kind: [one for one in every if _subject(one) in {"", *people}] for kind, every in found.items()}
    found["Patient"] = [one for one in found["Patient"] if _last(one["id"]) in people]
    return found


def _last(reference: str) -> str:
    """The UUID at the end of an id or a reference."""
    return reference[-36:]


def _subject(resource: Resource) -> str:
    who = next((resource[name] for name in ("subject", "patient", "beneficiary") if resource.get(name)), None)
    return _last(who["reference"]) if who else ""


def _encounter_of(resource: Resource) -> str:
    """The encounter, where both exports say it."""
    links = [resource.get("encounter"), *((resource.get("item") or [{}])[0].get("encounter") or [])]
    return next((_last(link["reference"]) for link in links if link), "")


def _code(concept: Resource | None) -> str:
    coding = ((concept or {}).get("coding") or [{}])[0]
    return f"{coding.get('system')}|{coding.get('code')}"


def _instant(text: str | None) -> str:
    """In UTC, to the second: Synthea's FHIR is in local time, some of it with milliseconds."""
    if not text:
        return ""
    return datetime.fromisoformat(text).replace(microsecond=0).astimezone(UTC).isoformat()


def _day(text: str | None) -> str:
    """The local day: all that the CSV has of some times."""
    return (text or "")[:10]


def _words(text: str | None) -> str:
    """The CSV has a space for each comma in a text."""
    return (text or "").replace(",", " ")


def _rounded(value: float) -> str:
    """A number to one decimal (all that the CSV has) and to five digits (all that the FHIR has), as Java rounds."""
    five = Context(prec=5, rounding=ROUND_HALF_UP).create_decimal(str(value))
    return str(Decimal(five).quantize(Decimal("0.1"), ROUND_HALF_UP))


def _value(resource: Resource) -> Fact:
    if quantity := resource.get("valueQuantity"):
        return _rounded(quantity["value"]), quantity.get("unit")
    if concept := resource.get("valueCodeableConcept"):
        return _code(concept), _words(concept["text"])
    return (_words(resource.get("valueString")),)


def _observation(one: Resource) -> Fact:
    parts = sorted((_code(part["code"]), *map(str, _value(part))) for part in one.get("component") or [])
    return (
        _code(one["code"]),
        _instant(one["effectiveDateTime"]),
        _code(one["category"][0]),
        _value(one),
        *parts,
    )


def _period(one: Resource, name: str, clock: Callable[[str | None], str]) -> Fact:
    period = one.get(name) or {}
    return clock(period.get("start")), clock(period.get("end"))


def _allergy(one: Resource) -> Fact:
    return _code(one["code"]), _day(one["recordedDate"]), one["type"], one["category"][0]


def _imaging(one: Resource) -> Fact:
    series = [
        (item["uid"], item["modality"]["code"], item["bodySite"]["code"], item["instance"][0]["uid"])
        for item in one["series"]
    ]
    return _code(one["procedureCode"][0]), _instant(one["started"]), *series


def _condition(one: Resource) -> Fact:
    end = _day(one.get("abatementDateTime"))
    return _code(one["code"]), _day(one["onsetDateTime"]), end, _code(one["clinicalStatus"])


def _encounter(one: Resource) -> Fact:
    reason = _code((one.get("reasonCode") or [None])[0])
    return (
        _code(one["type"][0]),
        *_period(one, "period", _instant),
        one["class"]["code"],
        reason,
        one["status"],
    )


def _organization(link: Resource) -> str:
    """The UUID of an organization: Synthea refers by identifier."""
    return _last(link.get("reference") or link["identifier"]["value"])


def _bill(one: Resource) -> Fact:
    total = one["total"][0]["amount"] if isinstance(one["total"], list) else one["total"]
    item = _code(one["item"][0]["productOrService"])
    return _code(one["type"]), item, _instant(one["created"]), round(total["value"], 2)


def _patient(one: Resource) -> Fact:
    race = one["extension"][0]["extension"][0]["valueCoding"]["code"]
    ethnicity = one["extension"][1]["extension"][0]["valueCoding"]["code"]
    name = next(name for name in one["name"] if name["use"] == "official")
    return (
        _last(one["id"]), one["gender"], one["birthDate"], _day(one.get("deceasedDateTime")), race, ethnicity,
        name["family"], one["address"][0]["postalCode"],
    )  # fmt: skip


FACTS: dict[str, Callable[[Resource], Fact]] = {
    "AllergyIntolerance": _allergy,
    "CarePlan": lambda one: (*_period(one, "period", _day), one["status"], _code(one["category"][-1])),
    "CareTeam": lambda one: (*_period(one, "period", _day), one["status"]),
    "Claim": _bill,
    "Condition": _condition,
    "Device": lambda one: (_code(one["type"]), one["udiCarrier"][0]["carrierHRF"], one["serialNumber"]),
    "DiagnosticReport": lambda one: (
        _code(one["code"]),
        _instant(one["effectiveDateTime"]),
        *sorted(_words(result["display"]) for result in one["result"]),
    ),
    "Encounter": _encounter,
    "ExplanationOfBenefit": _bill,
    "ImagingStudy": _imaging,
    "Immunization": lambda one: (
        _code(one["vaccineCode"]),
        _instant(one["occurrenceDateTime"]),
        one["status"],
    ),
    "Location": lambda one: (_words(one["name"]), one["position"]["latitude"], one["position"]["longitude"]),
    "MedicationRequest": lambda one: (
        _code(one.get("medicationCodeableConcept")),
        _instant(one["authoredOn"]),
        one["status"],
    ),
    "Observation": _observation,
    "Organization": lambda one: (
        _words(one["name"]),
        one["telecom"][0]["value"],
        one["address"][0]["postalCode"],
    ),
    "Patient": _patient,
    "Practitioner": lambda one: (one["name"][0]["family"], one["name"][0]["given"][0], one["gender"]),
    "PractitionerRole": lambda one: (_organization(one["organization"]),),
    "Procedure": lambda one: (_code(one["code"]), *_period(one, "performedPeriod", _instant), one["status"]),
    "SupplyDelivery": lambda one: (
        _code(one["suppliedItem"]["itemCodeableConcept"]),
        _day(one["occurrenceDateTime"]),
        one["suppliedItem"]["quantity"]["value"],
    ),
}
# Synthea's FHIR does not say it of allergies, and the items of an ExplanationOfBenefit do not say it here.
WITHOUT_ENCOUNTER = {"AllergyIntolerance", "ExplanationOfBenefit"}
# Explained in the README of the mappings.
ONLY_THEIRS = {"DocumentReference", "Medication", "MedicationAdministration", "Provenance"}
ONLY_OURS = {"Coverage", "DeviceUseStatement", "MedicationStatement"}


def facts(kind: str, resources: list[Resource]) -> Counter[Fact]:
    """What the resources of a kind say, and how often."""
    return Counter(
        (_subject(one), "" if kind in WITHOUT_ENCOUNTER else _encounter_of(one), *FACTS[kind](one))
        for one in _comparable(kind, resources)
    )


def _comparable(kind: str, resources: list[Resource]) -> Iterator[Resource]:
    """Without those that the CSV has nothing of: notes and the patient's home; and without payers."""
    for one in resources:
        note = kind == "DiagnosticReport" and not one.get("result")
        home = kind == "Location" and not one.get("name")
        payer = kind == "Organization" and _code(one["type"][0]).endswith("|pay")
        if not (note or home or payer):
            yield one


@pytest.mark.parametrize("kind", FACTS)
def test_what_both_exports_say_agrees(exports: Exports, kind: str):
    left, right = facts(kind, exports.theirs[kind]), facts(kind, exports.ours[kind])
    assert left.total() > 0
    assert sorted((left - right).elements(), key=str) == []
    assert sorted((right - left).elements(), key=str) == []


def test_types_that_only_one_export_has(exports: Exports):
    assert exports.theirs.keys() - FACTS.keys() == ONLY_THEIRS
    assert exports.ours.keys() - FACTS.keys() == ONLY_OURS


def test_reactions_are_some_of_theirs(exports: Exports):
    def reactions(resources: list[Resource]) -> dict[Fact, set[str]]:
        return {
            (_subject(one), *_allergy(one)): {
                _code(item["manifestation"][0]) for item in one.get("reaction") or []
            }
            for one in resources
        }

    theirs, ours = (reactions(every["AllergyIntolerance"]) for every in (exports.theirs, exports.ours))
    assert [fact for fact in ours if not ours[fact] <= theirs[fact]] == []
    assert [fact for fact in ours if len(ours[fact]) != min(len(theirs[fact]), 2)] == []


def test_the_books_balance_and_no_row_is_rejected(exports: Exports):
    books = exports.manifest["sources"]
    assert len(books) == 18
    for table, account in books.items():
        assert account["rows_in"] == account["used"] + account["filtered"], table
        assert account["rejected"] == 0, table
