"""Files of any MEDS dataset, 0.3 or 0.4, as rows of `schema.Event`: which files, which columns, which types."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrseq.core.errors import TimelineError, closest
from ehrseq.timeline.schema import Event, Unused

FILE, ROW = "_file", "_row"
_BATCH = 1 << 20  # rows in memory at a time while files are read
_PROSE = 64  # letters: longer text is a note, not an answer; as `tokens.text` has it
_NAMES = {Event.subject_id: ("subject_id", "patient_id"), Event.numeric_value: ("numeric_value", "value")}
_NEEDED = (Event.subject_id, Event.time, Event.code)
_READ = {
    name: _NAMES.get(name, (name,))
    for name in (*_NEEDED, Event.numeric_value, Event.text_value, Event.unit, Event.clinical_time,
                 Event.end_time, Event.attributes, Event.encounter_id, Event.resource_type,
                 Event.resource_id, Event.modality)
}  # fmt: skip


@dataclass(frozen=True)
class ForeignFile:
    """One event file. `columns`: ours, and what the file calls each; `extra`: its columns that have no place here."""

    path: Path
    name: str  # below the dataset
    rows: int
    columns: dict[str, str]
    extra: tuple[str, ...]


def find_files(data: Path) -> list[ForeignFile]:
    """Event files of a MEDS dataset by name: `data/**/*.parquet`, else all Parquet outside `metadata/`, or one file.

    Raises: TimelineError if there is none, one is no Parquet, or lacks subject, time or code.
    """
    if data.is_file():
        return [_described(data, data.parent)]
    root = data / "data" if (data / "data").is_dir() else data
    paths = [path for path in sorted(root.rglob("*.parquet")) if _is_shard(path.relative_to(root))]
    if not paths:
        raise TimelineError(f"{data}: no Parquet files below it. Expected a MEDS dataset: data/**/*.parquet.")
    return [_described(path, data) for path in paths]


def _is_shard(path: Path) -> bool:
    return path.parts[0] != "metadata" and not any(part.startswith((".", "_")) for part in path.parts)


def _described(path: Path, root: Path) -> ForeignFile:
    try:
        schema, rows = pq.read_schema(path), pq.read_metadata(path).num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise TimelineError(f"{path}: not Parquet, or damaged ({type(error).__name__}).") from error
    columns = {
        ours: next((name for name in names if name in schema.names), "") for ours, names in _READ.items()
    }
    for name in _NEEDED:
        if not columns[name]:
            raise TimelineError(
                f"{path}: has no column `{name}`; MEDS wants subject_id, time, code.{closest(name, schema.names)}"
            )
    found = {ours: name for ours, name in columns.items() if name}
    extra = tuple(name for name in schema.names if name not in found.values())
    return ForeignFile(path, str(path.relative_to(root)), rows, found, extra)


def read_batches(file: ForeignFile) -> Iterator[pl.DataFrame]:
    """Rows of a file as `Event`, up to a million at a time, with `_file` and `_row` (from 1); nothing is sorted.

    Raises: TimelineError if a column has a type that is not MEDS's and cannot be read as it, or the file is damaged.
    """
    row = 0
    try:
        for batch in pq.ParquetFile(file.path).iter_batches(_BATCH, columns=list(file.columns.values())):
            frame = pl.DataFrame(pl.from_arrow(pa.Table.from_batches([batch])))
            yield _as_events(frame, file, row)
            row += frame.height
    except (pa.ArrowException, OSError) as error:
        raise TimelineError(f"{file.path}: damaged ({type(error).__name__}).") from error


def _as_events(frame: pl.DataFrame, file: ForeignFile, before: int) -> pl.DataFrame:
    types = Event.polars_schema()
    frame = frame.with_columns(pl.int_range(before + 1, before + pl.len() + 1, dtype=pl.Int64).alias(ROW))
    columns = [
        _typed(frame.schema[name], name, types[ours], file).alias(ours) for ours, name in file.columns.items()
    ]
    absent = [pl.lit(None, types[name]).alias(name) for name in types if name not in file.columns]
    events = frame.select(*columns, *absent, ROW, pl.lit(file.name).alias(FILE))
    number, text = pl.col(Event.numeric_value), pl.col(Event.text_value)
    prose = number.is_null() & (text.str.len_chars() > _PROSE)
    place = pl.concat_str(FILE, pl.lit("#"), ROW)
    return events.select(
        pl.exclude(Event.resource_type, Event.resource_id, Event.modality),
        pl.col(Event.resource_type).fill_null("MEDS"),
        pl.col(Event.resource_id).fill_null(place),
        pl.when(pl.col(Event.modality).is_in(["record", "note", "genome"]))
        .then(Event.modality)
        .otherwise(pl.when(prose).then(pl.lit("note")).otherwise(pl.lit("record")))
        .alias(Event.modality),
    ).select(*types, FILE, ROW)


def _typed(found: pl.DataType, name: str, wanted: pl.DataType, file: ForeignFile) -> pl.Expr:
    column = pl.col(name)
    if isinstance(wanted, pl.Datetime):
        if isinstance(found, pl.Datetime) and found.time_zone:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        if found.is_temporal() or found == pl.Null:
            return column.cast(wanted)
    elif wanted == pl.String:
        return column.cast(wanted)
    elif found.is_numeric() or found == pl.Null:
        return column.cast(wanted, strict=wanted == pl.Int64)
    raise TimelineError(f"{file.path}: column `{name}` is {found}, expected {wanted}. Convert it first.")


def unusable(events: pl.DataFrame) -> pl.DataFrame:
    """Rows without subject or code, as `Unused`: MEDS allows neither."""
    bad = events.filter(pl.col(Event.subject_id).is_null() | pl.col(Event.code).is_null())
    why = pl.when(pl.col(Event.subject_id).is_null()).then(pl.lit("no subject")).otherwise(pl.lit("no code"))
    return bad.select(
        resource_type=pl.col(Event.resource_type), resource_id=pl.col(Event.resource_id),
        outcome=pl.lit("rejected"), reason=why, file=pl.col(FILE), row=pl.col(ROW),
    ).select(Unused.polars_schema().names())  # fmt: skip


_CODE_TYPES: tuple[pl.DataType, ...] = (pl.String(), pl.String(), pl.List(pl.String()))


def described_codes(data: Path, names: Sequence[str]) -> pl.DataFrame:
    """`code`, `description` and `parent_codes` of the dataset's `metadata/codes.parquet`, each code once; or none."""
    file, schema = data / "metadata" / "codes.parquet", pl.Schema(zip(names, _CODE_TYPES, strict=True))
    if not file.is_file():
        return pl.DataFrame(schema=schema)
    table = pl.read_parquet(file)
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in schema.items() if name not in table.columns]
    found = table.with_columns(absent).select(names).cast(schema)
    return found.drop_nulls(names[0]).unique(names[0], keep="first", maintain_order=True)
