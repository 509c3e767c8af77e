"""All files of an export, a few at a time, under names that tell what is in them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from ehrseq.core.files import storage_errors
from ehrseq.core.progress import log
from ehrseq.sources.bulk.download import Fetch, fetch
from ehrseq.sources.bulk.errors import StoppedError
from ehrseq.sources.bulk.export import Completion, Listed
from ehrseq.sources.bulk.http import Http
from ehrseq.sources.bulk.lines import Whole
from ehrseq.sources.bulk.state import FILES, State

_AT_ONCE = 4


def fetch_all(http: Http, state: State, completion: Completion, largest: int) -> None:
    """Fetch what is not yet here. Raises what the first failing download raised; the others keep what they have."""
    there = state.files
    missing = [listed for listed in completion.files if listed.key not in there]
    for listed in missing:
        http.hosts.check(listed.url, f"file of {listed.type}")
    log("fetch", files=len(completion.files), here=len(there))

    def one(listed: Listed) -> None:
        part = state.folder / FILES / f"{listed.key}.part"
        found = fetch(http, Fetch(listed, part, completion.needs_token, largest))
        with storage_errors(part):
            _put(found, listed, part)
        log("fetched", type=listed.type, part=listed.part, lines=found.lines)

    with _pool(http) as pool:
        futures = [pool.submit(one, listed) for listed in missing]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        _raise_first(done)


@contextmanager
def _pool(http: Http) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon when one fails, or the run is told to stop."""
    http.clock.stopped.clear()
    pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="bulk")
    try:
        yield pool
    finally:
        http.clock.stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
        http.clock.stopped.clear()


def _raise_first(done: set[Future[None]]) -> None:
    errors = [error for future in done if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error


def _put(found: Whole, listed: Listed, part: Path) -> None:
    """Give a whole file its name: its key, its type (or what else it is) and the hash of its text."""
    name = f"{part.stem}.{listed.type if listed.part == 'output' else listed.part}.{found.sha256[:16]}.ndjson"
    os.replace(found.path, part.with_name(name))
    part.with_suffix(".json").unlink(missing_ok=True)


def named(paths: Iterable[Path]) -> list[tuple[Path, str]]:
    """Whole files with their names in provenance, sorted: without the key, so that they depend on their text alone.

    The same text twice gets a number.
    """
    found: list[tuple[Path, str]] = []
    times: Counter[str] = Counter()
    for path in sorted(paths):
        name = path.name.partition(".")[2]
        times[name] += 1
        number = f".{times[name]}" if times[name] > 1 else ""
        found.append((path, f"{name.removesuffix('.ndjson')}{number}.ndjson"))
    return sorted(found, key=lambda item: item[1])
