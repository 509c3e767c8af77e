"""Values of CDA (II, TS, CD, PQ) as FHIR writes them."""

import re
from collections.abc import Iterable
from datetime import datetime
from zoneinfo import ZoneInfo

from lxml import etree

from ehrseq.sources.ccda.xml import TYPE

type Columns = dict[str, str | None]

_V3 = "http://terminology.hl7.org/CodeSystem/v3-"
SYSTEMS = {
    "2.16.840.1.113883.6.1": "http://loinc.org",
    "2.16.840.1.113883.6.96": "http://snomed.info/sct",
    "2.16.840.1.113883.6.88": "http://www.nlm.nih.gov/research/umls/rxnorm",
    "2.16.840.1.113883.12.292": "http://hl7.org/fhir/sid/cvx",
    "2.16.840.1.113883.6.59": "http://hl7.org/fhir/sid/cvx",
    "2.16.840.1.113883.6.69": "http://hl7.org/fhir/sid/ndc",
    "2.16.840.1.113883.6.12": "http://www.ama-assn.org/go/cpt",
    "2.16.840.1.113883.6.103": "http://hl7.org/fhir/sid/icd-9-cm",
    "2.16.840.1.113883.6.90": "http://hl7.org/fhir/sid/icd-10-cm",
    "2.16.840.1.113883.6.3": "http://hl7.org/fhir/sid/icd-10",
    "2.16.840.1.113883.6.4": "http://www.cms.gov/Medicare/Coding/ICD10",
    "2.16.840.1.113883.4.9": "http://fdasis.nlm.nih.gov",
    "2.16.840.1.113883.6.101": "http://nucc.org/provider-taxonomy",
    "2.16.840.1.113883.3.26.1.1": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
    "2.16.840.1.113883.12.112": "http://terminology.hl7.org/CodeSystem/v2-0112",
    "2.16.840.1.113883.5.1": _V3 + "AdministrativeGender",
    "2.16.840.1.113883.5.2": _V3 + "MaritalStatus",
    "2.16.840.1.113883.5.4": _V3 + "ActCode",
    "2.16.840.1.113883.5.8": _V3 + "ActReason",
    "2.16.840.1.113883.5.25": _V3 + "Confidentiality",
    "2.16.840.1.113883.5.83": _V3 + "ObservationInterpretation",
    "2.16.840.1.113883.5.111": _V3 + "RoleCode",
    "2.16.840.1.113883.5.1076": _V3 + "ReligiousAffiliation",
}
"""Code systems of CDA that FHIR names by a URL; all others are `urn:oid:`."""
_AUTHORITIES = {
    "2.16.840.1.113883.4.1": "http://hl7.org/fhir/sid/us-ssn",
    "2.16.840.1.113883.4.6": "http://hl7.org/fhir/sid/us-npi",
}
_TIME = re.compile(r"(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\.\d+)?([+-]\d{4})?")


def fhir_time(text: str | None, timezone: str) -> str | None:
    """A TS as FHIR dateTime, as precise as it is; what is no time stays as it stands, and is rejected by the mapping.

    >>> fhir_time("200803190830-0800", "UTC"), fhir_time("2008", "UTC"), fhir_time("20080319083000", "Europe/Berlin")
    ('2008-03-19T08:30:00-08:00', '2008', '2008-03-19T08:30:00+01:00')
    """
    match = _TIME.fullmatch(text.strip()) if text else None
    if not match:
        return text
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    date = "-".join(part for part in (year, month, day) if part)
    if not hour:
        return date
    clock = f"{hour}:{minute or '00'}:{second or '00'}"
    if offset:
        return f"{date}T{clock}{fraction or ''}{offset[:3]}:{offset[3:]}"
    try:
        zone = datetime.fromisoformat(f"{date}T{clock}").replace(tzinfo=ZoneInfo(timezone)).strftime("%z")
    except ValueError:
        return text
    return f"{date}T{clock}{fraction or ''}{zone[:3]}:{zone[3:]}"


