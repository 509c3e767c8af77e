"""One bucket of a run: its rows to its shards; or the shards that stand there already, where nothing changed."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping as Map
from dataclasses import asdict, dataclass, field
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import take_over
from ehrseq.core.errors import MappingError
from ehrseq.core.files import write_json
from ehrseq.core.manifest import Account, Shard
from ehrseq.core.parquet import write_parquet
from ehrseq.mapping.bucket import Mapped, map_rows
from ehrseq.mapping.changes import Change, changes
from ehrseq.mapping.check import fingerprint, load_mappings
from ehrseq.mapping.compile import compile_mappings
from ehrseq.mapping.delta import current_rows, keep_rows, read_merged, touched
from ehrseq.mapping.specification import MappingSet
from ehrseq.mapping.spill import SHARED, read_rejects, read_spilled, replace_spilled
from ehrseq.mapping.verdicts import Verdicts
from ehrseq.sources.rejects import FILTERED, join_rejects, rejects

NOT_MAPPED = "no mapping made a resource"


@dataclass(frozen=True)
class Before:
    """A bucket as it stands in the store that will be replaced: where, the hash of its work, its files."""

    store: Path
    work: str
    shards: tuple[Shard, ...]

    @property
    def resources(self) -> set[str]:
        """Names of its shards of resources."""
        return {shard.path for shard in self.shards if is_resources(shard.path)}


@dataclass(frozen=True)
class BucketTask:
    """A bucket to map. `rules` is a hash of all that decides the result, except the bucket's rows.

    `delta`: the spilled rows are to be laid over those that the store `before` has kept. `keep`: keep the rows.
    """

    bucket: str
    mappings: Path
    fingerprint: str
    rules: str
    spilled: Path
    out: Path
    validation: float
    before: Before | None = None
    delta: bool = False
    keep: bool = False


@dataclass
class BucketReport:
    """What a bucket gave, small enough to send back from a worker.

    `work`: hash of rules and rows. `shared`: verdicts on shared tables. `written`: rows by file. `delivered`: what a
    delta did to the rows, by table. `changes`: against the store before.
    """

    work: str
    accounts: dict[str, Account] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    shared: dict[str, Verdicts] = field(default_factory=dict)
    unmapped: list[tuple[str, str, int]] = field(default_factory=list)
    validated: int = 0
    delivered: dict[str, Counter[str]] = field(default_factory=dict)
    changes: pl.DataFrame = field(default_factory=Change.empty)
    taken_over: bool = False

    def write(self, path: Path) -> None:
        """Write what a later run needs to take the bucket over."""
        value = {
            "work": self.work,
            "accounts": {name: asdict(account) for name, account in self.accounts.items()},
            "written": self.written,
            "shared": {name: verdicts.to_json() for name, verdicts in self.shared.items()},
            "unmapped": self.unmapped,
            "validated": self.validated,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)

    @classmethod
    def read(cls, path: Path) -> "BucketReport":
        """Read what `write` has written, as the report of a bucket that was taken over."""
        value = json.loads(path.read_text())
        value["accounts"] = {name: Account(**account) for name, account in value["accounts"].items()}
        value["shared"] = {name: Verdicts.from_json(verdicts) for name, verdicts in value["shared"].items()}
        return cls(**value, taken_over=True)


def report_path(bucket: str) -> str:
    """Where a bucket's report stands in a store."""
    return f"reports/{bucket}.json"


def is_resources(name: str) -> bool:
    """Whether a file of a store holds resources: `Observation/0003.parquet`."""
    return name[:1].isupper()


