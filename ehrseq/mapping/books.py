"""The books of a run: every shard in the manifest, every row of every table accounted for."""

from collections.abc import Mapping as Map
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.core.manifest import Account
from ehrseq.mapping.bucket import UNMAPPED
from ehrseq.mapping.compile import resource_schemas
from ehrseq.mapping.delta import ROWS
from ehrseq.mapping.specification import MappingSet
from ehrseq.mapping.spill import SHARED, bucket_name, file_name, row_columns
from ehrseq.mapping.task import BucketReport, is_resources, report_path
from ehrseq.mapping.verdicts import Verdicts
from ehrseq.sources.rejects import FILTERED, REJECTED, Reject

NOT_REFERENCED = "not referenced"


def enter_shards(build: Build, reports: Sequence[tuple[str, BucketReport]], mappings: MappingSet) -> None:
    """Enter the shards and count the resources."""
    schemas = resource_schemas(mappings)
    rows = {file_name(name): row_columns(table) for name, table in mappings.source.tables.items()}
    for bucket, report in reports:
        for name, count in report.written.items():
            folder = name.partition("/")[0]
            if folder == ROWS:
                build.enter(name, rows=count, schema=rows[Path(name).stem])
                continue
            build.enter(
                name, rows=count, schema=Reject.polars_schema() if folder == "rejects" else schemas[folder]
            )
            if is_resources(name):
                build.made(folder, count)
        build.enter(report_path(bucket), rows=1)


def close_books(
    build: Build, mappings: MappingSet, read: Map[str, Account], reports: Sequence[BucketReport]
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
    build.notes["timezone"] = mappings.source.timezone
    build.notes["knowable"] = {
        mapping.label: dict(mapping.knowable) for mapping in mappings.mappings if mapping.knowable
    }
    build.notes["absent"] = sorted(set(mappings.source.tables) - set(read))
    build.notes["fully_validated"] = sum(report.validated for report in reports)
    build.notes["rejected_by_mapping"] = _rejected_by_mapping(build.folder)
    build.notes["work"] = {
        bucket: report.work
        for bucket, report in zip(
            [SHARED, *(bucket_name(number) for number in range(len(reports) - 1))], reports, strict=True
        )
    }
    rows = [row for report in reports for row in report.unmapped]
    unmapped = pl.DataFrame(rows, schema=UNMAPPED, orient="row")
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
