"""The statements and sections of a document's body as rows, by table."""

from collections import Counter
from collections.abc import Iterator

from lxml import etree

from ehrseq.sources.ccda import details
from ehrseq.sources.ccda.observed import observed
from ehrseq.sources.ccda.people import People
from ehrseq.sources.ccda.templates import statements
from ehrseq.sources.ccda.values import (
    Columns,
    coding,
    concept,
    fhir_time,
    identifier,
    identifiers,
    interval,
    plain_text,
    type_of,
)

_MATERIAL = "manufacturedProduct/manufacturedMaterial/code"
_ABOUT = {
    "medications": f"consumable/{_MATERIAL}", "immunizations": f"consumable/{_MATERIAL}",
    "supplies": f"product/{_MATERIAL}", "dispenses": f"product/{_MATERIAL}",
    "allergies": "participant/participantRole/playingEntity/code", "problems": "value", "family_history": "value",
}  # fmt: skip
"""Where a statement says what it is about, if not in its code."""
_OUTER = ("organizer", "act", "encounter")
_texts = etree.XPath("/ClinicalDocument/component//section/text//*[@ID]")
_sections = etree.XPath("/ClinicalDocument/component//section")
_visit_ids = etree.XPath("/ClinicalDocument/componentOf/encompassingEncounter/id")


def body_rows(root: etree._Element, people: People, timezone: str) -> dict[str, list[Columns]]:
    """Rows of every table of the body, in the order of the document; `number` counts statements of a table from 1."""
    return _Body(root, people, timezone).rows()


