"""Parts of a segment by the names of columns: `pid_3_1` is PID-3.1, `obx_14_t` the time in OBX-14."""

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from ehrseq.sources.hl7v2.messages import Message

_NAME = re.compile(r"([a-z][a-z0-9]{2})_(\d+)(?:r(\d+))?(?:_(\d+))?(?:_(\d+))?(_t|_s|_l)?")
_TIME = re.compile(r"(\d{4})(\d\d)?(\d\d)?(?:(\d\d)(\d\d)?(\d\d)?(\.\d+)?)?([+-]\d{4})?")
SYSTEMS = {
    "LN": "http://loinc.org", "LOINC": "http://loinc.org", "SCT": "http://snomed.info/sct",
    "SNM": "http://snomed.info/sct", "SNOMED": "http://snomed.info/sct", "UCUM": "http://unitsofmeasure.org",
    "I10": "http://hl7.org/fhir/sid/icd-10", "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "I9": "http://hl7.org/fhir/sid/icd-9-cm", "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "CVX": "http://hl7.org/fhir/sid/cvx", "NDC": "http://hl7.org/fhir/sid/ndc",
    "RXNORM": "http://www.nlm.nih.gov/research/umls/rxnorm", "C4": "http://www.ama-assn.org/go/cpt",
    "CDCREC": "urn:oid:2.16.840.1.113883.6.238",
}  # fmt: skip
"""HL7 table 0396 to the URLs that FHIR uses; other systems are `urn:ehrseq:hl7v2:` and their name."""


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value stands: segment, field, repetition, component, sub-component (from 1; 0 is all of it), and what it
    is: a time (`_t`), a code system (`_s`), or all repetitions, a line each (`_l`).
    """

    segment: str
    field: int
    repetition: int
    component: int
    subcomponent: int
    kind: str

    @property
    def leads(self) -> bool:
        """Whether it is the first of all that a field may have: all there is in a field without separators."""
        return self.repetition <= 1 and self.component <= 1 and self.subcomponent <= 1


@lru_cache(4096)
def part_of(column: str) -> Part | None:
    """The part that a column names; None for columns that the reader fills itself.

    >>> part_of("pid_3r2_4_1"), part_of("message")
    (Part(segment='PID', field=3, repetition=2, component=4, subcomponent=1, kind=''), None)
    """
    match = _NAME.fullmatch(column)
    if not match:
        return None
    segment, field, repetition, component, subcomponent, kind = match.groups()
    return Part(
        segment.upper(),
        int(field),
        int(repetition or 1),
        int(component or 0),
        int(subcomponent or 0),
        kind or "",
    )


def value(text: str, part: Part, message: Message, timezone: str) -> str | None:
    """A part of the text of a field, unescaped; null where it is absent or deleted."""
    if part.kind == "_l":
        lines = [unescape(line, message).strip() for line in text.split(message.repetition)]
        return "\n".join(lines).strip() or None
    for mark, at in (
        (message.repetition, part.repetition),
        (message.component, part.component),
        (message.subcomponent, part.subcomponent or (1 if part.component else 0)),
    ):
        if at and mark in text:
            pieces = text.split(mark, at)
            text = pieces[at - 1] if at <= len(pieces) else ""
        elif at > 1:
            return None
    return meant(unescape(text, message), part, timezone)


def meant(text: str, part: Part, timezone: str) -> str | None:
    """What a text without separators says: a time, a code system, or itself."""
    text = text.strip()
    if not text or text == '""':
        return None
    if part.kind == "_t":
        return fhir_time(text, timezone)
    if part.kind == "_s":
        return SYSTEMS.get(text.upper()) or f"urn:ehrseq:hl7v2:{text}".replace(" ", "-")
    return text


def unescape(text: str, message: Message) -> str:
    r"""Resolve \F\ \S\ \T\ \R\ \E\ \Xdd\ \.br\; highlighting goes, and what is not known stays as it stands."""
    if message.escape not in text:
        return text
    known = {
        "F": message.field, "S": message.component, "T": message.subcomponent, "R": message.repetition,
        "E": message.escape, ".br": "\n", ".BR": "\n", "H": "", "N": "",
    }  # fmt: skip
    mark = re.escape(message.escape)

    def resolve(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "X" and re.fullmatch(r"X(?:[0-9A-Fa-f]{2})+", code):
            return bytes.fromhex(code[1:]).decode("utf-8", errors="replace")
        return known.get(code, match[0])

    return re.sub(f"{mark}([^{mark}]+){mark}", resolve, text)


@lru_cache(65_536)
def fhir_time(text: str, timezone: str) -> str:
    """An HL7 time as FHIR dateTime, as precise as it is; what is no time stays, and the mapping rejects it.

    >>> fhir_time("200803190830-0800", "UTC"), fhir_time("2008", "UTC"), fhir_time("20080319083000", "Europe/Berlin")
    ('2008-03-19T08:30:00-08:00', '2008', '2008-03-19T08:30:00+01:00')
    """
    match = _TIME.fullmatch(text)
    if not match:
        return text
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    date = "-".join(part for part in (year, month, day) if part)
    if not hour:
        return date
    clock = f"{date}T{hour}:{minute or '00'}:{second or '00'}"
    try:
        offset = offset or datetime.fromisoformat(clock).replace(tzinfo=ZoneInfo(timezone)).strftime("%z")
    except ValueError:
        return text
    return f"{clock}{fraction or ''}{offset[:3]}:{offset[3:]}"
