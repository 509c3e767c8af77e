"""The stage contract: a dataset is written aside, checked, and put in place in one step, or not at all.

    with Build(out, kind="timeline", config=..., inputs=[...]) as build:
        if build.unchanged:
            return build.result
        build.write("data/0000.parquet", frame, sorted_by=["subject_id", "time"])
        build.account("hosp/labevents", Account(...))
    return build.result

One run at a time may hold a folder (a lock beside it); what a killed run left is removed by the next.
"""

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import polars as pl

import ehrseq
from ehrseq.core.errors import BusyError, ConfigError, DataQualityError, SchemaError
from ehrseq.core.files import (
    recover_folder,
    replace_folder,
    sha256_file,
    storage_errors,
    sync_tree,
    write_json,
)
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Account, Input, Manifest, Shard, read_manifest, read_run, total
from ehrseq.core.measure import Meter
from ehrseq.core.parquet import write_parquet

_LIBRARIES = ("polars", "duckdb", "pyarrow", "numpy", "jax", "flax", "fhir.resources")


@dataclass(frozen=True)
class Result:
    """What a stage returns: where the dataset is, its manifest, the cost, and whether anything was done."""

    out: Path
    manifest: Manifest
    run: dict[str, Any]
    status: Literal["made", "unchanged"]


class Build:
    """Build a dataset at `out`, atomically. Use as a context manager.

    `config` (JSON-able) and `inputs` name the work: if the dataset there was made from the same by the
    same version of ehrseq, `unchanged` is true and nothing is to be done.

    Raises: BusyError if another run holds the folder; ConfigError if `out` is something else than a dataset;
    DataQualityError if the books do not balance; StorageError if the disk refuses.
    """

    def __init__(
        self, out: Path, *, kind: str, config: Mapping[str, Any], inputs: Iterable[Input], force: bool = False
    ) -> None:
        self.out, self.kind, self.force = Path(out).absolute(), kind, force
        self.config, self.inputs = dict(config), sorted(inputs, key=lambda item: item.name)
        self.unchanged = False
        self.notes: dict[str, Any] = {}
        self._lock: IO[str] | None = None
        self._meter = Meter()
        self._accounts: dict[str, Account] = {}
        self._made: dict[str, int] = {}
        self._schemas: dict[str, dict[str, str]] = {}
        self._shards: dict[str, Shard] = {}
        self._result: Result | None = None
        self.folder = self.out.with_name(f".{self.out.name}.tmp-{os.getpid()}")

    @property
    def result(self) -> Result:
        """The outcome; only after the `with` block."""
        if self._result is None:
            raise ConfigError("Build.result was asked for before the dataset was finished.")
        return self._result

    @property
    def previous(self) -> Manifest | None:
        """The manifest of the dataset that stands at `out` now, if any."""
        try:
            return read_manifest(self.out, self.kind)
        except SchemaError:
            return None

    def __enter__(self) -> Self:
        with storage_errors(self.out):
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.out)
            try:
                recover_folder(self.out)
                _refuse_foreign(self.out)
                previous = self.previous
                if (
                    previous
                    and previous.fingerprint == self.fingerprint
                    and not self.force
                    and _intact(self.out)
                ):
                    self.unchanged = True
                    self._result = Result(self.out, previous, read_run(self.out), "unchanged")
                else:
                    self.folder.mkdir(mode=0o700)
            except BaseException:
                self._release()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and not self.unchanged:
                with storage_errors(self.out):
                    self._commit()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._release()
        if isinstance(error, Exception):
            with storage_errors(self.out):
                raise error

    @property
    def fingerprint(self) -> str:
        """Hash of kind, code version, configuration and inputs: names the work to be done."""
        work = {
            "kind": self.kind,
            "version": ehrseq.__version__,
            "config": self.config,
            "inputs": [[item.name, item.sha256] for item in self.inputs],
        }
        return content_hash(work)

    def path(self, name: str) -> Path:
        """A path inside the dataset being built, its folder made."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def write(self, name: str, frame: pl.DataFrame, *, sorted_by: Iterable[str] = ()) -> None:
        """Write one Parquet shard and enter it in the manifest."""
        path = self.path(name)
        write_parquet(frame, path)
        self.enter(name, rows=frame.height, schema=frame.schema, sorted_by=sorted_by)

    def enter(
        self, name: str, *, rows: int, schema: Mapping[str, Any] | None = None, sorted_by: Iterable[str] = ()
    ) -> None:
        """Enter a file that a worker has written below `folder` in the manifest."""
        path = self.folder / name
        self._shards[name] = Shard(name, rows, path.stat().st_size, sha256_file(path), list(sorted_by))
        if schema is not None:
            table = str(Path(name).parent)
            self._schemas.setdefault(table, {column: str(dtype) for column, dtype in schema.items()})

    @property
    def accounts(self) -> Mapping[str, Account]:
        """The books so far, by source table."""
        return self._accounts

    def account(self, table: str, account: Account) -> None:
        """Add to the books of one source table."""
        self._accounts.setdefault(table, Account()).add(account)

    def made(self, what: str, count: int) -> None:
        """Count what the stage made, e.g. resources by type."""
        self._made[what] = self._made.get(what, 0) + count

    def _commit(self) -> None:
        unbalanced = [name for name, account in self._accounts.items() if not account.balanced]
        if unbalanced:
            raise DataQualityError(
                f"{self.out}: rows in are not used + rejected + filtered for {', '.join(sorted(unbalanced))}. "
                "This is a fault of ehrseq; the dataset was not written."
            )
        books = total(self._accounts.values())
        manifest = Manifest(
            kind=self.kind,
            fingerprint=self.fingerprint,
            code_version=ehrseq.__version__,
            config_hash=content_hash(self.config),
            config=self.config,
            inputs=self.inputs,
            schemas=dict(sorted(self._schemas.items())),
            schema_hash=content_hash(self._schemas),
            rows={
                "in": books.rows_in,
                "used": books.used,
                "rejected": books.rejected,
                "filtered": books.filtered,
            },
            made=dict(sorted(self._made.items())),
            sources=dict(sorted(self._accounts.items())),
            shards=[self._shards[name] for name in sorted(self._shards)],
            notes=self.notes,
        )
        run = {**self._meter.read(), "versions": versions()}
        write_json(self.folder / "manifest.json", manifest.to_json())
        write_json(self.folder / "run.json", run)
        sync_tree(self.folder)
        replace_folder(self.folder, self.out)
        self._result = Result(self.out, manifest, run, "made")

    def _release(self) -> None:
        if self._lock is not None:
            lock, self._lock = self._lock, None
            Path(lock.name).unlink(missing_ok=True)  # before the lock goes: no one else can hold this inode
            lock.close()


def input_of(name: str, path: Path) -> Input:
    """Name an input: a dataset by the hash of its manifest, a file by the hash of its bytes.

    Raises: SchemaError if `path` is neither.
    """
    if path.is_dir():
        read_manifest(path)
        return Input(name, sha256_file(path / "manifest.json"))
    if not path.is_file():
        raise SchemaError(f"{path}: no such file or dataset.")
    return Input(name, sha256_file(path))


def verify(folder: Path, kind: str | None = None) -> Manifest:
    """Read the manifest and check every shard's sha256. Raises: SchemaError naming the first damaged shard."""
    manifest = read_manifest(folder, kind)
    for shard in manifest.shards:
        path = folder / shard.path
        if not path.is_file():
            raise SchemaError(
                f"{path}: missing, but {folder}/manifest.json lists it. Make the dataset again."
            )
        if sha256_file(path) != shard.sha256:
            raise SchemaError(f"{path}: sha256 differs from the manifest. Make the dataset again.")
    return manifest


