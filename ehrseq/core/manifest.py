"""What a dataset is: its `manifest.json`, and what making it cost: its `run.json`.

`manifest.json` holds nothing that changes between two runs of the same work, so equal inputs give equal
bytes. Seconds, memory and library versions stand beside it in `run.json`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ehrseq.core.errors import SchemaError

FORMAT_VERSION = 1


@dataclass
class Account:
    """The books of one source table: every row in is used, rejected or filtered.

    A used row gave at least one resource, event or label, or is a dictionary row that was joined.
    `reasons` splits rejected and filtered rows by rule; `made` counts what the used rows gave.
    """

    rows_in: int = 0
    used: int = 0
    rejected: int = 0
    filtered: int = 0
    made: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether the accounting identity of DESIGN section 3 holds."""
        return self.rows_in == self.used + self.rejected + self.filtered

    def add(self, other: "Account") -> None:
        """Add another account of the same table, e.g. of another bucket."""
        self.rows_in += other.rows_in
        self.used += other.used
        self.rejected += other.rejected
        self.filtered += other.filtered
        self.made = dict(Counter(self.made) + Counter(other.made))
        self.reasons = dict(Counter(self.reasons) + Counter(other.reasons))


def total(accounts: Iterable[Account]) -> Account:
    """Sum of accounts.

    >>> total([Account(3, 2, 1, 0), Account(1, 1, 0, 0)]).rows_in
    4
    """
    result = Account()
    for account in accounts:
        result.add(account)
    return result


@dataclass
class Shard:
    """One file of a dataset: path relative to the folder, rows, bytes, sha256, sort columns."""

    path: str
    rows: int
    bytes: int
    sha256: str
    sorted_by: list[str] = field(default_factory=list)


@dataclass
class Input:
    """Something a dataset was made from: a file, or another dataset (then the hash of its manifest)."""

    name: str
    sha256: str


@dataclass
class Manifest:
    """The content of `manifest.json`. `fingerprint` names the work: same fingerprint, same bytes."""

    kind: str
    fingerprint: str
    code_version: str
    config_hash: str
    config: dict[str, Any] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)
    schemas: dict[str, dict[str, str]] = field(default_factory=dict)
    schema_hash: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    sources: dict[str, Account] = field(default_factory=dict)
    shards: list[Shard] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, ready for `json`."""
        return asdict(self)


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """Read a dataset's manifest.

    Raises: SchemaError if `folder` is not a dataset, is damaged, or is not of `kind`.
    """
    path = folder / "manifest.json"
    if not folder.exists():
        raise SchemaError(f"{folder}: no such folder. Expected {_article(kind)}.")
    if not path.is_file():
        raise SchemaError(
            f"{folder}: not a dataset: it has no manifest.json. Expected {_article(kind)}, "
            "a folder that an ehrseq verb wrote."
        )
    try:
        content = json.loads(path.read_text())
        manifest = _from_json(content)
    except (ValueError, TypeError, KeyError) as error:
        raise SchemaError(f"{path}: damaged ({type(error).__name__}). Make the dataset again.") from error
    if manifest.format_version != FORMAT_VERSION:
        raise SchemaError(f"{path}: format {manifest.format_version}, this ehrseq reads {FORMAT_VERSION}.")
    if kind is not None and manifest.kind != kind:
        raise SchemaError(f"{folder}: holds {_article(manifest.kind)}, expected {_article(kind)}.")
    return manifest


def _article(kind: str | None) -> str:
    return f"a dataset of kind {kind!r}" if kind else "a dataset"


def _from_json(content: Mapping[str, Any]) -> Manifest:
    values = dict(content)
    values["inputs"] = [Input(**item) for item in values["inputs"]]
    values["shards"] = [Shard(**item) for item in values["shards"]]
    values["sources"] = {name: Account(**item) for name, item in values["sources"].items()}
    return Manifest(**values)


def read_run(folder: Path) -> dict[str, Any]:
    """Read `run.json`: seconds, cpu_seconds, peak_rss_bytes and versions of the run that made the dataset."""
    path = folder / "run.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
