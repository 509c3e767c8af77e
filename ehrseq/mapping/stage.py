"""`ehrseq map`: a source's tables to a FHIR store, in two passes.

The first pass spills typed rows into subject buckets, the second maps each bucket by itself. Memory is bounded
by the largest bucket. The store does not depend on the number of workers. Buckets whose rows are those of the run
before are taken over from the store that stands there; a delta is laid over the rows that store has kept.
"""

import shutil
from collections import Counter
from collections.abc import Mapping as Map
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl

import ehrseq
from ehrseq.core.dataset import Build, Result
from ehrseq.core.errors import BusyError, ConfigError, DataQualityError
from ehrseq.core.executor import run_tasks
from ehrseq.core.gate import refuse_rejects
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Account, Input, Manifest, read_manifest
from ehrseq.core.parquet import write_parquet
from ehrseq.core.progress import log
from ehrseq.fhir.merged import survivors
from ehrseq.mapping.books import close_books, enter_shards
from ehrseq.mapping.changes import Change, in_words, summary
from ehrseq.mapping.check import find_source, fingerprint, load_mappings
from ehrseq.mapping.delivery import Delivery, columns_changed, find_delivery
from ehrseq.mapping.delta import MERGED, UNREAD, current_links, move_rows, write_keys
from ehrseq.mapping.merge import read_links
from ehrseq.mapping.specification import MappingSet
from ehrseq.mapping.spill import (
    SHARED,
    bucket_name,
    buckets_for,
    read_rejects,
    spill,
    spill_tasks,
)
from ehrseq.mapping.task import Before, BucketReport, BucketTask, map_bucket
from ehrseq.sources.declaration import Source
from ehrseq.sources.rejects import Reject

type Validation = Literal["sample", "full", "none"]
type _Columns = dict[str, dict[str, str]]
_FRACTION = {"none": 0.0, "sample": 0.002, "full": 1.0}


def map(
    source: str | Path,
    data: str | Path,
    out: Path,
    *,
    delta: bool = False,
    keep_rows: bool = False,
    allow_changed_columns: bool = False,
    validate: Validation = "sample",
    workers: int = 1,
    max_reject_fraction: float = 0.05,
    force: bool = False,
) -> Result:
    """Map the tables of `data`, a folder or a database, to a FHIR store at `out`.

    `source` is a shipped source's name or a folder of mappings. `delta`: `data` holds only what is new since the store
    at `out`, which was made with `keep_rows`: rows replace those with the same primary key, and keys in
    `TABLE.deleted.csv` take rows away. `allow_changed_columns`: go on if tables or columns are not those of the
    delivery before. `validate` says how many resources also pass through `fhir.resources.R4B` (columnar rules check
    every row always). Raises: MappingError, SourceError, DataQualityError when more than
    `max_reject_fraction` of the rows are rejected or columns have changed, StorageError, BusyError.
    """
    if validate not in _FRACTION:
        raise ConfigError(f"--validate {validate}: expected sample, full or none.")
    if not 0 <= max_reject_fraction <= 1:
        raise ConfigError(
            f"--max-reject-fraction {max_reject_fraction:g}: expected 0 to 1, e.g. 0.05 for 5 %."
        )
    folder = find_source(source)
    mappings = load_mappings(folder)
    out = Path(out)
    previous = _previous(out, mappings.source, delta)
    with find_delivery(mappings.source, data, kept=out if delta else None) as delivery:
        inputs = _merged_inputs(previous, delivery)
        config = {"source": mappings.source.name, "version": mappings.source.version, "mappings": fingerprint(folder),
                  "buckets": _bucket_count(delivery, previous), "validate": validate, "keep_rows": keep_rows or delta,
                  "max_reject_fraction": max_reject_fraction}  # fmt: skip
        with Build(out, kind="fhir", config=config, inputs=inputs, force=force) as build:
            if not build.unchanged:
                if previous and (
                    build.previous is None or build.previous.fingerprint != previous.fingerprint
                ):
                    raise BusyError(f"{out}: another run has just replaced it. Run the command again.")
                columns = delivery.columns(mappings.source)
                build.notes["columns"] = _checked_columns(previous, columns, delivery, allow_changed_columns)
                run = _Run(build, mappings, folder, delivery, workers, previous)
                reports = run.buckets()
                enter_shards(build, reports, mappings)
                close_books(build, mappings, run.read, [report for _, report in reports])
                run.note_changes([report for _, report in reports])
                refuse_rejects(build, max_reject_fraction, ("table", "rule"))
    return build.result