def interval(element: etree._Element | None, timezone: str) -> Columns:
    """`time` of an effectiveTime that is a point, `low` and `high` of an interval; `open`: the nullFlavor of `high`."""
    if element is None:
        return {}
    found = {"time": element.get("value")}
    for bound in element:
        if bound.tag in ("low", "high"):
            found[bound.tag] = bound.get("value")
            if bound.tag == "high":
                found["open"] = bound.get("nullFlavor")
        elif bound.tag == "center":
            found["time"] = bound.get("value")
    return {name: text if name == "open" else fhir_time(text, timezone) for name, text in found.items()}


def identifier(element: etree._Element | None) -> tuple[str | None, str | None]:
    """System and value of an II.

    >>> identifier(etree.fromstring('<id root="2.16.840.1.113883.4.6" extension="99"/>'))
    ('http://hl7.org/fhir/sid/us-npi', '99')
    >>> identifier(etree.fromstring('<id root="1.2.3"/>'))
    ('urn:ietf:rfc:3986', 'urn:oid:1.2.3')
    """
    root, extension = named(element)
    if root is None:
        return None, extension
    uri = f"urn:uuid:{root.lower()}" if "-" in root else f"urn:oid:{root}"
    return (_AUTHORITIES.get(root, uri), extension) if extension else ("urn:ietf:rfc:3986", uri)


def named(element: etree._Element | None) -> tuple[str | None, str | None]:
    """Root and extension of an II, None where they are empty."""
    if element is None:
        return None, None
    return (element.get("root") or "").strip() or None, (element.get("extension") or "").strip() or None


def identifiers(elements: Iterable[etree._Element]) -> list[etree._Element]:
    """Those of the II that name something."""
    return [element for element in elements if any(named(element))]


def coding(element: etree._Element | None) -> tuple[str | None, str | None, str | None]:
    """Code, system and display of a CD. If its code is a nullFlavor, those of its first translation with a code."""
    if element is None:
        return None, None, None
    found = element if element.get("code") else element.find("translation[@code]")
    if found is None:
        return None, None, element.get("displayName")
    return (
        (found.get("code") or "").strip() or None,
        system(found.get("codeSystem")),
        found.get("displayName"),
    )


def concept(element: etree._Element | None, name: str) -> Columns:
    """A CD as columns `name`, `name_system` and `name_display` (without `_code`)."""
    code, code_system, display = coding(element)
    stem = name.removesuffix("_code")
    return {name: code, f"{stem}_system": code_system, f"{stem}_display": display}


def system(oid: str | None) -> str | None:
    """The URI by which FHIR names a code system."""
    return SYSTEMS.get(oid, f"urn:oid:{oid}") if oid else None


def quantity(element: etree._Element | None, name: str) -> Columns:
    """A PQ as columns `name` and `name_unit`; the lower bound of an IVL_PQ whose bounds are one."""
    if element is None:
        return {}
    bound = element if element.get("value") else element.find("low")
    bound = element if bound is None else bound
    return {name: bound.get("value"), f"{name}_unit": bound.get("unit")}


def bounds(element: etree._Element, low: str, high: str, unit: str) -> Columns:
    """An IVL_PQ as three columns."""
    found = {low: element.find("low"), high: element.find("high")}
    columns = {name: bound.get("value") for name, bound in found.items() if bound is not None}
    return {**columns, unit: next((bound.get("unit") for bound in element if bound.get("unit")), None)}


def type_of(value: etree._Element) -> str:
    """The `xsi:type` of a value, without its prefix."""
    return (value.get(TYPE) or "").rpartition(":")[2]


def plain_text(element: etree._Element | None) -> str | None:
    """All text below an element, with single spaces; what stands in elements of its own is set apart.

    >>> plain_text(etree.fromstring("<tr><td>Asthma</td><td>2019</td></tr>"))
    'Asthma 2019'
    """
    if element is None:
        return None
    return " ".join(" ".join(map(str, element.itertext())).split()) or None
