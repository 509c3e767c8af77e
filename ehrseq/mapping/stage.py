"""`ehrseq map`: a source's tables to a FHIR store, in two passes.

The first pass spills typed rows into subject buckets, the second maps each bucket by itself. Memory is bounded
by the largest bucket. The store does not depend on the number of workers.
"""

import os
import shutil
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import polars as pl

from ehrseq.core.dataset import Build, Result, write_parquet
from ehrseq.core.errors import ConfigError, DataQualityError, MappingError, SourceError
from ehrseq.core.executor import run_tasks
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import Account, Input, total
from ehrseq.core.progress import log
from ehrseq.mapping.bucket import UNMAPPED, map_rows
from ehrseq.mapping.check import find_source, fingerprint, load_mappings
from ehrseq.mapping.compile import compile_mappings, resource_schemas
from ehrseq.mapping.specification import MappingSet
from ehrseq.mapping.spill import (
    SHARED,
    bucket_name,
    buckets_for,
    read_rejects,
    read_spilled,
    spill,
    spill_tasks,
)
from ehrseq.mapping.verdicts import Verdicts
from ehrseq.sources.rejects import FILTERED, REJECTED, Reject, join_rejects, rejects
from ehrseq.sources.tables import find_tables

type Validation = Literal["sample", "full", "none"]
_FRACTION = {"none": 0.0, "sample": 0.002, "full": 1.0}
NOT_REFERENCED, NOT_MAPPED = "not referenced", "no mapping made a resource"


@dataclass(frozen=True)
class _BucketTask:
    bucket: str
    mappings: Path
    fingerprint: str
    spilled: Path
    out: Path
    validation: float


@dataclass
class _BucketReport:
    """What one bucket gave, small enough to send back from a worker. `shared` are verdicts on shared tables."""

    accounts: dict[str, Account] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Verdicts] = field(default_factory=dict)
    unmapped: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=UNMAPPED))
    validated: int = 0


def map(
    source: str | Path,
    data: Path,
    out: Path,
    *,
    validate: Validation = "sample",
    workers: int = 1,
    max_reject_fraction: float = 0.05,
    force: bool = False,
) -> Result:
    """Map the tables below `data` to a FHIR store at `out`.

    `source` is a shipped source's name or a folder of mappings. `validate` says how many resources also pass
    through `fhir.resources.R4B` (columnar rules check every row always). Raises: MappingError, SourceError,
    DataQualityError when more than `max_reject_fraction` of the rows are rejected, StorageError, BusyError.
    """
    if validate not in _FRACTION:
        raise ConfigError(f"--validate {validate}: expected sample, full or none.")
    if not 0 <= max_reject_fraction <= 1:
        raise ConfigError(
            f"--max-reject-fraction {max_reject_fraction:g}: expected 0 to 1, e.g. 0.05 for 5 %."
        )
    folder = find_source(source)
    mappings = load_mappings(folder)
    files = find_tables(mappings.source, Path(data))
    buckets = buckets_for(files)
    config = {"source": mappings.source.name, "version": mappings.source.version, "mappings": fingerprint(folder),
              "buckets": buckets, "validate": validate, "max_reject_fraction": max_reject_fraction}  # fmt: skip
    inputs = [
        Input(path.relative_to(data).as_posix(), _sha256(path)) for paths in files.values() for path in paths
    ]
    with Build(out, kind="fhir", config=config, inputs=inputs, force=force) as build:
        if not build.unchanged:
            spilled = build.path("spilled/x").parent
            accounts = _first_pass(mappings, files, data, spilled, buckets, workers)
            names = [SHARED, *(bucket_name(number) for number in range(buckets))]
            tasks = [
                _BucketTask(name, folder, str(config["mappings"]), spilled, build.folder, _FRACTION[validate])
                for name in names
            ]
            reports = [
                _map_bucket(tasks[0]),
                *run_tasks(_map_bucket, tasks[1:], workers=workers, what="buckets"),
            ]
            shutil.rmtree(spilled)
            _enter(build, reports, resource_schemas(mappings))
            _close_books(build, mappings, accounts, reports)
            _gate(build, out, max_reject_fraction)
    return build.result


def _sha256(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}. Check the file and its permissions."
        ) from error


def _first_pass(
    mappings: MappingSet, files: Map[str, list[Path]], data: Path, spilled: Path, buckets: int, workers: int
) -> dict[str, Account]:
    tasks = spill_tasks(mappings.source, files, data, spilled, buckets)
    accounts: dict[str, Account] = {}
    for read in run_tasks(spill, tasks, workers=workers, what="files"):
        rejected = sum(read.rejected.values())
        accounts.setdefault(read.table, Account()).add(
            Account(rows_in=rejected, rejected=rejected, reasons=dict(read.rejected))
        )
        log("read", table=read.table, rows=read.rows_in, rejected=rejected)
    return accounts


