"""The table of event kinds (`knowable.yaml`) as checked data: when each fact is knowable and how its code is formed.

The grammar stands at the head of `knowable.yaml`. Everything is checked at load: unknown keys, views, columns and
words are errors with file, line and the closest name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ehrseq.core.errors import TimelineError, closest
from ehrseq.core.files import sha256_file
from ehrseq.core.hashing import content_hash
from ehrseq.core.yaml_lines import Document, Where, check_keys, load_yaml
from ehrseq.timeline.definition import View, load_view
from ehrseq.timeline.reads import elements_read
from ehrseq.timeline.systems import read_systems

SHIPPED = Path(__file__).parent
TABLE, SYSTEMS = "knowable.yaml", "systems.yaml"
GUARANTEES = ("stated", "derived", "assumed")

_KEYS = {
    *(
        "view",
        "when",
        "join",
        "code",
        "prefix",
        "concept",
        "answer",
        "otherwise",
        "parts",
        "modality",
        "codings",
        "time",
        "clinical_time",
    ),
    *("end_time", "value", "unit", "text", "elapsed", "note", "attributes", "encounter"),
}
UPDATED = "updated"  # column of a view: when its resource was last changed
_SOURCE_KEYS = {"from", "latest", "edge", "clock", "unless", "after", "guarantee"}
_DURATION = re.compile(r"^\d+(us|ms|s|m|h|d|w)$")


@dataclass(frozen=True)
class Source:
    """One way to know a time: the latest of `parts` (each a list of columns, the first that has a date)."""

    parts: tuple[tuple[str, ...], ...]
    edge: str  # "end" or "start"
    clock: bool
    unless: tuple[str, ...]
    after: str | None  # how much later than that, as polars writes durations: "3d"
    guarantee: str
    mapping: str = ""  # only for resources of this mapping, which declares it; "" = the table's own

    @property
    def described(self) -> str:
        """In short, as the manifest's notes have it: `issued`, `latest of recorded, performed_end + 3d`."""
        parts = ", ".join(" or ".join(columns) for columns in self.parts)
        text = f"latest of {parts}" if len(self.parts) > 1 else parts
        text += f" + {self.after}" if self.after else ""
        return f"{text} ({self.mapping})" if self.mapping else text


@dataclass(frozen=True)
class Kind:
    """One kind of event. Column names of joined views are `VIEW.column`; empty tuples mean "none"."""

    name: str
    view: str
    when: str | None
    join: tuple[tuple[str, str], ...]
    code: str | None
    prefix: str
    concept: tuple[str, ...]
    answer: tuple[str, ...]
    parts: tuple[tuple[str, ...], ...]  # further parts of the code, each the first of some columns
    modality: str
    bare: bool  # without a concept the code is the prefix alone
    all_codings: bool
    time: tuple[Source, ...] | None  # None: static
    clinical_time: tuple[str, ...]
    end_time: tuple[str, ...]
    value: tuple[str, ...]
    unit: tuple[str, ...]
    text: tuple[str, ...]
    attributes: tuple[str, ...]  # stems, or columns
    elapsed: tuple[str, str] | None
    note: tuple[str, str] | None
    encounter: tuple[str, ...]
    overrides: tuple[tuple[str, tuple[Source, ...]], ...] = ()  # by the mapping that made the resource

    @cached_property
    def dates(self) -> frozenset[str]:
        """Columns that are read as dates, those of joined views as VIEW.column."""
        timed = {column for source in self.sources for part in source.parts for column in part}
        return frozenset(timed.union(self.clinical_time, self.end_time, self.elapsed or (), (UPDATED,)))

    @property
    def sources(self) -> tuple[Source, ...]:
        """All ways to know its time: the table's, then those of mappings. Empty if it is static."""
        return (*(self.time or ()), *(source for _, sources in self.overrides for source in sources))


