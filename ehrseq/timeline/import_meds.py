"""`ehrseq import meds`: any MEDS dataset becomes a timeline, which later stages take as they take our own.

Two passes, so memory is bounded by a bucket of subjects: files to buckets, then each bucket sorted. A subject may be
in several files and its events in any order. MEDS says when an event happened, not when it became known: `time` is
kept as it is, and the notes of the manifest say so.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result
from ehrseq.core.errors import TimelineError
from ehrseq.core.files import sha256_file, write_json
from ehrseq.core.gate import refuse_rejects
from ehrseq.core.hashing import stable_hash
from ehrseq.core.manifest import Account, Input
from ehrseq.core.parquet import write_parquet
from ehrseq.core.progress import track
from ehrseq.timeline import meds
from ehrseq.timeline.arrow import write_meds_parquet
from ehrseq.timeline.bucket import SORTED_BY, _outside_life
from ehrseq.timeline.foreign import (
    FILE,
    ROW,
    ForeignFile,
    described_codes,
    find_files,
    read_batches,
    unusable,
)
from ehrseq.timeline.schema import Code, Event, Unused

KNOWABLE = (
    "time is what the imported MEDS dataset says, usually when an event happened; when it became known is not "
    "recorded there. Results, diagnoses and notes may stand before anybody could have seen them."
)
_BUCKET_ROWS = 250_000
_MOST_BUCKETS = 1024


def import_meds(
    data: Path,
    out: Path,
    *,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    max_reject_fraction: float = 0.05,
    force: bool = False,
) -> Result:
    """Make a timeline at `out` of the MEDS dataset (0.3 or 0.4) at `data`: a folder, or one Parquet file.

    Rows are sorted by subject and time, equal times as they stood; subjects that had to be put in order, or were in
    several files, are counted. Rows without subject or code are rejected. Splits are the dataset's own where it has
    them, else drawn by `split` and `seed`. Columns that have no place in `Event` are named in the notes.
    Raises: TimelineError (no MEDS, a file damaged, a wrong type or split), ConfigError, DataQualityError when more
    than `max_reject_fraction` of the rows are rejected, StorageError, BusyError.
    """
    data = Path(data)
    meds.check_fractions(split)
    if not data.exists():
        raise TimelineError(f"{data}: no such file or folder. Expected a MEDS dataset.")
    files = find_files(data)
    config = {"split": list(split), "seed": seed, "max_reject_fraction": max_reject_fraction}
    with Build(out, kind="timeline", config=config, inputs=_inputs(data, files), force=force) as build:
        if not build.unchanged:
            buckets = min(max(-(-sum(file.rows for file in files) // _BUCKET_ROWS), 1), _MOST_BUCKETS)
            _spread(build, files, buckets)
            parts = _gather(build, buckets)
            _metadata(build, data, parts, split, seed)
            refuse_rejects(build, max_reject_fraction, ("reason",))
    return build.result


def _inputs(data: Path, files: Sequence[ForeignFile]) -> list[Input]:
    root = data if data.is_dir() else data.parent
    beside = [root / meds.CODES, root / meds.SUBJECT_SPLITS] if data.is_dir() else []
    paths = [file.path for file in files] + [path for path in beside if path.is_file()]
    return [Input(str(path.relative_to(root)), sha256_file(path)) for path in paths]


def _spread(build: Build, files: Sequence[ForeignFile], buckets: int) -> None:
    """First pass: each file's rows to `spill/<bucket>/<number>.parquet`; rejects to `rejects/`; the books."""
    number, rejects = 0, [Unused.empty()]
    for file in track(files, len(files), "files"):
        account = Account()
        for events in read_batches(file):
            bad = unusable(events)
            rejects.append(bad)
            good = events.drop_nulls([Event.subject_id, Event.code])
            account.add(_account(events.height, good.height, bad))
            bucket = (stable_hash(good[Event.subject_id].to_numpy()) % buckets).astype("u2")
            parts = good.with_columns(pl.Series("_bucket", bucket)).partition_by(
                "_bucket", as_dict=True, include_key=False
            )
            for (key,), part in parts.items():
                write_parquet(part, build.path(f"spill/{key:04d}/{number:08d}.parquet"))
            number += 1
        build.account(file.name, account)
    if (every := pl.concat(rejects)).height:
        build.write("rejects/0000.parquet", every)
    build.notes["columns_not_read"] = sorted({name for file in files for name in file.extra})


def _account(rows: int, used: int, bad: pl.DataFrame) -> Account:
    reasons = dict(bad["reason"].value_counts().sort("reason").iter_rows())
    return Account(rows, used, rows - used, made={"events": used}, reasons=reasons)