def _previous(out: Path, source: Source, delta: bool) -> Manifest | None:
    """This source's store at `out`, if any. Raises: SchemaError, ConfigError if a delta cannot be laid over it."""
    if not delta and not (out / "manifest.json").is_file():
        return None
    previous = read_manifest(out, "fhir")
    if not delta:
        return previous if previous.config.get("source") == source.name else None
    if previous.config.get("source") != source.name or not previous.config.get("keep_rows"):
        raise ConfigError(
            f"{out}: was made from source {previous.config.get('source')}"
            f"{'' if previous.config.get('keep_rows') else ' without --keep-rows'}; a delta of {source.name} cannot be "
            "laid over it. Map a full delivery with --keep-rows first."
        )
    return previous


def _checked_columns(
    previous: Manifest | None, columns: _Columns, delivery: Delivery, allowed: bool
) -> _Columns:
    """The columns to note. Raises: DataQualityError if they are not those of the delivery before."""
    before: _Columns = previous.notes.get("columns", {}) if previous else {}
    if before and (changed := columns_changed(before, columns, delta=delivery.delta)):
        if not allowed:
            raise DataQualityError(
                f"{delivery.place}: is not shaped like the delivery before: {'; '.join(changed)}. Nothing was written. "
                "If it is meant so, run again with --allow-changed-columns."
            )
        log("columns changed", what="; ".join(changed))
    return {**before, **columns} if delivery.delta else columns


def _merged_inputs(previous: Manifest | None, delivery: Delivery) -> list[Input]:
    """All that the store is made from: a delta comes on top of the deliveries before."""
    inputs = delivery.inputs
    if not delivery.delta or previous is None:
        return inputs
    new = [item for item in inputs if item not in previous.inputs]
    return [*previous.inputs, *new]


def _bucket_count(delivery: Delivery, previous: Manifest | None) -> int:
    """As many as before, unless the data have grown or shrunk fourfold: so unchanged buckets stay what they are."""
    before = previous.config.get("buckets") if previous else None
    wanted = buckets_for(delivery.rows)
    if isinstance(before, int) and (delivery.delta or wanted / 4 <= before <= wanted * 4):
        return before
    return wanted


