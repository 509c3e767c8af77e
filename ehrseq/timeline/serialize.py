"""`ehrseq timeline`: a FHIR store to a timeline, bucket by bucket.

Buckets whose shards have not changed since the last run are taken over from it. The result does not depend on the
number of workers, nor on what was taken over.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

import ehrseq
from ehrseq.core.dataset import Build, Result, input_of, take_over
from ehrseq.core.errors import DataQualityError
from ehrseq.core.executor import run_tasks
from ehrseq.core.files import sha256_file, write_json
from ehrseq.core.gate import refuse_rejects
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Account
from ehrseq.core.progress import log
from ehrseq.timeline import meds
from ehrseq.timeline.arrow import write_meds_parquet
from ehrseq.timeline.bucket import NO_KIND, NO_VIEW, SORTED_BY, BucketReport, BucketTask, make_bucket
from ehrseq.timeline.code_list import merged_codes
from ehrseq.timeline.dates import check_timezone
from ehrseq.timeline.knowable import Knowledge, knowledge_of, rules_hash
from ehrseq.timeline.schema import Code, Event, Unused
from ehrseq.timeline.store import SHARED, FhirStore, scan
from ehrseq.timeline.systems import ambiguous

NOBODY = "belongs to no patient"
_PARTS = ("data/{}.parquet", "rejects/{}.parquet", "parts/{}.parquet", "parts/{}.json")


def timeline(
    fhir: Path,
    out: Path,
    *,
    views: Path | None = None,
    timezone: str | None = None,
    declared: Mapping[str, Any] | None = None,
    split: Sequence[float] = (0.8, 0.1, 0.1),
    splits: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    max_reject_fraction: float = 0.05,
    force: bool = False,
) -> Result:
    """Make the timeline of the FHIR store at `fhir` in `out`: a MEDS 0.4 dataset of what was knowable when.

    `views` is a folder that adds to, replaces or removes shipped views and kinds (see knowable.yaml). `timezone` is
    the hospital's: dates without a time of day are meant there; by default that of the source that was mapped, else
    UTC. `declared`: when facts are knowable, where mappings say so; by default as the store says. `split` and `seed`
    decide which subjects are for training, tuning and held out, or `splits` does: a Parquet file of `subject_id` and
    `split`, as MEDS has it; subjects that it does not name are held out. Raises: TimelineError (a view or table is
    wrong), SchemaError (no FHIR store), ConfigError, DataQualityError when more than `max_reject_fraction` of the
    resources are rejected, StorageError, BusyError.
    """
    fhir, views = Path(fhir), Path(views) if views else None
    meds.check_fractions(split)
    store = FhirStore.open(fhir)
    declared = store.manifest.notes.get("knowable", {}) if declared is None else declared
    timezone = timezone or str(store.manifest.notes.get("timezone", "UTC"))
    check_timezone(timezone)
    rules = {
        "rules": rules_hash(views),
        "timezone": timezone,
        "declared": json.dumps(declared, sort_keys=True),
    }
    knowledge = knowledge_of(views, rules["rules"], rules["declared"])
    config = {**rules, "split": list(split), "seed": seed, "max_reject_fraction": max_reject_fraction}
    given = meds.read_splits(Path(splits)) if splits else None
    if splits:
        config["split"] = sha256_file(Path(splits))
    with Build(out, kind="timeline", config=config, inputs=[input_of("fhir", fhir)], force=force) as build:
        if not build.unchanged:
            reports = _buckets(build, store, rules, views, workers, force)
            _enter(build, reports)
            _close_books(build, store, knowledge, reports)
            name = str(
                store.manifest.config.get("source", "ehrseq")
            )  # not the folder's: equal work, equal bytes
            _metadata(build, reports, name=name, split=split, seed=seed, given=given)
            refuse_rejects(build, max_reject_fraction, ("resource_type", "reason"), noun="resources")
    return build.result


def _buckets(
    build: Build, store: FhirStore, rules: dict[str, str], views: Path | None, workers: int, force: bool
) -> list[BucketReport]:
    """Make each bucket, or take it over from the dataset that stands at `out`."""
    work = {
        bucket: content_hash([ehrseq.__version__, rules, store.fingerprint(bucket)])
        for bucket in store.buckets
    }
    done = {} if force or build.previous is None else build.previous.notes.get("work", {})
    kept = [bucket for bucket in store.buckets if done.get(bucket) == work[bucket]]
    taken = {bucket: _taken_over(build, bucket) for bucket in kept}
    tasks = [
        BucketTask(store.folder, build.folder, bucket, tuple(store.types(bucket)), views, **rules)
        for bucket in store.buckets
        if taken.get(bucket) is None
    ]
    made = {
        report.bucket: report for report in run_tasks(make_bucket, tasks, workers=workers, what="buckets")
    }
    log("timeline", buckets=len(work), made=len(made), unchanged=len(work) - len(made))
    build.notes["work"] = work
    return [taken.get(bucket) or made[bucket] for bucket in store.buckets]


def _taken_over(build: Build, bucket: str) -> BucketReport | None:
    """Link a bucket's files from the old dataset; None if one is missing or damaged."""
    names = {name.format(bucket) for name in _PARTS}
    old = [shard for shard in build.previous.shards if shard.path in names] if build.previous else []
    if not take_over(old, build.out, build.folder):
        return None
    return BucketReport.read(build.folder / _PARTS[-1].format(bucket))