def take_over(shards: Sequence[Shard], old: Path, new: Path) -> bool:
    """Link files of a dataset at `old` into the one being made at `new`.

    False, and nothing is done, if there are none or one is missing or damaged.
    """
    sound = all((old / s.path).is_file() and sha256_file(old / s.path) == s.sha256 for s in shards)
    if not shards or not sound:
        return False
    for shard in shards:
        target = new / shard.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old / shard.path, target)
        except OSError:  # a file system without hard links
            shutil.copyfile(old / shard.path, target)
    return True


def versions() -> dict[str, str]:
    """Versions of Python, ehrseq and the libraries that decide what a stage writes."""
    found = {"python": platform.python_version(), "ehrseq": ehrseq.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _intact(folder: Path) -> bool:
    """Whether all shards are there with their sizes; `verify` checks their hashes."""
    shards = read_manifest(folder).shards
    return all((folder / s.path).is_file() and (folder / s.path).stat().st_size == s.bytes for s in shards)


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace something that no ehrseq run has made."""
    if out.is_file():
        raise ConfigError(f"{out}: is a file; a dataset is a folder. Choose another --out.")
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ConfigError(
            f"{out}: holds files but no manifest.json, so it is not a dataset of ehrseq and is left alone. "
            "Choose another --out, or empty the folder."
        )


def take_lock(out: Path) -> IO[str]:
    """Lock the folder's name for this process; the lock dies with it. Unlink the file before closing it.

    Raises: BusyError if another run holds it.
    """
    path = out.with_name(f".{out.name}.lock")
    while True:
        handle = path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            handle.close()
            raise BusyError(
                f"{out}: another run is writing it ({owner}). Wait for it, or choose another --out."
            ) from error
        if path.exists() and os.fstat(handle.fileno()).st_ino == path.stat().st_ino:
            break
        handle.close()  # its owner finished and removed it between our open and our lock
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": platform.node()}))
    handle.flush()
    return handle
