"""What `ehrseq mappings list | check | test` return: facts for a screen or a program."""

from dataclasses import dataclass, field
from typing import Any

from ehrseq.core.errors import ExitCode, MappingError
from ehrseq.mapping.cases import Outcome, run_cases
from ehrseq.mapping.check import check, find_source, load_mappings, shipped_sources
from ehrseq.mapping.checker import Problem


@dataclass(frozen=True)
class Listing:
    """Sources and their mappings: (source, title, mapping, table, resource)."""

    rows: list[tuple[str, str, str, str, str]]
    broken: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """2 if a source cannot be read."""
        return ExitCode.USAGE if self.broken else ExitCode.DONE


@dataclass(frozen=True)
class Checked:
    """Problems found in a source's folder, or what stands there if there are none."""

    folder: str
    problems: list[Problem]
    mappings: int = 0
    tables: int = 0
    resources: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """2 if there is a problem."""
        return ExitCode.USAGE if self.problems else ExitCode.DONE


@dataclass(frozen=True)
class Tested:
    """Outcomes of cases."""

    folder: str
    outcomes: list[Outcome]

    @property
    def failed(self) -> list[Outcome]:
        """Cases whose mapping made something else than expected."""
        return [outcome for outcome in self.outcomes if not outcome.passed]

    @property
    def exit_code(self) -> ExitCode:
        """2 if a case failed."""
        return ExitCode.USAGE if self.failed else ExitCode.DONE


def listing() -> Listing:
    """All shipped sources with their mappings; what is wrong with one does not hide the others."""
    rows, broken = [], {}
    for name, folder in shipped_sources().items():
        try:
            mappings = load_mappings(folder)
        except MappingError as error:
            broken[name] = str(error)
            continue
        ordered = sorted(mappings.mappings, key=lambda mapping: mapping.name)
        rows += [(name, mappings.source.title, item.name, item.table, item.resource) for item in ordered]
    return Listing(rows, broken)


def checked(source: str) -> Checked:
    """Check a source's mappings; problems are returned, not raised."""
    folder = find_source(source)
    mappings, problems = check(folder)
    if problems or mappings is None:
        return Checked(str(folder), problems)
    resources = sorted({mapping.resource for mapping in mappings.mappings})
    return Checked(str(folder), [], len(mappings.mappings), len(mappings.source.tables), resources)


def tested(source: str, names: list[str] | None = None) -> Tested:
    """Run the cases of a source's mappings. Raises: MappingError if the mappings themselves are wrong."""
    folder = find_source(source)
    return Tested(str(folder), run_cases(load_mappings(folder), names))


def as_dict(item: Any) -> dict[str, Any]:
    """The same facts for `--json`."""
    match item:
        case Listing():
            keys = ("source", "title", "mapping", "table", "resource")
            rows = [dict(zip(keys, row, strict=True)) for row in item.rows]
            return {"mappings": rows, "broken": item.broken}
        case Checked():
            return {
                "folder": item.folder,
                "problems": [{"place": p.place, "message": p.message} for p in item.problems],
                "mappings": item.mappings,
            }
        case Tested():
            failed = [{"mapping": o.mapping, "case": o.case, "place": o.place} for o in item.failed]
            return {"folder": item.folder, "cases": len(item.outcomes), "failed": failed}
    raise TypeError(type(item).__name__)
