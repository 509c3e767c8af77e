"""One retraining at a time: a lease with an owner and an end, so that a dead owner does not block for ever.

The lease is a JSON file, read and replaced under a file lock, so of two that come at once one gets it. It is free when
it has ended, or when its owner was a process of this machine that is no more. A clock that goes backwards makes a lease
last longer, never shorter. Before anything is made public the owner asks whether the lease is still its own (`check`).
"""

import fcntl
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ehrseq.core.errors import BusyError
from ehrseq.core.files import write_json


@dataclass
class Lease:
    """A lease that was taken. `renew` it while the work goes on."""

    path: Path
    token: str
    hours: float
    owner: str

    def renew(self) -> None:
        """Let it last from now on. Raises: BusyError if another has taken it meanwhile."""
        with _alone(self.path):
            self._mine()
            write_json(self.path, _content(self.token, self.hours, self.owner))

    def check(self) -> None:
        """Raises: BusyError if the lease is another's by now; then nothing may be made public."""
        with _alone(self.path):
            self._mine()

    def _mine(self) -> None:
        found = _read(self.path)
        if found.get("token") != self.token:
            owner = found.get("owner", "nobody")
            raise BusyError(
                f"{self.path}: the lease of {self.owner} had ended and is now that of {owner}. Nothing was promoted. "
                "Give retraining more hours (`lease_hours`), and run again."
            )


@contextmanager
def lease(path: Path, *, owner: str, hours: float) -> Iterator[Lease]:
    """Hold the lease at `path` in the block. Raises: BusyError (exit 75) naming its owner and its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    taken = Lease(path, uuid.uuid4().hex, hours, owner)
    with _alone(path):
        found = _read(path)
        if found and _holds(found):
            left = max(found["ends"] - time.time(), 0) / 3600
            raise BusyError(
                f"{path}: {found['owner']} (process {found['pid']} on {found['host']}) is retraining, for {left:.1f} "
                "more hours at most. Wait for it; it is free at once if that process is no more."
            )
        write_json(path, _content(taken.token, hours, owner))
    try:
        yield taken
    finally:
        with _alone(path):
            if _read(path).get("token") == taken.token:
                path.unlink(missing_ok=True)


def _content(token: str, hours: float, owner: str) -> dict[str, Any]:
    me = psutil.Process()
    return {
        "owner": owner, "host": platform.node(), "pid": os.getpid(), "born": me.create_time(), "token": token,
        "ends": time.time() + 3600 * hours,
    }  # fmt: skip


def _holds(found: dict[str, Any]) -> bool:
    if time.time() >= found["ends"]:
        return False
    if found["host"] != platform.node():
        return True
    try:
        process = psutil.Process(found["pid"])
        return abs(process.create_time() - found["born"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content if {"token", "ends", "pid", "host", "owner", "born"} <= content.keys() else {}
    except (OSError, ValueError):
        return {}


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Read and replace without another in between; held for moments only."""
    with path.with_name(f".{path.name}.lock").open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
