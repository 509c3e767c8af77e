"""A strict FHIR Bulk Data server on loopback: it checks what it is asked by the letter of the specification, serves the
records that tests put into it, and fails as it is told to.

What a client does wrong is answered 400 and kept in `complaints`.
"""

import gzip
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt

NDJSON = "application/fhir+ndjson"
START = datetime(2026, 1, 1, tzinfo=UTC)
Fault = Callable[["Handler"], bool]  # True: the request has been answered


def outcome(code: str, text: str = "") -> dict[str, Any]:
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": code, "diagnostics": text}],
    }


@dataclass
class File:
    """A file of an export. `count` None: the manifest does not say."""

    part: str
    type: str
    body: bytes
    count: int | None


@dataclass
class Job:
    request: str
    time: str
    files: list[File]
    polls: int = 0


@dataclass(frozen=True)
class Asked:
    """A request that came, on which of the two servers."""

    method: str
    path: str
    headers: dict[str, str]
    storage: bool


@dataclass
class BulkServer:
    """`put` and `remove` records, then let a client export them. `storage`: files are on another port."""

    storage: bool = False
    needs_token: bool = False
    counts: bool = True
    ranges: bool = True
    etags: bool = True
    packed: bool = False
    lines_per_file: int = 1000
    polls_needed: int = 0
    reverse: bool = False
    keys: dict[str, Any] = field(default_factory=dict)  # public keys by kid
    capabilities: tuple[str, ...] = ("permission-v2",)
    token_seconds: int | None = 300
    client: str = "ehrseq-test"

    def __post_init__(self) -> None:
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        self.removed: dict[tuple[str, str], datetime] = {}
        self.errors: list[dict[str, Any]] = []
        self.now = START
        self.jobs: dict[str, Job] = {}
        self.asked: list[Asked] = []
        self.complaints: list[str] = []
        self.faults: list[tuple[str, int, Fault]] = []
        self.links = self.exports = 0
        self.mixed = False
        self.tokens: dict[str, float] = {}
        self.nonces: set[str] = set()
        self.gate, self.half_way = threading.Event(), threading.Event()
        self.lock = threading.Lock()

    def __enter__(self) -> "BulkServer":
        self._servers = [_serve(self, storage=False), *([_serve(self, storage=True)] if self.storage else [])]
        self.port = self._servers[0].server_address[1]
        self.other_url = f"http://127.0.0.1:{self._servers[-1].server_address[1]}"
        self.url = f"http://127.0.0.1:{self.port}/fhir"
        self.files_host = f"127.0.0.1:{self._servers[-1].server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # what is recorded

    def tick(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now

    def put(self, **resource: Any) -> None:
        """A new version of a record, at the next minute."""
        key = (resource["resourceType"], resource["id"])
        version = int(self.records[key]["meta"]["versionId"]) + 1 if key in self.records else 1
        meta = {"lastUpdated": self.tick().isoformat(), "versionId": str(version)}
        self.records[key] = {**resource, "meta": meta}
        self.removed.pop(key, None)

    def remove(self, kind: str, name: str) -> None:
        if self.records.pop((kind, name), None):
            self.removed[kind, name] = self.tick()

    def present(self) -> dict[tuple[str, str], dict[str, Any]]:
        return dict(self.records)

    # how it fails

    def fail(self, where: str, fault: Fault, times: int = 1) -> None:
        """The next `times` requests whose "METHOD path" has the pattern `where` meet the fault."""
        self.faults.append((where, times, fault))

    def expire_links(self) -> None:
        self.links += 1

    def count(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, f"{one.method} {one.path}")) for one in self.asked)

    def seen(self, pattern: str) -> list[Asked]:
        return [one for one in self.asked if re.search(pattern, f"{one.method} {one.path}")]

    # what it exports

    def export(self, request: str, query: dict[str, str]) -> str:
        since = datetime.fromisoformat(query["_since"]) if "_since" in query else None
        types = query["_type"].split(",") if "_type" in query else None
        chosen: dict[str, list[dict[str, Any]]] = {}
        for (kind, _), record in sorted(self.records.items()):
            newer = since is None or datetime.fromisoformat(record["meta"]["lastUpdated"]) >= since
            if newer and (types is None or kind in types):
                chosen.setdefault(kind, []).append(record)
        files = [
            self._file("output", kind, records[first : first + self.lines_per_file])
            for kind, records in chosen.items()
            for first in range(0, len(records), self.lines_per_file)
        ]
        gone = [
            {"resourceType": "Bundle", "type": "transaction", "meta": {"lastUpdated": at.isoformat()},
             "entry": [{"request": {"method": "DELETE", "url": f"{kind}/{name}"}}]}
            for (kind, name), at in sorted(self.removed.items()) if since is not None and at >= since
        ]  # fmt: skip
        files += [self._file("deleted", "Bundle", gone)] if gone else []
        files += [self._file("error", "OperationOutcome", self.errors)] if self.errors else []
        name = f"job-{self.exports}"
        self.exports += 1
        self.jobs[name] = Job(
            request, self.now.isoformat().replace("+00:00", "Z"), files[:: -1 if self.reverse else 1]
        )
        return name

    def _file(self, part: str, kind: str, records: list[dict[str, Any]]) -> File:
        body = "".join(json.dumps(record) + "\n" for record in records).encode()
        return File(part, kind, body, len(records) if self.counts else None)

    def manifest(self, name: str) -> dict[str, Any]:
        job = self.jobs[name]
        parts: dict[str, list[dict[str, Any]]] = {"output": [], "deleted": [], "error": []}
        for number, file in [*enumerate(job.files)][:: -1 if self.mixed else 1]:
            url = f"http://{self.files_host}/files/{name}/{number}?sig=secret-{self.links}"
            parts[file.part].append(
                {"type": file.type, "url": url} | ({} if file.count is None else {"count": file.count})
            )
        return {
            "transactionTime": job.time,
            "request": job.request,
            "requiresAccessToken": self.needs_token,
            **parts,
        }


