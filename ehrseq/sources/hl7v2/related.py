"""What a segment takes from those around it: the ORC of an order, the PV2 of a visit, the notes below a result.

A related segment is looked for below the row, up to the next segment that may own one; then above it, up to where its
order or its patient begins. So `orc_9_t` in the table `obr` is the time of the order control that opened the order.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ehrseq.sources.hl7v2.messages import Message
from ehrseq.sources.hl7v2.values import part_of, value

_OWNERS = frozenset([
    "PID", "PV1", "ORC", "OBR", "OBX", "RXO", "RXE", "RXD", "RXG", "RXA", "SCH", "AIS", "AIG", "AIL", "AIP", "TXA",
    "FT1", "SPM", "DG1", "PR1", "AL1", "IAM", "IN1", "GT1", "NK1", "RF1", "PRB",
])  # fmt: skip
"""Segments that others below them tell more of."""
ORDERS = frozenset(["OBR", "RXO", "RXE", "RXD", "RXG", "RXA", "ODS", "ODT"])
"""Segments that say what an ORC is about."""
_TEXTS = ("TX", "FT", "ST")
_ONE_VALUE = ("TX", "FT", "ED", "RP", "NA")


@dataclass(frozen=True, slots=True)
class Segments:
    """A message taken apart: the fields of each segment (0 is its name), and what the reader knows of each."""

    message: Message
    fields: list[list[str]]
    known: list[dict[str, str | None]]


def related(segments: Segments, at: int, name: str) -> list[str] | None:
    """The fields of the segment called `name` that belongs to the one at index `at`; None if there is none."""
    own = segments.fields[at][0]
    for below in range(at + 1, len(segments.fields)):
        found = segments.fields[below]
        if found[0] == name:
            return found
        if found[0] in _OWNERS:
            break
    for above in range(at - 1, -1, -1):
        found = segments.fields[above]
        if found[0] == name:
            return found
        if found[0] in ("ORC", "PID") or (found[0] == own and own in ORDERS):
            return None
    return None


def notes(segments: Segments, at: int) -> str | None:
    """The comments (NTE-3) below a segment, a line each."""
    lines = []
    for below in range(at + 1, len(segments.fields)):
        fields = segments.fields[below]
        if fields[0] in _OWNERS:
            break
        if fields[0] == "NTE":
            lines.append(_lines("nte_3_l", fields, segments.message))
    return "\n".join(filter(None, lines)) or None


def texts(segments: Segments, at: int) -> str | None:
    """The text of a document: OBX-5 of all text below its TXA, a line each."""
    found = [f for f in segments.fields[at + 1 :] if f[0] == "OBX" and len(f) > 5 and f[2] in _TEXTS]
    return "\n".join(filter(None, (_lines("obx_5_l", f, segments.message) for f in found))) or None


def opens(segments: Segments, at: int) -> str | None:
    """The segment that says what an ORC is about."""
    for fields in segments.fields[at + 1 :]:
        if fields[0] in ("ORC", "PID"):
            break
        if fields[0] in ORDERS:
            return fields[0]
    return None


def several(segments: Segments, at: int) -> str | None:
    """`Y` for an OBX with more than one value; the repetitions of text are its lines."""
    fields = segments.fields[at]
    return "Y" if len(values(fields, segments.message)) > 1 else None


def values(fields: list[str], message: Message) -> list[str]:
    """The values in OBX-5, those that are there."""
    if len(fields) < 6 or message.repetition not in fields[5] or fields[2] in _ONE_VALUE:
        return fields[5:6]
    return [piece for piece in fields[5].split(message.repetition) if piece]


AROUND: dict[str, Callable[[Segments, int], str | None]] = {
    "notes": notes,
    "texts": texts,
    "opens": opens,
    "several": several,
}
"""Columns made of several segments."""


def _lines(column: str, fields: list[str], message: Message) -> str | None:
    part = part_of(column)
    text = fields[part.field] if part and part.field < len(fields) else ""
    return value(text, part, message, "UTC") if part and text else None
