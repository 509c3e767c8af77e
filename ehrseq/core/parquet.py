"""Parquet files whose bytes depend on the rows alone, a row group at a time.

pyarrow writes them: of nested columns it takes half the time of polars, if it is told which texts repeat. A
dictionary of texts that hardly repeat (ids, times, notes) costs time and space, so such columns get none.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ehrseq.core.files import storage_errors

ROW_GROUP = 262_144
"""Rows that stand together in a Parquet file, and can be read without the others."""

_LOOKED_AT = 4_096  # first values of a text column, which say whether its values repeat


def write_parquet(
    rows: pl.DataFrame | Iterable[pl.DataFrame],
    path: Path,
    *,
    compression: Literal["zstd", "lz4", "none"] = "zstd",
    statistics: bool = True,
) -> int:
    """Write a frame, or frames of one schema in turn, which need not fit into memory together; give the rows written.

    Leave out `statistics` where nobody reads a part of a column. Raises: StorageError.
    """
    groups = _full_groups([rows] if isinstance(rows, pl.DataFrame) else rows)
    table = _arrow(next(groups))
    written = int(table.num_rows)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(
            path, table.schema, compression=compression, compression_level=1 if compression == "zstd" else None,
            use_dictionary=repeated_texts(table), write_statistics=statistics,
        ) as writer:  # fmt: skip
            writer.write_table(table)
            for group in groups:
                writer.write_table(_arrow(group))
                written += group.height
    return written


def _full_groups(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The rows of the frames, `ROW_GROUP` at a time; at least one frame, if only of the schema."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        held.append(frame)
        if sum(part.height for part in held) > ROW_GROUP:
            *full, rest = pl.concat(held).iter_slices(ROW_GROUP)
            yield from full
            held = [rest]
    yield pl.concat(held)


def row_groups(frame: pl.LazyFrame, height: int) -> Iterator[pl.DataFrame]:
    """The `height` rows of a plan that only reads, a row group at a time."""
    return (frame.slice(start, ROW_GROUP).collect() for start in range(0, height, ROW_GROUP))


def repeated_texts(table: pa.Table) -> list[str]:
    """Text columns and fields, as Parquet names them, of which at least half of the first values are not new.

    >>> table = pa.table({"id": ["a", "b"], "code": pa.array([[{"system": "s"}], [{"system": "s"}]])})
    >>> repeated_texts(table)
    ['code.list.element.system']
    """
    head = table.slice(0, _LOOKED_AT).combine_chunks()
    return [
        place
        for name in head.column_names
        for place, values in _texts(name, head.column(name).combine_chunks())
        if len(pc.unique(values)) <= len(values) // 2
    ]


def _texts(place: str, values: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """Text leaves of a column by their place."""
    kind: Any = values.type
    if pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from _texts(f"{place}.{field.name}", values.field(number))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _texts(f"{place}.list.element", values.flatten())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield place, values


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
