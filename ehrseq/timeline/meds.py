"""The timeline as a MEDS 0.4 dataset: what stands in `metadata/`, and how later stages read it.

`data/<bucket>.parquet` holds the events (`schema.Event`), a subject's all in one file; `metadata/dataset.json`,
`metadata/codes.parquet` and `metadata/subject_splits.parquet` are as MEDS 0.4 wants them. Any MEDS tool reads them.
Source: https://github.com/Medical-Event-Data-Standard/meds (0.4.1).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import ehrseq
from ehrseq.core.errors import ConfigError, TimelineError
from ehrseq.core.hashing import stable_hash
from ehrseq.core.manifest import read_manifest
from ehrseq.timeline.schema import Event

MEDS_VERSION = "0.4.1"
SPLITS = ("train", "tuning", "held_out")
DATASET, CODES, SUBJECT_SPLITS = (
    "metadata/dataset.json",
    "metadata/codes.parquet",
    "metadata/subject_splits.parquet",
)
_KIND = "timeline"


def dataset_metadata(name: str) -> dict[str, Any]:
    """Content of `metadata/dataset.json`; no date of making, so that equal work gives equal bytes."""
    return {
        "dataset_name": name,
        "etl_name": "ehrseq",
        "etl_version": ehrseq.__version__,
        "meds_version": MEDS_VERSION,
        "raw_source_id_columns": [Event.encounter_id, Event.resource_type, Event.resource_id],
        "code_modifier_columns": [Event.unit],
        "additional_value_modality_columns": [Event.span_array, Event.span_start, Event.span_length],
        "other_extension_columns": [
            Event.clinical_time,
            Event.end_time,
            Event.attributes,
            Event.modality,
        ],
    }


def split_subjects(
    subjects: pl.Series, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0
) -> pl.DataFrame:
    """Put each subject in a split by a stable hash of its id: the same for ever, whoever else is in the data.

    `subjects` Int64, distinct; returns subject_id and split, by subject_id. Raises: ConfigError if the fractions
    are not three numbers that sum to 1.

    >>> split_subjects(pl.Series([10000032, 10001217, 7]))["split"].to_list()
    ['train', 'train', 'train']
    """
    check_fractions(fractions)
    ids = subjects.cast(pl.Int64).sort()
    share = stable_hash(ids.to_numpy() ^ np.int64(seed)).astype(np.float64) / 2.0**64
    edges = np.cumsum(np.asarray(fractions[:-1], dtype=np.float64))
    names = np.asarray(SPLITS)[np.searchsorted(edges, share, side="right")]
    return pl.DataFrame({"subject_id": ids, "split": pl.Series(names, dtype=pl.String)})


def read_splits(path: Path) -> pl.DataFrame:
    """`subject_id` Int64 and `split` of a Parquet file. Raises: TimelineError if it is none, or names one twice."""
    try:
        found = pl.read_parquet(path, columns=[Event.subject_id, "split"])
        found = found.cast({Event.subject_id: pl.Int64, "split": pl.String}).drop_nulls()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise TimelineError(
            f"{path}: cannot be read ({type(error).__name__}). Expected a Parquet file of subject_id and split."
        ) from error
    if strange := sorted(set(found["split"].to_list()) - set(SPLITS)):
        raise TimelineError(f"{path}: split {strange[0]!r}; expected {', '.join(SPLITS)}.")
    if found[Event.subject_id].is_duplicated().any():
        raise TimelineError(f"{path}: a subject is there twice. Expected one split for each.")
    return found


def splits_of(subjects: pl.Series, given: pl.DataFrame) -> pl.DataFrame:
    """Each subject's split as `given` says; held out where it says nothing."""
    ids = pl.DataFrame({Event.subject_id: subjects.cast(pl.Int64).sort()})
    found = ids.join(given, on=Event.subject_id, how="left", maintain_order="left")
    return found.select(Event.subject_id, pl.col("split").fill_null(SPLITS[-1]))


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises: ConfigError if these are not the shares of train, tuning and held_out."""
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(
            f"split {tuple(fractions)}: expected three fractions that sum to 1, for {', '.join(SPLITS)}."
        )


def shards(path: Path) -> list[Path]:
    """Event files of a timeline, in bucket order. Raises: SchemaError if `path` is not a timeline."""
    manifest = read_manifest(Path(path), _KIND)
    return [Path(path) / shard.path for shard in manifest.shards if shard.path.startswith("data/")]


def scan_events(path: Path, subject: int | None = None) -> pl.LazyFrame:
    """Events of a timeline (`schema.Event`), those of one subject if asked; a subject's events stand together.

    Raises: SchemaError if `path` is not a timeline.
    """
    files = shards(path)
    if not files:
        return Event.empty().lazy()
    frame = pl.scan_parquet(files)
    return frame if subject is None else frame.filter(pl.col(Event.subject_id) == subject)


def read_timeline(path: Path, subject: int | None = None) -> pl.DataFrame:
    """Events of a timeline, or of one subject, in memory. Raises: SchemaError, TimelineError for an unknown subject."""
    frame = scan_events(path, subject).collect()
    if subject is not None and frame.is_empty():
        raise TimelineError(f"{path}: has no subject {subject}. `splits(path)` lists those it has.")
    return frame


def splits(path: Path) -> pl.DataFrame:
    """subject_id and split (train, tuning, held_out) of each subject. Raises: SchemaError if not a timeline."""
    read_manifest(Path(path), _KIND)
    return pl.read_parquet(Path(path) / SUBJECT_SPLITS)


def codes(path: Path) -> pl.DataFrame:
    """Codes of a timeline (`schema.Code`). Raises: SchemaError if not a timeline."""
    read_manifest(Path(path), _KIND)
    return pl.read_parquet(Path(path) / CODES)
