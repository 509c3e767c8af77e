"""Whether a fetched file is whole: decompressed, counted, ended."""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ehrseq.core.errors import ConfigError

_BLOCK = 1 << 20
_LONGEST_END = 16 << 20
_GZIP = b"\x1f\x8b"


class DamagedError(Exception):
    """The file is not whole; the message says why, for after `the file `."""


@dataclass(frozen=True)
class Whole:
    """A file that is whole: where it is now, its lines that are not blank, sha256 of its text."""

    path: Path
    lines: int
    sha256: str


def whole(part: Path, *, count: int | None, largest: int) -> Whole:
    """Check a fetched NDJSON file, of `count` lines if known. Compressed, it is decompressed beside itself.

    Raises: DamagedError if it is cut off or something else; ConfigError if it is larger than `largest` bytes.
    """
    plain = part.with_suffix(".plain")
    with part.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        source = gzip.GzipFile(fileobj=raw) if packed else raw
        sink = plain.open("wb") if packed else None
        try:
            lines, digest, end = _counted(_blocks(source, sink, largest))
        finally:
            if sink is not None:
                sink.flush()
                os.fsync(sink.fileno())
                sink.close()
    path = plain if packed else part
    _check_end(path, end)
    if count is not None and lines != count:
        raise DamagedError(f"has {lines:,} lines where the manifest says {count:,}")
    if packed:
        part.unlink()
    return Whole(path, lines, digest)


def _blocks(source: IO[bytes] | gzip.GzipFile, sink: IO[bytes] | None, largest: int) -> Iterator[bytes]:
    size = 0
    try:
        while block := source.read(_BLOCK):
            size += len(block)
            check_size(size, largest)
            if sink is not None:
                sink.write(block)
            yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DamagedError("is cut off or damaged in its compression") from error


def check_size(size: int, largest: int) -> None:
    """Raises: ConfigError for more bytes than the user allows."""
    if size > largest:
        raise ConfigError(
            f"A file of the export is larger than --max-file-gb {largest / 1e9:g}. If that can be, allow more; what "
            "has come so far is kept."
        )


def _counted(blocks: Iterator[bytes]) -> tuple[int, str, int]:
    """Lines that are not blank, sha256, and where the last line begins that does not end; memory is one block."""
    digest, lines, place, end, filled, first = hashlib.sha256(), 0, 0, 0, False, b""
    for block in blocks:
        digest.update(block)
        first = first or block.lstrip(b"\xef\xbb\xbf\r\n\t ")[:1]
        *ended, last = block.split(b"\n")
        for piece in ended:
            lines += filled or not _blank(piece)
            filled = False
        if ended:
            end = place + len(block) - len(last)
        filled = filled or not _blank(last)
        place += len(block)
    if first not in (b"", b"{"):
        raise DamagedError("is no NDJSON")
    return lines + filled, digest.hexdigest(), end if filled else place


def _blank(piece: bytes) -> bool:
    return not piece or piece.isspace()


def _check_end(path: Path, end: int) -> None:
    """The last line needs no line feed, but must be a whole JSON object then."""
    with path.open("rb") as stream:
        stream.seek(end)
        last = stream.read(_LONGEST_END + 1)
    if last and len(last) <= _LONGEST_END:
        try:
            json.loads(last)
        except ValueError as error:
            raise DamagedError("ends within a line") from error
