"""A relational database as a source: each table in partitions, all of one instant, and nothing is ever written to it.

PostgreSQL by its URL (through ADBC; a password may stand in the URL, in PGPASSWORD or in .pgpass), SQLite and DuckDB
by their files. A partition is a range of an integer primary key, else of the table's blocks. All partitions of a
PostgreSQL database are read in the snapshot that the run has exported, so that they agree with each other.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pyarrow as pa

from ehrseq.core.errors import ConfigError, EhrseqError, SourceError
from ehrseq.core.files import sha256_file
from ehrseq.core.hashing import content_hash
from ehrseq.core.progress import log
from ehrseq.sources.declaration import Source, Table

_POSTGRES = ("postgresql://", "postgres://")
_SQLITE, _DUCKDB = (".sqlite", ".sqlite3", ".db"), (".duckdb", ".ddb")
_ROWS_TOGETHER = 500_000
_ATTEMPTS, _PAUSE = 4, 0.5  # seconds; doubled each time
_PLAIN = re.compile(r"u?int\d+|float|double|halffloat|bool|date32|timestamp|string|large_string|decimal")
_SETTINGS = (  # so that rows are the same text for everybody, and the snapshot outlives a long first pass
    "SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL TimeZone = 'UTC'; "
    "SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex'; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)
_REFUSED = re.compile(r"FATAL: +(?:password|no pg_hba|role|database|Peer|Ident|permission)")
_GONE = ("08", "57P", "53", "XX", "25P")  # SQLSTATE classes of what may pass: connection, shutdown, resources


class DatabaseLostError(EhrseqError):
    """The database went away and did not come back in time."""

    exit_code = EhrseqError.exit_code.TEMPORARY


@dataclass(frozen=True)
class Partition:
    """Some rows of a table. `columns` are their names and Arrow types, `rows` how many there are, about.

    `decimal`: the mark before the fraction of numbers that come as text. As text it is the database, without its
    password, and the table.
    """

    url: str = field(repr=False)
    relation: str
    name: str
    columns: tuple[tuple[str, str], ...] = ()
    where: str = ""
    order: str = ""
    rows: int = 0
    snapshot: str | None = None
    decimal: str = "."

    def __str__(self) -> str:
        return f"{shown(self.url)} table {self.relation.replace('"', '')}"


def is_database(data: str | Path) -> bool:
    """Whether `data` names a database: a PostgreSQL URL, or a file of SQLite or DuckDB.

    >>> is_database("postgresql://reader@db.example/mimic"), is_database("path/to/folder")
    (True, False)
    """
    return str(data).startswith(_POSTGRES) or (
        str(data).endswith(_SQLITE + _DUCKDB) and not Path(data).is_dir()
    )


def shown(url: str) -> str:
    """A database's name for messages and manifests, without a password.

    >>> shown("postgresql://reader:secret@db.example/mimic?password=secret&sslmode=require")
    'postgresql://reader@db.example/mimic?sslmode=require'
    """
    start, query, options = url.partition("?") if "@" not in url.partition("?")[2] else (url, "", "")
    bare = re.sub(r"(://[^:@]*):.*@", r"\1@", start)  # up to the last @: a password may hold any character
    kept = "&".join(part for part in options.split("&") if "password" not in part.partition("=")[0].lower())
    return f"{bare}{query}{kept}".rstrip("?")


class Database:
    """A database that is being read. Use as a context manager: the instant that is read ends with it.

    Raises: SourceError if it cannot be opened.
    """

    def __init__(self, url: str | Path) -> None:
        self.url = str(url)
        if not self.url.startswith(_POSTGRES) and not Path(self.url).is_file():
            raise SourceError(f"{self.url}: no such file. Expected a database of SQLite or DuckDB.")
        self.connection = _connection(self.url)
        self.snapshot = None
        if self.url.startswith(_POSTGRES):
            self.snapshot = str(self.ask("SELECT pg_export_snapshot()")[0][0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.connection.close()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows of a question about the database. Raises: SourceError, DatabaseLostError."""
        try:
            with closing(self.connection.cursor()) as cursor:
                cursor.execute(sql)
                return [tuple(row) for row in cursor.fetchall()]
        except Exception as error:  # drivers have no base class in common
            raise _trouble(self.url, error) from error

    def partitions(self, source: Source) -> dict[str, list[Partition]]:
        """Partitions of every declared table that is there. Raises: SourceError if a required one is missing."""
        return {
            name: [replace(part, decimal=source.tables[name].decimal) for part in self._partitions(*place)]
            for name, place in self._places(source).items()
        }

    def since(self, source: Source, marks: Mapping[str, str]) -> dict[str, list[Partition]]:
        """One partition of each table in `marks`: the rows whose `since` column is not before the mark."""
        places, found = self._places(source), {}
        for name in sorted(set(places) & set(marks)):
            column = _quoted(str(source.tables[name].since))
            first, *_ = self._partitions(*places[name])
            label = f"{'.'.join(places[name])}[since {marks[name]}]"
            where = f"{column} >= {_text(marks[name])}"
            decimal = source.tables[name].decimal
            found[name] = [
                replace(first, name=label, where=where, order=first.order or column, decimal=decimal)
            ]
        return found

    def head(self, schema: str, name: str, rows: int) -> pa.Table:
        """The first `rows` rows of a table, as `batches` gives them. Raises: SourceError, DatabaseLostError."""
        relation = self._relation(schema, name)
        partition = Partition(self.url, relation, name, self._columns(relation))
        try:
            with _reading(self.connection, f"{_select(partition, 0)} LIMIT {rows}") as reader:
                return reader.read_all()
        except Exception as error:  # drivers have no base class in common
            raise _trouble(self.url, error) from error

    def _places(self, source: Source) -> dict[str, tuple[str, str]]:
        """Schema and name of every declared table that is there. Raises: SourceError if a required one is missing."""
        there = self.relations()
        found = {}
        for name, table in source.tables.items():
            schema, _, bare = name.rpartition("/")
            places = [
                (s, t)
                for s, t in there
                if _same(t, bare, table)
                and (self.url.endswith(_SQLITE) or not schema or _same(s, schema, table))
            ]
            if places:
                found[name] = places[0]
            elif not table.optional:
                raise SourceError(
                    f"{shown(self.url)}: has no table {name.replace('/', '.')} that this user may read. Add it, "
                    f"or declare it `optional: true` in {source.folder / 'source.yaml'}."
                )
        return found

    def input_hash(self, partitions: Sequence[Partition]) -> str:
        """Hash of a table's content, whatever the order of its rows; a file is hashed as a whole.

        PostgreSQL computes it and has to read the table for it.
        """
        if self.snapshot is None:
            return content_hash([sha256_file(path) for path in self._files()])
        relation = partitions[0].relation
        where = f" WHERE {partitions[0].where}" if "since" in partitions[0].name else ""
        counted = "SELECT count(*)::text, coalesce(sum(hashtextextended(t::text, 0)), 0)::text"
        total = f"{counted} FROM {relation} t{where}"
        return content_hash([relation, *self.ask(total)[0], partitions[0].columns])

    def _files(self) -> list[Path]:
        """The file of the database, and that of what was committed but is not yet in it."""
        logs = (Path(f"{self.url}{suffix}") for suffix in ("-wal", ".wal"))
        return [Path(self.url), *(path for path in logs if path.is_file() and path.stat().st_size)]

    def relations(self) -> list[tuple[str, str]]:
        """(schema, name) of all tables and views; those of the search path first."""
        if self.url.endswith(_SQLITE):
            rows = self.ask(
                "SELECT 'main', name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY name"
            )
        elif self.snapshot is None:
            rows = self.ask("SELECT table_schema, table_name FROM information_schema.tables ORDER BY ALL")
        else:
            rows = self.ask(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
                "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege(c.oid, 'SELECT') "
                "ORDER BY array_position(current_schemas(false), n.nspname) NULLS LAST, 1, 2"
            )
        return [(str(schema), str(name)) for schema, name in rows]

    def _partitions(self, schema: str, name: str) -> list[Partition]:
        relation = self._relation(schema, name)
        label = f"{schema}.{name}"
        whole = Partition(self.url, relation, label, self._columns(relation), snapshot=self.snapshot)
        key, low, high, rows = self._ranges(schema, name, relation)
        count = max(-(-rows // _ROWS_TOGETHER), 1)
        if not key:
            return [replace(whole, rows=rows)]
        step = max(-(-(high - low + 1) // count), 1)
        cut = range(low, high + 1, step) or range(1)
        parts = []
        for start in cut:
            end = start + step
            where = _between(key, start, end, first=start == low, last=end > high)
            part = f"{label}[{start}-{min(end - 1, high)}]" if len(cut) > 1 else label
            parts.append(replace(whole, name=part, where=where, order=key, rows=-(-rows // len(cut))))
        return parts

    def _relation(self, schema: str, name: str) -> str:
        return _quoted(name) if self.url.endswith(_SQLITE) else f"{_quoted(schema)}.{_quoted(name)}"

    def _columns(self, relation: str) -> tuple[tuple[str, str], ...]:
        with _reading(self.connection, f"SELECT * FROM {relation} LIMIT 0") as reader:
            schema = reader.schema
        return tuple((name, str(schema.field(name).type)) for name in schema.names)

    def _ranges(self, schema: str, name: str, relation: str) -> tuple[str, int, int, int]:
        """What cuts a table into parts (none: ""), its least and greatest value, and the rows, about."""
        if self.snapshot is None:
            try:
                low, high, rows = self.ask(f"SELECT min(rowid), max(rowid), count(*) FROM {relation}")[0]
            except EhrseqError:  # a view
                return "", 0, 0, int(self.ask(f"SELECT count(*) FROM {relation}")[0][0])
            return ("rowid", int(low), int(high), int(rows)) if rows else ("", 0, 0, 0)
        where = f"WHERE n.nspname = {_text(schema)} AND c.relname = {_text(name)}"
        kind, blocks = self.ask(
            "SELECT c.relkind::text, pg_relation_size(c.oid) / current_setting('block_size')::int8 "
            f"FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace {where}"
        )[0]
        rows = int(self.ask(f"SELECT count(*) FROM {relation}")[0][0])  # estimates change while rows do not
        keys = self.ask(
            "SELECT a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid "
            f"AND a.attnum = i.indkey[0] {where} AND i.indisprimary AND i.indnatts = 1 "
            "AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)"
        )
        if keys:
            key = _quoted(str(keys[0][0]))
            low, high = self.ask(f"SELECT min({key})::int8, max({key})::int8 FROM {relation}")[0]
            return (key, int(low), int(high), rows) if low is not None else ("", 0, 0, 0)
        return ("ctid", 0, int(blocks) - 1, rows) if kind == "r" and blocks else ("", 0, 0, rows)


def batches(partition: Partition) -> Iterator[pa.RecordBatch]:
    """Rows of a partition, a batch at a time, in an order that is the same each time.

    When the connection is lost, another one goes on behind the last row. Raises: SourceError; DatabaseLostError.
    """
    seen, attempt = 0, 1
    while True:
        try:
            with (
                closing(_connection(partition.url, partition.snapshot)) as connection,
                _reading(connection, _select(partition, seen)) as reader,
            ):
                for batch in reader:
                    seen += batch.num_rows
                    attempt = 1
                    yield batch
            return
        except EhrseqError as error:
            if (
                attempt == _ATTEMPTS
                or not isinstance(error, DatabaseLostError)
                or (seen and not partition.order)
            ):
                raise
        except Exception as error:  # drivers have no base class in common
            trouble = _trouble(partition.url, error)
            if (
                attempt == _ATTEMPTS
                or not isinstance(trouble, DatabaseLostError)
                or (seen and not partition.order)
            ):
                raise trouble from error
        log("database lost", table=partition.name, rows=seen, attempt=attempt)
        time.sleep(_PAUSE * 2 ** (attempt - 1))
        attempt += 1


def _select(partition: Partition, seen: int) -> str:
    columns = [_column(partition, _quoted(name), kind) for name, kind in partition.columns]
    where = f" WHERE {partition.where}" if partition.where else ""
    order = f" ORDER BY {partition.order}" if partition.order else ""
    skip = f" LIMIT {2**62} OFFSET {seen}" if seen else ""
    return f"SELECT {', '.join(columns)} FROM {partition.relation}{where}{order}{skip}"


def _column(partition: Partition, column: str, kind: str) -> str:
    """A column as it is selected: as text where its type is none of the plain ones, or not fixed, as in SQLite."""
    sqlite = partition.url.endswith(_SQLITE)
    if _PLAIN.match(kind) and not sqlite:
        return column
    text = f"CAST({column} AS TEXT)"
    if partition.decimal != ".":
        written = f"replace({text}, '.', {_text(partition.decimal)})"
        if sqlite:
            text = f"CASE typeof({column}) WHEN 'real' THEN {written} ELSE {text} END"
        elif "type_name=numeric" in kind:
            text = written
    return f"{text} AS {column}"


def _connection(url: str, snapshot: str | None = None) -> Any:
    """A connection that can only read. Raises: SourceError; DatabaseLostError; ConfigError if the driver is missing."""
    try:
        if url.endswith(_DUCKDB):
            import duckdb

            return duckdb.connect(url, read_only=True)
        if url.endswith(_SQLITE):
            import adbc_driver_sqlite.dbapi as sqlite

            return sqlite.connect(f"file:{quote(str(Path(url).absolute()))}?mode=ro")
        import adbc_driver_postgresql.dbapi as postgresql
    except ImportError as error:
        raise ConfigError(
            f"{shown(url)}: {error.name} is not installed. `pip install ehrseq[databases]`."
        ) from error
    connection = None
    try:
        connection = postgresql.connect(url)
        with closing(connection.cursor()) as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            if snapshot is not None:
                cursor.execute(f"SET TRANSACTION SNAPSHOT {_text(snapshot)}")
            for setting in _SETTINGS.split("; "):
                cursor.execute(setting)
    except Exception as error:
        if connection is not None:
            connection.close()
        raise _trouble(url, error) from error
    return connection


@contextmanager
def _reading(connection: Any, sql: str) -> Iterator[Any]:
    """Record batches of a query."""
    if hasattr(connection, "to_arrow_reader"):
        with closing(connection.sql(sql).to_arrow_reader(65_536)) as reader:
            yield reader
        return
    with closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        with closing(cursor.fetch_record_batch()) as reader:
            yield reader


def _trouble(url: str, error: Exception) -> EhrseqError:
    """What to say of a driver's error; its own words may quote data or a password, so they are not used."""
    state = getattr(error, "sqlstate", None) or ""
    name = shown(url)
    if state.startswith("28") or (not state and _REFUSED.search(str(error))):
        return SourceError(
            f"{name}: refuses the user, the password or the database{f' (SQLSTATE {state})' if state else ''}. "
            "See the URL, PGPASSWORD and .pgpass."
        )
    if state == "42501":
        return SourceError(f"{name}: this user may not read a table (SQLSTATE {state}). Grant SELECT on it.")
    if state and not state.startswith(_GONE) and state != "22023":  # 22023: the snapshot is no longer there
        return SourceError(f"{name}: refuses to be read (SQLSTATE {state}).")
    if not url.startswith(_POSTGRES):
        return SourceError(f"{name}: is no database that can be read ({type(error).__name__}).")
    why = f" (SQLSTATE {state})" if state else ""
    return DatabaseLostError(
        f"{name}: the connection was lost, or never made{why}. Nothing was written; the same command may succeed later."
    )


def _between(key: str, start: int, end: int, *, first: bool, last: bool) -> str:
    low, high = (f"'({value},0)'::tid" if key == "ctid" else str(value) for value in (start, end))
    parts = ([] if first else [f"{key} >= {low}"]) + ([] if last else [f"{key} < {high}"])
    return " AND ".join(parts)


def _same(found: str, wanted: str, table: Table) -> bool:
    return found == wanted or (table.ignore_case and found.lower() == wanted.lower())


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