def map_bucket(task: BucketTask) -> BucketReport:
    """Map one bucket and write its shards, or take them over; runs in a worker."""
    mappings = load_mappings(task.mappings)
    if fingerprint(task.mappings) != task.fingerprint:
        raise MappingError(
            f"{task.mappings}: the mappings were changed while they ran. Run the command again."
        )
    if _untouched(task, mappings) and (report := _taken_over(task)):
        return report
    tables, delivered = _rows(task, mappings)
    work = f"{task.rules}:{rows_hash(tables)}"
    unchanged = task.before is not None and task.before.work == work and task.bucket != SHARED
    if unchanged and (report := _taken_over(task)):
        return report
    mapped = _mapped(task, mappings, tables)
    report = BucketReport(work, validated=mapped.validated, delivered=delivered)
    report.unmapped = [(name, value, rows) for name, value, rows in mapped.unmapped.iter_rows()]
    _settle(task, mappings, tables, mapped, report)
    if task.keep:
        report.written |= keep_rows(tables, task.out, task.bucket)
    report.write(task.out / report_path(task.bucket))
    if task.before:
        made = {name for name in report.written if is_resources(name)}
        report.changes = changes(task.before.store, task.out, made | task.before.resources)
    return report


def _untouched(task: BucketTask, mappings: MappingSet) -> bool:
    """Whether that can be said without a look at the rows: the same rules, and a delta that is not about them."""
    before = task.before
    if not (task.delta and before and before.work.startswith(f"{task.rules}:")) or task.bucket == SHARED:
        return False  # what is shared is always mapped: the others refer to it
    return not touched(mappings.source, before.store, task.spilled, task.bucket)


def _taken_over(task: BucketTask) -> BucketReport | None:
    """The bucket as it was; None if a file is missing or damaged."""
    assert task.before is not None
    if not take_over(task.before.shards, task.before.store, task.out):
        return None
    return BucketReport.read(task.out / report_path(task.bucket))


def _rows(task: BucketTask, mappings: MappingSet) -> tuple[dict[str, pl.DataFrame], dict[str, Counter[str]]]:
    if not (task.delta and task.before):
        return read_spilled(mappings.source, task.spilled, task.bucket), {}
    tables, delivered = current_rows(mappings.source, task.before.store, task.spilled, task.bucket)
    if task.bucket == SHARED:  # which the other buckets look things up in
        replace_spilled(task.spilled, SHARED, tables)
    return tables, delivered


def rows_hash(tables: Map[str, pl.DataFrame]) -> str:
    """Hash of typed rows in their order, wherever they stood (in one version of polars)."""
    digest = hashlib.sha256()
    for name, frame in sorted(tables.items()):
        if frame.height:
            digest.update(name.encode())
            digest.update(frame.drop("_file", "_row").hash_rows(seed=1).to_numpy().tobytes())
    return digest.hexdigest()


def _mapped(task: BucketTask, mappings: MappingSet, tables: Map[str, pl.DataFrame]) -> Mapped:
    plans, ids = compile_mappings(mappings), task.spilled / "ids"
    if task.bucket == SHARED:
        mapped = map_rows(plans, tables, {}, {}, full_validation=task.validation)
        for name, made in mapped.ids.items():
            write_parquet(made.to_frame("id"), ids / f"{name}.parquet")
        return mapped
    lookups = read_spilled(mappings.source, task.spilled, SHARED)
    known = {path.stem: pl.read_parquet(path)["id"] for path in sorted(ids.glob("*.parquet"))}
    merged = read_merged(task.spilled)
    spool = task.spilled / "spool" / task.bucket
    return map_rows(
        plans, tables, lookups, known, merged=merged, spool=spool, full_validation=task.validation
    )


def _settle(
    task: BucketTask,
    mappings: MappingSet,
    tables: Map[str, pl.DataFrame],
    mapped: Mapped,
    report: BucketReport,
) -> None:
    """Account for the rows, and write resources and rejects."""
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
    rejected = join_rejects([mapped.rejects, *left_out])
    for resource, frames in mapped.made:
        name = f"{resource}/{task.bucket}.parquet"
        report.written[name] = write_parquet(frames, task.out / name, statistics=False)
    if rejected.height:
        name = f"rejects/{task.bucket}.parquet"
        report.written[name] = write_parquet(rejected, task.out / name)
