"""What statements of each table say beyond their code, time and status: mostly in statements within them."""

from collections.abc import Iterator

from lxml import etree

from ehrseq.sources.ccda.header import attribute, encounter_class
from ehrseq.sources.ccda.values import (
    Columns,
    coding,
    concept,
    fhir_time,
    identifier,
    identifiers,
    interval,
    plain_text,
    quantity,
    type_of,
)

_STATUS, _CRITICALITY, _COMMENT = "33999-4", "82606-5", "48767-8"
_AGE, _SIG = "445518008", "76662-6"


def problem(element: etree._Element, outer: etree._Element | None) -> Columns:
    """Status of the problem and of the concern about it, age at onset, comment."""
    inner = dict(_coded(element))
    status, age = inner.get(_STATUS), inner.get(_AGE)
    return {
        "problem_status": _answer(status)[0], **_age(age), "comment": _said(inner.get(_COMMENT)),
        "concern": _concern(outer), **concept(element.find("code"), "kind"),
    }  # fmt: skip


def allergy(element: etree._Element, outer: etree._Element | None, timezone: str) -> list[Columns]:
    """Kind, status and criticality; a row for each reaction. Severity stands there or, for all, at the allergy."""
    inner = dict(_coded(element))
    substance = plain_text(element.find("participant/participantRole/playingEntity/name"))
    common: Columns = {"substance": substance,
        **concept(element.find("value"), "kind"), "allergy_status": _answer(inner.get(_STATUS))[0],
        "criticality": _answer(inner.get(_CRITICALITY))[0], "comment": _said(inner.get(_COMMENT)),
        "concern": _concern(outer),
    }  # fmt: skip
    severity = _answer(inner.get("SEV"))[0]
    rows: list[Columns] = []
    for reaction in element.iterfind("entryRelationship[@typeCode='MFST']/observation"):
        code, system, display = _answer(reaction)
        when = interval(reaction.find("effectiveTime"), timezone)
        own = _answer(dict(_coded(reaction)).get("SEV"))[0]
        rows.append({**common, "reaction": code, "reaction_system": system, "reaction_display": display,
                     "reaction_time": when.get("low") or when.get("time"), "severity": own or severity})  # fmt: skip
    return rows or [common]


def medication(element: etree._Element, timezone: str) -> Columns:
    """Dose, route, how often, why, and in whose words."""
    inner = dict(_coded(element))
    maximum = element.find("maxDoseQuantity")
    supply = next(element.iterfind("entryRelationship/supply[@moodCode='INT']"), None)
    return {
        **_drug(element), **quantity(element.find("rateQuantity"), "rate"), **_frequency(element),
        **concept(element.find("approachSiteCode"), "site"), "as_needed": _yes(element.find("precondition")),
        **quantity(maximum.find("numerator") if maximum is not None else None, "most"),
        **quantity(maximum.find("denominator") if maximum is not None else None, "most_per"),
        **_reason(element), "sig": _said(inner.get(_SIG)) or _free_text(element),
        "comment": _said(inner.get(_COMMENT)), "instruction": _instruction(element),
        "repeats": attribute(supply, "repeatNumber"), **quantity(_find(supply, "quantity"), "supplied"),
    }  # fmt: skip


def immunization(element: etree._Element) -> Columns:
    """Dose, lot, and why it was not given."""
    refused = element.find("entryRelationship[@typeCode='RSON']/observation/code")
    material = element.find("consumable/manufacturedProduct/manufacturedMaterial")
    return {
        **_drug(element), **concept(element.find("approachSiteCode"), "site"), **concept(refused, "reason"),
        "lot": plain_text(_find(material, "lotNumberText")), "dose_number": attribute(element, "repeatNumber"),
        "comment": _said(dict(_coded(element)).get(_COMMENT)),
    }  # fmt: skip


def supply(element: etree._Element) -> Columns:
    """What was ordered or handed over, how much and how often."""
    return {**quantity(element.find("quantity"), "supplied"), "repeats": attribute(element, "repeatNumber"),
            "instruction": _instruction(element)}  # fmt: skip


def procedure(element: etree._Element) -> Columns:
    """Where in the body, why, and where it was done."""
    return {**concept(element.find("targetSiteCode"), "site"), **_reason(element), "place": _place(element),
            "comment": _said(dict(_coded(element)).get(_COMMENT))}  # fmt: skip


def encounter(element: etree._Element, visit_ids: frozenset[tuple[str | None, str | None]]) -> Columns:
    """Class and type, disposition, place; whether it is the encounter of the header too."""
    known = {identifier(x) for x in identifiers(element.iterfind("id"))}
    columns = {"code": None, "system": None, "display": None, **encounter_class(element.find("code"))}
    return {
        **columns, **concept(element.find("{urn:hl7-org:sdtc}dischargeDispositionCode"), "disposition"),
        **_reason(element), "place": _place(element), "is_visit": "yes" if known & visit_ids else None,
    }  # fmt: skip


