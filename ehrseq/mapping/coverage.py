"""`ehrseq mappings coverage`: what becomes of every declared column, so that none is forgotten unseen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import ExitCode
from ehrseq.mapping.check import find_source, load_mappings
from ehrseq.mapping.code_systems import CodeSystem, code_systems
from ehrseq.mapping.specification import Expression, Mapping, MappingSet, expressions, walk

MAPPED, KEY, IGNORED, FORGOTTEN = USES = ("mapped", "key", "ignored", "forgotten")
"""In this order: a column that several mappings read counts as the first that is true."""

type Column = tuple[str, str]


@dataclass(frozen=True)
class ColumnUse:
    """What becomes of a column: `use` is one of USES; `by` names mappings; `reason` says why it is ignored."""

    table: str
    column: str
    use: str
    by: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """Every declared column of a source and its use; of a mapped store, its code systems."""

    folder: str
    columns: list[ColumnUse]
    systems: list[CodeSystem] = field(default_factory=list)

    @property
    def forgotten(self) -> list[ColumnUse]:
        """Columns that no mapping reads and nobody has said to ignore."""
        return [item for item in self.columns if item.use == FORGOTTEN]

    @property
    def exit_code(self) -> ExitCode:
        """2 if a column is forgotten."""
        return ExitCode.USAGE if self.forgotten else ExitCode.DONE

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        counts = {use: sum(item.use == use for item in self.columns) for use in USES}
        listed = [
            {
                "table": item.table,
                "column": item.column,
                "use": item.use,
                "by": list(item.by),
                "reason": item.reason,
            }
            for item in self.columns
        ]
        systems = [vars(item) for item in self.systems]
        return {"folder": self.folder, "counts": counts, "columns": listed, "systems": systems}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One line a table; forgotten columns by name."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("table", no_wrap=True)
        for use in USES:
            table.add_column(use, justify="right")
        table.add_column("not mapped")
        for name in dict.fromkeys(item.table for item in self.columns):
            mine = [item for item in self.columns if item.table == name]
            lost = [item.column for item in mine if item.use == FORGOTTEN]
            left = Text(", ".join(item.column for item in mine if item.use == IGNORED), style="dim")
            counts = [str(sum(item.use == use for item in mine) or "") for use in USES]
            notes = Text.assemble((", ".join(lost), "yellow"), "; " if lost and left else "", left)
            table.add_row(name, *counts, notes)
        yield table
        total = len(self.forgotten)
        yield Text(f"{len(self.columns)} columns, {total} forgotten", style="yellow" if total else "")
        if self.systems:
            yield _systems_table(self.systems)


def _systems_table(systems: list[CodeSystem]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("code system")
    for name in ("values", "patients", "codes", "unmapped"):
        table.add_column(name, justify="right")
    table.add_column("commonest unmapped")
    for item in systems:
        numbers = (item.values, item.patients, item.codes, len(item.unmapped))
        table.add_row(Text(item.system), *(f"{n:,}" for n in numbers), Text(item.commonest, style="yellow"))
    return table


def coverage(source: str | Path, store: Path | None = None) -> Coverage:
    """Say of every column of a source whether it is mapped, used as a key or condition, ignored or forgotten.

    With `store`, which the source was mapped into: also what it holds of each code system.
    Raises: MappingError if the mappings themselves are wrong; SchemaError if `store` holds no resources.
    """
    folder = find_source(source)
    mappings = load_mappings(folder)
    found: dict[Column, ColumnUse] = {}
    for name, table in mappings.source.tables.items():
        for column in table.columns:
            use = IGNORED if table.skip else KEY if column == table.subject else FORGOTTEN
            found[name, column] = ColumnUse(name, column, use, reason=table.skip or "")
    for mapping in mappings.mappings:
        for place, use, reason in _uses(mappings, mapping):
            found[place] = _better(found[place], ColumnUse(*place, use, (mapping.name,), reason))
    return Coverage(str(folder), list(found.values()), code_systems(store, mappings) if store else [])


def _better(old: ColumnUse, new: ColumnUse) -> ColumnUse:
    if old.use == new.use:
        by = tuple(dict.fromkeys((*old.by, *new.by)))
        return ColumnUse(old.table, old.column, old.use, by, old.reason or new.reason)
    return min(old, new, key=lambda item: USES.index(item.use))


def _uses(mappings: MappingSet, mapping: Mapping) -> Iterator[tuple[Column, str, str]]:
    """(column, use, reason) of one mapping."""
    origin = _origins(mappings, mapping)
    for _, node in walk(mapping.template):
        yield from _read(origin, (sql for _, sql in expressions(node)), MAPPED)
    skips = [rule.when for rule in (*mapping.skips, *mapping.rejects)]
    yield from _read(origin, [*mapping.key, *mapping.winner, *skips], KEY)
    for join in mapping.joins:
        for left, right in (*join.on, *((join.asof,) if join.asof else ())):
            yield from ((place, KEY, "") for place in origin.get(left, ()))
            yield (join.table, right), KEY, ""
    for name, reason in mapping.ignore.items():
        yield from ((place, IGNORED, reason) for place in origin.get(name, ()))


def _read(
    origin: dict[str, list[Column]], sqls: Iterable[str], use: str
) -> Iterator[tuple[Column, str, str]]:
    for sql in sqls:
        for name in pl.sql_expr(sql).meta.root_names():
            yield from ((place, use, "") for place in origin.get(name, ()))


def _origins(mappings: MappingSet, mapping: Mapping) -> dict[str, list[Column]]:
    """Which declared columns stand behind each name that the mapping's expressions may use."""
    explode, tables = mapping.explode, mappings.source.tables
    origin: dict[str, list[Column]] = {
        name: [(mapping.table, name)] for name in tables[mapping.table].columns
    }
    if explode:
        parts = [place for column in explode.columns for place in origin.pop(column, [])]
        origin |= {name: parts for name in (explode.name, explode.value, *explode.attributes) if name}
    for join in mapping.joins:
        new = [name for name in tables[join.table].columns if name not in join.right_keys]
        origin |= {join.prefix + name: [(join.table, name)] for name in new}
    for let in mapping.lets:
        names = pl.sql_expr(let.node.sql).meta.root_names() if isinstance(let.node, Expression) else []
        origin[let.name] = [place for name in names for place in origin.get(name, ())]
    return origin
