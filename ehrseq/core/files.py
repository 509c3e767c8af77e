"""Files and folders that are either wholly there or not at all."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ehrseq.core.errors import StorageError

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def sha256_file(path: Path) -> str:
    """Sha256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented and key-ordered as given, replacing `path` atomically."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file through a temporary sibling, fsync and rename."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with storage_errors(path):
        try:
            with temporary.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Fsync every file below `folder`, then the folders, so that a rename publishes only what is on disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _fsync(os.path.join(root, name))
        _fsync(root)


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(new: Path, final: Path) -> None:
    """Put folder `new` at `final` in one step; what stood there before is removed afterwards.

    On Linux an existing folder is exchanged (`renameat2`), so a reader sees the old one or the new one.
    Elsewhere the old one is first moved to `.NAME.old`, from where `recover_folder` brings it back.
    """
    with storage_errors(final):
        if not final.exists():
            os.replace(new, final)
        elif _exchange(new, final):
            shutil.rmtree(new)
        else:
            old = _old(final)
            os.replace(final, old)
            os.replace(new, final)
            shutil.rmtree(old)
        _fsync(str(final.parent))


def recover_folder(final: Path) -> None:
    """Undo what a killed run left beside `final`: bring an old folder back, remove temporary siblings.

    Call it only while holding the folder's lock.
    """
    old = _old(final)
    if old.exists():
        if final.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, final)
    for leftover in final.parent.glob(f".{final.name}.tmp-*"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _old(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _exchange(left: Path, right: Path) -> bool:
    """Exchange two paths atomically; False where the system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    return bool(done == 0)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a full, read-only or failing disk into a StorageError that names the place and the remedy."""
    try:
        yield
    except Exception as error:
        if reason := _storage_reason(error):
            raise StorageError(
                f"{path}: cannot write: {reason}. Nothing that was there before is lost. "
                "Make room (`df -h`) or choose another --out, then run the same command again."
            ) from error
        raise


def _storage_reason(error: Exception) -> str | None:
    """Name the storage fault behind an exception; polars and DuckDB wrap the system's error in text."""
    text = str(error).lower()
    faults = {
        errno.ENOSPC: "no space left on device",
        errno.EDQUOT: "disk quota exceeded",
        errno.EIO: "input/output error",
        errno.EROFS: "read-only file system",
        errno.EACCES: "permission denied",
    }
    if isinstance(error, OSError) and error.errno in faults:
        return faults[error.errno]
    return next((words for words in faults.values() if words in text), None)