@dataclass(frozen=True)
class Knowledge:
    """All that decides how resources become events: views, kinds in order, and labels of code systems."""

    views: Mapping[str, View]
    kinds: tuple[Kind, ...]
    systems: Mapping[str, str]

    def kinds_of(self, resource: str) -> list[Kind]:
        """Kinds whose view reads resources of this type, in order."""
        return [kind for kind in self.kinds if self.views[kind.view].resource == resource]

    def order(self, kind: Kind) -> tuple[int, int]:
        """Rank of a kind among events of one moment: first that of its group, neighbours in the table that read the
        same view, so that all which one resource says stands together; then its own."""
        own = first = self.kinds.index(kind)
        while first and self.kinds[first - 1].view == kind.view:
            first -= 1
        return first, own

    @cached_property
    def _reads(self) -> Mapping[str, frozenset[str]]:
        return elements_read(self.views.values())

    def reads(self, resource: str) -> frozenset[str]:
        """Paths of the elements that views of a resource type look at."""
        return self._reads.get(resource, frozenset(("id",)))

    def dates_of(self, view: str) -> set[str]:
        """Columns of a view that some kind reads as dates, also where it is joined."""
        own = {column for kind in self.kinds if kind.view == view for column in kind.dates}
        return own | {
            column.removeprefix(f"{view}.")
            for kind in self.kinds
            for column in kind.dates
            if column.startswith(f"{view}.")
        }

    def views_of(self, resource: str) -> list[str]:
        """Names of all views of a resource type, those that only serve joins among them."""
        return [name for name, view in self.views.items() if view.resource == resource]


def load_knowledge(folder: Path | None = None) -> Knowledge:
    """Read the shipped views and tables, and what `folder` adds, replaces or removes.

    Raises: TimelineError with file and line.

    >>> [kind.name for kind in load_knowledge().kinds_of("Patient")][:2]
    ['birth', 'gender']
    """
    paths = {path.stem: path for path in sorted((SHIPPED / "views").glob("*.yaml"))}
    documents = [load_yaml(SHIPPED / TABLE, TimelineError)]
    systems = read_systems(SHIPPED / SYSTEMS)
    if folder is not None:
        if not folder.is_dir():
            raise TimelineError(f"{folder}: no such folder. --views expects a folder of ViewDefinitions.")
        own = [path for suffix in ("yaml", "yml", "json") for path in sorted(folder.glob(f"*.{suffix}"))]
        paths |= {path.stem: path for path in own if path.name not in (TABLE, SYSTEMS)}
        documents += [load_yaml(path, TimelineError) for path in own if path.name == TABLE]
        systems |= read_systems(folder / SYSTEMS) if (folder / SYSTEMS).is_file() else {}
    views = {name: load_view(path) for name, path in sorted(paths.items())}
    kinds: dict[str, Kind] = {}
    for document in documents:
        _merge(document, views, kinds)
    return Knowledge(views, tuple(kinds.values()), systems)


def overridden(knowledge: Knowledge, declared: Mapping[str, Mapping[str, Any]]) -> Knowledge:
    """The knowledge with what mappings declare: mapping (as in provenance) → kind → sources of its time.

    Raises: TimelineError that names mapping and kind.
    """
    if not declared:
        return knowledge
    found: dict[str, list[tuple[str, tuple[Source, ...]]]] = {}
    for mapping, kinds in sorted(declared.items()):
        document = Document(Path(mapping), {}, {})
        for name, sources in kinds.items():
            reader = _Reader(document, knowledge.views, ("knowable", name))
            kind = next((kind for kind in knowledge.kinds if kind.name == name), None)
            if kind is None or kind.time is None:
                names = [kind.name for kind in knowledge.kinds if kind.time is not None]
                raise reader.fault(
                    (), f"`knowable`: no such kind of event with a time.{closest(name, names)}"
                )
            read = reader.time(sources, reader.columns_of(kind.view, kind.join))
            own = tuple(replace(source, mapping=mapping) for source in read or ())
            found.setdefault(name, []).append((mapping, own))
    every = tuple(replace(kind, overrides=tuple(found.get(kind.name, ()))) for kind in knowledge.kinds)
    return replace(knowledge, kinds=every)