def _serve(bulk: BulkServer, *, storage: bool) -> ThreadingHTTPServer:
    handler = type("Bound", (Handler,), {"bulk": bulk, "is_storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class WrongError(Exception):
    """The client asked wrongly."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bulk: BulkServer
    is_storage: bool

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self.form = self.rfile.read(length).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.bulk.lock:
            self.bulk.asked.append(Asked(self.command, self.path, headers, self.is_storage))
            fault = self._fault()
        if fault and fault(self):
            return
        try:
            self._route(urlsplit(self.path).path)
        except WrongError as error:
            self.bulk.complaints.append(f"{self.command} {self.path}: {error}")
            self.reply(400, outcome("invalid", str(error)))

    def _fault(self) -> Fault | None:
        for place, (where, times, fault) in enumerate(self.bulk.faults):
            if times and re.search(where, f"{self.command} {self.path}"):
                self.bulk.faults[place] = (where, times - 1, fault)
                return fault
        return None

    def reply(self, status: int, body: Any = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def need(self, wanted: bool, what: str) -> None:
        if not wanted:
            raise WrongError(what)

    def _route(self, path: str) -> None:
        if self.is_storage:
            self.need(path.startswith("/files/"), "only files are here")
            self.need("authorization" not in self.headers, "the access token was shown to another host")
        self.need(self.headers.get("user-agent", "").startswith("ehrseq/"), "User-Agent")
        if path == "/fhir/.well-known/smart-configuration":
            self._smart()
        elif path == "/token":
            self._token()
        elif path.endswith("/$export"):
            self._authorised() and self._kick_off(path)
        elif path.startswith("/status/"):
            self._authorised() and self._status(path.removeprefix("/status/"))
        elif path.startswith("/files/"):
            self._file(path)
        else:
            self.reply(404, outcome("not-found"))

    def _authorised(self) -> bool:
        given = self.headers.get("authorization")
        if not self.bulk.keys:
            self.need(given is None, "Authorization on an open server")
            return True
        self.need(given is not None and given.startswith("Bearer "), "no access token")
        if self.bulk.tokens.get((given or "")[7:], 0) <= time.time():
            self.reply(401, outcome("login", "expired"))
            return False
        return True

    def _kick_off(self, path: str) -> None:
        self.need(self.command == "GET", "kick-off is a GET")
        self.need(self.headers.get("accept") == "application/fhir+json", "Accept of a kick-off")
        preferences = [one.strip() for one in self.headers.get("prefer", "").split(",")]
        self.need("respond-async" in preferences, "Prefer: respond-async")
        given = parse_qs(urlsplit(self.path).query, strict_parsing=True)
        self.need(all(len(values) == 1 for values in given.values()), "a parameter twice")
        query = {name: values[0] for name, values in given.items()}
        self.need(query.keys() <= {"_outputFormat", "_since", "_type"}, f"parameters {sorted(query)}")
        self.need(query.get("_outputFormat", NDJSON) == NDJSON, "_outputFormat")
        level = path.removeprefix("/fhir").removesuffix("$export")
        self.need(level in ("/", "/Patient/", "/Group/icu/"), f"level {level}")
        job = self.bulk.export(self.path, query)
        self.reply(202, Content_Location=f"{self.bulk.url.removesuffix('/fhir')}/status/{job}")

    def _status(self, name: str) -> None:
        if self.command == "DELETE":
            gone = self.bulk.jobs.pop(name, None)
            self.reply(202 if gone else 404)
            return
        self.need(self.command == "GET", "status is a GET")
        self.need(self.headers.get("accept") == "application/json", "Accept of a status request")
        job = self.bulk.jobs.get(name)
        if job is None:
            self.reply(404, outcome("not-found"))
        elif job.polls < self.bulk.polls_needed:
            job.polls += 1
            self.reply(202, X_Progress="in progress: 40%, at Mr. Secret", Retry_After="7")
        else:
            self.reply(200, self.bulk.manifest(name), Content_Type="application/json", Expires=_date(3600))

    def _file(self, path: str) -> None:
        bulk = self.bulk
        self.need(self.command == "GET", "a file is a GET")
        self.need(self.headers.get("accept") == NDJSON, "Accept of a file")
        if not self.is_storage:
            if bulk.needs_token and not self._authorised():
                return
            self.need(
                bulk.needs_token or "authorization" not in self.headers, "a token for a file that needs none"
            )
        _, _, job, number = path.split("/")
        if job not in bulk.jobs:
            self.reply(404)
        elif urlsplit(self.path).query != f"sig=secret-{bulk.links}":
            self.reply(403)
        else:
            self.send_file(bulk.jobs[job].files[int(number)].body)

    def send_file(self, body: bytes, *, stop: int | None = None) -> None:
        """Send a file, or the part asked for; `stop`: break the connection after this many bytes of the answer."""
        bulk, packed = self.bulk, self.bulk.packed and "gzip" in self.headers.get("accept-encoding", "")
        body = gzip.compress(body, mtime=0) if packed else body
        tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        if "range" in self.headers:
            self.need(wanted is not None, "Range")
            self.need("if-range" in self.headers, "Range without If-Range")
        headers = {"Content-Type": NDJSON} | ({"Content-Encoding": "gzip"} if packed else {})
        headers |= {"ETag": tag} if bulk.etags else {}
        start = int(wanted[1]) if wanted and bulk.ranges and self.headers.get("if-range") == tag else None
        if start is not None and start >= len(body):
            self.reply(416, Content_Range=f"bytes */{len(body)}")
            return
        self.send_response(200 if start is None else 206)
        if start is not None:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        rest = body[start or 0 :]
        for name, value in {**headers, "Content-Length": str(len(rest))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest[:stop])
        if stop is not None and stop < len(rest):
            self.wfile.flush()
            self.close_connection = True

    def _smart(self) -> None:
        self.need(self.headers.get("accept") == "application/json", "Accept of the SMART configuration")
        self.need("authorization" not in self.headers, "the SMART configuration needs no token")
        self.reply(200, {
            "token_endpoint": f"http://127.0.0.1:{self.bulk.port}/token", "capabilities": self.bulk.capabilities,
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
        })  # fmt: skip

    def _token(self) -> None:
        bulk = self.bulk
        self.need(self.command == "POST", "a token is asked for by POST")
        self.need(self.headers.get("content-type") == "application/x-www-form-urlencoded", "Content-Type")
        self.need("authorization" not in self.headers, "a token where one is asked for")
        form = {name: values[0] for name, values in parse_qs(self.form, strict_parsing=True).items()}
        assertion_type = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        self.need(
            form.keys() == {"grant_type", "scope", "client_assertion_type", "client_assertion"},
            str(form.keys()),
        )
        self.need(form["grant_type"] == "client_credentials", "grant_type")
        self.need(form["client_assertion_type"] == assertion_type, "client_assertion_type")
        verb = "rs" if "permission-v2" in bulk.capabilities else "read"
        scopes = [rf"system/(\*|[A-Z][A-Za-z]+)\.{verb}"] * len(form["scope"].split())
        self.need(all(map(re.fullmatch, scopes, form["scope"].split())), f"scope {form['scope']}")
        self._check_assertion(form["client_assertion"])
        token = secrets.token_urlsafe()
        bulk.tokens[token] = time.time() + 300
        seconds = {} if bulk.token_seconds is None else {"expires_in": bulk.token_seconds}
        self.reply(200, {"access_token": token, "token_type": "bearer", "scope": form["scope"], **seconds})

    def _check_assertion(self, assertion: str) -> None:
        bulk, header = self.bulk, jwt.get_unverified_header(assertion)
        self.need(header["typ"] == "JWT" and header["alg"] in ("RS384", "ES384"), f"header {header}")
        self.need(header.get("kid") in bulk.keys, f"unknown kid {header.get('kid')}")
        try:
            claims = jwt.decode(
                assertion, bulk.keys[header["kid"]], algorithms=[header["alg"]], issuer=bulk.client,
                audience=f"http://127.0.0.1:{bulk.port}/token", subject=bulk.client,
                options={"require": ["iss", "sub", "aud", "exp", "jti"]},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise WrongError(f"assertion: {error}") from error
        self.need(claims["exp"] <= time.time() + 300, "exp is more than five minutes ahead")
        self.need(claims["jti"] not in bulk.nonces, "jti used again")
        bulk.nonces.add(claims["jti"])


def _date(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")


# faults


def status(code: int, body: Any = b"", **headers: str) -> Fault:
    """Answer with a status."""

    def fault(handler: Handler) -> bool:
        handler.reply(code, body, **headers)
        return True

    return fault


def retry_at(code: int, seconds: float) -> Fault:
    """Answer with a status and Retry-After as a date, on a server whose clock is a day ahead."""

    def fault(handler: Handler) -> bool:
        handler.send_response_only(code)
        handler.send_header("Date", _date(86_400))
        handler.send_header("Retry-After", _date(86_400 + seconds))
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return True

    return fault


def hang_up(handler: Handler) -> bool:
    """No answer."""
    handler.close_connection = True
    return True


def _body(handler: Handler) -> bytes:
    _, _, job, number = urlsplit(handler.path).path.split("/")
    return handler.bulk.jobs[job].files[int(number)].body


def breaks_after(count: int) -> Fault:
    """Send that many bytes of a file, then break the connection."""

    def fault(handler: Handler) -> bool:
        handler.send_file(_body(handler), stop=count)
        return True

    return fault


def sends(change: Callable[[bytes], bytes]) -> Fault:
    """Send a changed file as if it were whole."""

    def fault(handler: Handler) -> bool:
        handler.send_file(change(_body(handler)))
        return True

    return fault


def stalls_half_way(handler: Handler) -> bool:
    """Send half of a file, say so by `half_way`, and the rest when `gate` opens."""
    body = _body(handler)
    tag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
    handler.send_response(200)
    for name, value in {"Content-Type": NDJSON, "ETag": tag, "Content-Length": str(len(body))}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.wfile.flush()
    handler.bulk.half_way.set()
    handler.bulk.gate.wait(60)
    handler.close_connection = True
    return True
