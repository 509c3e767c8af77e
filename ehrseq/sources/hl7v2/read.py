"""Messages to batches of rows. A message that cannot be read is one reject, of the table `msh`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from mmap import ACCESS_READ, mmap
from pathlib import Path

import polars as pl

from ehrseq.core.errors import MappingError, SourceError, closest
from ehrseq.sources.declaration import Table
from ehrseq.sources.hl7v2.messages import Message, MessageError, messages
from ehrseq.sources.hl7v2.related import AROUND, Segments, related
from ehrseq.sources.hl7v2.rows import KNOWN, message_rows
from ehrseq.sources.hl7v2.values import Part, part_of, value
from ehrseq.sources.rejects import join_rejects, rejects

type Row = tuple[Segments, int, list[str]]
type Refused = tuple[int, MessageError]

SUFFIXES = (".hl7", ".hl7v2", ".er7")
"""What the name of a file of messages ends in."""
OTHER, VALUES = "other", "obx_values"
"""Tables of the segments that no table is declared for, and of the values of an OBX that has several."""
_ONE_VALUE = ("TX", "FT", "ED", "RP", "NA")
_ROWS_AT_ONCE, _MESSAGES_AT_ONCE = 50_000, 5_000
_BYTES_HELD = 32 << 20


@dataclass(frozen=True, slots=True)
class Parsed:
    """Some messages: the rows of each kind of segment, and the messages that cannot be read."""

    rows: dict[str, list[Row]]
    refused: list[Refused]


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of the table of a segment: its columns as text, `_file` and `_row`.

    `_row` counts the segments of the table in the file from 1; in rejects of `msh`, the messages.
    Raises: SourceError if a file cannot be opened; MappingError if a column is no part of a segment.
    """
    parts = [(column, _part(table, column)) for column in table.columns]
    rows: list[tuple[str | int | None, ...]] = []
    unread: list[pl.DataFrame] = []
    for path, name in files:
        count = 0
        for parsed in _parsed(path, table.timezone):
            for found in _rows_of(parsed, table):
                count += 1
                rows.append((*(_value(found, column, part, table) for column, part in parts), name, count))
            if table.name == "msh":
                unread += [_refused(name, number, error) for number, error in parsed.refused]
            if len(rows) >= _ROWS_AT_ONCE:
                yield _frame(table, rows), join_rejects(unread)
                rows, unread = [], []
    yield _frame(table, rows), join_rejects(unread)


def _part(table: Table, column: str) -> Part | None:
    part = part_of(column)
    if part is None and column not in KNOWN and column not in AROUND:
        raise MappingError(
            f"table {table.name}: column `{column}` is no part of a segment such as pid_3_1, and none that the reader "
            f"fills.{closest(column, sorted((*KNOWN, *AROUND)))}"
        )
    return part


def _value(row: Row, column: str, part: Part | None, table: Table) -> str | None:
    segments, at, fields = row
    if part is None:
        return AROUND[column](segments, at) if column in AROUND else segments.known[at].get(column)
    if part.segment != fields[0]:
        found = related(segments, at, part.segment)
        return value(found, part, segments.message, table.timezone) if found else None
    return value(fields, part, segments.message, table.timezone)


def _frame(table: Table, rows: list[tuple[str | int | None, ...]]) -> pl.DataFrame:
    schema = {**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _refused(name: str, number: int, error: MessageError) -> pl.DataFrame:
    place = pl.DataFrame({"_file": [name], "_row": [number]})
    message = f"message {number}, segment {error.segment}: {error}"
    return rejects(place, "msh", rule=error.rule, element=error.segment, message=message)


def _rows_of(parsed: Parsed, table: Table) -> list[Row]:
    """The rows of a table; of `other`, those of all segments that no table is declared for."""
    if table.name != OTHER:
        return parsed.rows.get(table.name, [])
    rest = [row for name, rows in parsed.rows.items() if name not in table.siblings for row in rows]
    return sorted(rest, key=lambda row: (row[0].message.number, row[1]))


@lru_cache(1)
def _held() -> dict[tuple[Path, int, int, str], Parsed]:
    """Files parsed by this process, for the tables that are read from them next."""
    return {}


def _parsed(path: Path, timezone: str) -> Iterator[Parsed]:
    """The messages of a file; of a large one, some at a time, each time it is read."""
    try:
        stat = path.stat()
        stamp = (path, stat.st_mtime_ns, stat.st_size, timezone)
        if stamp in (held := _held()):
            yield held[stamp]
            return
        with path.open("rb") as file:
            if stat.st_size > _BYTES_HELD:
                with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                    each = messages(content)
                    while some := list(islice(each, _MESSAGES_AT_ONCE)):
                        yield _parse(some, timezone)
                return
            parsed = _parse(messages(file.read()), timezone)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}. Check the file.") from error
    if sum(size for _, _, size, _ in held) + stat.st_size > _BYTES_HELD:
        held.clear()
    held[stamp] = parsed
    yield parsed


def _parse(some: Iterable[Message | Refused], timezone: str) -> Parsed:
    parsed = Parsed({}, [])
    for found in some:
        if not isinstance(found, Message):
            parsed.refused.append(found)
            continue
        try:
            segments = message_rows(found, timezone)
        except MessageError as error:
            parsed.refused.append((found.number, error))
            continue
        for at, fields in enumerate(segments.fields):
            parsed.rows.setdefault(fields[0].lower(), []).append((segments, at, fields))
            if fields[0] == "OBX" and len(fields) > 5 and found.repetition in fields[5]:
                parsed.rows.setdefault(VALUES, []).extend(_values(segments, at, fields))
    return parsed


def _values(segments: Segments, at: int, fields: list[str]) -> Iterator[Row]:
    """A row for each value of an OBX that has several; the repetitions of text are its lines."""
    if fields[2] not in _ONE_VALUE:
        for piece in fields[5].split(segments.message.repetition):
            yield segments, at, [*fields[:5], piece, *fields[6:]]
