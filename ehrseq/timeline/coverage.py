"""Where each element of a FHIR store goes: to codes, values, text, times, attributes, references; or why it does not.

    coverage(FHIR)                     counted over every resource
    reasons in coverage.yaml           for elements that no event takes up

An element is a dotted path down to a primitive, as FHIR names it; lists are transparent.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from ehrseq.core.database import cursor
from ehrseq.core.errors import TimelineError
from ehrseq.core.parquet import write_parquet
from ehrseq.core.yaml_lines import check_keys, load_yaml
from ehrseq.fhir.json_columns import JSON
from ehrseq.timeline.knowable import Kind, Knowledge, load_knowledge
from ehrseq.timeline.reads import paths_by_column
from ehrseq.timeline.schema import Element
from ehrseq.timeline.store import PLUMBING, FhirStore

REASONS = Path(__file__).parent / "coverage.yaml"
_ROWS = 50_000  # resources whose elements are looked at together
_STEM = ("system", "code", "display", "text", "systems", "codes")
_PLUMBING = PLUMBING - {"meta"} | {"resourceType"}


@dataclass(frozen=True)
class Coverage:
    """Rows of `schema.Element`, by resource type and path."""

    elements: pl.DataFrame

    @property
    def unexplained(self) -> pl.DataFrame:
        """Elements that reach no event, and for which there is no reason."""
        return self.elements.filter((pl.col("goes_to") == "") & pl.col("reason").is_null())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One row an element, those that nothing explains last and in yellow."""
        table = Table("element", "resources", "goes to", box=None, pad_edge=False, header_style="bold")
        table.columns[0].overflow, table.columns[1].justify = "fold", "right"
        for resource, path, count, roles, reason in self.elements.iter_rows():
            told = roles or (
                f"[dim]no event: {reason}[/]" if reason else "[yellow]no event, and nobody has said why[/]"
            )
            table.add_row(f"{resource}.{path}", f"{count:,}", told)
        yield table
        reached = self.elements.filter(pl.col("goes_to") != "").height
        yield (
            f"{reached:,} of {self.elements.height:,} elements reach the timeline, "
            f"{self.elements.height - reached - self.unexplained.height:,} do not for a reason, "
            f"{self.unexplained.height:,} without"
        )

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "elements": self.elements.to_dicts(),
            "unexplained": self.unexplained.select("resource_type", "path").rows(),
        }


def coverage(fhir: Path, *, views: Path | None = None, out: Path | None = None) -> Coverage:
    """Count the elements of every resource of the store at `fhir`, and say where each goes; `out`: also as Parquet.

    `views` as for `timeline`. Raises: SchemaError (no FHIR store), TimelineError (a view or table is wrong),
    StorageError.
    """
    store, knowledge = FhirStore.open(Path(fhir)), load_knowledge(Path(views) if views else None)
    counted: dict[str, Counter[str]] = {}
    for resource, bucket in store.shards:
        for frame in _slices(store.folder / resource / f"{bucket}.parquet"):
            counted.setdefault(resource, Counter()).update(present(frame))
    reasons = read_reasons()
    rows = [
        row
        for resource in sorted(counted)
        for row in _explained(resource, counted[resource], destinations(knowledge, resource), reasons)
    ]
    table = Coverage(pl.DataFrame(rows, schema=Element.polars_schema(), orient="row"))
    if out is not None:
        write_parquet(table.elements, Path(out))
    return table


def _explained(
    resource: str, counted: Mapping[str, int], goes: Mapping[str, set[str]], reasons: Mapping[str, str]
) -> Iterator[tuple[str, str, int, str, str | None]]:
    for path, count in sorted(counted.items()):
        roles = ", ".join(sorted(goes.get(path, ())))
        yield resource, path, count, roles, None if roles else reason_of(resource, path, reasons)


def _slices(path: Path) -> Iterator[pl.DataFrame]:
    whole = pl.scan_parquet(path)
    rows = int(whole.select(pl.len()).collect().item())
    for start in range(0, rows, _ROWS):
        yield whole.slice(start, _ROWS).collect()


def present(frame: pl.DataFrame) -> Counter[str]:
    """How many resources of a store's shard have each element.

    >>> frame = pl.DataFrame({"id": ["a", "b"], "code": [{"coding": [{"code": "x"}, {"code": "y"}]}, None]})
    >>> sorted(present(frame).items())
    [('code.coding.code', 1)]
    """
    if JSON in frame.columns:
        return _present_in_json(frame[JSON])
    found: Counter[str] = Counter()
    rows = np.arange(frame.height)
    for name in frame.columns:
        if name not in _PLUMBING:
            _count(name, frame[name], rows, found)
    return found


