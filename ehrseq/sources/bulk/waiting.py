"""How long to wait before asking again, and when to give up for this run.

Source: RFC 9110, 10.2.3 (Retry-After).
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from ehrseq.core.progress import log
from ehrseq.sources.bulk.errors import ServerError, StoppedError

_FIRST, _LONGEST = 1.0, 60.0  # seconds between two questions, where the server does not say
_LEAST = 0.2
_JITTER = (
    0.1  # of what the server asked for, added: clients that it sent away together shall not come back so
)


@dataclass
class Clock:
    """Time, as an argument. `sleep` of None waits, and wakes up when `stopped` is set."""

    sleep: Callable[[float], object] | None = None
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    stopped: threading.Event = field(default_factory=threading.Event)

    def pause(self, seconds: float) -> None:
        """Sleep. Raises: StoppedError if the run is to stop."""
        (self.sleep or self.stopped.wait)(seconds)
        self.check()

    def check(self) -> None:
        """Raises: StoppedError if the run is to stop."""
        if self.stopped.is_set():
            raise StoppedError("Stopped.")


class Waits:
    """Waits in a row for one thing, no longer than `patience` seconds together.

    `option`: what the user may give to wait longer.
    """

    def __init__(self, what: str, patience: float, clock: Clock, option: str = "--patience") -> None:
        self.what, self.patience, self.clock, self.option = what, patience, clock, option
        self.good()

    def good(self) -> None:
        """Something came: start counting again."""
        self._tries, self._spent, self._mark = 0, 0.0, self.clock.monotonic()

    def again(self, headers: Mapping[str, str] | None, why: str) -> None:
        """Wait as the server asks, else longer each time. Raises: ServerError when patience is at its end."""
        asked = retry_after(headers) if headers else None
        if asked is None:
            pause = min(_FIRST * 2**self._tries, _LONGEST) * (1 + self.clock.jitter()) / 2
        else:
            pause = max(asked * (1 + _JITTER * self.clock.jitter()), _LEAST)
        now = self.clock.monotonic()
        self._spent += now - self._mark  # a question may itself have taken long
        if self._spent + pause > self.patience:
            more = f" and asks to wait {asked:,.0f} s more" if asked else ""
            raise ServerError(
                f"{self.what}: {why}, for {self._spent:,.0f} s now{more}; {self.option} is {self.patience:,.0f} s. "
                "What has come so far is kept: run the same command again to go on."
            )
        log("wait", what=self.what, why=why, seconds=round(pause, 1))
        self.clock.pause(pause)
        self._spent += pause
        self._tries += 1
        self._mark = self.clock.monotonic()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, by `Retry-After` as a number or as a date; None if it does not say.

    A date is counted from the server's own `Date`, for clocks differ.

    >>> retry_after({"retry-after": "120"})
    120.0
    >>> retry_after({"retry-after": "Tue, 24 Nov 2026 08:00:30 GMT", "date": "Tue, 24 Nov 2026 08:00:00 GMT"})
    30.0
    """
    asked = headers.get("retry-after", "").strip()
    if asked.replace(".", "", 1).isdecimal():
        return float(asked)
    try:
        until = parsedate_to_datetime(asked).timestamp()
    except ValueError:
        return None
    try:
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        now = time.time()
    return max(until - now, 0.0)
