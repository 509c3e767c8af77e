"""Messages to batches of rows. A message that cannot be read is one reject, of the table `msh`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ehrseq.sources.hl7v2.related import values as values_of
from ehrseq.sources.hl7v2.rows import KNOWN, message_rows
from ehrseq.sources.hl7v2.values import Part, meant, part_of, value
from ehrseq.sources.rejects import join_rejects, rejects

type Row = tuple[Segments, int, list[str]]
type Refused = tuple[int, MessageError]

SUFFIXES = (".hl7", ".hl7v2", ".er7")
"""What the name of a file of messages ends in."""
OTHER, VALUES = "other", "obx_values"
"""Tables of the segments that no table is declared for, and of the values of an OBX that has several."""
_ROWS_AT_ONCE, _MESSAGES_AT_ONCE = 50_000, 5_000
_BYTES_HELD = 32 << 20


@dataclass(frozen=True, slots=True)
class Columns:
    """How the columns of a table are filled: their number, and for each its place and where it comes from."""

    count: int
    known: list[tuple[int, str]]
    around: list[tuple[int, Callable[[Segments, int], str | None]]]
    parts: list[tuple[str, list[tuple[int, list[tuple[int, Part, bool]]]]]]


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
    columns = _columns(table)
    rows: list[tuple[str | int | None, ...]] = []
    unread: list[pl.DataFrame] = []
    for path, name in files:
        count = 0
        for parsed in _parsed(path, table.timezone):
            for found in _rows_of(parsed, table):
                count += 1
                rows.append((*_values(found, columns, table.timezone), name, count))
            if table.name == "msh":
                unread += [_refused(name, number, error) for number, error in parsed.refused]
            if len(rows) >= _ROWS_AT_ONCE:
                yield _frame(table, rows), join_rejects(unread)
                rows, unread = [], []
    yield _frame(table, rows), join_rejects(unread)


def _columns(table: Table) -> Columns:
    """Raises: MappingError."""
    known, around = [], []
    parts: dict[str, dict[int, list[tuple[int, Part, bool]]]] = {}
    for place, column in enumerate(table.columns):
        if part := part_of(column):
            parts.setdefault(part.segment, {}).setdefault(part.field, []).append((place, part, part.leads))
        elif column in AROUND:
            around.append((place, AROUND[column]))
        elif column in KNOWN:
            known.append((place, column))
        else:
            raise MappingError(
                f"table {table.name}: column `{column}` is no part of a segment such as pid_3_1, and none that the "
                f"reader fills.{closest(column, sorted((*KNOWN, *AROUND)))}"
            )
    fields = [(segment, list(fields.items())) for segment, fields in parts.items()]
    return Columns(len(table.columns), known, around, fields)


def _values(row: Row, columns: Columns, timezone: str) -> list[str | None]:
    """The values of a row. A field is looked at once for all columns that it fills, and not at all if it is empty."""
    segments, at, own = row
    message = segments.message
    values: list[str | None] = [None] * columns.count
    known, separated = segments.known[at], message.marks.search
    for place, column in columns.known:
        values[place] = known.get(column)
    for place, made in columns.around:
        values[place] = made(segments, at)
    for segment, fields in columns.parts:
        found = own if segment == own[0] else related(segments, at, segment) or []
        size = len(found)
        for field, parts in fields:
            if field < size and (text := found[field]):
                if separated(text):
                    for place, part, _ in parts:
                        values[place] = value(text, part, message, timezone)
                else:
                    for place, part, leads in parts:
                        values[place] = meant(text, part, timezone) if leads else None
    return values


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
            if fields[0] == "OBX" and len(pieces := values_of(fields, found)) > 1:
                each = ((segments, at, [*fields[:5], piece, *fields[6:]]) for piece in pieces)
                parsed.rows.setdefault(VALUES, []).extend(each)
    return parsed