def _gather(build: Build, buckets: int) -> list[pl.DataFrame]:
    """Second pass: each bucket in order to `data/<bucket>.parquet`. Returns code counts and subjects of each."""
    found, counts = [], Counter[str]()
    for bucket in range(buckets):
        folder = build.folder / "spill" / f"{bucket:04d}"
        if not folder.is_dir():
            continue
        spilled = pl.concat([pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
        shutil.rmtree(folder)
        counts.update(_disorder(spilled))
        events = spilled.drop(FILE, ROW).sort(
            Event.subject_id, Event.time, nulls_last=False, maintain_order=True
        )
        before, after = _outside_life(events)
        subjects = events[Event.subject_id].unique()
        counts.update(
            events_before_birth=before, events_after_death=after, subjects=len(subjects),
            subjects_without_birth=len(subjects) - _born(events),
            notes=int((events[Event.modality] == "note").sum()),
        )  # fmt: skip
        name = f"data/{bucket:04d}.parquet"
        write_meds_parquet(events, build.path(name))
        build.enter(name, rows=events.height, schema=events.schema, sorted_by=SORTED_BY)
        build.made("events", events.height)
        found.append(events.group_by(Event.code).agg(events=pl.len().cast(pl.Int64)))
        found.append(pl.DataFrame({Event.subject_id: subjects}))
    shutil.rmtree(build.folder / "spill", ignore_errors=True)
    build.made("subjects", counts["subjects"])
    build.notes |= {"knowable": KNOWABLE, **dict(sorted(counts.items()))}
    return found


def _born(events: pl.DataFrame) -> int:
    return int(events.filter(pl.col(Event.code) == "MEDS_BIRTH")[Event.subject_id].n_unique())


def _disorder(events: pl.DataFrame) -> dict[str, int]:
    """How many subjects had events out of order, and how many stood in several files."""
    time = pl.col(Event.time).to_physical().fill_null(pl.lit(-(1 << 62)))
    seen = events.group_by(Event.subject_id).agg(
        late=(time.diff() < 0).any(), files=pl.col(FILE).n_unique() > 1
    )
    return {
        "subjects_put_in_order": int(seen["late"].sum()),
        "subjects_in_several_files": int(seen["files"].sum()),
    }


def _metadata(
    build: Build, data: Path, found: Sequence[pl.DataFrame], split: Sequence[float], seed: int
) -> None:
    """`metadata/` as MEDS wants it: name, codes with their counts, splits."""
    write_json(build.path(meds.DATASET), meds.dataset_metadata("imported MEDS"))
    build.enter(meds.DATASET, rows=1)
    every = pl.concat([pl.DataFrame(schema={Event.code: pl.String, "events": pl.Int64}), *found[::2]])
    counted = every.group_by(Event.code).agg(pl.col("events").sum())
    names = [Code.code, Code.description, Code.parent_codes]
    codes = counted.join(described_codes(data, names), on=Event.code, how="left")
    everyone = pl.concat([pl.DataFrame(schema={Event.subject_id: pl.Int64}), *found[1::2]])[Event.subject_id]
    tables = (
        (meds.CODES, codes.select(Code.polars_schema().names()).sort(Event.code)),
        (meds.SUBJECT_SPLITS, _splits(data, everyone, split, seed)),
    )
    for name, frame in tables:
        write_meds_parquet(frame, build.path(name))
        build.enter(name, rows=frame.height, schema=frame.schema, sorted_by=frame.columns[:1])


def _splits(data: Path, subjects: pl.Series, fractions: Sequence[float], seed: int) -> pl.DataFrame:
    """The dataset's own split of each subject; drawn for those that it has none for."""
    drawn, file = meds.split_subjects(subjects, fractions, seed), data / meds.SUBJECT_SPLITS
    if not file.is_file():
        return drawn
    own = pl.read_parquet(file, columns=["subject_id", "split"]).cast({Event.subject_id: pl.Int64})
    own = own.unique()
    strange = sorted(set(own["split"].drop_nulls().to_list()) - set(meds.SPLITS))
    if strange or own[Event.subject_id].is_duplicated().any():
        problem = f"split {strange[0]!r}" if strange else "a subject in two splits"
        raise TimelineError(f"{file}: {problem}; MEDS has one of {', '.join(meds.SPLITS)} for each subject.")
    both = drawn.join(own, on=Event.subject_id, how="left", suffix="_own", maintain_order="left")
    return both.select(Event.subject_id, split=pl.coalesce("split_own", "split"))
