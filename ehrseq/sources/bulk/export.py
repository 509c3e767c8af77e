"""An export on the server: begun, asked after, deleted. And what it says when it is complete.

Source: Bulk Data Access 2.0, export.html: kick-off, status, delete.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args
from urllib.parse import urljoin, urlsplit

from ehrseq.core.errors import ConfigError, EhrseqError, SourceError
from ehrseq.core.hashing import content_hash
from ehrseq.core.progress import log
from ehrseq.sources.bulk.errors import BadExportError, ExportFailedError, ExportGoneError
from ehrseq.sources.bulk.hosts import shown
from ehrseq.sources.bulk.http import Answer, Http, is_final
from ehrseq.sources.bulk.outcomes import has_failed, refusal
from ehrseq.sources.bulk.request import Request, instant
from ehrseq.sources.bulk.waiting import Waits

Part = Literal["output", "deleted", "error"]
_TYPE = re.compile(r"^[A-Z][A-Za-z]{1,63}$")
_PERCENT = re.compile(r"\d{1,3}(?:\.\d+)?\s*%")
_DELETE_PATIENCE = 30.0


@dataclass(frozen=True)
class Listed:
    """A file of an export. `count`: its resources, None where the server does not say. `key` tells it from the others,
    and stays the same under a fresh link.
    """

    part: Part
    type: str
    url: str
    count: int | None
    key: str = ""


@dataclass(frozen=True)
class Completion:
    """A complete export: the server's time, whether files need the access token, the files in the server's order."""

    transaction_time: str
    needs_token: bool
    files: tuple[Listed, ...]

    @classmethod
    def read(cls, told: Any, where: str) -> "Completion":
        """From the manifest's JSON. Raises: BadExportError if it is none."""
        if not isinstance(told, dict) or not isinstance(told.get("transactionTime"), str):
            raise BadExportError(
                f"{where}: the export's manifest has no transactionTime. Ask the server's operator."
            )
        try:
            instant(told["transactionTime"], f"{where}: transactionTime")
        except ConfigError as error:
            raise BadExportError(str(error)) from error
        if any(link.get("relation") == "next" for link in _entries(told, "link", where)):
            raise BadExportError(
                f"{where}: the manifest has further pages, which this client did not ask for."
            )
        files = [
            _listed(part, item, where) for part in get_args(Part) for item in _entries(told, part, where)
        ]
        return cls(told["transactionTime"], told.get("requiresAccessToken") is True, _with_keys(files))


def _entries(told: Mapping[str, Any], name: str, where: str) -> list[dict[str, Any]]:
    found = told.get(name) or []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise BadExportError(f"{where}: `{name}` in the manifest is no list of objects.")
    return found


def _with_keys(files: Sequence[Listed]) -> tuple[Listed, ...]:
    """A fresh link has another query, perhaps another folder: the last part of the path names the file, if it does."""
    ways: tuple[Callable[[str], str], ...] = (
        lambda url: urlsplit(url).path.rpartition("/")[2],
        lambda url: urlsplit(url).path,
        lambda url: url,
    )
    for way in ways:
        keys = [content_hash([one.part, one.type, one.count, way(one.url)])[:16] for one in files]
        if len(set(keys)) == len(keys):
            return tuple(replace(one, key=key) for one, key in zip(files, keys, strict=True))
    raise BadExportError("The export's manifest lists a file twice. Ask the server's operator.")


def _listed(part: Part, item: Mapping[str, Any], where: str) -> Listed:
    kind, url, count = (item.get(name) for name in ("type", "url", "count"))
    kind = kind or {"deleted": "Bundle", "error": "OperationOutcome"}.get(part)
    if not isinstance(url, str) or not isinstance(kind, str) or not _TYPE.match(kind):
        raise BadExportError(
            f"{where}: an entry of `{part}` in the manifest has no type and url. Expected both."
        )
    return Listed(part, kind, url, count if type(count) is int and count >= 0 else None)


def kick_off(http: Http, request: Request, since: str | None) -> str:
    """Begin an export; returns the address of its status.

    Raises: ConfigError if the server refuses; ExportFailedError, ServerError if it cannot.
    """
    url = request.url(since)
    headers = {"Accept": "application/fhir+json", "Prefer": "respond-async"}
    answer = http.ask("GET", url, what="export", headers=headers, final=_decided)
    if answer.status >= 500:
        raise ExportFailedError(
            f"{shown(url)}: the server cannot export ({answer.status}){refusal(answer.body)}."
        )
    if answer.status != 202:
        raise ConfigError(
            f"{shown(url)}: answered {answer.status}{refusal(answer.body)}, expected 202. {_advice(answer.status)}"
        )
    location = answer.headers.get("content-location")
    if not location:
        raise SourceError(
            f"{shown(url)}: accepted the export without Content-Location, so it cannot be followed."
        )
    status_url: str = urljoin(url, location)
    http.hosts.check(status_url, "export status")
    return status_url


def _advice(status: int) -> str:
    if status in (401, 403):
        return "The client may not export this: check --client-id, --key and --scope."
    if status in (404, 501):
        return "Check the URL: the server's base, base/Patient or base/Group/ID."
    return "Check URL, --type and --since against what the server supports."


def _decided(answer: Answer) -> bool:
    return is_final(answer) or (answer.status >= 500 and has_failed(answer.body))


def _told(answer: Answer) -> bool:
    """Whether a status answer can be used: a page instead of a manifest is some proxy's, and passes."""
    return _decided(answer) and (answer.status != 200 or _is_json(answer.body))


def completed(http: Http, status_url: str, longest: float) -> dict[str, Any]:
    """Ask after an export until it is complete; returns its manifest as it came.

    Raises: ExportGoneError if the server has it no longer; ExportFailedError if it failed; ServerError if it takes more
    than `longest` seconds, or the server is away.
    """
    preparing = Waits("export", longest, http.clock, "--max-wait")
    while True:
        answer = http.ask(
            "GET", status_url, what="export status", headers={"Accept": "application/json"}, final=_told
        )
        if answer.status == 200:
            manifest: dict[str, Any] = json.loads(answer.body)
            Completion.read(manifest, shown(status_url))
            return manifest
        if answer.status == 202:
            percent = _PERCENT.search(answer.headers.get("x-progress", ""))  # the rest may be anything
            preparing.again(answer.headers, f"the server prepares it{f', {percent[0]}' if percent else ''}")
            continue
        if answer.status in (404, 410):
            raise ExportGoneError(
                f"{shown(status_url)}: the server no longer has the export ({answer.status})."
            )
        if answer.status in (401, 403):
            raise ConfigError(f"{shown(status_url)}: answered {answer.status}. {_advice(answer.status)}")
        raise ExportFailedError(
            f"{shown(status_url)}: the export failed ({answer.status}). The same command starts another one."
        )


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


def delete(http: Http, status_url: str) -> None:
    """Tell the server that the export is no longer needed. A server that does not listen is no error of ours."""
    waits = Waits("delete export", min(_DELETE_PATIENCE, http.patience), http.clock)
    try:
        headers = {"Accept": "application/fhir+json"}
        answer = http.ask("DELETE", status_url, what="delete export", headers=headers, waits=waits)
    except EhrseqError as error:
        log("delete", export=shown(status_url), failed=str(error))
        return
    log("delete", export=shown(status_url), status=answer.status)
