"""The first pass: files of a source, batch by batch, to typed rows in one folder per subject bucket.

All rows of a subject, from every table, land in the same bucket; rows of shared tables in the bucket "shared".
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehrseq.core.hashing import stable_hash
from ehrseq.core.parquet import write_parquet
from ehrseq.fhir.merged import surviving
from ehrseq.sources.database import Partition
from ehrseq.sources.declaration import Source, Table
from ehrseq.sources.rejects import Reject, join_rejects, rejects
from ehrseq.sources.tables import COLUMN_DTYPES, read_batches

SHARED = "shared"
_ROWS_HELD = 2_000_000
_BYTES_TOGETHER = 8 << 20
_BYTES_A_ROW = 12


@dataclass(frozen=True)
class SpillTask:
    """Files of one table, with their names in provenance, to be spilled below `folder`.

    `merged`: patients who go into another's bucket.
    """

    table: Table
    files: tuple[tuple[Path | Partition, str], ...]
    number: int
    folder: Path
    buckets: int
    merged: pl.DataFrame | None = None


@dataclass
class Spilled:
    """What the files held: rows in, and rows that were rejected while reading, by rule."""

    table: str
    rows_in: int = 0
    rejected: dict[str, int] = field(default_factory=dict)


def bucket_name(bucket: int | str) -> str:
    """Name of a bucket's files: `0007`, or `shared`."""
    return bucket if isinstance(bucket, str) else f"{bucket:04d}"


def buckets_for(files: Map[str, Sequence[Path | Partition]]) -> int:
    """Number of buckets for these files: one for each 4 MB, at least 4, at most 1024."""
    distinct = {path for paths in files.values() for path in paths}  # a document is a file of several tables
    size = sum(map(_size, distinct))
    return min(max(-(-size // (4 << 20)), 4), 1024)


def _size(path: Path | Partition) -> int:
    """Bytes of a file; of a partition, about those of its rows in a compressed file."""
    return path.rows * _BYTES_A_ROW if isinstance(path, Partition) else path.stat().st_size


def spill_tasks(
    source: Source,
    files: Map[str, Sequence[Path | Partition]],
    label: Callable[[Path | Partition], str],
    folder: Path,
    buckets: int,
    merged: pl.DataFrame | None = None,
) -> list[SpillTask]:
    """One task for each file, with its name in provenance; neighbours of one table go together while they are small."""
    groups: list[tuple[str, list[Path | Partition]]] = []
    room = 0
    known = {
        path: (_size(path), label(path))
        for path in dict.fromkeys(p for paths in files.values() for p in paths)
    }
    for name, paths in files.items():
        for path in paths:
            size = known[path][0]
            if not groups or groups[-1][0] != name or size > room:
                groups.append((name, []))
                room = _BYTES_TOGETHER
            groups[-1][1].append(path)
            room -= size
    if any(table.format for table in source.tables.values()):
        groups.sort(key=lambda group: str(group[1][0]))  # so that a file is parsed once for all of its tables
    return [
        SpillTask(
            source.tables[name],
            tuple((path, known[path][1]) for path in paths),
            number, folder, buckets, merged,
        )
        for number, (name, paths) in enumerate(groups)
    ]  # fmt: skip


def spill(task: SpillTask) -> Spilled:
    """Read files of one table and write their rows by bucket. Raises: SourceError."""
    result, bad, part = Spilled(task.table.name), [], 0
    held: dict[str, list[pl.DataFrame]] = {}
    for rows, unread in read_batches(task.table, task.files):
        result.rows_in += rows.height + unread.height
        if task.table.subject is not None:
            owned = rows[task.table.subject].is_not_null()
            if not owned.all():
                message = f'column "{task.table.subject}", which says whose row it is, is empty'
                nobody = rejects(rows.filter(~owned), task.table.name, rule="subject", message=message)
                unread, rows = join_rejects([unread, nobody]), rows.filter(owned)
        bad.append(unread)
        for name, frame in _apart(task, rows):
            held.setdefault(name, []).append(frame)
        if sum(frame.height for frames in held.values() for frame in frames) >= _ROWS_HELD:
            _write(task, held, part)
            part += 1
    _write(task, held, part)
    together = join_rejects(bad)
    if together.height:
        write_parquet(together, task.folder / "rejects" / f"{task.number:04d}.parquet")
    result.rejected = dict(together.group_by("rule").len().sort("rule").iter_rows())
    return result


def _apart(task: SpillTask, rows: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Names of buckets with their rows."""
    if task.table.subject is None:
        yield SHARED, rows
        return
    bucket = buckets_of(rows[task.table.subject], task.merged, task.buckets)
    parts = rows.with_columns(bucket.alias("~bucket")).partition_by(
        "~bucket", as_dict=True, include_key=False
    )
    for (number,), frame in parts.items():
        yield bucket_name(int(str(number))), frame


def _write(task: SpillTask, held: dict[str, list[pl.DataFrame]], part: int) -> None:
    """Write the rows of each bucket, and forget them."""
    for bucket, frames in held.items():
        name = f"{bucket}/{file_name(task.table.name)}/{task.number:04d}-{part:04d}.parquet"
        write_part(pl.concat(frames), task.folder / name)
    held.clear()


def buckets_of(subjects: pl.Series, merged: pl.DataFrame | None, buckets: int) -> pl.Series:
    """Number of the bucket of each subject (i32): that of who survives, if the subject was merged."""
    return pl.Series((stable_hash(surviving(subjects, merged)) % buckets).astype("int32"))


def write_part(frame: pl.DataFrame, path: Path) -> None:
    """Write what is read once, soon, and then removed. Raises: StorageError."""
    write_parquet(frame, path, compression="none", statistics=False)


def read_spilled(source: Source, folder: Path, bucket: str) -> dict[str, pl.DataFrame]:
    """Tables of a bucket, in the order of files and rows; tables with no rows there are empty frames."""
    shared = bucket == SHARED
    return {
        name: read_table(folder / bucket / file_name(name), table)
        for name, table in source.tables.items()
        if table.shared == shared
    }


def read_table(folder: Path, table: Table, files: str = "*.parquet") -> pl.DataFrame:
    """Typed rows of a table from the `files` of a folder, in order of their names."""
    empty = pl.DataFrame(schema=row_columns(table))
    return pl.concat([empty, *(pl.read_parquet(path) for path in sorted(folder.glob(files)))])


def replace_spilled(folder: Path, bucket: str, tables: Map[str, pl.DataFrame]) -> None:
    """Put these rows in place of those of a bucket."""
    shutil.rmtree(folder / bucket, ignore_errors=True)
    for name, frame in tables.items():
        write_part(frame, folder / bucket / file_name(name) / "0000.parquet")


def row_columns(table: Table) -> pl.Schema:
    """Columns of a typed row of `table`, provenance first."""
    columns = [(name, COLUMN_DTYPES[kind]) for name, kind in table.columns.items()]
    return pl.Schema([("_file", pl.String()), ("_row", pl.Int64()), *columns])


def file_name(table: str) -> str:
    """A table's name as that of a file.

    >>> file_name("hosp/labevents")
    'hosp__labevents'
    """
    return table.replace("/", "__")


def read_rejects(folder: Path) -> pl.DataFrame:
    """Rejects of the first pass."""
    paths = sorted((folder / "rejects").glob("*.parquet"))
    return join_rejects(pl.read_parquet(path) for path in paths) if paths else Reject.empty()
