"""Which statement of a document is a row of which table: by its templates, or else by what it is.

Templates are known by their OID, whatever their extension (their release). A statement in an entry that holds no known
template goes by its section, its element and its mood; entries that even so say nothing are rows of `other`.
"""

from collections.abc import Iterator, Mapping

from lxml import etree

from ehrseq.sources.ccda.values import coding

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "problems": ("4", "68", "73"), "medications": ("16",), "supplies": ("17",), "dispenses": ("18",),
    "allergies": ("7",), "immunizations": ("52",), "panels": ("1",), "results": ("2",), "vital_signs": ("27",),
    "procedures": ("14", "12", "13"), "encounters": ("49",),
    "assessments": ("48", "67", "69", "72", "74", "109", "111", "114", "124", "128", "138", "144"),
    "social_history": ("38", "78", "85", "200"), "family_history": ("46",),
    "plan_of_care": ("39", "40", "41", "42", "43", "44", "20", "120", "121", "130", "140"),
    "devices": ("37",), "notes": ("202",),
}  # fmt: skip
"""Tables by the ends of their template OIDs, below 2.16.840.1.113883.10.20.22.4."""
_KINDS = {f"2.16.840.1.113883.10.20.22.4.{end}": kind for kind, ends in TEMPLATES.items() for end in ends}
_KINDS |= {"2.16.840.1.113883.10.20.15.3.8": "social_history",  # pregnancy
           "2.16.840.1.113883.10.20.34.3.45": "social_history"}  # gender identity  # fmt: skip
_INSTRUCTION = "2.16.840.1.113883.10.20.22.4.20"
_PLANNED = frozenset(["INT", "RQO", "PRP", "PRMS", "ARQ", "APT", "GOL"])
_OBSERVATIONS = {"30954-2": "results", "8716-3": "vital_signs", "29762-2": "social_history"}
"""Tables of observations without a known template, by the LOINC code of their section; else `assessments`."""
_STATEMENTS = frozenset(
    ["act", "encounter", "observation", "organizer", "procedure", "substanceAdministration", "supply"]
)
_entries = etree.XPath("/ClinicalDocument/component//section/entry")
_inner = etree.XPath("component/*|entryRelationship[@typeCode='SUBJ' or @typeCode='COMP']/*")


def statements(root: etree._Element) -> dict[etree._Element, str]:
    """The statements of a document with the names of their tables, in the order of the document."""
    found: dict[etree._Element, str] = {}
    covered: set[etree._Element] = set()
    for template in root.iter("templateId"):
        kind = _KINDS.get(template.get("root", ""))
        statement = template.getparent()
        if kind is None or statement is None or statement in found:
            continue
        if (table := _table(kind, statement, template.get("root"))) is not None:
            found[statement] = table
            covered.update(statement.iterancestors("entry"))
    for entry in _entries(root):
        if entry not in covered:
            found |= _unknown(entry)
    return found


def _table(kind: str, statement: etree._Element, template: str | None) -> str | None:
    """The table of a statement of a known template. An instruction within another statement is a part of that."""
    if template == _INSTRUCTION and getattr(statement.getparent(), "tag", None) != "entry":
        return None
    if kind == "procedures" and statement.tag == "observation":
        kind = "assessments"
    if kind in ("procedures", "assessments", "encounters", "immunizations") and _is_planned(statement):
        return "plan_of_care"
    return kind


def _unknown(entry: etree._Element) -> dict[etree._Element, str]:
    section = entry.getparent()
    code = coding(section.find("code"))[0] if section is not None else None
    statement = next((child for child in entry if child.tag in _STATEMENTS), None)
    if statement is None:
        return {}
    return dict(_by_nature(statement, code)) or {statement: "other"}


def _by_nature(statement: etree._Element, section: str | None) -> Iterator[tuple[etree._Element, str]]:
    """The statement, or those within an act or organizer that only holds them, as section, element and mood say."""
    if _is_planned(statement):
        yield statement, "plan_of_care"
        return
    match statement.tag:
        case "observation" if statement.get("classCode", "OBS") == "OBS":
            yield statement, _OBSERVATIONS.get(section or "", "assessments")
        case "procedure":
            yield statement, "procedures"
        case "encounter":
            yield statement, "encounters"
        case "substanceAdministration":
            yield statement, "immunizations" if section == "11369-6" else "medications"
        case "organizer" | "act":
            for inner in _inner(statement):
                yield from _by_nature(inner, section)


def _is_planned(statement: etree._Element) -> bool:
    return statement.get("moodCode") in _PLANNED
