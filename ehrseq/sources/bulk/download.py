"""One file of an export, fetched piece by piece until it is whole. What has come is never asked for twice, if the
server can go on.

Source: RFC 9110, 13.1.5 (If-Range) and 14 (Range); RFC 9112, 6 (message length).
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from ehrseq.core.errors import ConfigError
from ehrseq.core.files import storage_errors, write_json
from ehrseq.sources.bulk.errors import BadExportError, LinkExpiredError
from ehrseq.sources.bulk.export import Listed
from ehrseq.sources.bulk.hosts import shown
from ehrseq.sources.bulk.http import Http, lost
from ehrseq.sources.bulk.lines import DamagedError, Whole, check_size, whole
from ehrseq.sources.bulk.request import NDJSON

_TRIES = 3
_CONTENT_RANGE = re.compile(r"^bytes (?:(\d+)-\d+|\*)/(\d+|\*)$")
_EXPIRED = (403, 404, 410)


class _AgainError(Exception):
    """The answer broke off, or was to try later."""

    def __init__(self, why: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(why)
        self.headers = headers


@dataclass(frozen=True)
class Fetch:
    """A file to fetch into `part`. `about` (beside it) holds what the server called this version of the file."""

    listed: Listed
    part: Path
    needs_token: bool
    largest: int

    @property
    def about(self) -> Path:
        """Where the validator stands."""
        return self.part.with_suffix(".json")

    @property
    def size(self) -> int:
        """Bytes that have come."""
        return self.part.stat().st_size if self.part.exists() else 0

    def forget(self) -> None:
        """Start anew."""
        self.part.unlink(missing_ok=True)
        self.about.unlink(missing_ok=True)


def fetch(http: Http, work: Fetch) -> Whole:
    """Fetch a file and check it.

    Raises: LinkExpiredError; ServerError; BadExportError if it is never what the manifest says; ConfigError;
    StorageError.
    """
    waits, furthest, tries = http.waits(f"file of {work.listed.type}"), work.size, 0
    while True:
        try:
            with storage_errors(work.part):
                _receive(http, work)
                return whole(work.part, count=work.listed.count, largest=work.largest)
        except DamagedError as error:
            tries += 1
            work.forget()
            furthest = 0
            if tries == _TRIES:
                raise BadExportError(
                    f"{shown(work.listed.url)} ({work.listed.type}): fetched {tries} times, the file {error}. Nothing "
                    "was written. The same command starts another export; if that is no better, tell the server's "
                    "operator."
                ) from error
            waits.again(None, f"the file {error}")
        except (httpx.RequestError, _AgainError) as error:
            if work.size > furthest:
                waits.good()
                furthest = work.size
            again = isinstance(error, _AgainError)
            why = str(error) if again else lost(error, work.listed.url)  # type: ignore[arg-type]
            waits.again(error.headers if isinstance(error, _AgainError) else None, why)


def _receive(http: Http, work: Fetch) -> None:
    """Append what is missing, or start anew."""
    headers = {"Accept": NDJSON, "Accept-Encoding": "gzip"}
    held, about = work.size, _about(work)
    if held and about:
        headers |= {"Range": f"bytes={held}-", "If-Range": about["validator"]}
    with http.open(
        "GET",
        work.listed.url,
        what=f"file of {work.listed.type}",
        headers=headers,
        authorised=work.needs_token,
    ) as answer:
        if "Range" in headers and answer.status_code == 416:
            if answer.headers.get("content-range") == f"bytes */{held}":
                return  # all was here
            work.forget()
            raise _AgainError("the file has changed")
        start, total = _place(answer, work, held if "Range" in headers else None, about)
        if total is not None:
            check_size(total, work.largest)
        if start == 0:
            work.forget()
            _note(answer, work)
        _append(http, answer, work, start)
    if total is not None and work.size != total:
        raise _AgainError(f"{shown(work.listed.url)} breaks off")


def _place(
    answer: httpx.Response, work: Fetch, asked: int | None, about: Mapping[str, str]
) -> tuple[int, int | None]:
    """Where in the file the answer starts, and the file's whole length if it says so."""
    status, where = answer.status_code, shown(str(answer.url))
    length = answer.headers.get("content-length", "")
    if status == 206 and asked is not None:
        found = _CONTENT_RANGE.match(answer.headers.get("content-range", ""))
        encoding = answer.headers.get("content-encoding", "")
        other = about["validator"].startswith('"') and answer.headers.get("etag", "") not in (
            "",
            about["validator"],
        )
        if found is None or found[1] != str(asked) or encoding != about["encoding"] or other:
            work.forget()
            raise _AgainError(f"{where} goes on elsewhere than it was asked to")
        if found[2] != "*":
            return asked, int(found[2])
        return asked, asked + int(length) if length.isdecimal() else None
    if status == 200:
        return 0, int(length) if length.isdecimal() else None
    if status in _EXPIRED:
        raise LinkExpiredError(f"{where}: the link is refused ({status}).")
    if status in (408, 425, 429) or status >= 500:
        raise _AgainError(f"{where} answers {status}", answer.headers)
    token = " The access token is shown to the FHIR server's own host only." if status == 401 else ""
    raise ConfigError(f"{where}: answered {status}, expected the file.{token} What has come so far is kept.")


def _append(http: Http, answer: httpx.Response, work: Fetch, start: int) -> None:
    work.part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    size = start
    with work.part.open("ab") as stream:
        try:
            for chunk in answer.iter_raw():  # as it comes: what is not on disk is lost in a kill
                size += len(chunk)
                check_size(size, work.largest)
                stream.write(chunk)
                stream.flush()
                http.clock.check()
        finally:
            stream.flush()
            os.fsync(stream.fileno())


def _about(work: Fetch) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(work.about.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _note(answer: httpx.Response, work: Fetch) -> None:
    """Keep what tells this version of the file from another: a strong ETag, else its date."""
    etag, date = answer.headers.get("etag", ""), answer.headers.get("last-modified", "")
    validator = etag if etag.startswith('"') else date if not etag else ""
    if validator:
        work.about.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = {"validator": validator, "encoding": answer.headers.get("content-encoding", "")}
        write_json(work.about, about)
