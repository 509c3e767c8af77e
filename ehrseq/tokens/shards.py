"""What tokens need of a timeline: its shards, the split of each subject, and text columns as numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import SchemaError, TokenError
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import read_manifest
from ehrseq.timeline.schema import Event
from ehrseq.tokens.packing import SPLITS

BIRTH = "MEDS_BIRTH"
NOTE = "note"
_COLUMNS: list[str] = [
    Event.subject_id,
    Event.time,
    Event.code,
    Event.numeric_value,
    Event.text_value,
    Event.unit,
    Event.modality,
    Event.attributes,
    Event.span_array,
    Event.span_start,
    Event.span_length,
]
_BEFORE_ALL = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class TimelineShard:
    """One file of a timeline: `data/<number:04d>.parquet`."""

    number: int
    path: Path
    sha256: str


def timeline_shards(timeline: Path) -> list[TimelineShard]:
    """The shards that the timeline's manifest lists, by number; shards without rows are left out.

    Raises: TokenError if `timeline` is no timeline, or a shard is missing or has no number for a name.
    """
    try:
        listed = read_manifest(timeline, "timeline").shards
    except SchemaError as error:
        raise TokenError(f"{error} Make a timeline with `ehrseq timeline`.") from error
    found = []
    for shard in listed:
        path = timeline / shard.path
        if path.parent != timeline / "data" or not shard.rows:
            continue
        if not path.is_file():
            raise TokenError(f"{path}: missing, but the manifest lists it. Make the timeline again.")
        if not path.stem.isdecimal():
            raise TokenError(f"{path}: expected a bucket's number for a name, such as 0007.parquet.")
        found.append(TimelineShard(int(path.stem), path, shard.sha256))
    return sorted(found, key=lambda shard: shard.number)


def read_splits(timeline: Path) -> pl.DataFrame:
    """`subject_id` Int64 and `split` Int8 (index in SPLITS), from `metadata/subject_splits.parquet`.

    Raises: TokenError if the file is missing, a subject is there twice, or a split has another name.
    """
    path = timeline / "metadata" / "subject_splits.parquet"
    if not path.is_file():
        raise TokenError(f"{path}: missing. Which subjects are for training? Make the timeline again.")
    table = pl.read_parquet(path, columns=["subject_id", "split"]).cast(
        {"subject_id": pl.Int64, "split": pl.String}
    )
    if table["subject_id"].is_duplicated().any():
        raise TokenError(f"{path}: a subject has two splits. Make the timeline again.")
    names = table["split"].unique().sort().to_list()
    if strange := [name for name in names if name not in SPLITS]:
        raise TokenError(f"{path}: split {strange[0]!r}, expected one of {', '.join(SPLITS)}.")
    number = {name: index for index, name in enumerate(SPLITS)}
    return table.with_columns(pl.col("split").replace_strict(number, return_dtype=pl.Int8))


def read_events(shard: TimelineShard, *, checked: bool = True) -> pl.DataFrame:
    """The columns of a shard that become tokens, rows as they stand; units without spaces around them.

    `checked` False: the file has just been written and no manifest lists it.

    Raises: SchemaError for a wrong column; TokenError if the file is not the one that the manifest lists, or rows are
    not sorted by subject and time, null first.
    """
    path = shard.path
    if checked and sha256_file(path) != shard.sha256:
        raise TokenError(
            f"{path}: sha256 differs from the manifest: damaged or replaced. Make the timeline again."
        )
    Event.check(pl.scan_parquet(path))
    events = pl.read_parquet(path, columns=_COLUMNS)
    if not _is_sorted(events):
        raise TokenError(
            f"{path}: rows are not sorted by subject_id and time (null first). Make the timeline again."
        )
    unit = pl.col(Event.unit).str.strip_chars()
    return events.with_columns(pl.when(unit != "").then(unit).alias(Event.unit))


def _is_sorted(events: pl.DataFrame) -> bool:
    subject = events[Event.subject_id].to_numpy()
    time = events[Event.time].to_physical().fill_null(_BEFORE_ALL).to_numpy()
    later = (subject[1:] > subject[:-1]) | ((subject[1:] == subject[:-1]) & (time[1:] >= time[:-1]))
    return bool(later.all())


def finite_values(events: pl.DataFrame) -> NDArray[np.float32]:
    """`numeric_value` [n] float32; NaN where it is null, NaN or infinite. Negative zero becomes zero."""
    values: NDArray[np.float32] = events[Event.numeric_value].fill_null(np.nan).to_numpy() + np.float32(0)
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def encode(column: pl.Series) -> tuple[NDArray[np.int32], list[str]]:
    """A column of text [n] as numbers [n] int32 into its distinct values; -1 = null.

    >>> index, names = encode(pl.Series(["b", None, "a", "b"]))
    >>> index.tolist(), names
    ([0, -1, 1, 0], ['b', 'a'])
    """
    encoded = column.to_arrow().dictionary_encode()
    index = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return index.astype(np.int32, copy=False), encoded.dictionary.to_pylist()
