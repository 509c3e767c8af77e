"""A strict FHIR server in memory: PUTs in transactions, whole or not at all; every resource must be valid R4B."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fhir.resources.R4B import get_fhir_model_class


class FhirServer(ThreadingHTTPServer):
    """`resources`: by Type/id, as they were put. `refuse`: types that it does not take."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.resources: dict[str, dict[str, Any]] = {}
        self.writes = 0
        self.refuse: frozenset[str] = frozenset()
        self.half = False  # answer 200 to a transaction of which half was refused
        self.known: frozenset[str] = frozenset()  # resources that references may name besides

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FhirServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body.get("resourceType") != "Bundle" or body.get("type") != "transaction":
            return self._send(400, _outcome("not a transaction"))
        problems = [self._problem(entry) for entry in body["entry"]]
        if any(problems) and not self.server.half:
            return self._send(422, _outcome("; ".join(filter(None, problems))))
        answers = []
        for entry, problem in zip(body["entry"], problems, strict=True):
            name = entry["request"]["url"]
            if problem:
                answers.append({"response": {"status": "422 Unprocessable", "outcome": _outcome(problem)}})
                continue
            fresh = name not in self.server.resources
            self.server.writes += self.server.resources.get(name) != entry["resource"]
            self.server.resources[name] = entry["resource"]
            answers.append({"response": {"status": "201 Created" if fresh else "200 OK"}})
        return self._send(200, {"resourceType": "Bundle", "type": "transaction-response", "entry": answers})

    def do_GET(self) -> None:
        found = self.server.resources.get(self.path.strip("/"))
        self._send(200 if found else 404, found or _outcome("not found"))

    def _problem(self, entry: dict[str, Any]) -> str | None:
        resource, request = entry["resource"], entry["request"]
        kind = resource["resourceType"]
        if request != {"method": "PUT", "url": f"{kind}/{resource['id']}"}:
            return "not a PUT to its own place"
        if kind in self.server.refuse:
            return f"{kind} is not taken here"
        try:
            get_fhir_model_class(kind).model_validate(resource)
        except ValueError as error:
            return f"{kind} is not valid: {error}"
        return None

    def _send(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/fhir+json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _outcome(text: str) -> dict[str, Any]:
    return {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "error", "code": "invalid", "diagnostics": text}],
    }


@contextmanager
def fhir_server() -> Iterator[FhirServer]:
    """Serve on a free port until the block ends."""
    server = FhirServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
