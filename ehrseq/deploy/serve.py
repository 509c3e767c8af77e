"""`ehrseq serve`: a small CDS Hooks service around one warm model version.

    GET  /cds-services                 discovery
    POST /cds-services/<name>          patient-view: the prefetched record of one patient in, cards out
    GET  /health, /ready               alive; the model is compiled and answers

Every path but the two last ones wants `Authorization: Bearer TOKEN`. Requests that come together are answered together
(see `warm`). Nothing of a request is logged: a line says the path, the status, the bytes and the time it took.

Source: CDS Hooks 2.0, https://cds-hooks.hl7.org (discovery, patient-view, prefetch, cards).
"""

import asyncio
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ehrseq.core.errors import ConfigError, EhrseqError
from ehrseq.core.progress import log
from ehrseq.deploy.registry import find_model
from ehrseq.deploy.warm import PatientAnswer, Warm

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse

TOKEN = "EHRSEQ_TOKEN"
MOST_BYTES = 20 << 20
_TOGETHER = 32  # records answered in one go
_SHORTEST_TOKEN = 16
_TYPES = (
    "Encounter", "Observation", "Condition", "Procedure", "MedicationRequest", "MedicationAdministration",
    "MedicationStatement", "MedicationDispense", "ServiceRequest", "DiagnosticReport", "DocumentReference",
    "AllergyIntolerance", "Immunization",
)  # fmt: skip


