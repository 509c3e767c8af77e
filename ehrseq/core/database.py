"""One DuckDB per process: opening one takes longer than most of what is asked of it."""

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
    return duckdb.connect()
