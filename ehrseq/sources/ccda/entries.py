"""Where the entries of each kind stand in a document, and what is read from each."""

from collections.abc import Iterator, Mapping

from lxml import etree

from ehrseq.sources.ccda.values import coding, fhir_time, plain_text
from ehrseq.sources.ccda.xml import TYPE

_C = "2.16.840.1.113883.10.20.22.4."
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "problems": ("4",), "medications": ("16",), "supplies": ("17",), "allergies": ("7",),
    "immunizations": ("52",), "panels": ("1",), "results": ("2",), "vital_signs": ("27",),
    "procedures": ("14", "12", "13"), "encounters": ("49",),
    "assessments": ("48", "67", "69", "72", "74", "109", "111", "114", "124", "128", "138"),
    "social_history": ("38", "78", "85", "200"),
    "family_history": ("46",),
    "plan_of_care": ("39", "40", "41", "42", "43", "44", "20", "120", "121"),
}  # fmt: skip
"""Kinds of entries by the ends of their template OIDs; extensions (the release of a template) do not matter."""


def _having(ends: tuple[str, ...]) -> str:
    return " or ".join(f"@root='{_C}{end}'" for end in ends)


_FIND = {
    kind: etree.XPath(f"/ClinicalDocument/component//templateId[{_having(ends)}]/..")
    for kind, ends in TEMPLATES.items()
}
_KNOWN = frozenset(_C + end for ends in TEMPLATES.values() for end in ends)
_OIDS = {kind: [(_C + end).encode() for end in ends] for kind, ends in TEMPLATES.items()}
_STATEMENTS = etree.XPath("/ClinicalDocument/component//section/entry/*")
_FIND["other"] = lambda root: [
    x for x in _STATEMENTS(root) if not any(t.get("root") in _KNOWN for t in x.iter("templateId"))
]
_FIND["sections"] = etree.XPath("/ClinicalDocument/component//section")
_TEXTS = etree.XPath("/ClinicalDocument/component//section/text//*[@ID]")
_SUBJECT_OF = {
    "medications": "consumable/manufacturedProduct/manufacturedMaterial/code",
    "immunizations": "consumable/manufacturedProduct/manufacturedMaterial/code",
    "supplies": "product/manufacturedProduct/manufacturedMaterial/code",
    "allergies": "participant/participantRole/playingEntity/code",
    "problems": "value",
    "family_history": "value",
}
_SUBSTANCE = ".//manufacturedMaterial/code"


def may_have(data: bytes, kind: str) -> bool:
    """Whether a document can have entries of a kind: one of their OIDs stands in it, or its encoding hides that."""
    return kind not in _OIDS or b"\0" in data[:4] or any(oid in data for oid in _OIDS[kind])


def entries(root: etree._Element, kind: str, timezone: str) -> Iterator[dict[str, str | None]]:
    """The entries of one kind, each with the columns that it fills."""
    texts: dict[str, etree._Element] = {}
    if kind != "sections":
        texts = {name: x for x in _TEXTS(root) if (name := x.get("ID"))}
    for element in _FIND[kind](root):
        if kind == "sections":
            yield _section(element)
        else:
            yield _entry(element, kind, timezone, texts)


def _section(element: etree._Element) -> dict[str, str | None]:
    code, system, display = coding(element.find("code"))
    return {"code": code, "system": system, "display": display, "title": plain_text(element.find("title")),
            "narrative": plain_text(element.find("text")), "null_flavor": element.get("nullFlavor")}  # fmt: skip


def _entry(
    element: etree._Element, kind: str, timezone: str, texts: Mapping[str, etree._Element]
) -> dict[str, str | None]:
    about = element.find(_SUBJECT_OF.get(kind, "code"))
    if about is None and kind == "plan_of_care":
        about = element.find(_SUBSTANCE)
    if about is None and kind == "supplies":  # a supply within a medication need not say again of what
        outer = next(element.iterancestors("substanceAdministration"), None)
        about = outer.find(_SUBSTANCE) if outer is not None else None
    code, system, display = coding(about)
    value = element.find("value")
    value = value if value is not None else element.find("doseQuantity")
    section = next(element.iterancestors("section"), None)
    status = element.find("statusCode")
    template = element.find("templateId")
    return {
        "element": str(element.tag), "template": template.get("root") if template is not None else None,
        "section": coding(section.find("code"))[0] if section is not None else None,
        "title": plain_text(section.find("title")) if section is not None else None,
        "mood": element.get("moodCode"), "status": status.get("code") if status is not None else None,
        "negated": element.get("negationInd"),
        "null_flavor": element.get("nullFlavor") or (about.get("nullFlavor") if about is not None else None),
        "code": code, "system": system, "display": display, "narrative": _narrative(element, about, texts),
        **_translation(about, code), **_value(value, timezone), **_times(element, timezone),
        **_observation(element), **_parent(element, kind),
    }  # fmt: skip


