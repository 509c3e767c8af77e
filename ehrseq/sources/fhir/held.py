"""A FHIR store that newer resources are laid over: which buckets they touch, and how the others stay as they are."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PolarsError

from ehrseq.core.dataset import Build, take_over
from ehrseq.core.errors import SchemaError
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import Account, Manifest, Shard, read_manifest


@dataclass(frozen=True)
class Held:
    """The store at `folder`, which `ehrseq import` has made."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> "Held":
        """Open a store. Raises: SchemaError if there is none."""
        return cls(folder, read_manifest(folder, "fhir"))

    @property
    def shards(self) -> list[Shard]:
        """Shards of resources."""
        return [shard for shard in self.manifest.shards if shard.path[:1].isupper()]

    @property
    def rows(self) -> int:
        """Resources."""
        return sum(shard.rows for shard in self.shards)

    def buckets(self, wanted: int, strict: bool) -> int | None:
        """How many buckets the store has, if it may keep them: they are not much too few, and it was made by the same
        rules. None: its resources must be read again, all of them.
        """
        config = self.manifest.config
        mine: int = config["buckets"]
        return mine if wanted <= 2 * mine and config["strict"] == strict else None

    def touched(self, spilled: Path, deleted: pl.DataFrame) -> set[str]:
        """Buckets that something new goes into, or that hold a resource of which something is new.

        `spilled`: folder of what is new, by bucket; `deleted`: type and id of deletions. Raises: SchemaError if a shard
        is damaged.
        """
        found = {path.name for path in spilled.iterdir() if path.is_dir()}
        keys = [deleted.select("type", "id")]
        keys += [pl.read_parquet(path, columns=["type", "id"]) for path in spilled.glob("*/*.parquet")]
        for (kind,), mine in pl.concat(keys).unique().group_by("type"):
            paths = [
                self.folder / shard.path for shard in self.shards if Path(shard.path).parent.name == kind
            ]
            if paths:
                there = pl.scan_parquet(paths, include_file_paths="path").select("id", "path")
                hit = there.join(mine.lazy(), on="id", how="semi").select("path").unique()
                try:
                    found |= {Path(path).stem for path in hit.collect(engine="streaming")["path"]}
                except (PolarsError, OSError) as error:
                    raise SchemaError(_damaged(self.folder / str(kind))) from error
        return found

    def files(self, buckets: set[str] | None) -> list[tuple[Path, str]]:
        """Shards of these buckets (None: of all) as files to read. Raises: SchemaError if one is damaged."""
        chosen = [shard for shard in self.shards if buckets is None or Path(shard.path).stem in buckets]
        for shard in chosen:
            path = self.folder / shard.path
            if not path.is_file() or sha256_file(path) != shard.sha256:
                raise SchemaError(_damaged(path))
        return [(self.folder / shard.path, shard.path) for shard in chosen]

    def keep(self, build: Build, touched: set[str], schema: pl.Schema) -> None:
        """Take the shards of the other buckets over, with their books. Raises: SchemaError if one is damaged."""
        others = [shard for shard in self.shards if Path(shard.path).stem not in touched]
        if others and not take_over(others, self.folder, build.folder):
            raise SchemaError(_damaged(self.folder))
        for shard in others:
            kind = Path(shard.path).parent.name
            build.enter(shard.path, rows=shard.rows, schema=schema)
            build.account(kind, Account(rows_in=shard.rows, used=shard.rows, made={kind: shard.rows}))
            build.made(kind, shard.rows)


def _damaged(path: Path) -> str:
    return f"{path}: damaged or missing, by the manifest's sha256. Make the store again, e.g. with --full."


def join_notes(
    older: Mapping[str, Mapping[str, int]], newer: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Counts by type and name, added.

    >>> join_notes({"Patient": {"race": 1}}, {"Patient": {"race": 2}, "Claim": {"x": 1}})
    {'Claim': {'x': 1}, 'Patient': {'race': 3}}
    """
    return {
        kind: {
            name: older.get(kind, {}).get(name, 0) + newer.get(kind, {}).get(name, 0)
            for name in sorted({*older.get(kind, {}), *newer.get(kind, {})})
        }
        for kind in sorted({*older, *newer})
    }


def join_names(
    older: Mapping[str, Iterable[str]], newer: Mapping[str, Iterable[str]]
) -> dict[str, list[str]]:
    """Names by type, of both.

    >>> join_names({"Patient": ["id"]}, {"Patient": ["gender", "id"]})
    {'Patient': ['gender', 'id']}
    """
    return {kind: sorted({*older.get(kind, ()), *newer.get(kind, ())}) for kind in sorted({*older, *newer})}
