"""One DuckDB per process: opening one takes longer than most of what is asked of it."""

import atexit
from functools import cache

import duckdb


def cursor() -> duckdb.DuckDBPyConnection:
    """A connection of its own to the process's in-memory database; close it, or use it as a context manager.

    >>> with cursor() as database:
    ...     database.sql("SELECT 6 * 7").fetchall()
    [(42,)]
    """
    return _database().cursor()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    atexit.register(_close)  # DuckDB complains, on the user's screen, of what is still open at the end
    return duckdb.connect(config={"threads": 1})  # a batch has work for one; processes run side by side


def _close() -> None:
    _database().close()
    _database.cache_clear()
