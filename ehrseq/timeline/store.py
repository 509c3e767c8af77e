"""Where the resources of a bucket stand in a FHIR store, as the timeline reads it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Manifest, read_manifest
from ehrseq.fhir.json_columns import JSON, json_columns

SHARED = "shared"
PLUMBING = frozenset({"id", "resourceType", "meta", "_mapping", "_file", "_row", JSON})
"""Columns of a store that are no facts about anybody."""


@dataclass(frozen=True)
class FhirStore:
    """A FHIR store's shards: `<ResourceType>/<bucket>.parquet` and `<ResourceType>/shared.parquet`."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "FhirStore":
        """Open a store. Raises: SchemaError if there is none at `folder`."""
        return cls(Path(folder), read_manifest(Path(folder), "fhir"))

    @property
    def shards(self) -> list[tuple[str, str]]:
        """(resource type, bucket) of each shard, in the manifest's order."""
        paths = [Path(shard.path) for shard in self.manifest.shards]
        return [(path.parent.name, path.stem) for path in paths if path.parent.name[:1].isupper()]

    @property
    def buckets(self) -> list[str]:
        """Names of the subject buckets, sorted."""
        return sorted({bucket for _, bucket in self.shards if bucket != SHARED})

    def types(self, bucket: str) -> list[str]:
        """Resource types with a shard in the bucket, sorted."""
        return sorted(kind for kind, name in self.shards if name == bucket)

    def elements(self, resource: str, columns: Iterable[str]) -> set[str]:
        """Names of the top-level elements that resources of a type have, given the columns of a shard."""
        noted: Sequence[str] | None = self.manifest.notes.get("elements", {}).get(resource)
        return set(columns if noted is None else noted) - PLUMBING

    def fingerprint(self, bucket: str) -> str:
        """Hash of all that the bucket's events can depend on: its own shards and the shared ones."""
        stems = {bucket, SHARED}
        used = [
            (shard.path, shard.sha256) for shard in self.manifest.shards if Path(shard.path).stem in stems
        ]
        return content_hash(used)


def scan(folder: Path, resource: str, buckets: Sequence[str], paths: Iterable[str] = ("id",)) -> pl.LazyFrame:
    """Resources of one type in these buckets; of no rows and only an id if there are none.

    Mapped resources have their elements as columns. Imported ones are JSON, of which the elements in `paths` (down to
    primitives) become columns here, but for those that no resource has: a view plans around what is not there.
    Raises: SchemaError if a shard has no `id`.
    """
    files = [path for bucket in buckets if (path := folder / resource / f"{bucket}.parquet").is_file()]
    if not files:
        return pl.LazyFrame(schema={"id": pl.String()})
    frames = [pl.scan_parquet(path) for path in files]
    for path, frame in zip(files, frames, strict=True):
        if "id" not in frame.collect_schema():
            raise SchemaError(f"{path}: has no column `id`. Expected resources of a FHIR store.")
    whole = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")
    return _from_json(whole, resource, paths) if JSON in whole.collect_schema() else whole


def _from_json(frame: pl.LazyFrame, resource: str, paths: Iterable[str]) -> pl.LazyFrame:
    there = frame.collect()
    columns = json_columns(there[JSON], resource, {"id", *paths}).with_columns(there["id"])
    empty = [column.name for column in columns if column.null_count() == columns.height]
    return pl.concat(
        [columns.drop(empty), there.select("_mapping", "_file", "_row")], how="horizontal"
    ).lazy()
