"""SIGTERM asks; the loop answers between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`made` turns True when the scheduler wants its machine back."""

    def __init__(self) -> None:
        self.made = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.made = True


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Listen for SIGTERM inside the block (in the main thread; elsewhere the request is never made)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