def planned(element: etree._Element) -> Columns:
    """Priority and reason of what is planned; dose and route of a planned medication."""
    return {**_drug(element), **_reason(element), "priority": coding(element.find("priorityCode"))[0],
            "instruction": _instruction(element)}  # fmt: skip


def relative(element: etree._Element, outer: etree._Element | None, timezone: str) -> Columns:
    """The family member of an observation: relation, sex, birth, death; the age at onset; whether it caused death."""
    subject = _find(outer, "subject/relatedSubject")
    person = _find(subject, "subject")
    inner = dict(_coded(element))
    died = element.find("entryRelationship[@typeCode='CAUS']/observation")
    also = _find(subject, "code/translation[@code]")
    return {
        **concept(_find(subject, "code"), "relation"), **concept(also, "relation_also"),
        **concept(_find(person, "administrativeGenderCode"), "sex"),
        "born": fhir_time(attribute(person, "birthTime"), timezone),
        "deceased": attribute(person, "{urn:hl7-org:sdtc}deceasedInd"),
        "deceased_time": fhir_time(attribute(person, "{urn:hl7-org:sdtc}deceasedTime"), timezone),
        **_age(inner.get(_AGE)), "caused_death": _yes(died),
    }  # fmt: skip


def device(element: etree._Element, timezone: str) -> Columns:
    """A product instance: what it is, its UDI, and the statement that it takes part in."""
    statement = next(element.iterancestors("procedure", "supply", "act", "observation"), None)
    when = interval(_find(statement, "effectiveTime"), timezone)
    code, system, display = coding(element.find("playingDevice/code"))
    udi = next((x.get("extension") for x in identifiers(element.iterfind("id")) if x.get("extension")), None)
    return {"code": code, "system": system, "display": display, "udi": udi, **when,
            "model": plain_text(element.find("playingDevice/manufacturerModelName")),
            "maker": plain_text(element.find("scopingEntity/desc")),
            "mood": statement.get("moodCode") if statement is not None else None,
            "status": attribute(statement, "statusCode", "code")}  # fmt: skip


def _coded(element: etree._Element) -> Iterator[tuple[str, etree._Element]]:
    """Statements within another, by the code that says what they tell of it; of one code, the first comes last."""
    for inner in reversed(list(element.iterfind("entryRelationship/*"))):
        if code := attribute(inner, "code", "code"):
            yield code, inner


def _answer(element: etree._Element | None) -> tuple[str | None, str | None, str | None]:
    return coding(element.find("value") if element is not None else None)


def _find(element: etree._Element | None, path: str) -> etree._Element | None:
    return element.find(path) if element is not None else None


def _yes(element: etree._Element | None) -> str | None:
    return "yes" if element is not None else None


def _said(element: etree._Element | None) -> str | None:
    return plain_text(_find(element, "text"))


def _concern(outer: etree._Element | None) -> str | None:
    return attribute(outer, "statusCode", "code") if outer is not None and outer.tag == "act" else None


def _age(element: etree._Element | None) -> Columns:
    value = _find(element, "value")
    return {"age": value.get("value"), "age_unit": value.get("unit")} if value is not None else {}


def _drug(element: etree._Element) -> Columns:
    return {**quantity(element.find("doseQuantity"), "dose"), **concept(element.find("routeCode"), "route")}


def _reason(element: etree._Element) -> Columns:
    return concept(element.find("entryRelationship[@typeCode='RSON']/observation/value"), "reason")


def _place(element: etree._Element) -> str | None:
    return plain_text(element.find("participant[@typeCode='LOC']/participantRole/playingEntity/name"))


def _instruction(element: etree._Element) -> str | None:
    act = element.find("entryRelationship/act[@moodCode='INT']")
    return _said(act) or plain_text(_find(act, "code/originalText"))


def _free_text(element: etree._Element) -> str | None:
    """The words of a medication, where they are its own and no reference to the section's."""
    text = element.find("text")
    return plain_text(text) if text is not None and text.find("reference") is None else None


def _frequency(element: etree._Element) -> Columns:
    """How often: a PIVL_TS is a period (perhaps of two bounds), an EIVL_TS an event of the day."""
    columns: Columns = {}
    for time in element.iterfind("effectiveTime"):
        kind = type_of(time)
        if kind == "PIVL_TS" and (period := time.find("period")) is not None:
            columns |= quantity(period, "period")
            columns["period_most"] = attribute(period, "high")
        elif kind == "EIVL_TS":
            columns["when_taken"] = attribute(time, "event", "code")
    return columns
