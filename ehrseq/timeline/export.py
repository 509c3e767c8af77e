"""`ehrseq export view`: the rows of any ViewDefinition over a FHIR store, as one Parquet, CSV or NDJSON file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ehrseq.core.errors import ConfigError
from ehrseq.core.files import storage_errors
from ehrseq.timeline.definition import View, load_view
from ehrseq.timeline.reads import elements_read
from ehrseq.timeline.store import FhirStore, scan
from ehrseq.timeline.views import run_view

SUFFIXES = (".parquet", ".csv", ".ndjson")


@dataclass(frozen=True)
class Exported:
    """A file of a view's rows."""

    out: Path
    rows: int
    columns: list[str]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {"out": str(self.out), "rows": self.rows, "columns": self.columns}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What was written."""
        yield Text(f"{self.out}: {self.rows:,} rows of {', '.join(self.columns)}")


def export_view(view: Path, fhir: Path, out: Path) -> Exported:
    """Write the rows of the ViewDefinition in file `view` over the resources of a FHIR store, bucket after bucket.

    The ending of `out` says how: .parquet, .csv (lists joined by |) or .ndjson. An older file is replaced, whole or not
    at all. Raises: TimelineError with file and line; SchemaError if `fhir` is no FHIR store; ConfigError; StorageError.
    """
    definition, out = load_view(view), Path(out)
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"{out}: expected a file that ends in {', '.join(SUFFIXES)}.")
    draft = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            rows = _write(_parts(definition, FhirStore.open(fhir)), draft, out.suffix)
            draft.chmod(0o600)
            draft.replace(out)
        finally:
            draft.unlink(missing_ok=True)
    return Exported(out, rows, definition.columns)


def _parts(view: View, store: FhirStore) -> Iterator[pl.DataFrame]:
    """The view's rows, a bucket at a time; at least one frame, so that an empty file has its columns."""
    reads = elements_read([view])[view.resource]
    buckets = sorted(bucket for kind, bucket in store.shards if kind == view.resource)
    for bucket in buckets or [""]:
        yield run_view(view, scan(store.folder, view.resource, [bucket], reads))


def _write(parts: Iterator[pl.DataFrame], path: Path, suffix: str) -> int:
    rows = 0
    if suffix == ".parquet":
        first = next(parts)
        schema, rows = first.to_arrow().schema, first.height
        with pyarrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
            writer.write_table(first.to_arrow())
            for part in parts:
                writer.write_table(part.to_arrow().cast(schema))
                rows += part.height
        return rows
    with path.open("wb") as stream:
        for part in parts:
            if suffix == ".csv":
                flat = part.with_columns(pl.col(pl.List).cast(pl.List(pl.String)).list.join("|"))
                flat.write_csv(stream, include_header=stream.tell() == 0)
            else:
                part.write_ndjson(stream)
            rows += part.height
    return rows
