"""Cases beside mappings: rows in, exact resources out. Documentation, test and golden file in one."""

import difflib
import io
import json
from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass
from typing import Any

import polars as pl

from ehrseq.core.errors import MappingError, closest
from ehrseq.core.yaml_lines import Document, check_keys, load_yaml
from ehrseq.fhir.ndjson import write_ndjson
from ehrseq.mapping.bucket import map_rows
from ehrseq.mapping.compile import Plan, compile_mappings
from ehrseq.mapping.specification import MappingSet
from ehrseq.sources.declaration import Table
from ehrseq.sources.rejects import FILTERED, REJECTED, Reject, join_rejects
from ehrseq.sources.tables import typed_rows

_CASE_KEYS = {"case", "rows", "resources", "filtered", "rejected"}


@dataclass(frozen=True)
class Outcome:
    """How a case went; `difference` is empty when it passed."""

    mapping: str
    case: str
    place: str
    difference: str

    @property
    def passed(self) -> bool:
        """Whether the mapping made exactly what the case expects."""
        return not self.difference


def run_cases(mappings: MappingSet, names: list[str] | None = None) -> list[Outcome]:
    """Run the cases of the mappings called `names` (default: all). A mapping without cases fails, but inherited ones
    are proven where they come from.

    Raises: MappingError if a case file cannot be read or a name is unknown.
    """
    known = [mapping.name for mapping in mappings.mappings]
    for name in names or []:
        if name not in known:
            raise MappingError(f"{mappings.folder}: no mapping `{name}`.{closest(name, known)}")
    plans = {plan.mapping.name: plan for plan in compile_mappings(mappings)}
    return [outcome for name in sorted(names or known) for outcome in _run_file(mappings, plans[name])]


def _run_file(mappings: MappingSet, plan: Plan) -> Iterator[Outcome]:
    path = mappings.folder / "cases" / f"{plan.mapping.name}.yaml"
    if not path.is_file():
        if plan.mapping.document.path.parent != mappings.folder:
            return
        yield Outcome(
            plan.mapping.name, "-", str(path), "there is no such file: a mapping has at least one case"
        )
        return
    document = load_yaml(path, MappingError)
    if not isinstance(document.value, list) or not document.value:
        raise MappingError(
            f"{path}:1  expected a list of cases: [{{case, rows, resources | filtered | rejected}}]."
        )
    for index, case in enumerate(document.value):
        check_keys(document, (index,), case, _CASE_KEYS, MappingError)
        expected = {key: case.get(key, []) for key in ("resources", FILTERED, REJECTED)}
        found = _map_case(mappings, plan, document, index, case.get("rows", {}))
        difference = _difference(expected, found)
        yield Outcome(plan.mapping.name, str(case.get("case", index + 1)), document.at((index,)), difference)


def made_of(mappings: MappingSet, name: str, rows: Map[str, list[Map[str, Any]]]) -> dict[str, list[Any]]:
    """What the mapping called `name` makes of rows: `resources`, and `filtered` or `rejected` if there are any."""
    plan = next(plan for plan in compile_mappings(mappings) if plan.mapping.name == name)
    made = _map_case(mappings, plan, plan.mapping.document, 0, rows)
    return {key: value for key, value in made.items() if value or key == "resources"}


def _map_case(
    mappings: MappingSet, plan: Plan, document: Document, index: int, rows: Map[str, list[Map[str, Any]]]
) -> dict[str, list[Any]]:
    source = mappings.source
    for name in rows:
        if name not in source.tables:
            hint = closest(name, source.tables)
            raise MappingError(f"{document.at((index, 'rows', name))}  table `{name}` is not declared.{hint}")
    read = {name: case_rows(table, rows.get(name, []), document.at((index, "rows", name)))
            for name, table in source.tables.items()}  # fmt: skip
    own_shared = source.tables[plan.mapping.table].shared
    tables = {name: frame for name, (frame, _) in read.items() if source.tables[name].shared == own_shared}
    lookups = {name: frame for name, (frame, _) in read.items() if name not in tables}
    mapped = map_rows([plan], tables, lookups, {}, check_references=False, full_validation=1.0)
    unread = read[plan.mapping.table][1]
    filtered = [r for outcome, r, hit in mapped.verdicts[plan.mapping.table].final("") for _ in range(hit.sum())
                if outcome == FILTERED and r]  # fmt: skip
    return {
        "resources": [
            item for resource, frame in mapped.resources.items() for item in as_json(frame, resource)
        ],
        FILTERED: sorted(filtered),
        REJECTED: sorted(join_rejects([unread, mapped.rejects])[Reject.rule].to_list()),
    }


def case_rows(table: Table, rows: list[Map[str, Any]], place: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows of a case, read as those of a file are: (typed rows, rejects). Columns left out are null."""
    for row in rows:
        for column in row:
            if column not in table.columns:
                hint = closest(column, table.columns)
                raise MappingError(f"{place}  table {table.name} has no column `{column}`.{hint}")
    texts = {name: [_text(row.get(name), table.null_values) for row in rows] for name in table.columns}
    frame = pl.DataFrame(texts, schema=dict.fromkeys(table.columns, pl.String))
    numbered = frame.with_columns(_row=1 + pl.int_range(frame.height, dtype=pl.Int64, eager=True))
    return typed_rows(table, numbered.with_columns(_file=pl.lit(table.name)))


def _text(value: Any, nulls: tuple[str, ...]) -> str | None:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return None if value is None or text in nulls else text


def as_json(resources: pl.DataFrame, resource_type: str) -> list[dict[str, Any]]:
    """Resources as FHIR JSON objects, without provenance columns."""
    stream = io.BytesIO()
    write_ndjson(resources.select(pl.exclude("^_.*$")), resource_type, stream)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def _difference(expected: Map[str, Any], found: Map[str, Any]) -> str:
    """A unified diff of what was expected and what was made; empty if they are equal."""
    left = {**expected, FILTERED: sorted(expected[FILTERED]), REJECTED: sorted(expected[REJECTED])}
    if left == found:
        return ""
    old, new = (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) for value in (left, found))
    return "\n".join(
        difflib.unified_diff(old.splitlines(), new.splitlines(), "expected", "made", lineterm="", n=2)
    )
