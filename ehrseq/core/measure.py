"""What a run cost: wall seconds, CPU seconds and peak memory of this process and its workers."""

import os
import resource
import time
from dataclasses import dataclass, field


@dataclass
class Meter:
    """Started when made; `read()` gives the cost so far.

    >>> sorted(Meter().read())
    ['cpu_seconds', 'peak_rss_bytes', 'seconds']
    """

    _wall: float = field(default_factory=time.perf_counter)
    _cpu: float = field(default_factory=lambda: _cpu_seconds())

    def read(self) -> dict[str, float]:
        """`seconds` and `cpu_seconds` since the start; `peak_rss_bytes` of the largest process so far."""
        return {
            "seconds": round(time.perf_counter() - self._wall, 3),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 3),
            "peak_rss_bytes": peak_rss_bytes(),
        }


def peak_rss_bytes() -> int:
    """Peak resident memory of this process plus that of its largest finished worker, in bytes."""
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return (own.ru_maxrss + workers.ru_maxrss) * unit


def _cpu_seconds() -> float:
    own, workers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + workers.ru_utime + workers.ru_stime