class _Body:
    def __init__(self, root: etree._Element, people: People, timezone: str) -> None:
        self.root, self.people, self.timezone = root, people, timezone
        self.texts = {x.get("ID"): x for x in _texts(root)}
        self.tables = statements(root)
        self.numbers: dict[etree._Element, str] = {}
        counts = Counter[str]()
        for element, table in self.tables.items():
            counts[table] += 1
            self.numbers[element] = str(counts[table])
        self.relatives: dict[etree._Element | None, str] = {}
        self.visit_ids = frozenset(identifier(x) for x in identifiers(_visit_ids(root)))

    def rows(self) -> dict[str, list[Columns]]:
        """All rows by table."""
        found: dict[str, list[Columns]] = {"sections": [self._section(x) for x in _sections(self.root)]}
        for number, section in enumerate(found["sections"], start=1):
            section["number"] = str(number)
        for element, table in self.tables.items():
            common = {"number": self.numbers[element], **self._common(element, table)}
            for row in self._several(element, table):
                found.setdefault(table, []).append({**common, **row})
        return found

    def _section(self, element: etree._Element) -> Columns:
        code, code_system, display = coding(element.find("code"))
        return {"code": code, "system": code_system, "display": display, "title": plain_text(element.find("title")),
                "narrative": plain_text(element.find("text")), "null_flavor": element.get("nullFlavor")}  # fmt: skip

    def _common(self, element: etree._Element, table: str) -> Columns:
        """What every statement may say: what it is about, when, how sure, and who said so."""
        about = self._about(element, table)
        code, code_system, display = coding(about)
        section = next(element.iterancestors("section"), None)
        status, template = element.find("statusCode"), element.find("templateId")
        id_system, id_value = identifier(next(iter(identifiers(element.iterfind("id"))), None))
        return {
            "element": str(element.tag), "template": template.get("root") if template is not None else None,
            "section": coding(section.find("code"))[0] if section is not None else None,
            "title": plain_text(section.find("title")) if section is not None and table == "other" else None,
            "mood": element.get("moodCode"), "status": status.get("code") if status is not None else None,
            "negated": element.get("negationInd"), "null_flavor": element.get("nullFlavor"),
            "id_system": id_system, "id_value": id_value,
            "code": code, "system": code_system, "display": display,
            "narrative": self._narrative(element, about), **_translations(about, code),
            **self._times(element), **self._authors(element), "performer": self._performer(element),
        }  # fmt: skip

    def _about(self, element: etree._Element, table: str) -> etree._Element | None:
        about = element.find(_ABOUT.get(table, "code"))
        if about is None and table == "plan_of_care":
            about = element.find(f".//{_MATERIAL}")
        if about is None and table in (
            "supplies",
            "dispenses",
        ):  # within a medication it need not say again of what
            outer = next(element.iterancestors("substanceAdministration"), None)
            about = outer.find(f".//{_MATERIAL}") if outer is not None else None
        return about

    def _times(self, element: etree._Element) -> Columns:
        times = [x for x in element.iterfind("effectiveTime") if type_of(x) not in ("PIVL_TS", "EIVL_TS")]
        return interval(times[0] if times else None, self.timezone)

    def _authors(self, element: etree._Element) -> Columns:
        """The last author, and when the first one wrote: of the statement, or else of the concern around it."""
        authors = list(element.iterfind("author"))
        outer = next(element.iterancestors("act"), None)
        authors = authors or (list(outer.iterfind("author")) if outer is not None else [])
        keys = [key for x in authors if (key := self.people.practitioner(x.find("assignedAuthor")))]
        times = [text for x in authors for time in x.iterfind("time") if (text := time.get("value"))]
        written = fhir_time(min(times), self.timezone) if times else None
        return {"author": keys[-1] if keys else None, "author_time": written}

    def _performer(self, element: etree._Element) -> str | None:
        staff = element.iterfind("performer/assignedEntity")
        return next(filter(None, map(self.people.practitioner, staff)), None)

    def _several(self, element: etree._Element, table: str) -> Iterator[Columns]:
        """What a statement of a table says: in one row, or in one for each part."""
        outer = next(element.iterancestors(*_OUTER), None)
        match table:
            case "allergies":
                yield from details.allergy(element, outer, self.timezone)
            case "panels":
                yield from self._panel(element)
            case _:
                yield self._detail(element, table, outer)

    def _panel(self, element: etree._Element) -> Iterator[Columns]:
        """A row for each result of a panel. One without a time has that of its results, from the first to the last."""
        inner = [x for x in element.iterfind("component/observation") if self.tables.get(x) == "results"]
        columns: Columns = {}
        if element.find("effectiveTime") is None:
            times = [interval(x.find("effectiveTime"), self.timezone) for x in inner]
            known = sorted(text for time in times if (text := time.get("time") or time.get("low")))
            columns = {"low": known[0], "high": known[-1]} if known else {}
        for result in inner:
            yield {**columns, "result": self.numbers[result]}
        if not inner:
            yield columns

    def _detail(self, element: etree._Element, table: str, outer: etree._Element | None) -> Columns:
        match table:
            case "problems":
                around = next(element.iterancestors("encounter"), None)
                known = self.numbers[around] if self.tables.get(around) == "encounters" else None
                kind = outer.find("templateId") if outer is not None else None
                return {**details.problem(element, outer), "encounter": known,
                        "parent_template": kind.get("root") if kind is not None else None}  # fmt: skip
            case "medications":
                return details.medication(element, self.timezone)
            case "supplies" | "dispenses":
                return details.supply(element)
            case "immunizations":
                return details.immunization(element)
            case "procedures":
                return details.procedure(element)
            case "encounters":
                return details.encounter(element, self.visit_ids)
            case "plan_of_care":
                return {**details.planned(element), **observed(element, self.timezone)}
            case "family_history":
                number = self.relatives.setdefault(outer, str(len(self.relatives) + 1))
                return {**details.relative(element, outer, self.timezone), "relative": number}
            case "devices":
                return details.device(element, self.timezone)
            case "notes":
                return {"text": self._text(element.find("text"))}
            case _:
                return observed(element, self.timezone)

    def _narrative(self, element: etree._Element, about: etree._Element | None) -> str | None:
        """The text of the code, or of the entry: its own, or what it refers to in the section's narrative."""
        original = about.find("originalText") if about is not None else None
        return self._text(original) or self._text(element.find("text"))

    def _text(self, place: etree._Element | None) -> str | None:
        if place is None:
            return None
        reference = place.find("reference")
        target = self.texts.get((reference.get("value") or "").lstrip("#")) if reference is not None else None
        return plain_text(target if target is not None else place)


def _translations(about: etree._Element | None, code: str | None) -> Columns:
    """The first two translations that are not the code itself."""
    others = about.iterfind("translation[@code]") if about is not None else ()
    found = [other for other in others if other.get("code") != code]
    columns: Columns = {}
    for name, other in zip(("also", "more"), found, strict=False):
        columns |= concept(other, f"{name}_code")
    return columns