def _map_bucket(task: _BucketTask) -> _BucketReport:
    """Map one bucket and write its shards; runs in a worker."""
    mappings = load_mappings(task.mappings)
    if fingerprint(task.mappings) != task.fingerprint:
        raise MappingError(
            f"{task.mappings}: the mappings were changed while they ran. Run the command again."
        )
    plans = compile_mappings(mappings)
    lookups = read_spilled(mappings.source, task.spilled, SHARED)
    ids = task.spilled / "ids"
    if task.bucket == SHARED:
        tables: dict[str, pl.DataFrame] = {}
        mapped = map_rows(plans, lookups, {}, {}, full_validation=task.validation)
        for name, made in mapped.ids.items():
            write_parquet(made.to_frame("id"), ids / f"{name}.parquet")
    else:
        tables = read_spilled(mappings.source, task.spilled, task.bucket)
        known = {path.stem: pl.read_parquet(path)["id"] for path in sorted(ids.glob("*.parquet"))}
        mapped = map_rows(plans, tables, lookups, known, full_validation=task.validation)
    report = _BucketReport(unmapped=mapped.unmapped, validated=mapped.validated)
    left_out = [read_rejects(task.spilled)] if task.bucket == SHARED else []
    for name, verdicts in mapped.verdicts.items():
        table = mappings.source.tables[name]
        if table.shared:
            report.shared[name] = verdicts
            continue
        leftover = table.skip or NOT_MAPPED
        report.accounts[name] = verdicts.account(leftover)
        left_out += [
            rejects(tables[name].filter(pl.Series(rows)), name, rule=reason, message=reason, outcome=outcome)
            for outcome, reason, rows in verdicts.final(leftover)
            if outcome == FILTERED
        ]
    frames = {**mapped.resources, "rejects": join_rejects([mapped.rejects, *left_out])}
    for folder, frame in frames.items():
        if frame.height:
            name = f"{folder}/{task.bucket}.parquet"
            write_parquet(frame, task.out / name)
            report.rows[name] = frame.height
    return report


def _enter(build: Build, reports: Sequence[_BucketReport], schemas: Map[str, pl.Schema]) -> None:
    """Enter the shards and count the resources."""
    for report in reports:
        for name, rows in report.rows.items():
            folder = Path(name).parent.name
            build.enter(
                name, rows=rows, schema=Reject.polars_schema() if folder == "rejects" else schemas[folder]
            )
            if folder != "rejects":
                build.made(folder, rows)


def _close_books(
    build: Build, mappings: MappingSet, read: Map[str, Account], reports: Sequence[_BucketReport]
) -> None:
    """Account for every row of every table that is there."""
    for name, account in read.items():
        build.account(name, account)
        table = mappings.source.tables[name]
        for report in reports:
            if not table.shared and name in report.accounts:
                build.account(name, report.accounts[name])
        if table.shared:
            leftover = table.skip or NOT_REFERENCED
            build.account(name, _merged([report.shared[name] for report in reports]).account(leftover))
    build.notes["absent"] = sorted(set(mappings.source.tables) - set(read))
    build.notes["fully_validated"] = sum(report.validated for report in reports)
    build.notes["rejected_by_mapping"] = _rejected_by_mapping(build.folder)
    unmapped = pl.concat(report.unmapped for report in reports)
    counted = unmapped.group_by("map", "value").agg(pl.col("rows").sum()).sort("map", "rows", "value")
    summary = counted.group_by("map").agg(values=pl.len(), rows=pl.col("rows").sum()).sort("map")
    build.notes["unmapped"] = {
        row["map"]: {"values": row["values"], "rows": row["rows"]} for row in summary.to_dicts()
    }
    if counted.height:
        build.write("unmapped/unmapped.parquet", counted)


def _rejected_by_mapping(folder: Path) -> dict[str, dict[str, int]]:
    """How many rows each rule of each mapping stopped, also rows that another mapping could use."""
    files = sorted((folder / "rejects").glob("*.parquet"))
    if not files:
        return {}
    counted = (
        pl.scan_parquet(files)
        .filter((pl.col("outcome") == REJECTED) & pl.col("mapping").is_not_null())
        .group_by("mapping", "rule")
        .agg(rows=pl.struct("file", "row").n_unique())
        .sort("mapping", "rule")
        .collect()
    )
    found: dict[str, dict[str, int]] = {}
    for row in counted.to_dicts():
        found.setdefault(row["mapping"], {})[row["rule"]] = row["rows"]
    return found


def _merged(verdicts: Sequence[Verdicts]) -> Verdicts:
    """Verdicts of all buckets on the same shared table; only the first has made resources from it."""
    first = verdicts[0]
    for other in verdicts[1:]:
        first.used |= other.used
        for reason, rows in other.filtered.items():
            first.mark(FILTERED, reason, rows.nonzero()[0])
    return first


def _gate(build: Build, out: Path, limit: float) -> None:
    """Refuse the store when too many rows were rejected; leave the rejects where the user finds them."""
    books, beside = total(build.accounts.values()), Path(f"{out}.rejects.parquet")
    if not books.rows_in or books.rejected <= limit * books.rows_in:
        beside.unlink(missing_ok=True)  # of a refused run before: it says nothing of this store
        return
    rejected = pl.scan_parquet(build.folder / "rejects" / "*.parquet").filter(outcome="rejected").collect()
    whole = build.path("refused.parquet")
    write_parquet(rejected, whole)
    os.replace(whole, beside)
    worst = (
        rejected.group_by("table", "rule").len().sort("len", "table", "rule", descending=[True, False, False])
    )
    reasons = "; ".join(f"{row['table']} {row['rule']} {row['len']:,}" for row in worst.head(3).to_dicts())
    raise DataQualityError(
        f"{out}: {books.rejected:,} of {books.rows_in:,} rows were rejected, more than --max-reject-fraction {limit:g} "
        f"({reasons}). No store was written; the rejected rows and their reasons are in {beside}."
    )
