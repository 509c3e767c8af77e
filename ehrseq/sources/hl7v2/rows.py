"""What the reader knows of each segment of a message: whose it is, of which visit and order, and a key that stays."""

import hashlib
import re
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache

from ehrseq.sources.hl7v2.messages import Message, MessageError
from ehrseq.sources.hl7v2.related import Segments
from ehrseq.sources.hl7v2.values import fhir_time

KNOWN = frozenset([
    "message", "patient", "type", "event", "segment", "number", "sent", "visit", "request", "collected", "key",
    "retired", "account", "episode",
])  # fmt: skip
"""Columns that the reader fills itself."""
_NAMES = {
    "OBX": (3, 4), "DG1": (3, 5), "PR1": (3, 5), "RXA": (3, 5), "RXO": (1,), "RXE": (2,), "RXD": (2, 3), "RXG": (4,),
    "SCH": (1, 2), "AIS": (3,), "TXA": (12,), "FT1": (2, 4, 7), "ACC": (1, 3), "RF1": (6, 11), "SPM": (2, 4),
    "AL1": (3,), "IAM": (3,), "IN1": (2, 3, 36), "NK1": (2, 3), "GT1": (2, 3), "PDA": (), "PRB": (3, 4), "GOL": (3, 4),
    "ROL": (3, 4, 5),
}  # fmt: skip
"""Fields that, with the patient, the visit and the order, name what a segment is about, in all its versions."""
_LASTING = {"AL1", "IAM", "IN1", "NK1", "GT1", "PDA", "PRB", "GOL", "ROL", "SCH", "TXA"}
"""Segments about a patient, an appointment or a document, whatever the visit in which they are sent."""
_MERGES = {"A18", "A34", "A36", "A39", "A40", "A47"}
"""Events that give a patient's number up for another; MRG of other events is about accounts and visits."""
_SEVERAL = {*_MERGES, *["A17", "A24", "A30", "A35", "A37", "A41", "A42", "A43", "A44", "A45"]}


def message_rows(message: Message, timezone: str) -> Segments:
    """The segments of a message and what is known of each. Raises: MessageError."""
    split = [line.split(message.field) for line in message.lines]
    split[0] = ["MSH", message.field, *split[0][1:]]
    context = _context(split, message, timezone)
    known: list[dict[str, str | None]] = []
    again = Counter[str]()
    control = order = visit = request = collected = None
    for number, fields in enumerate(split, start=1):
        segment = fields[0]
        place = f"{context['message']}.{number}"
        if segment == "PID":
            context["patient"] = _patient(fields, message)
            control = order = visit = request = collected = None
        elif segment == "PV1":
            stay = _text(fields, 19, message) or _text(fields, 50, message)
            visit = _hash(f"{context['patient']}|{stay}") if stay else place
        elif segment == "ORC":
            control = order = _text(fields, 3, message) or _text(fields, 2, message) or place
            request, collected = _hash(f"{context['patient']}|{order}"), None
        elif segment == "OBR":
            order = _text(fields, 3, message) or _text(fields, 2, message) or control or place
            order += "." + _text(fields, 4, message)
            request = _hash(f"{context['patient']}|{order}")
            collected = fhir_time(_text(fields, 7, message), timezone) or None
        row = {
            **context, "segment": segment, "number": str(number), "visit": visit, "request": request,
            "collected": collected,
        }  # fmt: skip
        if segment in _NAMES:
            row["key"] = _key(fields, row, order, again)
        else:
            row["key"] = place
        if segment == "MRG":
            row["retired"] = _retired(fields, message, row)
        elif segment == "PID":
            row["account"] = _hash(f"{context['patient']}|account|{_text(fields, 18, message)}")
        elif segment == "PV1":
            row["episode"] = _hash(f"{context['patient']}|episode|{_text(fields, 54, message)}")
        known.append(row)
    return Segments(message, split, known)


def _key(fields: list[str], row: dict[str, str | None], order: str | None, again: Counter[str]) -> str:
    """What a segment is about, hashed. What lasts and is named is one thing, however often a message says it."""
    segment = fields[0]
    named = "|".join(_at(fields, at) for at in _names(segment, order))
    if segment in _LASTING and named.strip("|"):
        return _hash(f"{row['patient']}|{segment}|{named}")
    about = f"{row['patient']}|{row['visit'] or order or row['message']}|{order}|{segment}|{named}"
    again[about] += 1
    return _hash(f"{about}|{again[about]}")


def _names(segment: str, order: str | None) -> tuple[int, ...]:
    """Without an order, only its time tells one measurement from the next."""
    return (*_NAMES[segment], 14) if segment == "OBX" and order is None else _NAMES[segment]


def _retired(fields: list[str], message: Message, row: dict[str, str | None]) -> str | None:
    """The number that a merge gives up; None where MRG is about something else."""
    found = _identifier(_at(fields, 1), message)
    return found if row["event"] in _MERGES and found != row["patient"] else None


def _context(split: list[list[str]], message: Message, timezone: str) -> dict[str, str | None]:
    header = split[0]
    kind = [*_at(header, 9).split(message.component), ""][:2]
    people = [_patient(fields, message) for fields in split if fields[0] == "PID"]
    if not people:
        raise MessageError("no patient", "PID", "the message has no PID")
    if kind[0] == "ADT" and kind[1] not in _SEVERAL and len(set(people)) > 1:
        raise MessageError("patient conflict", "PID", "two PID segments of one event name different patients")
    event = next((fields for fields in split if fields[0] == "EVN"), [])
    sent = _at(header, 7) or _at(event, 2)
    return {
        "message": _hash("\r".join(message.lines)), "patient": people[0], "type": kind[0],
        "event": kind[1] or _at(event, 1),
        "sent": _instant(fhir_time(sent.split(message.component)[0], timezone)),
    }  # fmt: skip


def _at(fields: list[str], number: int) -> str:
    return fields[number] if number < len(fields) else ""


def _text(fields: list[str], number: int, message: Message) -> str:
    return _at(fields, number).split(message.repetition)[0].split(message.component)[0].strip()


def _instant(time: str) -> str | None:
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).strftime("%Y-%m-%d %H:%M:%S")


def _patient(fields: list[str], message: Message) -> str:
    """Who a PID is about. Raises: MessageError if it has no number, or two of one kind from one authority."""
    numbers: dict[tuple[str, str], str] = {}
    for repetition in _at(fields, 3).split(message.repetition):
        number, _, _, authority, kind = (repetition.split(message.component) + [""] * 5)[:5]
        if number and kind == "MR" and authority and numbers.setdefault((authority, kind), number) != number:
            raise MessageError("patient conflict", "PID", "PID-3 has two MR numbers from one authority")
    found = _identifier(_at(fields, 3), message) or _identifier(_at(fields, 2), message)
    if not found:
        raise MessageError("no patient", "PID", "PID-3 and PID-2 are empty")
    return found


def _identifier(field: str, message: Message) -> str | None:
    """The first number of a CX field with its authority, in the characters of a FHIR id."""
    pieces = [
        piece for piece in field.split(message.repetition) if piece.split(message.component)[0].strip(' "')
    ]
    if not pieces:
        return None
    number, _, _, authority = (pieces[0].split(message.component) + [""] * 4)[:4]
    text = ".".join(filter(None, (authority.split(message.subcomponent)[0].strip(), number.strip())))
    plain = re.fullmatch(r"[A-Za-z0-9.-]{1,30}", text)
    return text if plain else f"{re.sub('[^A-Za-z0-9.-]', '-', text)[:16]}-{_hash(text)[:12]}"


@lru_cache(1024)
def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
