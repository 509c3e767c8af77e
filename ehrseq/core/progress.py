"""Progress: a live line on a terminal, one JSON object per line elsewhere. Both go to stderr.

Never pass a patient's data: counts, names of tables and stages, seconds.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

_SECONDS_BETWEEN_LINES = 10.0
_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silence progress (not errors), as `--quiet` does."""
    global _quiet
    _quiet = quiet


def log(event: str, **fields: Any) -> None:
    """Say that something happened, e.g. `log("map", table="hosp/labevents", rows=107727)`."""
    if _quiet:
        return
    if sys.stderr.isatty():
        words = "  ".join(f"{key} {_short(value)}" for key, value in fields.items())
        sys.stderr.write(f"\r\033[K{event:<10} {words}\n")
    else:
        sys.stderr.write(json.dumps({"event": event, **fields}, default=str) + "\n")
    sys.stderr.flush()


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def track[T](items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Yield `items`, showing how many of `total` are done.

    >>> list(track([1, 2], total=2, what="buckets"))
    [1, 2]
    """
    started = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if _quiet:
            continue
        if sys.stderr.isatty():
            with contextlib.suppress(ValueError):
                sys.stderr.write(f"\r\033[K{what} {done}/{total}")
                sys.stderr.flush()
        elif now - shown >= _SECONDS_BETWEEN_LINES:
            shown = now
            log("progress", what=what, done=done, total=total, seconds=round(now - started, 1))
    if sys.stderr.isatty() and not _quiet:
        sys.stderr.write("\r\033[K")