def _enter(build: Build, reports: Iterable[BucketReport]) -> None:
    """Enter what the workers wrote in the manifest."""
    schemas = (Event.polars_schema(), Unused.polars_schema(), Code.polars_schema(), None)
    for report in reports:
        for pattern, schema in zip(_PARTS, schemas, strict=True):
            name = pattern.format(report.bucket)
            if (build.folder / name).is_file():
                rows = report.rows if pattern == _PARTS[0] else _rows(build.folder / name) if schema else 1
                build.enter(
                    name, rows=rows, schema=schema, sorted_by=SORTED_BY if pattern == _PARTS[0] else ()
                )


def _rows(path: Path) -> int:
    return int(pl.scan_parquet(path).select(pl.len()).collect().item())


def _close_books(
    build: Build, store: FhirStore, knowledge: Knowledge, reports: Sequence[BucketReport]
) -> None:
    """Account for every resource of every type, and note what a reader of the timeline should know."""
    for report in reports:
        for resource, account in report.accounts.items():
            build.account(resource, account)
        for kind, count in report.events.items():
            build.made(kind, count)
    joined = {
        name: {id_ for report in reports for id_ in report.joined.get(name, [])}
        for name in store.types(SHARED)
    }
    for resource, ids in joined.items():
        listed = scan(store.folder, resource, [SHARED]).select("id").collect()["id"]
        used = int(listed.is_in(list(ids)).sum())
        views = knowledge.views_of(resource)
        reason = NOBODY if knowledge.kinds_of(resource) else NO_KIND if views else NO_VIEW
        left = len(listed) - used
        build.account(resource, Account(len(listed), used, 0, left, reasons={reason: left} if left else {}))
    systems = [uri for report in reports for uri in report.systems]
    build.notes |= {
        "knowable": _knowable(knowledge, reports),
        "withheld": _summed(report.withheld for report in reports),
        "timezone": build.config["timezone"],
        "elements_never_read": {
            name: sorted({element for report in reports for element in report.unread.get(name, [])})
            for name in sorted({name for report in reports for name in report.unread})
        },
        "ambiguous_systems": ambiguous(systems, knowledge.systems),
        "patients_merged": sum(report.merged for report in reports),
        "events_before_birth": sum(report.before_birth for report in reports),
        "events_after_death": sum(report.after_death for report in reports),
        "subjects": sum(report.subjects for report in reports),
    }


def _knowable(knowledge: Knowledge, reports: Sequence[BucketReport]) -> dict[str, list[dict[str, Any]]]:
    """How many events of each kind stand on each source of time, in order of trust; those without any are left out."""
    counts = _summed(report.sources for report in reports)
    return {
        kind.name: [
            {
                "time": source.described,
                "guarantee": source.guarantee,
                "events": counts[kind.name][str(number)],
            }
            for number, source in enumerate(kind.sources)
            if str(number) in counts[kind.name]
        ]
        for kind in knowledge.kinds
        if kind.name in counts
    }


def _summed(tables: Iterable[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    sums: dict[str, Counter[str]] = {}
    for table in tables:
        for kind, counts in table.items():
            sums.setdefault(kind, Counter()).update(counts)
    return {kind: dict(sorted(counts.items())) for kind, counts in sorted(sums.items())}


def _metadata(
    build: Build,
    reports: Sequence[BucketReport],
    *,
    name: str,
    split: Sequence[float],
    seed: int,
    given: pl.DataFrame | None,
) -> None:
    """Write what MEDS wants beside the data."""
    data = [path for report in reports if (path := build.folder / _PARTS[0].format(report.bucket)).is_file()]
    subjects = [
        pl.scan_parquet(path).select(pl.col(Event.subject_id).unique()).collect().to_series() for path in data
    ]
    everyone = pl.concat([pl.Series(Event.subject_id, [], dtype=pl.Int64), *subjects])
    if everyone.n_unique() != len(everyone):
        raise DataQualityError(
            f"{build.out}: a subject is in several buckets of the FHIR store, so events would be out of order. "
            "Make the store again with `ehrseq map` or `ehrseq import`."
        )
    write_json(build.path(meds.DATASET), meds.dataset_metadata(name))
    build.enter(meds.DATASET, rows=1)
    parts = [build.folder / _PARTS[2].format(report.bucket) for report in reports]
    subject_splits = meds.split_subjects(everyone, split, seed)
    if given is not None:
        subject_splits = meds.splits_of(everyone, given)
    for name, frame in ((meds.CODES, merged_codes(parts)), (meds.SUBJECT_SPLITS, subject_splits)):
        write_meds_parquet(frame, build.path(name))
        build.enter(name, rows=frame.height, schema=frame.schema, sorted_by=frame.columns[:1])
