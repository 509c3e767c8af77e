"""A delta: a delivery of what is new since the last one, laid over the rows that the store has kept.

A row replaces the kept row with the same primary key; a key in `TABLE.deleted.csv` (or another suffix) takes one away.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SourceError
from ehrseq.core.parquet import write_parquet
from ehrseq.fhir.merged import RETIRED
from ehrseq.mapping.merge import as_links
from ehrseq.mapping.spill import (
    SHARED,
    bucket_name,
    buckets_of,
    file_name,
    read_spilled,
    read_table,
    row_columns,
    write_part,
)
from ehrseq.sources.database import Partition
from ehrseq.sources.declaration import Source, Table
from ehrseq.sources.tables import read_batches

ROWS = "rows"
UNREAD = f"{ROWS}/unread.parquet"
MOVED, MERGED, LEFT = "moved", "merged.parquet", "left.parquet"
_DELETED = ".deleted"


def deleted(table: Table) -> Table:
    """The table of a table's deleted keys."""
    columns = {name: table.columns[name] for name in table.primary_key}
    return replace(table, name=f"{table.name}{_DELETED}", columns=columns, subject=None, files=None,
                   file_name={}, may_lack=frozenset())  # fmt: skip


def watermarks(source: Source, kept: Path) -> dict[str, str]:
    """The greatest value of the `since` column among the kept rows of each table that has one, as text."""
    found = {}
    for name, table in source.tables.items():
        paths = sorted(kept.glob(f"{ROWS}/*/{file_name(name)}.parquet"))
        if table.since and table.primary_key and paths:
            greatest = (
                pl.scan_parquet(paths).select(pl.col(table.since).max().cast(pl.String)).collect().item()
            )
            if greatest is not None:
                found[name] = str(greatest)
    return found


def write_keys(
    source: Source, spilled: Path, gone: Mapping[str, list[Path]], data: Path
) -> dict[str, dict[str, int]]:
    """Gather the keys that a delta speaks of below `spilled`/keys, with the row that says last what it is.

    Returns counts by table: rows delivered, keys deleted.

    Raises: SourceError if a file of deleted keys cannot be read.
    """
    counts: dict[str, dict[str, int]] = {}
    for name, table in source.tables.items():
        key = list(table.primary_key)
        parts = sorted(spilled.glob(f"*/{file_name(name)}/*.parquet"))
        removed = [_deleted_keys(deleted(table), gone[name], data)] if name in gone else []
        if not key or not (parts or removed):
            continue
        delivered = pl.concat(
            [_nothing(table), *(pl.read_parquet(path, columns=[*key, "_file", "_row"]) for path in parts)]
        )
        latest = delivered.sort("_file", "_row").unique(key, keep="last", maintain_order=True)
        counts[name] = {"delivered": delivered.height, "deleted": sum(frame.height for frame in removed)}
        keys = [
            latest.with_columns(_deleted=False),
            *(frame.with_columns(_deleted=True) for frame in removed),
        ]
        together = pl.concat(keys).unique(key, keep="first", maintain_order=True)
        write_part(together, spilled / "keys" / f"{file_name(name)}.parquet")
    return counts


def _deleted_keys(table: Table, files: Iterable[Path], data: Path) -> pl.DataFrame:
    named = [(path, path.relative_to(data).as_posix()) for path in files]
    frames = [_nothing(table)]
    for rows, unread in read_batches(table, named):
        if unread.height:
            raise SourceError(
                f"{data / unread['file'][0]}: row {unread['row'][0]} is no key of table {table.name}: "
                f"{unread['message'][0]}. Nothing was written."
            )
        frames.append(rows.select(*_nothing(table).columns))
    return pl.concat(frames).unique(table.primary_key, maintain_order=True)


def _nothing(table: Table) -> pl.DataFrame:
    return pl.DataFrame(schema=row_columns(table)).select(*table.primary_key, "_file", "_row")


