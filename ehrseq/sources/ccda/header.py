"""What the header of a document says: of itself, of its patient and of the encounter it is about."""

import base64
import binascii

from lxml import etree

from ehrseq.sources.ccda.people import (
    People,
    address_columns,
    guardian_columns,
    name_columns,
    race_columns,
    telecom_columns,
)
from ehrseq.sources.ccda.values import (
    Columns,
    coding,
    concept,
    fhir_time,
    identifier,
    identifiers,
    interval,
    named,
    plain_text,
)

_SDTC = "{urn:hl7-org:sdtc}"
_ORDER = ("", "other_", "third_")
_RELATIONS = {"RPLC": "replaces", "APND": "appends", "XFRM": "transforms"}


def attribute(element: etree._Element | None, path: str, name: str = "value") -> str | None:
    """An attribute of what stands at a path, None if there is none or it is empty."""
    found = element.find(path) if element is not None else None
    return ((found.get(name) or "").strip() or None) if found is not None else None


def document_row(root: etree._Element, people: People, timezone: str) -> Columns:
    """The document itself, with what it replaces, and its body where that is no XML."""
    code, system, display = coding(root.find("code"))
    id_system, id_value = identifier(root.find("id"))
    event = root.find("documentationOf/serviceEvent/effectiveTime")
    period = interval(event, timezone)
    return {
        "code": code, "system": system, "display": display, "title": plain_text(root.find("title")),
        "time": fhir_time(attribute(root, "effectiveTime"), timezone), "id_system": id_system, "id_value": id_value,
        "language": attribute(root, "languageCode", "code"),
        **concept(root.find("confidentialityCode"), "confidentiality"), **_set(root),
        "author": next(filter(None, map(people.practitioner, root.iterfind("author/assignedAuthor"))), None),
        "custodian": people.organization(
            root.find("custodian/assignedCustodian/representedCustodianOrganization")
        ),
        "authenticator": people.practitioner(root.find("legalAuthenticator/assignedEntity")),
        "period_start": period.get("low") or period.get("time"), "period_end": period.get("high"),
        **_related(root), **_body(root), **_visit(root, people, timezone),
    }  # fmt: skip


def _set(root: etree._Element) -> Columns:
    system, value = identifier(root.find("setId"))
    key = "-".join(part for part in named(root.find("setId")) if part) or None
    return {
        "set_id": key,
        "set_system": system,
        "set_value": value,
        "version": attribute(root, "versionNumber"),
    }


def _related(root: etree._Element) -> Columns:
    """The first document that this one replaces, is an addendum to, or is another form of."""
    for related in root.iterfind("relatedDocument"):
        system, value = identifier(related.find("parentDocument/id"))
        if value and (relation := _RELATIONS.get(related.get("typeCode", ""))):
            return {"relation": relation, "related_system": system, "related_value": value}
    return {}


def _body(root: etree._Element) -> Columns:
    """A body that is no XML: its type, and its content as base64, or where it is."""
    text = root.find("component/nonXMLBody/text")
    if text is None:
        return {}
    content = "".join(map(str, text.itertext()))
    if text.get("representation") == "B64":
        data = "".join(content.split())
        try:
            base64.b64decode(data, validate=True)
        except binascii.Error:
            return {"media_type": text.get("mediaType"), "body": None, "broken_body": "yes"}
    else:
        data = base64.b64encode(content.strip().encode()).decode()
    return {"media_type": text.get("mediaType"), "body": data or None, "url": attribute(text, "reference")}


def _visit(root: etree._Element, people: People, timezone: str) -> Columns:
    visit = root.find("componentOf/encompassingEncounter")
    if visit is None:
        return {}
    system, value = identifier(next(iter(identifiers(visit.iterfind("id"))), None))
    when = interval(visit.find("effectiveTime"), timezone)
    staff = [*visit.iterfind("responsibleParty/assignedEntity"),
             *visit.iterfind("encounterParticipant/assignedEntity")]  # fmt: skip
    columns = {
        **encounter_class(visit.find("code")), "id_system": system, "id_value": value,
        "time": when.get("time"), "low": when.get("low"), "high": when.get("high"),
        **concept(visit.find("dischargeDispositionCode"), "disposition"),
        "performer": next(filter(None, map(people.practitioner, staff)), None),
        "organization": people.organization(visit.find("location/healthCareFacility/serviceProviderOrganization")),
        "place": plain_text(visit.find("location/healthCareFacility/location/name")),
    }  # fmt: skip
    return {"visit": "yes", **{f"visit_{name}": text for name, text in columns.items()}}


def encounter_class(code: etree._Element | None) -> Columns:
    """`class` where one of the codes is of ActCode; `code` and its like of the others."""
    columns: Columns = {}
    for one in [] if code is None else [code, *code.iterfind("translation")]:
        value, system, display = coding(one) if one.get("code") else (None, None, one.get("displayName"))
        if one.get("codeSystem") == "2.16.840.1.113883.5.4" and value:
            columns.setdefault("class", value)
            columns.setdefault("class_display", display)
        elif value and "code" not in columns:
            columns |= {"code": value, "system": system, "display": display}
    return columns


def patient_row(root: etree._Element, people: People, timezone: str) -> Columns:
    """The patient, with up to three ids, two names, two addresses and three telecoms."""
    role = root.find("recordTarget/patientRole")
    patient = role.find("patient") if role is not None else None
    if role is None or patient is None:
        return {}
    row: Columns = {
        "time": fhir_time(attribute(root, "effectiveTime"), timezone),
        "gender": attribute(patient, "administrativeGenderCode", "code"),
        "birth": (fhir_time(attribute(patient, "birthTime"), timezone) or "")[:10] or None,
        "deceased": attribute(patient, f"{_SDTC}deceasedInd"),
        "deceased_time": fhir_time(attribute(patient, f"{_SDTC}deceasedTime"), timezone),
        "language": attribute(patient, "languageCommunication/languageCode", "code"),
        "preferred": attribute(patient, "languageCommunication/preferenceInd"),
        "organization": people.organization(role.find("providerOrganization")),
        **concept(patient.find("maritalStatusCode"), "marital"),
        **concept(patient.find("religiousAffiliationCode"), "religion"),
        **race_columns(patient), **guardian_columns(patient),
    }  # fmt: skip
    for which, element in zip(_ORDER, identifiers(role.iterfind("id")), strict=False):
        row[f"{which}id_system"], row[f"{which}id_value"] = identifier(element)
    for which, element in zip(_ORDER[:2], patient.iterfind("name"), strict=False):
        row |= name_columns(element, which)
    for which, element in zip(_ORDER[:2], role.iterfind("addr"), strict=False):
        row |= address_columns(element, which)
    for which, element in zip(_ORDER, role.iterfind("telecom"), strict=False):
        row |= telecom_columns(element, which)
    return row
