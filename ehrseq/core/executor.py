"""One seam for running tasks: in this process or in a pool of spawned workers; results are the same.

A task is a top-level function of one picklable argument that may be run again without harm.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from ehrseq.core.errors import ConfigError, EhrseqError
from ehrseq.core.progress import track


class WorkerLostError(EhrseqError):
    """A worker process died (often: killed for memory)."""

    exit_code = EhrseqError.exit_code.TEMPORARY


def run_tasks[A, R](
    task: Callable[[A], R], arguments: Sequence[A], *, workers: int = 1, what: str = "tasks"
) -> list[R]:
    """Run `task` on each argument and return the results in the order of `arguments`.

    `workers` = 1 runs here; more start that many spawned processes. Raises what the first failing task
    raised; WorkerLostError if a worker was killed.

    >>> run_tasks(abs, [-1, 2])
    [1, 2]
    """
    return list(each_result(task, arguments, workers=workers, what=what))


def each_result[A, R](
    task: Callable[[A], R], arguments: Sequence[A], *, workers: int = 1, what: str = "tasks"
) -> Iterator[R]:
    """As `run_tasks`, one result after another, for those that are too large to be kept all.

    >>> next(each_result(abs, [-1, 2]))
    1
    """
    if workers < 1:
        raise ConfigError(f"--workers is {workers}, expected 1 or more.")
    total = len(arguments)
    alone = workers == 1 or total <= 1
    yield from track(
        map(task, arguments) if alone else _pooled(task, arguments, min(workers, total)), total, what
    )


def _pooled[A, R](task: Callable[[A], R], arguments: Sequence[A], workers: int) -> Iterator[R]:
    # polars sizes its thread pool when first imported: share the cores among the workers
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    before = os.environ.get("POLARS_MAX_THREADS")
    os.environ["POLARS_MAX_THREADS"] = threads
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
            yield from pool.map(task, arguments)
    except BrokenProcessPool as error:
        raise WorkerLostError(
            "A worker process died, most often because memory ran out. Nothing that was there before is lost. "
            "Run the same command again with fewer --workers or more --buckets."
        ) from error
    finally:
        if before is None:
            os.environ.pop("POLARS_MAX_THREADS", None)
        else:
            os.environ["POLARS_MAX_THREADS"] = before


def _end_with_parent() -> None:
    """In a worker: do not outlive a run that was killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