def current_links(
    source: Source,
    kept: Path,
    files: Mapping[str, Sequence[Path | Partition]],
    gone: Mapping[str, list[Path]],
    data: Path,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Links of merged patients before a delta and after it. The source has a link table."""
    merge = source.merge
    assert merge is not None
    table = source.tables[merge.table]
    key = list(table.primary_key)
    old = pl.concat(
        [pl.DataFrame(schema=row_columns(table))]
        + [pl.read_parquet(path) for path in sorted(kept.glob(f"{ROWS}/*/{file_name(merge.table)}.parquet"))]
    )
    named = [(path, path.name) for path in files.get(merge.table, [])]
    new = pl.concat([old.clear(), *(rows for rows, _ in read_batches(table, named))])
    removed = [_deleted_keys(deleted(table), gone[merge.table], data)] if merge.table in gone else []
    keys = pl.concat([frame.select(key) for frame in (new, *removed)])
    left = old.join(keys, on=key, how="anti", maintain_order="left") if key else old
    latest = new.unique(key, keep="last", maintain_order=True) if key else new
    return as_links(old, merge), as_links(pl.concat([left, latest]), merge)


def move_rows(
    source: Source, kept: Path, spilled: Path, before: pl.DataFrame, after: pl.DataFrame, buckets: int
) -> None:
    """Move kept rows of subjects who go into another bucket, as they were merged or are no longer: to
    `spilled`/moved/<bucket>; the bucket they leave has a list of them there.
    """
    subjects = pl.concat([before[RETIRED], after[RETIRED]]).unique()
    places = pl.DataFrame(
        {
            "subject": subjects,
            "old": buckets_of(subjects, before, buckets),
            "new": buckets_of(subjects, after, buckets),
        }
    )
    places = places.filter(pl.col("old") != pl.col("new"))
    for (old,), left in places.group_by("old"):
        write_part(left.select("subject"), spilled / MOVED / bucket_name(int(str(old))) / LEFT)
    for (old, new), moved in places.group_by("old", "new"):
        for name, table in source.tables.items():
            if table.subject is None:
                continue
            rows = read_kept(kept, table, bucket_name(int(str(old))))
            hit = rows.filter(pl.col(table.subject).is_in(moved["subject"].implode()))
            folder = spilled / MOVED / bucket_name(int(str(new))) / file_name(name)
            write_part(hit, folder / f"{bucket_name(int(str(old)))}.parquet")


def current_rows(
    source: Source, kept: Path, spilled: Path, bucket: str
) -> tuple[dict[str, pl.DataFrame], dict[str, Counter[str]]]:
    """Rows of a bucket after a delta, by table, and what became of them: kept rows `replaced` and `removed`, delivered
    rows `repeated` within the delta.
    """
    tables, counts = {}, {}
    for name, new in read_spilled(source, spilled, bucket).items():
        table = source.tables[name]
        old, key = _kept_rows(kept, spilled, table, bucket), list(table.primary_key)
        path = spilled / "keys" / f"{file_name(name)}.parquet"
        if path.is_file():
            keys = pl.read_parquet(path)
            marked = old.join(keys.drop("_file", "_row"), on=key, how="left", maintain_order="left")[
                "_deleted"
            ]
            latest = new.join(
                keys.filter(~pl.col("_deleted")), on=["_file", "_row"], how="semi", maintain_order="left"
            )
            counts[name] = Counter(
                replaced=int((~marked).sum()), removed=int(marked.sum()), repeated=new.height - latest.height
            )
            old, new = old.filter(marked.is_null()), latest
        tables[name] = pl.concat([old, new])
    return tables, counts


def _kept_rows(kept: Path, spilled: Path, table: Table, bucket: str) -> pl.DataFrame:
    """The rows of a table that belong into a bucket now: kept there, or moved there."""
    rows, moved = read_kept(kept, table, bucket), spilled / MOVED / bucket
    if table.subject is None or not moved.is_dir():
        return rows
    gone = pl.read_parquet(moved / LEFT)["subject"] if (moved / LEFT).is_file() else None
    stay = rows if gone is None else rows.filter(~pl.col(table.subject).is_in(gone.implode()))
    return pl.concat([stay, read_table(moved / file_name(table.name), table)])


def read_merged(spilled: Path) -> pl.DataFrame | None:
    """Which subjects are one, as the run found it; None if the source merges nobody."""
    path = spilled / MERGED
    return pl.read_parquet(path) if path.is_file() else None


def read_kept(kept: Path, table: Table, bucket: str) -> pl.DataFrame:
    """The rows of a table that the store at `kept` has kept of a bucket."""
    return read_table(kept / ROWS / bucket, table, f"{file_name(table.name)}.parquet")


def touched(source: Source, kept: Path, spilled: Path, bucket: str) -> bool:
    """Whether a delta brings, replaces or removes rows of a bucket."""
    if (spilled / bucket).is_dir() or (spilled / MOVED / bucket).is_dir():
        return True
    for name, table in source.tables.items():
        keys = spilled / "keys" / f"{file_name(name)}.parquet"
        if table.shared != (bucket == SHARED) or not keys.is_file():
            continue
        key = list(table.primary_key)
        for path in (kept / ROWS / bucket).glob(f"{file_name(name)}.parquet"):
            if pl.read_parquet(path, columns=key).join(pl.read_parquet(keys), on=key, how="semi").height:
                return True
    return False


def keep_rows(tables: Mapping[str, pl.DataFrame], out: Path, bucket: str) -> dict[str, int]:
    """Keep the rows of a bucket in the store, for the next delta; rows by file written."""
    written = {}
    for name, frame in tables.items():
        if frame.height:
            path = f"{ROWS}/{bucket}/{file_name(name)}.parquet"
            write_parquet(frame, out / path)
            written[path] = frame.height
    return written
