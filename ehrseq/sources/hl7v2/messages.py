"""Bytes of a file to messages: framing, batches, line ends, character sets and separators."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap

LONGEST = 64 << 20
"""Bytes that a message may have: more is no message but a file that lost its line ends, or an attack."""
_START = re.compile(rb"(?:^|(?<=[\r\n\x0b])|(?<=\xef\xbb\xbf))(?=MSH[^A-Za-z0-9\r\n])")
_ENVELOPE = re.compile(rb"(?:^|(?<=[\r\n\x0b])|(?<=\xef\xbb\xbf))(?:FHS|BHS|BTS|FTS)[^\r\n]*")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}")
_CHARSETS = {
    "": "utf-8", "ASCII": "utf-8", "UNICODE": "utf-8", "UNICODE UTF-8": "utf-8", "UTF-8": "utf-8",
    "UNICODE UTF-16": "utf-8", "UNICODE UTF-32": "utf-8", "ISO IR87": "iso2022_jp", "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030", "BIG-5": "big5", "KS X 1001": "euc_kr", "WINDOWS-1252": "cp1252",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)},
}  # fmt: skip
"""MSH-18 to a codec. UTF-16 is recognised by its byte order mark, and has been decoded by then."""


class MessageError(Exception):
    """Why a message is refused: a rule, the segment where it shows, and a sentence without patient data."""

    def __init__(self, rule: str, segment: str, message: str) -> None:
        super().__init__(message)
        self.rule, self.segment = rule, segment


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its number in the file (from 1), its segments as text, and its five separators."""

    number: int
    lines: tuple[str, ...]
    field: str
    component: str
    repetition: str
    escape: str
    subcomponent: str

    @property
    def marks(self) -> re.Pattern[str]:
        """What the text of a field must have, to have more than one part or something to resolve."""
        return _marks(self.component + self.repetition + self.escape + self.subcomponent)


@lru_cache(16)
def _marks(marks: str) -> re.Pattern[str]:
    return re.compile(f"[{re.escape(marks)}]")


def messages(content: bytes | mmap) -> Iterator[Message | tuple[int, MessageError]]:
    """Every message of a file, or its number and why it cannot be read. One message is in memory at a time."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content[:].decode("utf-16", errors="replace").encode()
    framed = content.find(b"\x0b") >= 0
    envelopes = {content[found.start() : found.start() + 3] for found in _ENVELOPE.finditer(content)}
    opened = any(a in envelopes and z not in envelopes for a, z in ((b"FHS", b"FTS"), (b"BHS", b"BTS")))
    starts = [found.start() for found in _START.finditer(content)]
    ends = [*starts[1:], len(content)] if starts else []
    first = starts[0] if starts else len(content)
    if first > LONGEST or _ENVELOPE.sub(b"", content[:first]).strip(b"\xef\xbb\xbf\x0b\x1c\r\n \x00"):
        yield 0, MessageError("no header", "MSH", "text before the first MSH belongs to no message")
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), start=1):
        try:
            if end - start > LONGEST:
                raise MessageError("too long", "MSH", f"the message has more than {LONGEST >> 20} MiB")
            part = content[start:end]
            if (framed and b"\x1c" not in part) or (opened and number == len(starts)):
                raise MessageError("truncated", "MSH", "the file ends before its frame or batch is closed")
            part = _ENVELOPE.sub(b"", part) if envelopes else part
            yield _message(number, part.translate(None, b"\x0b\x1c\x00"))
        except MessageError as error:
            yield number, error


def _message(number: int, part: bytes) -> Message:
    head = part.replace(b"\n", b"\r").split(b"\r", 1)[0].decode("latin-1")
    field = head[3:4]
    marks = head[4:].split(field, 1)[0]
    if len(set(marks)) != len(marks) or any(mark.isalnum() for mark in marks) or len(marks) > 5:
        raise MessageError("separators", "MSH", "MSH-2 does not give distinct separators such as ^~\\&")
    marks += "^~\\&"[len(marks) :]
    values = head.split(field)
    charset = values[17].split(marks[1])[0].strip() if len(values) > 17 else ""
    if charset.upper() not in _CHARSETS:
        raise MessageError("character set", "MSH", "MSH-18 names a character set that is not known")
    try:
        text = part.decode(_CHARSETS[charset.upper()])
    except UnicodeDecodeError as error:
        message = f"byte {error.start} of the message is not in the character set of MSH-18"
        raise MessageError("character set", "MSH", message) from error
    return Message(number, _lines(text, field), field, *marks[:4])


def _lines(text: str, field: str) -> tuple[str, ...]:
    """Segments; a line that begins none continues the one before."""
    lines: list[str] = []
    for line in text.replace("\r\n", "\r").replace("\n", "\r").split("\r"):
        if _SEGMENT.match(line) and line[3:4] in ("", field):
            lines.append(line)
        elif line.strip() and lines:
            lines[-1] += "\n" + line
    return tuple(lines)
