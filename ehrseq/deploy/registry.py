"""Model versions by name, and which of them is the champion: `models/<name>/`.

    models/<name>/<version>/       see `version`; written once, never changed
    models/<name>/registry.json    aliases, their history, and the hash of each version's manifest

The registry is one file that is replaced in one step, so a reader sees the old champion or the new one and never half
of a promotion. A version counts from the moment it stands in that file.
"""

import fcntl
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ehrseq.core.dataset import take_lock
from ehrseq.core.errors import ConfigError, ModelError, closest
from ehrseq.core.files import sha256_file, write_json
from ehrseq.core.hashing import content_hash
from ehrseq.deploy.version import ModelVersion, check_version, inputs_of, make_version, timeline_of

CHAMPION, CHALLENGER = "champion", "challenger"
ALIASES = (CHAMPION, CHALLENGER)
_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]{0,63}$")
FILE = "registry.json"

type Clock = datetime | None


@dataclass
class Registry:
    """The versions of one model. `versions`: version -> sha256 of its manifest, in order of registration."""

    folder: Path
    versions: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Registry":
        """Read `registry.json`; an empty registry where there is none yet. Raises: ModelError if it is damaged."""
        path = folder / FILE
        if not path.is_file():
            return cls(folder)
        try:
            told = json.loads(path.read_text())
            return cls(folder, dict(told["versions"]), dict(told["aliases"]), list(told["history"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{path}: damaged ({type(error).__name__}); expected versions, aliases and history. Restore it from a "
                "copy; the versions beside it are whole."
            ) from error

    @property
    def name(self) -> str:
        """The model's name."""
        return self.folder.name

    def find(self, which: str) -> str:
        """The version that an alias, a version or its beginning names. Raises: ModelError."""
        if which in self.aliases:
            return self.aliases[which]
        found = [version for version in self.versions if version == which or version.startswith(f"{which}-")]
        if len(found) == 1:
            return found[0]
        known = [*self.aliases, *self.versions]
        raise ModelError(
            f"{self.folder}: has no {which!r}.{closest(which, known)} There are: {', '.join(known) or 'none'}."
        )

    def open(self, which: str = CHAMPION) -> ModelVersion:
        """Open a version, its manifest compared with the registry's and every file with the manifest's.

        Raises: ModelError.
        """
        version = self.find(which)
        place = self.folder / version
        manifest = place / "manifest.json"
        found = sha256_file(manifest) if manifest.is_file() else "missing"
        if found != self.versions[version]:
            raise ModelError(
                f"{manifest}: sha256 {found}, expected {self.versions[version]} ({self.folder / FILE}): changed. "
                f"Restore it from a copy, or roll back: `ehrseq models rollback {self.name}`."
            )
        return ModelVersion.open(place)

    def number(self, version: str) -> int:
        """3 of v0003-1a2b3c4d."""
        return int(version[1:5])

    def to_json(self) -> dict[str, Any]:
        """The content of `registry.json`."""
        return {"versions": self.versions, "aliases": self.aliases, "history": self.history}

    def move(self, alias: str, version: str, why: str, now: Clock, **told: Any) -> None:
        """Point an alias at a version and say so in the history; written by `changing`.

        The history never goes back in time: with a clock that does, an entry has the time of the one before it.
        """
        at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
        latest = max((entry["at"] for entry in self.history), default="")
        entry = {"at": max(at, latest), "alias": alias, "version": version, "from": self.aliases.get(alias)}
        if at < latest:
            told["clock"] = at
        self.history.append({**entry, "why": why, **told})
        self.aliases[alias] = version


@contextmanager
def changing(folder: Path) -> Iterator[Registry]:
    """The registry of a model to be changed: nobody else may meanwhile, and the file is replaced at the end.

    Raises: BusyError if another process is changing it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    lock = take_lock(folder / FILE)
    try:
        registry = Registry.read(folder)
        before = json.dumps(registry.to_json())
        yield registry
        if json.dumps(registry.to_json()) != before or not (folder / FILE).is_file():
            write_json(folder / FILE, registry.to_json())
    finally:
        Path(lock.name).unlink(missing_ok=True)
        fcntl.flock(lock, fcntl.LOCK_UN)
        lock.close()


def add(
    run: Path, name: str, *, models: Path = Path("models"), timeline: Path | None = None, views: Path | None = None,
    alias: str | None = None, now: Clock = None,
) -> ModelVersion:  # fmt: skip
    """Register the model of a run; the same run again is the same version. The first one becomes champion.

    `alias`: champion or challenger. Raises: ConfigError for a bad name; ModelError; BusyError.
    """
    if not _NAME.match(name):
        raise ConfigError(
            f"--name {name!r}: expected small letters, digits, - _ and ., such as mortality-24h."
        )
    run, folder = Path(run), Path(models) / name
    source = content_hash([[one.name, one.sha256] for one in inputs_of(run, timeline_of(run, timeline))])[:8]
    with changing(folder) as registry:
        found = [version for version in registry.versions if version.endswith(f"-{source}")]
        number = max((registry.number(one) for one in registry.versions), default=0) + 1
        version = found[0] if found else f"v{number:04d}-{source}"
        if not found:
            make_version(run, folder / version, name=name, version=version, timeline=timeline, views=views)
            registry.versions[version] = sha256_file(folder / version / "manifest.json")
        wanted = alias or (None if registry.aliases.get(CHAMPION) else CHAMPION)
        if wanted and registry.aliases.get(wanted) != version:
            registry.move(_known(wanted), version, "added", now)
    return Registry.read(folder).open(version)


def promote(
    name: str, which: str, *, models: Path = Path("models"), alias: str = CHAMPION, why: str = "promoted",
    now: Clock = None, **told: Any,
) -> Registry:  # fmt: skip
    """Point an alias at a version, after checking the version's files. Raises: ModelError; BusyError."""
    with changing(_there(models, name)) as registry:
        version = registry.find(which)
        registry.open(version)
        if registry.aliases.get(_known(alias)) != version:
            registry.move(alias, version, why, now, **told)
    return registry


def rollback(
    name: str, *, models: Path = Path("models"), alias: str = CHAMPION, now: Clock = None
) -> Registry:
    """Point an alias at the version it had before the present one. Raises: ModelError if there is none."""
    with changing(_there(models, name)) as registry:
        current = registry.aliases.get(_known(alias))
        before = _before(registry, alias)
        if before is None:
            raise ModelError(
                f"{registry.folder}: {alias} {current or ''} has no version before it to go back to."
            )
        check_version(registry.folder / before)
        registry.move(alias, before, "rolled back", now)
    return registry


def _before(registry: Registry, alias: str) -> str | None:
    """The version that an alias had before its present one: rollbacks undo, so a second one goes further back."""
    stack: list[str] = []
    for entry in registry.history:
        if entry["alias"] == alias:
            if entry["why"] == "rolled back" and len(stack) > 1:
                stack.pop()
            elif not stack or stack[-1] != entry["version"]:
                stack.append(entry["version"])
    return stack[-2] if len(stack) > 1 else None


def registries(models: Path = Path("models")) -> list[Registry]:
    """All registries below a folder, by name."""
    return [Registry.read(path.parent) for path in sorted(Path(models).glob(f"*/{FILE}"))]


def find_model(model: str | Path, models: Path = Path("models")) -> ModelVersion:
    """Open what a user names: a version's folder, a model's folder or name, `NAME@champion`, `NAME@v0003`.

    Raises: ModelError.
    """
    text, _, which = str(model).partition("@")
    for folder in (Path(text), Path(models) / text):
        if (folder / FILE).is_file():
            return Registry.read(folder).open(which or CHAMPION)
        if (folder / "manifest.json").is_file() and (folder / "calibration.json").is_file():
            if (folder.parent / FILE).is_file() and folder.name in (
                registry := Registry.read(folder.parent)
            ).versions:
                return registry.open(folder.name)
            return ModelVersion.open(folder)
    names = [registry.name for registry in registries(models)]
    raise ModelError(
        f"{model}: no model version here, nor a model of that name in {models}/.{closest(text, names)} Expected a "
        "folder that `ehrseq models add RUN --name NAME` wrote, or NAME, or NAME@champion."
    )


def _known(alias: str) -> str:
    if alias not in ALIASES:
        raise ConfigError(f"--alias {alias!r}: expected {' or '.join(ALIASES)}.{closest(alias, ALIASES)}")
    return alias


def _there(models: Path, name: str) -> Path:
    folder = Path(models) / name
    if not (folder / FILE).is_file():
        names = [registry.name for registry in registries(models)]
        raise ModelError(
            f"{models}: has no model {name!r}.{closest(name, names)} There are: {', '.join(names) or 'none'}."
        )
    return folder
