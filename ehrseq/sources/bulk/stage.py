"""`ehrseq import bulk`: a FHIR server's records, and each time after that what is new, in one FHIR store.

An export that is under way is gone on with. What has come is laid over the resources that the store holds, by the
rules of `ehrseq import fhir`: the newest version counts, deletions delete. The server's own time is kept in the store;
the next run asks for what has changed since.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ehrseq.core.dataset import Result
from ehrseq.core.errors import ConfigError, SchemaError
from ehrseq.core.manifest import Manifest, read_manifest, read_run
from ehrseq.core.progress import log
from ehrseq.sources.bulk.errors import (
    BadExportError,
    ExportFailedError,
    ExportGoneError,
    LinkExpiredError,
)
from ehrseq.sources.bulk.export import Completion, completed, delete, kick_off
from ehrseq.sources.bulk.hosts import Hosts, shown
from ehrseq.sources.bulk.http import Http
from ehrseq.sources.bulk.outcomes import OUTCOMES, counted, read_outcomes
from ehrseq.sources.bulk.request import Request, instant
from ehrseq.sources.bulk.smart import BackendTokens, Signer
from ehrseq.sources.bulk.state import State, held_state
from ehrseq.sources.bulk.transfer import fetch_all, named
from ehrseq.sources.bulk.waiting import Clock
from ehrseq.sources.fhir.stage import Arrived, check_fraction, make_store

_EXPORTS = 2  # of one run, where the server loses them


@dataclass(frozen=True)
class _Limits:
    max_wait: float
    largest: int


def import_bulk(
    url: str,
    out: Path,
    *,
    types: Iterable[str] = (),
    since: str | None = None,
    full: bool = False,
    restart: bool = False,
    client_id: str | None = None,
    key: Path | None = None,
    key_id: str | None = None,
    scope: str | None = None,
    allow_hosts: Iterable[str] = (),
    patience: float = 3600,
    max_wait: float = 86_400,
    max_file_gb: float = 100,
    strict: bool = False,
    workers: int = 1,
    max_reject_fraction: float = 0.05,
    clock: Clock | None = None,
) -> Result:
    """Export from the FHIR server at `url` (its base, base/Patient or base/Group/ID) into the FHIR store at `out`.

    A store that holds this export already gets what has changed since (or since `since`, an instant); with `full` it
    is made anew. `restart` gives up an export that is under way. `client_id` and `key` (a file; JWK or PEM): SMART
    Backend Services. `allow_hosts`: hosts besides the server's that may hold files or give tokens. `patience`: seconds
    that the server may fail in a row; `max_wait`: that it may take to prepare. Both end the run so that the same
    command goes on.

    Raises: ConfigError for what a person must change (refused, host not allowed); ServerError (exit 75);
    BadExportError, SourceError, DataQualityError for what came; StorageError; BusyError.
    """
    request, out, clock = Request.of(url, types), Path(out).absolute(), clock or Clock()
    limits = _Limits(max_wait, int(max_file_gb * 1e9))
    hosts = Hosts(request.base, tuple(allow_hosts))
    hosts.check(request.base, "URL")
    check_fraction(max_reject_fraction)
    if (client_id is None) != (key is None):
        raise ConfigError("--client-id and --key belong together. Give both, or neither for an open server.")
    with held_state(out) as state, Http(hosts, clock, patience) as http:
        if client_id is not None and key is not None:
            signer = Signer.load(Path(key), key_id)
            http.tokens = BackendTokens(http, request.base, client_id, signer, scope, request.types)
        held = None if full else _held(out, request)
        since = _since(since, held)
        if restart or not state.is_for(request, since):
            _abandon(http, state)
        completion = _fetched(http, state, request, since, limits)
        arrived = _arrived(state, completion, request, since, out if held else None)
        if held and not arrived.files:
            result = Result(out, held, read_run(out), "unchanged")
        else:
            result = make_store(
                arrived, out, strict=strict, workers=workers, max_reject_fraction=max_reject_fraction
            )
        state.clear()
    return result


def _held(out: Path, request: Request) -> Manifest | None:
    """The manifest of the store at `out`, if there is one. Raises: ConfigError if it is of something else."""
    try:
        manifest = read_manifest(out, "fhir")
    except SchemaError:
        if out.exists() and any(out.iterdir()):
            raise
        return None
    held = manifest.notes.get("bulk")
    if held is None or {name: held[name] for name in request.to_json()} != request.to_json():
        of = "something else than a Bulk Data export" if held is None else f"{held['level']} of {held['url']}"
        kinds = f" with --type {', '.join(held['types'])}" if held and held["types"] else ""
        raise ConfigError(
            f"{out}: holds {of}{kinds}, so this export cannot be laid over it. Choose another --out, or say "
            "--full to replace it."
        )
    return manifest


def _since(asked: str | None, held: Manifest | None) -> str | None:
    """From when on to ask. Raises: ConfigError if the store would have a gap."""
    watermark: str | None = held.notes["bulk"]["transaction_time"] if held else None
    if asked is None:
        return watermark
    start = instant(asked, "--since")
    if watermark is not None and start > instant(watermark, "the store's time"):
        raise ConfigError(
            f"--since {asked}: the store holds what was before {watermark}, so there would be a gap. Leave it out: "
            "what has changed since then is the default."
        )
    return asked


def _fetched(http: Http, state: State, request: Request, since: str | None, limits: _Limits) -> Completion:
    """See to it that all files of an export are here: go on with the one under way, or begin one."""
    for left in reversed(range(_EXPORTS)):
        try:
            begun = _complete(http, state, request, since, limits)
            completion = _fetch_fresh(http, state, begun, limits)
        except (ExportGoneError, LinkExpiredError) as error:
            _abandon(http, state)
            if not left:
                raise ExportGoneError(
                    f"{error} So it went with {_EXPORTS} exports. Nothing was written."
                ) from error
            log("export", begins="anew", why=str(error))
            continue
        except (ExportFailedError, BadExportError):
            _abandon(http, state)
            raise
        if state.status_url is not None:
            delete(http, state.status_url)
            state.released()
        break
    return completion


def _complete(http: Http, state: State, request: Request, since: str | None, limits: _Limits) -> Completion:
    if not state.is_for(request, since):
        status_url = kick_off(http, request, since)
        state.begin(request, since, status_url)
        log("export", begins=shown(status_url), since=since)
    if state.manifest is None and state.status_url is not None:
        state.complete(completed(http, state.status_url, limits.max_wait))
    return Completion.read(state.manifest, shown(request.base))


def _fetch_fresh(http: Http, state: State, completion: Completion, limits: _Limits) -> Completion:
    """Fetch all, with fresh links when one is refused, as long as something comes. Returns the manifest that holds."""
    before = -1
    while True:
        try:
            fetch_all(http, state, completion, limits.largest)
        except LinkExpiredError as error:
            if state.status_url is None or state.progress <= before:
                raise
            before = state.progress
            log("links", asked="afresh", why=str(error))
            state.complete(completed(http, state.status_url, limits.max_wait))
            completion = Completion.read(state.manifest, "")
        else:
            return completion


def _abandon(http: Http, state: State) -> None:
    """Give up the export that is under way, here and on the server."""
    if state.status_url is not None:
        delete(http, state.status_url)
    state.clear()


def _arrived(
    state: State, completion: Completion, request: Request, since: str | None, held: Path | None
) -> Arrived:
    there = state.files
    files = named(there[listed.key] for listed in completion.files)
    errors = [(path, name) for path, name in files if name.startswith("error.")]
    outcomes = read_outcomes(errors)
    parts = [listed.part for listed in completion.files]
    notes = {
        **request.to_json(),
        "since": since,
        "transaction_time": completion.transaction_time,
        "files": {part: parts.count(part) for part in sorted(set(parts))},
        "outcomes": counted(outcomes),
    }
    tables = {OUTCOMES: outcomes} if outcomes.height else {}
    return Arrived(
        files, {"source": "bulk", **request.to_json()}, held=held, notes={"bulk": notes}, tables=tables
    )
