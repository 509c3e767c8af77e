"""What is known of an export that is under way, beside the store it is for: `.NAME.bulk/`.

Every step is on disk before the next one is taken, so a run that was killed goes on where it was. Links in it may be
secrets; the folder is for its owner alone, and goes when the store is made.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ehrseq.core.dataset import take_lock
from ehrseq.core.files import storage_errors, write_json
from ehrseq.sources.bulk.request import Request

_FORMAT = 1
FILES = "files"


class State:
    """An export under way: for which request, where its status is, its manifest, which files are here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "state.json"
        try:
            self._values: dict[str, Any] = json.loads(self._path.read_text())
        except (OSError, ValueError):
            self._values = {}
        if self._values.get("format") != _FORMAT:
            self._values = {}

    @property
    def status_url(self) -> str | None:
        """Where the server tells of the export; None if there is none, or it has been deleted there."""
        found: str | None = self._values.get("status_url")
        return found

    @property
    def manifest(self) -> dict[str, Any] | None:
        """The manifest as it came."""
        found: dict[str, Any] | None = self._values.get("manifest")
        return found

    @property
    def files(self) -> dict[str, Path]:
        """The whole files here, by their keys in the manifest: `files/<key>.<name>.ndjson`."""
        return {path.name.partition(".")[0]: path for path in (self.folder / FILES).glob("*.ndjson")}

    @property
    def progress(self) -> int:
        """Bytes that are here, of files whole or not."""
        return sum(path.stat().st_size for path in (self.folder / FILES).glob("*"))

    def is_for(self, request: Request, since: str | None) -> bool:
        """Whether an export of just this is under way."""
        return self._values.get("request") == request.to_json() and self._values.get("since") == since

    def begin(self, request: Request, since: str | None, status_url: str) -> None:
        """A new export; nothing is left of another."""
        self.clear()
        with storage_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._save(format=_FORMAT, request=request.to_json(), since=since, status_url=status_url)

    def complete(self, manifest: dict[str, Any]) -> None:
        """The manifest has come, or come again with fresh links. Files stay if they are of the same time."""
        if self.manifest is not None and self.manifest["transactionTime"] != manifest["transactionTime"]:
            shutil.rmtree(self.folder / FILES, ignore_errors=True)
        self._save(manifest=manifest)

    def released(self) -> None:
        """All files are here, and the server need not keep them."""
        self._save(status_url=None)

    def clear(self) -> None:
        """Forget the export and its files."""
        self._values = {}
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, **changes: Any) -> None:
        self._values |= changes
        write_json(self._path, self._values)


@contextmanager
def held_state(out: Path) -> Iterator[State]:
    """The state of the store at `out`, for this process alone. Raises: BusyError."""
    folder = out.with_name(f".{out.name}.bulk")
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder)
    try:
        yield State(folder)
    finally:
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
