"""`ehrseq import fhir`: Bundles and NDJSON to a FHIR store, in two passes as `ehrseq map`.

The store keeps each resource's JSON as it came, in column `_json`; `ehrseq timeline` makes columns of the elements that
its views read. Of resources with the same type and id the newest counts (`meta.lastUpdated`, then `meta.versionId`,
then the last in order of files), and a deletion that comes last removes it.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import Build, Result
from ehrseq.core.errors import ConfigError
from ehrseq.core.executor import run_tasks
from ehrseq.core.files import sha256_file
from ehrseq.core.gate import refuse_rejects
from ehrseq.core.hashing import stable_hash
from ehrseq.core.manifest import Account, Input
from ehrseq.core.parquet import write_parquet
from ehrseq.core.progress import log
from ehrseq.sources.fhir.files import fhir_files, read_texts
from ehrseq.sources.fhir.held import Held, join_names, join_notes
from ehrseq.sources.fhir.keys import KEYS, VERSIONS, keyed
from ehrseq.sources.rejects import FILTERED, REJECTED, Reject

SHARED = "shared"
STORED = pl.Schema({
    "id": pl.String(), "_json": pl.String(), "_mapping": pl.String(), "_file": pl.String(), "_row": pl.Int64(),
})  # fmt: skip
_MAPPING = "fhir"
_UNREADABLE = "(no type)"
_BYTES_TOGETHER = 64 << 20
_BUCKET_BYTES = 64 << 20
_LAST = datetime(9999, 1, 1, tzinfo=UTC)  # when a deletion without a time counts: after all else
_PLACE_BITS = 40
_PACKED = 12  # how much larger the text is than its compressed file, roughly


@dataclass(frozen=True)
class Arrived:
    """What a FHIR store is made of: files with their names in provenance, laid over the FHIR store `held`, if any.

    `about` is said in the configuration, `notes` in the notes; `tables` are kept in the store, by their paths.
    """

    files: Sequence[tuple[Path, str]]
    about: Mapping[str, Any]
    held: Path | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class _SpillTask:
    files: tuple[tuple[Path, str], ...]
    number: int
    folder: Path
    buckets: int
    strict: bool


@dataclass
class _Spilled:
    left: pl.DataFrame
    deleted: pl.DataFrame
    elements: dict[str, set[str]] = field(default_factory=dict)
    unknown: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _BucketTask:
    bucket: str
    spilled: Path
    rivals: pl.DataFrame
    out: Path


@dataclass
class _BucketReport:
    rows: dict[str, int] = field(default_factory=dict)  # by shard
    accounts: dict[str, Account] = field(default_factory=dict)  # by resource type


def import_fhir(
    data: Path,
    out: Path,
    *,
    strict: bool = False,
    workers: int = 1,
    max_reject_fraction: float = 0.05,
    force: bool = False,
) -> Result:
    """Import the FHIR R4 or R4B files at `data` (a file or a folder) as a FHIR store at `out`.

    NDJSON (`.ndjson`, `.jsonl`; plain, gz or zst) and JSON files of single resources or Bundles of any type. With
    `strict`, a resource with a top-level element that R4B does not have is rejected; otherwise it is kept and counted.
    Raises: SourceError for no files, damaged files, STU3 and R5; DataQualityError when more than
    `max_reject_fraction` of the resources are rejected; StorageError; BusyError.
    """
    data = Path(data)
    files = fhir_files(data)
    labels = [path.name if data.is_file() else path.relative_to(data).as_posix() for path in files]
    arrived = Arrived(list(zip(files, labels, strict=True)), {"source": "fhir"})
    return make_store(
        arrived, out, strict=strict, workers=workers, max_reject_fraction=max_reject_fraction, force=force
    )


def make_store(
    arrived: Arrived,
    out: Path,
    *,
    strict: bool,
    workers: int,
    max_reject_fraction: float,
    force: bool = False,
) -> Result:
    """Make a FHIR store of what has arrived. What is held already stands before it: of equals the later counts. Buckets
    that nothing new touches are taken over as they stand.

    Raises: as `import_fhir`; SchemaError if a shard that is held is damaged.
    """
    check_fraction(max_reject_fraction)
    held = Held.open(arrived.held) if arrived.held is not None else None
    old = [held.folder / shard.path for shard in held.shards] if held else []
    wanted = _buckets_for([*old, *(path for path, _ in arrived.files)])
    same = held.buckets(wanted, strict) if held else None
    buckets = same or wanted
    config = {
        **arrived.about,
        "buckets": buckets,
        "strict": strict,
        "max_reject_fraction": max_reject_fraction,
    }
    inputs = [Input(name, sha256_file(path)) for path, name in arrived.files]
    inputs += [Input(f"held/{shard.path}", shard.sha256) for shard in held.shards] if held else []
    with Build(out, kind="fhir", config=config, inputs=inputs, force=force) as build:
        if not build.unchanged:
            spilled = build.path("spilled/x").parent
            tasks = _spill_tasks(arrived.files, spilled, buckets, strict, first=len(old))
            read = run_tasks(_spill, tasks, workers=workers, what="files")
            if held:
                deleted = pl.concat([pl.DataFrame(schema=VERSIONS), *(part.deleted for part in read)])
                touched = held.touched(spilled, deleted) if same else None
                tasks = _spill_tasks(held.files(touched), spilled, buckets, strict)
                read = [*run_tasks(_spill, tasks, workers=workers, what="held files"), *read]
                if touched is not None:
                    held.keep(build, touched, STORED)
            names = sorted(path.name for path in spilled.iterdir() if path.is_dir())
            rivals = _rivals(spilled, read)
            merges = [_BucketTask(name, spilled, rivals, build.folder) for name in names]
            reports = run_tasks(_merge_bucket, merges, workers=workers, what="buckets")
            shutil.rmtree(spilled)
            _close_books(build, read, reports)
            _note_elements(build, read[len(tasks) :] if held else read, held)
            build.notes |= arrived.notes
            for name, table in arrived.tables.items():
                build.write(name, table)
            refuse_rejects(build, max_reject_fraction, ("table", "rule"), held=held.rows if held else 0)
    return build.result


def check_fraction(fraction: float) -> None:
    """Raises: ConfigError if `--max-reject-fraction` is none."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"--max-reject-fraction {fraction:g}: expected 0 to 1, e.g. 0.05 for 5 %.")


