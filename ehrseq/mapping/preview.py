"""Rows of a real source beside the resources they make: what a mapping's author looks at while writing it."""

from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.errors import MappingError, closest
from ehrseq.mapping.bucket import map_rows
from ehrseq.mapping.cases import as_json
from ehrseq.mapping.check import find_source, load_mappings
from ehrseq.mapping.compile import compile_mappings
from ehrseq.mapping.delivery import find_delivery
from ehrseq.mapping.spill import row_columns
from ehrseq.sources.tables import read_batches


@dataclass(frozen=True)
class Shown:
    """A row, the resource it made (None if it made none) and, if not, why."""

    row: Map[str, Any]
    resource: Map[str, Any] | None
    reason: str


def preview(source: str | Path, data: str | Path, mapping: str, *, rows: int = 3) -> list[Shown]:
    """The first `rows` rows of a mapping's table with what they make; joins see the first batch of each
    table.

    References are not checked. Raises: MappingError, SourceError.
    """
    mappings = load_mappings(find_source(source))
    plans = {plan.mapping.name: plan for plan in compile_mappings(mappings)}
    if mapping not in plans:
        raise MappingError(f"{mappings.folder}: no mapping `{mapping}`.{closest(mapping, plans)}")
    plan = plans[mapping]
    needed = [plan.mapping.table, *(join.table for join in plan.mapping.joins)]
    tables: dict[str, pl.DataFrame] = {}
    with find_delivery(mappings.source, data) as delivery:
        for name in needed:
            if name not in delivery.rows:
                raise MappingError(f"{delivery.place}: has no table {name}, which `{mapping}` reads.")
            table, first = mappings.source.tables[name], delivery.rows[name][0]
            batches = read_batches(table, [(first, delivery.label(first))])
            tables[name] = next(
                (batch for batch, _ in batches if batch.height), pl.DataFrame(schema=row_columns(table))
            )
    tables[plan.mapping.table] = shown = tables[plan.mapping.table].head(rows)
    mapped = map_rows([plan], tables, {}, {}, check_references=False)
    made = mapped.resources.get(plan.mapping.resource)
    by_row: dict[int, Map[str, Any]] = {}
    if made is not None:
        by_row = dict(zip(made["_row"].to_list(), as_json(made, plan.mapping.resource), strict=True))
    why = dict(mapped.rejects.select("row", "message").iter_rows())
    for _, reason, hit in mapped.verdicts[plan.mapping.table].final("made nothing"):
        for row in shown.filter(pl.Series(hit))["_row"]:
            why.setdefault(row, reason)
    return [
        Shown(
            {k: v for k, v in row.items() if not k.startswith("_")},
            by_row.get(row["_row"]),
            why.get(row["_row"], ""),
        )
        for row in shown.to_dicts()
    ]