def _count(path: str, column: pl.Series, rows: NDArray[np.int64], found: Counter[str]) -> None:
    """Count the distinct `rows` (ascending) in which something stands at `path` or below."""
    dtype = column.dtype
    if isinstance(dtype, pl.List):
        lengths = column.list.len().fill_null(0).to_numpy()
        items = column.explode(empty_as_null=False, keep_nulls=False)
        _count(path, items, np.repeat(rows, lengths), found)
    elif isinstance(dtype, pl.Struct):
        for part in dtype.fields:
            _count(f"{path}.{part.name}", column.struct.field(part.name), rows, found)
    elif column.null_count() < len(column):
        there = rows[column.is_not_null().to_numpy()]
        found[path] += int((np.diff(there, prepend=-1) > 0).sum())


def _present_in_json(texts: pl.Series) -> Counter[str]:
    """The same of JSON texts: few are shaped differently, so only the shapes are looked at one by one."""
    frame = texts.alias(JSON).to_frame()
    with cursor() as database:
        database.register("texts", frame.to_arrow())
        query = f"SELECT json_structure({JSON})::VARCHAR, count(*) FROM texts GROUP BY 1"
        shapes = database.sql(query).fetchall()
    found: Counter[str] = Counter()
    for shape, count in shapes:
        for path in set(_paths(json.loads(shape), "")):
            if path.split(".")[0] not in _PLUMBING:
                found[path] += count
    return found


def _paths(shape: Any, path: str) -> Iterator[str]:
    if isinstance(shape, dict):
        for name, below in shape.items():
            yield from _paths(below, f"{path}.{name}" if path else name)
    elif isinstance(shape, list):
        for below in shape:
            yield from _paths(below, path)
    elif shape != "NULL":
        yield path


def destinations(knowledge: Knowledge, resource: str) -> dict[str, set[str]]:
    """What becomes of each element of a resource type that some event takes up: path → roles."""
    goes: dict[str, set[str]] = {}
    paths = {name: paths_by_column(knowledge.views[name]) for name in knowledge.views_of(resource)}
    for columns in paths.values():
        for path in columns.get("", ()):
            goes.setdefault(path, set()).add("condition")
    for kind in knowledge.kinds:
        for column, role in _roles(kind):
            view, dot, name = column.rpartition(".")
            owner = view if dot else kind.view
            for path in paths.get(owner, {}).get(name, ()):
                goes.setdefault(path, set()).add(role)
    return goes


def _roles(kind: Kind) -> Iterator[tuple[str, str]]:
    """(column, role) of everything that a kind takes from its views."""
    for stem in (*kind.concept, *kind.answer):
        yield from ((f"{stem}_{part}", "code") for part in _STEM)
    yield from ((column, "code") for part in kind.parts for column in part)
    for name in kind.attributes:
        yield from ((f"{name}{part}", "attribute") for part in ("", "_unit", "_code", "_text", "_display"))
    times = [column for source in kind.sources for part in (*source.parts, source.unless) for column in part]
    roles: Mapping[str, Iterable[str]] = {
        "time": (*times, *kind.clinical_time, *kind.end_time, *(kind.elapsed or ())),
        "value": (*kind.value, *kind.unit),
        "text": (*kind.text, *(kind.note or ())),
        "condition": (kind.when,) if kind.when else (),
        "reference": ("subject", "resource_id", *kind.encounter, *(key for _, key in kind.join)),
    }
    yield from ((column, role) for role, columns in roles.items() for column in columns)


@lru_cache(maxsize=4)
def read_reasons(path: Path = REASONS) -> Mapping[str, str]:
    """Pattern of `Type.path` → why such elements reach no event, in order. Raises: TimelineError."""
    document = load_yaml(path, TimelineError)
    check_keys(document, (), document.value, {"reasons"}, TimelineError)
    found: dict[str, str] = {}
    for index, entry in enumerate(document.value["reasons"]):
        check_keys(document, ("reasons", index), entry, {"reason", "elements"}, TimelineError)
        found |= dict.fromkeys(entry["elements"], entry["reason"])
    return found


def reason_of(resource: str, path: str, reasons: Mapping[str, str]) -> str | None:
    """Why an element reaches no event; None if nobody has said. What holds for an element holds for all below it."""
    return next((why for pattern, why in reasons.items() if _fits(resource, path, pattern)), None)


def _fits(resource: str, path: str, pattern: str) -> bool:
    if "." not in pattern:
        return path == pattern or path.startswith(f"{pattern}.")
    full = f"{resource}.{path}"
    return fnmatchcase(full, pattern) or fnmatchcase(full, f"{pattern}.*")
