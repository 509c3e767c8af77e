"""Values of CDA (TS, CD, PQ) as FHIR writes them."""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from lxml import etree

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
    "2.16.840.1.113883.4.9": "http://fdasis.nlm.nih.gov",
    "2.16.840.1.113883.5.4": "http://terminology.hl7.org/CodeSystem/v3-ActCode",
    "2.16.840.1.113883.5.83": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation",
}
"""Code systems of CDA that FHIR names by a URL; all others are `urn:oid:`."""
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


def coding(element: etree._Element | None) -> tuple[str | None, str | None, str | None]:
    """Code, system and display of a CD. If its code is a nullFlavor, those of its first translation with a code."""
    if element is None:
        return None, None, None
    found = element if element.get("code") else element.find("translation[@code]")
    if found is None:
        return None, None, element.get("displayName")
    return (
        (found.get("code") or "").strip() or None,
        _system(found.get("codeSystem")),
        found.get("displayName"),
    )


def _system(oid: str | None) -> str | None:
    return SYSTEMS.get(oid, f"urn:oid:{oid}") if oid else None


def plain_text(element: etree._Element | None) -> str | None:
    """All text below an element, with single spaces."""
    return " ".join("".join(map(str, element.itertext())).split()) or None if element is not None else None
