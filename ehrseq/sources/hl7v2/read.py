"""Messages to batches of rows. A message that cannot be read is one reject, of the table `msh`."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SourceError
from ehrseq.sources.declaration import Table
from ehrseq.sources.hl7v2.messages import Message, MessageError, messages
from ehrseq.sources.hl7v2.values import fhir_time, part_of, value
from ehrseq.sources.rejects import join_rejects, rejects

type Row = tuple[list[str], Message, dict[str, str | None]]
type Parsed = tuple[dict[str, list[Row]], list[tuple[int, MessageError]]]

SUFFIXES = (".hl7", ".hl7v2", ".er7")
"""What the name of a file of messages ends in."""
TABLES = frozenset(
    ["MSH", "PID", "PV1", "OBR", "OBX", "AL1", "DG1", "PR1", "RXA", "RXE", "SCH", "TXA", "MRG"]
)
"""Segments with a table of their own; all others are rows of the table `other`."""
_ROWS_AT_ONCE = 50_000
_BYTES_HELD = 32 << 20
_NAMES = {
    "OBX": (3, 4), "AL1": (3,), "DG1": (3, 5), "PR1": (3, 5), "RXA": (3, 5), "RXE": (2,), "SCH": (1, 2), "TXA": (12,),
}  # fmt: skip
"""Fields that, with the patient, the visit and the order, name what a segment is about, in all its versions."""
_MERGES = {"A18", "A34", "A36", "A39", "A40", "A47"}
"""Events that give a patient's number up for another; MRG of other events is about accounts and visits."""
_SEVERAL = {*_MERGES, *["A17", "A24", "A30", "A35", "A37", "A41", "A42", "A43", "A44", "A45"]}


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of the table of a segment: its columns as text, `_file` and `_row`.

    `_row` counts the segments of the table in the file from 1; in rejects of `msh`, the messages.
    Raises: SourceError if a file cannot be opened.
    """
    rows: list[tuple[str | int | None, ...]] = []
    unread: list[pl.DataFrame] = []
    for path, name in files:
        by_table, refused = _file_rows(path, table.timezone)
        parts = [(column, part_of(column)) for column in table.columns]
        for row, (fields, message, known) in enumerate(by_table.get(table.name, ()), start=1):
            values = [
                value(fields, part, message, table.timezone) if part else known.get(column)
                for column, part in parts
            ]
            rows.append((*values, name, row))
        if table.name == "msh":
            unread += [_refused(name, number, error) for number, error in refused]
        if len(rows) >= _ROWS_AT_ONCE:
            yield _frame(table, rows), join_rejects(unread)
            rows, unread = [], []
    yield _frame(table, rows), join_rejects(unread)


def _frame(table: Table, rows: list[tuple[str | int | None, ...]]) -> pl.DataFrame:
    schema = {**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _refused(name: str, number: int, error: MessageError) -> pl.DataFrame:
    place = pl.DataFrame({"_file": [name], "_row": [number]})
    message = f"message {number}, segment {error.segment}: {error}"
    return rejects(place, "msh", rule=error.rule, element=error.segment, message=message)


@lru_cache(1)
def _held() -> dict[tuple[Path, int, int, str], Parsed]:
    """Files parsed by this process, for the tables that are read from them next."""
    return {}


def _file_rows(path: Path, timezone: str) -> Parsed:
    try:
        stat = path.stat()
        stamp = (path, stat.st_mtime_ns, stat.st_size, timezone)
        if stamp in (held := _held()):
            return held[stamp]
        content = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}. Check the file.") from error
    by_table: dict[str, list[Row]] = {}
    refused: list[tuple[int, MessageError]] = []
    for found in messages(content):
        if not isinstance(found, Message):
            refused.append(found)
            continue
        try:
            for name, row in message_rows(found, timezone):
                by_table.setdefault(name, []).append(row)
        except MessageError as error:
            refused.append((found.number, error))
    if sum(size for _, _, size, _ in held) + len(content) > _BYTES_HELD:
        held.clear()
    if len(content) <= _BYTES_HELD:
        held[stamp] = by_table, refused
    return by_table, refused


def message_rows(message: Message, timezone: str) -> list[tuple[str, Row]]:
    """Table and row of each segment of a message. Raises: MessageError."""
    split = [line.split(message.field) for line in message.lines]
    header = ["MSH", message.field, *split[0][1:]]
    context = _context(header, split, message, timezone)
    found: list[tuple[str, Row]] = []
    again = Counter[str]()
    order = visit = None
    for number, fields in enumerate(split, start=1):
        segment = fields[0]
        if segment == "PID":
            context["patient"], order, visit = _patient(fields, message), None, None
        elif segment == "PV1":
            visit = _text(fields, 19, message) or _text(fields, 50, message)
        elif segment in ("ORC", "OBR"):
            order = _text(fields, 3, message) or _text(fields, 2, message) or f"{context['message']}.{number}"
            if segment == "OBR":
                order += "." + _text(fields, 4, message)
        known = {**context, "segment": segment, "number": str(number)}
        known["request"] = _hash(f"{context['patient']}|{order}") if order else None
        known["visit"] = _hash(f"{context['patient']}|{visit}") if visit else None
        if segment in TABLES:
            named = "|".join(fields[at] for at in _NAMES.get(segment, ()) if at < len(fields))
            within = visit or order or context["message"]
            about = f"{context['patient']}|{within}|{order}|{segment}|{named}"
            again[about] += 1
            known["key"] = _hash(f"{about}|{again[about]}")
        name = segment.lower() if segment in TABLES else "other"
        if segment == "MRG":
            known["retired"] = _identifier(_at(fields, 1), message)
            if context["event"] not in _MERGES or known["retired"] in (None, context["patient"]):
                name = "other"
        found.append((name, (header if segment == "MSH" else fields, message, known)))
    return found


def _context(
    header: list[str], split: list[list[str]], message: Message, timezone: str
) -> dict[str, str | None]:
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
