"""Read a source's folder, with what it inherits, and check all of it before a row is read."""

import os
from functools import lru_cache
from pathlib import Path

import ehrseq
from ehrseq.core.errors import EhrseqError, MappingError, closest
from ehrseq.core.files import sha256_file
from ehrseq.core.hashing import content_hash
from ehrseq.core.yaml_lines import load_yaml, merged
from ehrseq.mapping.checker import Problem, problems_of
from ehrseq.mapping.parse import load_concept_map, parse_mapping
from ehrseq.mapping.specification import ConceptMap, Mapping, MappingSet, Reference, walk
from ehrseq.sources.declaration import Source, parse_source

EXTENDS, REMOVE = "extends", "remove"


def find_source(name: str | Path) -> Path:
    """Folder of a source: a path, or the name of one that ships with ehrseq. Raises: MappingError."""
    if Path(name).is_dir():
        return Path(name)
    shipped = shipped_sources()
    if str(name) in shipped:
        return shipped[str(name)]
    raise MappingError(
        f"{name}: neither a folder with a source.yaml nor a source that ships with ehrseq."
        f"{closest(str(name), shipped)} Shipped: {', '.join(shipped)}."
    )


def shipped_sources() -> dict[str, Path]:
    """Sources that come with ehrseq: name to folder."""
    return {path.name: path for path in sorted(_shared().iterdir()) if (path / "source.yaml").is_file()}


def _shared() -> Path:
    """The folder of what ships with ehrseq; its own ConceptMaps are there for every source."""
    package = Path(ehrseq.__file__).parent
    return next(
        path for path in (package / "fhir_mappings", package.parent / "fhir_mappings") if path.is_dir()
    )


def load_mappings(folder: Path) -> MappingSet:
    """Read and check a source's folder. Raises: MappingError that lists every problem."""
    return _load(Path(folder).absolute(), fingerprint(folder))


@lru_cache(maxsize=8)
def _load(folder: Path, fingerprint: str) -> MappingSet:  # the fingerprint is part of the cache's key
    mappings, problems = check(folder)
    if problems or mappings is None:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise MappingError(
            f"{folder}: {len(problems)} problem{'s' * (len(problems) != 1)} in the mappings:\n{lines}"
        )
    return mappings


def inherited(folder: Path) -> list[Path]:
    """The folders that a source is made of: the one it extends, if any, first.

    Raises: MappingError if that is neither a shipped source nor a folder beside this one, or extends this one.
    """
    chain, seen = [Path(folder)], {Path(folder).resolve()}
    while (path := chain[0] / "source.yaml").is_file():
        document = load_yaml(path, MappingError)
        name = document.value.get(EXTENDS) if isinstance(document.value, dict) else None
        if name is None:
            break
        beside = chain[0].parent / str(name)
        options = {**shipped_sources(), **({str(name): beside} if (beside / "source.yaml").is_file() else {})}
        if not isinstance(name, str) or Path(name).name != name or name not in options:
            raise MappingError(
                f"{document.at((EXTENDS,))}  `{name}` is neither a source that ships with ehrseq nor a folder "
                f"beside this one.{closest(str(name), options)}"
            )
        if options[name].resolve() in seen:
            raise MappingError(f"{document.at((EXTENDS,))}  `{name}` extends this source: a circle.")
        seen.add(options[name].resolve())
        chain.insert(0, options[name])
    return chain


def mapping_files(folder: Path) -> list[Path]:
    """The files that decide what a source's mappings make, those that it inherits or shares included."""
    return [path for part in (_shared(), *inherited(folder)) for path in _files(part)]


def _files(part: Path) -> list[Path]:
    return sorted([*part.glob("*.yaml"), *(part / "conceptmaps").glob("*.json")], key=os.fspath)


def fingerprint(folder: Path) -> str:
    """Hash of `mapping_files`: of what they say, wherever the folders stand."""
    parts = [
        [[path.relative_to(part).as_posix(), sha256_file(path)] for path in _files(part)]
        for part in (_shared(), *inherited(folder))
    ]
    return content_hash(parts)


def check(folder: Path) -> tuple[MappingSet | None, list[Problem]]:
    """Read a source's folder; returns the mappings (None if a file cannot be read) and all problems found."""
    problems: list[Problem] = []
    if astray := _astray(Path(folder)):
        return None, astray
    try:
        chain = inherited(folder)
        source = _source(chain)
    except MappingError as error:
        return None, [_problem(error)]
    maps: dict[str, ConceptMap] = {}
    folders = [part / "conceptmaps" for part in (_shared(), *chain)]
    for path in [path for part in folders for path in sorted(part.glob("*.json"))]:
        try:
            maps[path.stem] = load_concept_map(path)
        except MappingError as error:
            problems.append(_problem(error))
    found: list[Mapping] = []
    for name, path in _mapping_paths(chain).items():
        try:
            if (mapping := _mapping(chain, name, path, source)) is not None:
                found.append(mapping)
        except EhrseqError as error:
            problems.append(_problem(error))
    if not found and not problems:
        problems.append(Problem(str(folder), "holds no mapping files (*.yaml beside source.yaml)."))
    problems += _strange_subjects(source)
    unread = bool(problems)
    by_name = {mapping.name: mapping for mapping in found}
    for mapping in found:
        problems += problems_of(source, mapping, by_name, maps)
    if not unread:  # a file that cannot be read may well use them
        problems += _unmapped_tables(source, found)
    ordered, circle = _ordered(found)
    problems += circle
    return MappingSet(source, tuple(ordered), maps, Path(folder)), sorted(problems)


