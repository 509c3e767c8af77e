"""Parquet with exactly the Arrow types that MEDS asks for: `string`, where polars would write `large_string`.

Readers see no difference in the values; strict validators of MEDS (`meds.DataSchema.validate`) see one in the types.
"""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrseq.core.files import storage_errors

_ROW_GROUP = 262_144  # rows; each is converted by itself, so that no text column outgrows 32-bit offsets
_LARGE = frozenset({"text_value"})  # MEDS 0.4: the one column of type large_string


def write_meds_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write a table of a MEDS dataset; its bytes depend on the frame alone. Raises: StorageError."""
    found = frame.head(0).to_arrow().schema
    schema = pa.schema([pa.field(f.name, f.type if f.name in _LARGE else _small(f.type)) for f in found])
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
            for rows in frame.iter_slices(_ROW_GROUP):
                writer.write_table(rows.to_arrow().cast(schema), row_group_size=_ROW_GROUP)


def _small(dtype: pa.DataType) -> pa.DataType:
    """The same type with 32-bit offsets."""
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_list(dtype) or pa.types.is_list(dtype):
        return pa.list_(_small(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([pa.field(part.name, _small(part.type)) for part in dtype])
    return dtype