class _Run:
    """One run: the first pass over the delivery, then every bucket."""

    def __init__(
        self,
        build: Build,
        mappings: MappingSet,
        folder: Path,
        delivery: Delivery,
        workers: int,
        previous: Manifest | None,
    ) -> None:
        self.build, self.mappings, self.folder = build, mappings, folder
        self.delivery, self.workers, self.previous = delivery, workers, previous
        self.spilled = build.path("spilled/x").parent
        self.read: dict[str, Account] = {}
        self.keys: dict[str, dict[str, int]] = {}

    def buckets(self) -> list[tuple[str, BucketReport]]:
        """Spill the delivery, map what is shared, then the buckets of subjects."""
        self._first_pass()
        if self.delivery.delta:
            self._over_kept_rows()
        shared = map_bucket(self._task(SHARED, self._rules()))
        rules = self._rules(shared.work)
        names = [bucket_name(number) for number in range(self.build.config["buckets"])]
        tasks = [self._task(name, rules) for name in names]
        reports = run_tasks(map_bucket, tasks, workers=self.workers, what="buckets")
        if self.build.config["keep_rows"]:
            unread = read_rejects(self.spilled)
            write_parquet(unread, self.build.path(UNREAD))
            self.build.enter(UNREAD, rows=unread.height, schema=Reject.polars_schema())
        shutil.rmtree(self.spilled)
        return [(SHARED, shared), *zip(names, reports, strict=True)]

    def _first_pass(self) -> None:
        delivery, source = self.delivery, self.mappings.source
        merged = self._merged()
        buckets = self.build.config["buckets"]
        tasks = spill_tasks(source, delivery.rows, delivery.label, self.spilled, buckets, merged)
        for read in run_tasks(spill, tasks, workers=self.workers, what="files"):
            self._account_unread(read.table, read.rejected)
            log("read", table=read.table, rows=read.rows_in, rejected=sum(read.rejected.values()))

    def _merged(self) -> pl.DataFrame | None:
        """Which subjects are one, by the source's link table; kept rows are moved to where they belong now."""
        source, delivery, out = self.mappings.source, self.delivery, self.build.out
        if source.merge is None:
            return None
        if not delivery.delta:
            files = delivery.rows.get(source.merge.table, [])
            merged = survivors(read_links(source.merge, source.tables[source.merge.table], files))
        else:
            links = current_links(source, out, delivery.rows, delivery.gone, delivery.data)
            before, merged = (survivors(link) for link in links)
            move_rows(source, out, self.spilled, before, merged, self.build.config["buckets"])
        write_parquet(merged, self.spilled / MERGED)
        log("merged", patients=merged.height)
        return merged

    def _account_unread(self, table: str, rejected: Map[str, int]) -> None:
        count = sum(rejected.values())
        account = Account(rows_in=count, rejected=count, reasons=dict(rejected))
        self.read.setdefault(table, Account()).add(account)

    def _over_kept_rows(self) -> None:
        """Gather the keys of a delta, and carry over what could not be read before."""
        assert self.previous is not None
        self.keys = write_keys(self.mappings.source, self.spilled, self.delivery.gone, self.delivery.data)
        unread = pl.read_parquet(self.build.out / UNREAD)
        write_parquet(unread, self.spilled / "rejects" / "before.parquet")
        for table, rule, count in unread.group_by("table", "rule").len().sort("table", "rule").iter_rows():
            self._account_unread(table, {rule: count})
        for table in self.previous.sources:
            self.read.setdefault(table, Account())

    def _rules(self, shared: str | None = None) -> str:
        """Hash of all that decides a bucket's shards, except its own rows."""
        config = {key: self.build.config[key] for key in ("mappings", "buckets", "validate", "keep_rows")}
        return content_hash([ehrseq.__version__, pl.__version__, config, shared])

    def _task(self, bucket: str, rules: str) -> BucketTask:
        build = self.build
        task = BucketTask(bucket, self.folder, build.config["mappings"], rules, self.spilled, build.folder,
                          _FRACTION[build.config["validate"]], delta=self.delivery.delta,
                          keep=build.config["keep_rows"])  # fmt: skip
        if self.previous is None or build.force:
            return task
        shards = tuple(
            shard
            for shard in self.previous.shards
            if bucket in (Path(shard.path).stem, Path(shard.path).parent.name)
        )
        return replace(
            task, before=Before(build.out, self.previous.notes.get("work", {}).get(bucket, ""), shards)
        )

    def note_changes(self, reports: Sequence[BucketReport]) -> None:
        """Note what the delivery brought and what it changed."""
        build = self.build
        taken = sum(report.taken_over for report in reports)
        log("buckets", mapped=len(reports) - taken, unchanged=taken)
        if self.keys:
            build.notes["delivered"] = {
                name: dict(sum((r.delivered.get(name, Counter()) for r in reports), Counter(counts)))
                for name, counts in self.keys.items()
            }
        if self.previous is None:
            return
        frames = [report.changes for report in reports]
        if found := summary(frames):
            build.notes["changes"] = found
            build.write("changes/changes.parquet", pl.concat([Change.empty(), *frames]))
            log("changed", what=in_words(found))