def serve(
    model: str | Path, *, models: Path = Path("models"), host: str = "127.0.0.1", port: int = 8000,
    open_to_all: bool = False, most_bytes: int = MOST_BYTES,
) -> None:  # fmt: skip
    """Serve a model version until the process is asked to stop.

    The bearer token is read from the environment, EHRSEQ_TOKEN. `open_to_all`: no token is asked for; only on this
    machine. Raises: ConfigError without a token, or if `open_to_all` meets another host; ModelError.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ConfigError(
            "`ehrseq serve` needs starlette and uvicorn: pip install 'ehrseq[serve]'."
        ) from error
    token = os.environ.get(TOKEN, "")
    if open_to_all and host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            f"--no-auth with --host {host}: anybody could read patients' risks. Set {TOKEN} instead."
        )
    if not open_to_all and len(token) < _SHORTEST_TOKEN:
        raise ConfigError(
            f"the environment has no {TOKEN} of at least {_SHORTEST_TOKEN} characters. Make one: "
            f"export {TOKEN}=$(openssl rand -hex 32). Or say --no-auth, on this machine alone."
        )
    application = app(
        Warm(find_model(model, models)), token=None if open_to_all else token, most_bytes=most_bytes
    )
    log("serve", model=str(model), host=host, port=port, auth=not open_to_all)
    uvicorn.run(application, host=host, port=port, log_level="warning", access_log=False, server_header=False)


def app(warm: Warm, *, token: str | None, most_bytes: int = MOST_BYTES) -> "Starlette":
    """The ASGI application; `token` None asks for none."""
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    desk = _Desk(warm)
    name = warm.version.name

    async def discovery(_: "Request") -> JSONResponse:
        return JSONResponse({"services": [_service(warm)]})

    async def hook(request: "Request") -> JSONResponse:
        try:
            record = bundle_of(await _body(request, most_bytes))
            answer = await desk.ask(record)
        except _TooLargeError:
            return _refusal(413, f"the request is larger than {most_bytes:,} bytes")
        except EhrseqError as error:
            return _refusal(400, str(error))
        return JSONResponse({"cards": cards(answer, warm)})

    async def health(_: "Request") -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def ready(_: "Request") -> JSONResponse:
        return JSONResponse({"status": "ready" if desk.ready else "warming up"}, 200 if desk.ready else 503)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        worker = asyncio.create_task(desk.work())
        yield
        worker.cancel()

    routes = [
        Route("/cds-services", discovery), Route(f"/cds-services/{name}", hook, methods=["POST"]),
        Route("/health", health), Route("/ready", ready),
    ]  # fmt: skip
    application = Starlette(routes=routes, lifespan=lifespan)
    application.add_middleware(_Guard, token=token)
    return application


class _TooLargeError(Exception):
    pass


class _Guard:
    """Asks for the token, and logs what may be logged."""

    def __init__(self, app: Callable[..., Awaitable[None]], token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), 0, 0

        async def sending(message: Any) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        if scope["path"] not in ("/health", "/ready") and not self._allowed(scope):
            refusal = _refusal(401, "a bearer token is needed", {"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, sending)
        else:
            await self.app(scope, receive, sending)
        known = scope["path"].startswith("/cds-services") or scope["path"] in ("/health", "/ready")
        path = scope["path"] if known and status != 404 else "(unknown)"  # a path may name a patient
        log("request", path=path, status=status, bytes=size, seconds=round(time.perf_counter() - began, 4))

    def _allowed(self, scope: Any) -> bool:
        if self.token is None:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, f"Bearer {self.token}".encode())


class _Desk:
    """Requests in, answers out: what waits is answered together, by one thread."""

    def __init__(self, warm: Warm) -> None:
        self.warm, self.ready = warm, False
        self._waiting: asyncio.Queue[tuple[bytes, asyncio.Future[Any]]] = asyncio.Queue()

    async def ask(self, record: bytes) -> PatientAnswer:
        """The answer to one record. Raises: EhrseqError."""
        future: asyncio.Future[PatientAnswer | EhrseqError] = asyncio.get_running_loop().create_future()
        await self._waiting.put((record, future))
        answer = await future
        if isinstance(answer, EhrseqError):
            raise answer
        return answer

    async def work(self) -> None:
        """Compile, then answer for ever."""
        await asyncio.to_thread(self.warm.compile)
        self.ready = True
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _TOGETHER and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                answers: list[Any] = await asyncio.to_thread(
                    self.warm.answer, [record for record, _ in batch]
                )
            except Exception as error:  # a fault of ours must not end the service, nor quote a patient
                log("fault", kind=type(error).__name__)
                answers = [EhrseqError("a fault of ehrseq; the record was not read.")] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)


async def _body(request: "Request", most: int) -> Any:
    """The JSON of a request, read no further than `most` bytes. Raises: ConfigError; _TooLargeError."""
    if int(request.headers.get("content-length") or 0) > most:
        raise _TooLargeError
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise _TooLargeError
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except ValueError as error:
        raise ConfigError("the request is not JSON.") from error


def bundle_of(hook: Any) -> bytes:
    """The prefetched resources of a patient-view request as one Bundle.

    Raises: ConfigError if it is another hook, or the record was not prefetched.
    """
    if not isinstance(hook, dict) or hook.get("hook") != "patient-view":
        raise ConfigError("expected a request of the hook patient-view.")
    prefetch = hook.get("prefetch")
    if not isinstance(prefetch, dict) or not prefetch.get("patient"):
        raise ConfigError("the request has no prefetch with `patient`; this service reads nothing by itself.")
    entries = []
    for value in prefetch.values():
        if not isinstance(value, dict):
            continue
        inner = value.get("entry", []) if value.get("resourceType") == "Bundle" else [{"resource": value}]
        entries += [
            {"resource": entry["resource"]}
            for entry in inner
            if isinstance(entry, dict) and "resource" in entry
        ]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


def cards(answer: PatientAnswer, warm: Warm) -> list[dict[str, Any]]:
    """One card a prediction, one for what could not be predicted."""
    version = warm.version
    source = {"label": f"ehrseq {version.label}. Preliminary; not a medical device."}
    told = []
    for row in answer.predictions:
        ratio = row["probability"] / max(version.prevalence[row["task"]], 1e-6)
        basis = [one for one in answer.basis if one["task"] == row["task"]]
        because = "; ".join(f"{one['code']} ({one['share']:+.2f})" for one in basis)
        interval = f"{100 * row['low']:.1f} to {100 * row['high']:.1f} %"
        told.append(
            {
                "summary": f"{row['task'].replace('_', ' ')}: {100 * row['probability']:.1f} % ({ratio:.1f} x usual)"[
                    :140
                ],
                "indicator": "warning" if ratio > 2 else "info",
                "detail": f"95 % interval {interval}. Moved most by: {because}.",
                "source": source,
            }
        )
    if refused := sorted({row["message"] for row in answer.abstained}):
        told.append(
            {"summary": "No prediction", "indicator": "info", "detail": "; ".join(refused), "source": source}
        )
    return told


def _service(warm: Warm) -> dict[str, Any]:
    version = warm.version
    searches = {kind: f"{kind}?patient={{{{context.patientId}}}}&_count=1000" for kind in _TYPES}
    return {
        "hook": "patient-view",
        "id": version.name,
        "title": f"ehrseq {version.label}",
        "description": f"Risk of {', '.join(version.tasks)}. Preliminary; not a medical device.",
        "prefetch": {"patient": "Patient/{{context.patientId}}", **searches},
    }


def _refusal(status: int, message: str, headers: dict[str, str] | None = None) -> "JSONResponse":
    from starlette.responses import JSONResponse

    return JSONResponse({"error": message}, status, headers)