def _translation(about: etree._Element | None, code: str | None) -> dict[str, str | None]:
    for other in about.iterfind("translation[@code]") if about is not None else ():
        if other.get("code") != code:
            return dict(zip(("also_code", "also_system", "also_display"), coding(other), strict=True))
    return {}


def _value(value: etree._Element | None, timezone: str) -> dict[str, str | None]:
    if value is None:
        return {}
    kind = (value.get(TYPE) or ("PQ" if value.tag == "doseQuantity" else "")).rpartition(":")[2]
    match kind:
        case "PQ" | "INT" | "REAL":
            return {"value_type": kind, "value": value.get("value"), "unit": value.get("unit")}
        case "CD" | "CE" | "CO" | "CV":
            code, system, display = coding(value)
            return {"value_type": "CD", "value_code": code, "value_system": system, "value_display": display}
        case "IVL_PQ":
            return {"value_type": kind, **_bounds(value, "value_low", "value_high"), "unit": _unit(value)}
        case "TS" | "IVL_TS":
            return {"value_type": "TS", "value": fhir_time(value.get("value"), timezone)}
        case _:
            return {"value_type": kind or None, "value": value.get("value") or plain_text(value)}


def _bounds(element: etree._Element, low: str, high: str) -> dict[str, str | None]:
    found = {name: element.find(tag) for name, tag in ((low, "low"), (high, "high"))}
    return {name: bound.get("value") for name, bound in found.items() if bound is not None}


def _unit(element: etree._Element) -> str | None:
    return next((bound.get("unit") for bound in element if bound.get("unit")), None)


def _times(element: etree._Element, timezone: str) -> dict[str, str | None]:
    time = element.find("effectiveTime")
    if time is None:
        return {}
    found = {"time": time.get("value"), **_bounds(time, "low", "high")}
    return {name: fhir_time(text, timezone) for name, text in found.items()}


def _observation(element: etree._Element) -> dict[str, str | None]:
    mark = coding(element.find("interpretationCode"))
    route = coding(element.find("routeCode"))
    normal = element.find("referenceRange/observationRange/value")
    limits = _bounds(normal, "normal_low", "normal_high") if normal is not None else {}
    return {"interpretation": mark[0], "route": route[0], "route_system": route[1], "route_display": route[2],
            **limits, "normal_unit": _unit(normal) if normal is not None else None}  # fmt: skip


def _parent(element: etree._Element, kind: str) -> dict[str, str | None]:
    """The organizer or act around an entry: a family member's relation, or the code of a panel."""
    outer = next(element.iterancestors("organizer", "act", "encounter"), None)
    if outer is None:
        return {}
    related = outer.find("subject/relatedSubject/code")
    relation = coding(related)
    other = coding(related.find("translation[@code]") if related is not None else None)
    status = outer.find("statusCode")
    place = outer.getroottree().getpath(outer) if kind == "family_history" else None
    return {"parent": place, "parent_code": coding(outer.find("code"))[0],
            "parent_status": status.get("code") if status is not None else None,
            "relation": relation[0], "relation_system": relation[1], "relation_display": relation[2],
            "relation_also_code": other[0], "relation_also_system": other[1]}  # fmt: skip


def _narrative(
    element: etree._Element, about: etree._Element | None, texts: Mapping[str, etree._Element]
) -> str | None:
    """The text of the code, or of the entry: its own, or what it refers to in the section's narrative."""
    for place in (about.find("originalText") if about is not None else None, element.find("text")):
        if place is None:
            continue
        reference = place.find("reference")
        target = texts.get((reference.get("value") or "").lstrip("#")) if reference is not None else None
        if found := plain_text(target if target is not None else place):
            return found
    return None