def rules_hash(folder: Path | None = None) -> str:
    """Hash of all views and tables in force: they decide the events as much as the code does."""
    folders = [SHIPPED, SHIPPED / "views", *([folder] if folder and folder.is_dir() else [])]
    suffixes = (".yaml", ".yml", ".json")
    files = [path for place in folders for path in sorted(place.iterdir()) if path.suffix in suffixes]
    return content_hash([[path.name, sha256_file(path)] for path in files])


@lru_cache(maxsize=2)
def knowledge_of(folder: Path | None, _rules_hash: str, declared: str = "{}") -> Knowledge:
    """`load_knowledge` and what mappings have `declared` (JSON), once in a process for all buckets."""
    return overridden(load_knowledge(folder), json.loads(declared))


def _merge(document: Document, views: Mapping[str, View], kinds: dict[str, Kind]) -> None:
    check_keys(document, (), document.value, {"version", "kinds"}, TimelineError)
    for name, found in (document.value.get("kinds") or {}).items():
        if found is None:
            kinds.pop(name, None)
        else:
            kinds[name] = _Reader(document, views, ("kinds", name)).kind(name, found)


@dataclass(frozen=True)
class _Reader:
    """Reads one kind; knows where it stands."""

    document: Document
    views: Mapping[str, View]
    where: Where

    def kind(self, name: str, found: Any) -> Kind:
        check_keys(self.document, self.where, found, _KEYS, TimelineError)
        view = self.view(("view",), found.get("view"))
        joins = tuple(
            (self.view(("join", other), other), str(key)) for other, key in found.get("join", {}).items()
        )
        own = {*self.views[view].columns}
        if missing := next((key for _, key in joins if key not in own), None):
            raise self.fault(("join",), f"view `{view}` has no column `{missing}`.{closest(missing, own)}")
        columns = self.columns_of(view, joins)
        if ("code" in found) == ("prefix" in found):
            raise self.fault((), "needs either `code` or `prefix`.")
        if "prefix" in found and not ({"concept", "otherwise", "parts"} & set(found)):
            raise self.fault(
                (), "has a `prefix` and no `concept`: say `otherwise: prefix` if it is the whole code."
            )
        note, elapsed = found.get("note"), found.get("elapsed")
        if note is not None:
            check_keys(self.document, (*self.where, "note"), note, {"data", "type"}, TimelineError)
            note = (
                self.column("note", note.get("data"), columns),
                self.column("note", note.get("type"), columns),
            )
        if elapsed is not None:
            elapsed = self.columns("elapsed", elapsed, columns)
            if len(elapsed) != 2:
                raise self.fault(("elapsed",), "`elapsed` expects two columns: [from, to].")
        default = ["encounter"] if "encounter" in columns else []
        return Kind(
            name=name,
            view=view,
            when=self.column("when", found["when"], columns) if "when" in found else None,
            join=joins,
            code=found.get("code"),
            prefix=str(found.get("prefix", "")),
            concept=self.stems("concept", found.get("concept", []), columns),
            answer=self.stems("answer", found.get("answer", []), columns),
            parts=tuple(self.columns("parts", part, columns) for part in found.get("parts", [])),
            modality=str(found.get("modality", "record")),
            bare=self.word(("otherwise",), found.get("otherwise", "none"), ("none", "prefix")) == "prefix",
            all_codings=self.word(("codings",), found.get("codings", "first"), ("first", "all")) == "all",
            time=self.time(found.get("time"), columns),
            clinical_time=self.columns("clinical_time", found.get("clinical_time", []), columns),
            end_time=self.columns("end_time", found.get("end_time", []), columns),
            value=self.columns("value", found.get("value", []), columns),
            unit=self.columns("unit", found.get("unit", []), columns),
            text=self.columns("text", found.get("text", []), columns),
            attributes=self.attributes(found.get("attributes", []), columns),
            elapsed=elapsed,
            note=note,
            encounter=self.columns("encounter", found.get("encounter", default), columns),
        )

    def columns_of(self, view: str, joins: Iterable[tuple[str, str]]) -> set[str]:
        """Names that a kind may use: the columns of its view, and those of joined views as VIEW.column."""
        joined = {f"{other}.{column}" for other, _ in joins for column in self.views[other].columns}
        return joined.union(self.views[view].columns)

    def time(self, found: Any, columns: set[str]) -> tuple[Source, ...] | None:
        if found == "static":
            return None
        if not isinstance(found, list) or not found:
            raise self.fault(("time",), "expected `static` or a list of time sources.")
        return tuple(self.source(("time", index), item, columns) for index, item in enumerate(found))

    def source(self, at: Where, found: Any, columns: set[str]) -> Source:
        check_keys(self.document, (*self.where, *at), found, _SOURCE_KEYS, TimelineError)
        if ("from" in found) == ("latest" in found):
            raise self.fault(at, "a time source needs either `from` or `latest`.")
        parts = [found["from"]] if "from" in found else found["latest"]
        return Source(
            parts=tuple(self.columns("time", part, columns) for part in parts),
            edge=self.word((*at, "edge"), found.get("edge", "end"), ("end", "start")),
            clock=self.word((*at, "clock"), found.get("clock", "optional"), ("optional", "required"))
            == "required",
            unless=self.columns("time", found.get("unless", []), columns),
            after=self.duration((*at, "after"), found.get("after")),
            guarantee=self.word((*at, "guarantee"), found.get("guarantee"), GUARANTEES),
        )

    def view(self, at: Where, name: Any) -> str:
        if name not in self.views:
            raise self.fault(at, f"there is no view `{name}`.{closest(str(name), self.views)}")
        return str(name)

    def columns(self, key: str, found: Any, columns: set[str]) -> Any:
        names = found if isinstance(found, list) else [found]
        return tuple(self.column(key, name, columns) for name in names)

    def column(self, key: str, name: Any, columns: set[str]) -> str:
        if name not in columns:
            raise self.fault(
                (key,), f"`{key}`: no view at hand has column `{name}`.{closest(str(name), columns)}"
            )
        return str(name)

    def stems(self, key: str, found: Any, columns: set[str]) -> tuple[str, ...]:
        names = tuple(str(name) for name in (found if isinstance(found, list) else [found]))
        for name in names:
            if not {f"{name}_code", f"{name}_text"} & columns:
                raise self.fault(
                    (key,), f"`{key}`: no view at hand has column `{name}_code` or `{name}_text`."
                )
        return names

    def attributes(self, found: Any, columns: set[str]) -> tuple[str, ...]:
        names = tuple(str(name) for name in (found if isinstance(found, list) else [found]))
        for name in names:
            if not {name, f"{name}_code", f"{name}_text"} & columns:
                stems = {column.removesuffix("_code").removesuffix("_text") for column in columns}
                raise self.fault(
                    ("attributes",),
                    f"`attributes`: no view at hand has column `{name}`.{closest(name, stems)}",
                )
        return names

    def word(self, at: Where, found: Any, words: tuple[str, ...]) -> str:
        if found not in words:
            raise self.fault(at, f"`{at[-1]}` is {found!r}, expected {' or '.join(words)}.")
        return str(found)

    def duration(self, at: Where, found: Any) -> str | None:
        if found is not None and not _DURATION.match(str(found)):
            raise self.fault(
                at, f"`after` is {found!r}, expected a number and a unit (us ms s m h d w), e.g. 3d."
            )
        return None if found is None else str(found)

    def fault(self, at: Where, problem: str) -> TimelineError:
        return TimelineError(f"{self.document.at((*self.where, *at))}  kind `{self.where[-1]}`: {problem}")