def _buckets_for(files: Sequence[Path]) -> int:
    packed = (".gz", ".zst", ".parquet")
    size = sum(path.stat().st_size * (_PACKED if path.suffix in packed else 1) for path in files)
    return min(max(-(-size // _BUCKET_BYTES), 4), 256)


def _spill_tasks(
    files: Sequence[tuple[Path, str]], folder: Path, buckets: int, strict: bool, *, first: int = 0
) -> list[_SpillTask]:
    groups: list[list[tuple[Path, str]]] = []
    room = 0
    for path, name in files:
        size = path.stat().st_size
        if not groups or size > room:
            groups.append([])
            room = _BYTES_TOGETHER
        groups[-1].append((path, name))
        room -= size
    return [
        _SpillTask(tuple(group), number, folder, buckets, strict)
        for number, group in enumerate(groups, first)
    ]


def _spill(task: _SpillTask) -> _Spilled:
    """Read files and write their resources by bucket; runs in a worker."""
    left, deleted = [], [pl.DataFrame(schema=VERSIONS)]
    result, place = _Spilled(pl.DataFrame(), deleted[0]), task.number << _PLACE_BITS
    for part, texts in enumerate(read_texts(list(task.files))):
        read = keyed(texts, place=place, strict=task.strict)
        place += texts.height
        left.append(read.left)
        deleted.append(read.deleted)
        for kind, names in read.elements.items():
            result.elements.setdefault(kind, set()).update(names)
        for kind, counts in read.unknown.items():
            result.unknown.setdefault(kind, Counter()).update(counts)
        hashed = (stable_hash(read.kept["patient"].fill_null("")) % task.buckets).astype("int32")
        bucket = pl.when(pl.col("patient").is_not_null()).then(pl.Series("~", hashed)).otherwise(-1)
        parts = read.kept.with_columns(bucket.alias("~bucket")).partition_by(
            "~bucket", as_dict=True, include_key=False
        )
        for (number,), frame in parts.items():
            name = SHARED if number == -1 else f"{int(str(number)):04d}"
            path = task.folder / name / f"{task.number:04d}-{part:04d}.parquet"
            write_parquet(frame, path, compression="lz4")
        log("read", rows=texts.height, left_out=read.left.height)
    result.left, result.deleted = pl.concat(left) if left else result.left, pl.concat(deleted)
    return result


def _rivals(spilled: Path, read: Sequence[_Spilled]) -> pl.DataFrame:
    """Versions that compete with those of other buckets: deletions, and resources that have changed their patient.

    Columns of `VERSIONS`, `bucket` (null for a deletion).
    """
    there = (
        pl.scan_parquet(spilled / "*/*.parquet", include_file_paths="path")
        if any(spilled.iterdir())
        else None
    )
    deleted = pl.concat([pl.DataFrame(schema=VERSIONS), *(part.deleted for part in read)])
    deletions = deleted.with_columns(bucket=pl.lit(None, pl.String))
    if there is None:
        return deletions
    bucket = pl.col("path").str.extract(r"([^/]+)/[^/]+$").alias("bucket")
    several = (
        there.select("type", "id", bucket).unique().group_by("type", "id").len().filter(pl.col("len") > 1)
    )
    moved = there.select(*VERSIONS, bucket).join(several, on=["type", "id"], how="semi")
    return pl.concat([deletions, moved.collect(engine="streaming").select(deletions.columns)])


def _merge_bucket(task: _BucketTask) -> _BucketReport:
    """Keep the newest of each resource and write the bucket's shards; runs in a worker."""
    report = _BucketReport()
    left: list[pl.DataFrame] = []
    paths = sorted((task.spilled / task.bucket).glob("*.parquet"))
    whole = pl.concat([pl.DataFrame(schema=KEYS), *(pl.read_parquet(path) for path in paths)])
    elsewhere = task.rivals.filter(pl.col("bucket").ne_missing(task.bucket))
    for (kind,), rows in sorted(
        whole.group_by("type", maintain_order=True), key=lambda item: str(item[0][0])
    ):
        kept, others = _newest(rows, elsewhere.filter(type=kind))
        account = Account(rows_in=rows.height, used=kept.height, filtered=others.height)
        if kept.height:
            account.made[str(kind)] = kept.height
        account.reasons = dict(others.group_by("rule").len().sort("rule").iter_rows())
        report.accounts[str(kind)] = account
        left.append(others)
        if kept.height:
            name = f"{kind}/{task.bucket}.parquet"
            stored = kept.sort("id").select(
                "id", "_json", pl.lit(_MAPPING).alias("_mapping"), "_file", "_row"
            )
            write_parquet(stored, task.out / name)
            report.rows[name] = kept.height
    unused = _rejects(left)
    if unused.height:
        name = f"rejects/{task.bucket}.parquet"
        write_parquet(unused, task.out / name)
        report.rows[name] = unused.height
    return report


def _newest(rows: pl.DataFrame, rivals: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Resources of one type: those that count, and the others with outcome, rule and message."""
    rivals = rivals.join(rows, on="id", how="semi")
    if rivals.is_empty() and rows["id"].n_unique() == rows.height:
        return rows, rows.clear().with_columns(outcome=_NO_TEXT, rule=_NO_TEXT, message=_NO_TEXT)
    mine = rows.select(*VERSIONS, deleted=False, own=True)
    others = rivals.select(*VERSIONS, deleted=pl.col("bucket").is_null(), own=False)
    time = pl.col("updated").str.to_datetime("%+", time_zone="UTC", strict=False)
    time = pl.when(pl.col("deleted") & time.is_null()).then(pl.lit(_LAST)).otherwise(time)
    versions = pl.concat([mine, others]).sort(time, "version", "place", nulls_last=False)
    best = versions.unique("id", keep="last", maintain_order=True)
    won = rows.join(best.filter("own"), on=["id", "place"], how="semi", maintain_order="left")
    lost = rows.join(won, on="place", how="anti", maintain_order="left")
    gone = pl.col("id").is_in(best.filter("deleted")["id"].implode())
    return won, lost.with_columns(
        outcome=pl.lit(FILTERED),
        rule=pl.when(gone).then(pl.lit("deleted")).otherwise(pl.lit("superseded")),
        message=pl.when(gone)
        .then(pl.lit("was deleted"))
        .otherwise(pl.lit("there is a newer version, or the same again")),
    )


_NO_TEXT = pl.lit(None, pl.String)


def _rejects(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    none = pl.lit(None, pl.String)
    parts = [
        frame.select(
            table=pl.col("type").fill_null(_UNREADABLE), file="_file", row="_row", key="id", mapping=none,
            mapping_version=none, outcome="outcome", rule="rule", element=none, message="message",
        )
        for frame in frames
        if frame.height
    ]  # fmt: skip
    return pl.concat([Reject.empty(), *parts])


def _close_books(build: Build, read: Sequence[_Spilled], reports: Sequence[_BucketReport]) -> None:
    for report in reports:
        for name, rows in report.rows.items():
            kind = Path(name).parent.name
            build.enter(name, rows=rows, schema=Reject.polars_schema() if kind == "rejects" else STORED)
            if kind != "rejects":
                build.made(kind, rows)
        for kind, account in report.accounts.items():
            build.account(kind, account)
    unread = _rejects(part.left for part in read)
    if unread.height:
        build.write("rejects/unread.parquet", unread)
    counted = unread.group_by("table", "outcome", "rule").len().sort("table", "outcome", "rule")
    for kind, outcome, rule, count in counted.iter_rows():
        rejected = count if outcome == REJECTED else 0
        account = Account(rows_in=count, rejected=rejected, filtered=count - rejected, reasons={rule: count})
        build.account(kind, account)


def _note_elements(build: Build, read: Sequence[_Spilled], held: Held | None) -> None:
    """Note the elements of all that has ever been read into the store, and the rows with unknown ones."""
    elements: dict[str, set[str]] = {}
    unknown: dict[str, Counter[str]] = {}
    for part in read:
        for kind, names in part.elements.items():
            elements.setdefault(kind, set()).update(names)
        for kind, counts in part.unknown.items():
            unknown.setdefault(kind, Counter()).update(counts)
    before = held.manifest.notes if held else {}
    build.notes["elements"] = join_names(before.get("elements", {}), elements)
    build.notes["unknown_elements"] = join_notes(before.get("unknown_elements", {}), unknown)
