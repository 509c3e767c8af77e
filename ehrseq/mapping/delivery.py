"""What a source delivered: all of its tables, or a delta of what is new since the last delivery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ehrseq.core.errors import ConfigError, SourceError, closest
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import Input
from ehrseq.mapping.delta import deleted, watermarks
from ehrseq.sources.database import Database, Partition, is_database, shown
from ehrseq.sources.declaration import Source
from ehrseq.sources.raw import SUFFIXES, delivered_columns
from ehrseq.sources.tables import find_tables, table_files


@dataclass(frozen=True)
class Delivery:
    """Files of rows and, of a delta, files of deleted keys, by table, below `data`; or partitions of a database.

    `place` is where that is, for messages. Use as a context manager: a database is read as it is at one instant,
    which ends with it.
    """

    data: Path
    place: str
    rows: Mapping[str, Sequence[Path | Partition]]
    gone: Mapping[str, list[Path]]
    delta: bool
    database: Database | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.database is not None:
            self.database.connection.close()

    @property
    def inputs(self) -> list[Input]:
        """Every file, or table, with its hash. Raises: SourceError if one cannot be read."""
        if self.database is not None:
            parts = {
                name: [p for p in found if isinstance(p, Partition)] for name, found in self.rows.items()
            }
            return [
                Input(found[0].name if self.delta else name, self.database.input_hash(found))
                for name, found in parts.items()
            ]
        files = dict.fromkeys(
            p for found in (self.rows, self.gone) for paths in found.values() for p in paths
        )
        return [Input(self.label(path), _sha256(path)) for path in files if isinstance(path, Path)]

    def columns(self, source: Source) -> dict[str, dict[str, str]]:
        """Columns and types that each table came with, by its first file; none of files that cannot be read anyway."""
        return {name: delivered_columns(source.tables[name], paths[0]) for name, paths in self.rows.items()}

    def label(self, path: Path | Partition) -> str:
        """Name of a file in provenance; in a delta, with the name of its folder."""
        if isinstance(path, Partition):
            return path.name
        name = path.relative_to(self.data).as_posix()
        return f"{self.data.resolve().name}/{name}" if self.delta else name


def columns_changed(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], *, delta: bool
) -> list[str]:
    """What differs between the columns of two deliveries, in words. A delta need not have every table.

    >>> columns_changed({"labs": {"id": "text", "unit": "text"}}, {"labs": {"id": "int64"}}, delta=False)
    ['labs lacks unit', 'labs.id is int64 and was text']
    """
    found = [] if delta else [f"table {name} is gone" for name in before if name not in now]
    found += [f"table {name} is new" for name in now if name not in before]
    for name in sorted(name for name in before if before[name] and now.get(name)):
        old, new = before[name], now[name]
        found += [f"{name} lacks {column}" for column in old if column not in new]
        found += [f"{name} has {column}, which is new" for column in new if column not in old]
        found += [
            f"{name}.{column} is {new[column]} and was {old[column]}"
            for column in old
            if column in new and new[column] != old[column]
        ]
    return found


def find_delivery(source: Source, data: str | Path, *, kept: Path | None = None) -> Delivery:
    """Find the tables below `data`, a folder or a database; of a delta, where `kept` is the store it is for.

    Of a database a delta is what its tables with a `since` column have, from the greatest value that the store has on.
    Raises: SourceError if there are none, a full delivery lacks a table that is not optional, or a delta has rows of a
    table without `primary_key`.
    """
    if is_database(data):
        if kept is not None and not (marks := watermarks(source, kept)):
            raise ConfigError(
                f"{source.folder / 'source.yaml'}: no table has both `since` and `primary_key`, so it cannot be said "
                f"what is new in {shown(str(data))}. Declare them, or map it as a full delivery."
            )
        database = Database(data)
        parts = database.partitions(source) if kept is None else database.since(source, marks)
        return Delivery(Path(str(data)), shown(str(data)), parts, {}, kept is not None, database)
    data = Path(data)
    if kept is None:
        return Delivery(data, str(data), find_tables(source, data), {}, False)
    if not data.is_dir():
        raise SourceError(f"{data}: no such folder. Expected new rows of the tables of {source.name}.")
    tables = source.tables.items()
    rows = {name: found for name, table in tables if (found := table_files(data, table))}
    gone = {name: found for name, table in tables if (found := table_files(data, deleted(table)))}
    if not rows and not gone:
        raise SourceError(f"{data}: holds no table of {source.name}, so there is no delta in it.")
    _refuse_strangers(
        source, data, {path for found in (rows, gone) for paths in found.values() for path in paths}
    )
    for name in [*rows, *gone]:
        if not source.tables[name].primary_key:
            raise SourceError(
                f"{data}: table {name} has no `primary_key` in {source.folder / 'source.yaml'}, so it cannot be said "
                "which rows its new ones replace. Declare it, or map a full delivery."
            )
    return Delivery(data, str(data), rows, gone, True)


def _refuse_strangers(source: Source, data: Path, known: set[Path]) -> None:
    """A misspelt table would be a correction or a deletion that is lost. Raises: SourceError that names it."""
    if any(table.format for table in source.tables.values()):
        return
    files = sorted(
        path
        for path in data.rglob("*")
        if path.is_file() and path.name.endswith(tuple(filter(None, SUFFIXES)))
    )
    if strange := [path.relative_to(data).as_posix() for path in files if path not in known]:
        names = [name + part for name in source.tables for part in ("", ".deleted")]
        near = closest(strange[0].partition(".csv")[0], names)
        more = f" So are {len(strange) - 1} more." if strange[1:] else ""
        raise SourceError(
            f"{data}: {strange[0]} is no table of {source.name}.{near}{more} "
            "Rename it or take it away: nothing was read, so that no correction or deletion is lost."
        )


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}. Check the file and its permissions."
        ) from error