def _astray(folder: Path) -> list[Problem]:
    """Files of a source that are links out of its folder."""
    home = folder.resolve()
    paths = [*folder.glob("*.yaml"), *folder.glob("conceptmaps/*.json"), *folder.glob("cases/*.yaml")]
    return [
        Problem(f"{path}:1", "is a link that leads out of this folder. Put the file itself here.")
        for path in sorted(paths)
        if not path.resolve().is_relative_to(home)
    ]


def _source(chain: list[Path]) -> Source:
    """The declaration of a source, each folder's over that which it extends."""
    if not (path := chain[-1] / "source.yaml").is_file():
        raise MappingError(
            f"{chain[-1]}: has no source.yaml, which declares the tables and columns of a source."
        )
    document = load_yaml(chain[0] / "source.yaml", MappingError)
    for part in chain[1:]:
        document = merged(document, load_yaml(part / "source.yaml", MappingError))
    return parse_source(document, path.parent)


def _mapping_paths(chain: list[Path]) -> dict[str, Path]:
    """Mapping files by name; a later folder's stand for those of the same name before."""
    paths = {
        path.stem: path
        for part in chain
        for path in sorted(part.glob("*.yaml"))
        if path.name != "source.yaml"
    }
    return dict(sorted(paths.items()))


def _mapping(chain: list[Path], name: str, path: Path, source: Source) -> Mapping | None:
    """Read a mapping, over the one it extends; None if the file takes an inherited one away."""
    document = load_yaml(path, MappingError)
    value = document.value
    before = _mapping_paths(chain[: chain.index(path.parent)])
    if isinstance(value, dict) and set(value) == {REMOVE}:
        if name not in before:
            raise MappingError(
                f"{document.at(())}  there is no inherited mapping `{name}` to remove.{closest(name, before)}"
            )
        return None
    if isinstance(value, dict) and EXTENDS in value:
        base = str(value.pop(EXTENDS))
        if base not in before:
            raise MappingError(
                f"{document.at((EXTENDS,))}  there is no inherited mapping `{base}`.{closest(base, before)}"
            )
        document = merged(load_yaml(before[base], MappingError), document)
    return parse_mapping(document, name, source)


def _problem(error: EhrseqError) -> Problem:
    place, _, message = str(error).partition("  ")
    return Problem(place, message) if message else Problem("", str(error))


def _unmapped_tables(source: Source, mappings: list[Mapping]) -> list[Problem]:
    """Tables that nothing uses and that are not said to be skipped."""
    used = {mapping.table for mapping in mappings} | {join.table for m in mappings for join in m.joins}
    place = str(source.folder / "source.yaml")
    return [
        Problem(place, f"table {name} is used by no mapping. Map it, or say `skip: reason`.")
        for name, table in source.tables.items()
        if name not in used and table.skip is None
    ]


def _strange_subjects(source: Source) -> list[Problem]:
    """Tables whose subject column has another type than that of the others: their rows would never meet."""
    mapped = [table for table in source.tables.values() if table.subject and table.skip is None]
    found = []
    for table in mapped[1:]:
        kind, usual = table.columns[table.subject or ""], mapped[0].columns[mapped[0].subject or ""]
        if kind != usual:
            message = f"`{table.subject}` is {kind} in table {table.name}, but {usual} in {mapped[0].name}."
            found.append(
                Problem(str(source.folder / "source.yaml"), f"{message} A patient has one type of number.")
            )
    return found


def _ordered(mappings: list[Mapping]) -> tuple[list[Mapping], list[Problem]]:
    """Mappings sorted so that each follows what it refers to; itself excepted."""
    waiting = {mapping.name: (mapping, references_of(mapping) - {mapping.name}) for mapping in mappings}
    done: list[Mapping] = []
    while waiting:
        names = {m.name for m in done}
        ready = sorted(
            name for name, (_, needs) in waiting.items() if needs <= names | (needs - waiting.keys())
        )
        if not ready:
            name = min(waiting)
            mapping = waiting[name][0]
            circle = ", ".join(sorted(waiting))
            return done, [
                Problem(f"{mapping.document.path}:1", f"mappings refer to each other in a circle: {circle}.")
            ]
        done += [waiting.pop(name)[0] for name in ready]
    return done, []


def references_of(mapping: Mapping) -> set[str]:
    """Names of the mappings that a mapping refers to."""
    return {node.mapping for _, node in walk(mapping.template) if isinstance(node, Reference)}
