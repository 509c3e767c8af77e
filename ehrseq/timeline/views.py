"""ViewDefinitions over FHIR resources, as one lazy polars plan.

The frame holds one resource a row. Each select adds columns to it; `forEach` explodes it; `unionAll` stacks copies
of it; the result columns are picked at the end. While the plan is built, result columns are called `=name` and the
items that a `forEach` walks over `@n`, so they never meet the resource's own.

>>> patients = pl.DataFrame({"id": ["p"], "name": [[{"family": "F"}, {"family": "G"}]]})
>>> columns = [{"name": "id", "path": "getResourceKey()"}, {"name": "family", "path": "name.family.first()"}]
>>> run_view(view_of({"resource": "Patient", "select": [{"column": columns}]}), patients).rows()
[('p', 'F')]
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

import polars as pl
from polars.exceptions import ComputeError

from ehrseq.core.errors import TimelineError
from ehrseq.core.yaml_lines import Where
from ehrseq.timeline.compile import Scope, compiled, condition, literal
from ehrseq.timeline.definition import Column, Select, View, view_of
from ehrseq.timeline.values import Value, resource, settled, single

__all__ = ["Plan", "plan_view", "run_view", "view_of"]

_DTYPES: dict[str, pl.DataType] = {
    "boolean": pl.Boolean(),
    "decimal": pl.Float64(),
    **dict.fromkeys(("integer", "integer64", "positiveInt", "unsignedInt"), pl.Int64()),
}
_DEEPEST_REPEAT = 64
_SCHEMAS_KEPT = 8


@dataclass(frozen=True)
class Plan:
    """A view over one frame: `frame` gives the rows, `reads` are the resource's elements it looks at."""

    frame: pl.LazyFrame
    reads: frozenset[str]


def plan_view(view: View, frame: pl.LazyFrame) -> Plan:
    """Compile a view for resources of its type. Raises: TimelineError with file and line.

    `frame`: top-level elements as columns, lists as List, objects as Struct; elements may be missing. The result has
    the view's columns: Boolean, Int64, Float64 or String by the column's FHIR type (lists of it for collections).
    """
    builder = _Builder(view, frame.collect_schema())
    kept = frame
    for index, path in enumerate(view.where):
        kept = kept.filter(builder.condition(path, ("where", index, "path")))
    made = builder.select(view.select, kept, builder.scope)
    return Plan(
        made.select(pl.col(f"={name}").alias(name) for name in view.columns), frozenset(builder.reads)
    )


def run_view(view: View, frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """The rows of a view. Raises: TimelineError, also where a path of one value has several in some row."""
    try:
        return plan_view(view, frame.lazy()).frame.collect()
    except ComputeError as error:
        raise several_values(view, error) from error


def several_values(view: View, error: ComputeError) -> TimelineError:
    """What polars' complaint about `.item()` means to the author of a view; other complaints are passed on."""
    if "'item'" not in str(error):
        raise error
    return TimelineError(
        f"{view.document.path}  some {view.resource} has several values where a column may hold one. "
        "Say which with first() or where(...), or set `collection: true`."
    )


@dataclass
class _Builder:
    """Compiles one view for frames of one schema. Paths are compiled once: a store has many buckets of one schema."""

    view: View
    schema: pl.Schema
    reads: set[str] = field(default_factory=set)
    numbers: "count[int]" = field(default_factory=count)
    done: dict[tuple[str, str], tuple[Value, frozenset[str]]] = field(init=False)

    def __post_init__(self) -> None:
        key = tuple(self.schema.items())
        if len(self.view.compiled) >= _SCHEMAS_KEPT and key not in self.view.compiled:
            self.view.compiled.clear()
        self.done = self.view.compiled.setdefault(key, {})

    @property
    def scope(self) -> Scope:
        constants = {name: literal(*constant) for name, constant in self.view.constants.items()}
        return Scope(resource(self.schema, self.view.resource), constants, pl.lit(0, dtype=pl.Int64))

    def located[T](self, where: Where, path: str, make: Callable[[], T]) -> T:
        """Add file and line to what `make` raises."""
        try:
            return make()
        except TimelineError as error:
            problem = str(error)
            quoted = "" if problem.startswith("`") else f"`{path}`: "
            raise TimelineError(
                f"{self.view.document.at(where)}  {quoted}{problem}.".replace("..", ".")
            ) from error

    def value(self, path: str, scope: Scope, where: Where) -> Value:
        key = path, f"{scope.this.expr} {scope.row_index}"
        if key not in self.done:
            value = self.located(where, path, lambda: compiled(path, scope))
            parts = (value, *(value.choices or {}).values())
            names = {name for part in parts for name in part.expr.meta.root_names()}
            self.done[key] = value, frozenset(names.intersection(self.schema))
        value, reads = self.done[key]
        self.reads |= reads
        return value

    def condition(self, path: str, where: Where) -> pl.Expr:
        value = self.value(path, self.scope, where)
        return self.located(where, path, lambda: condition(value))

    def settled(self, path: str, scope: Scope, where: Where) -> Value:
        value = self.value(path, scope, where)
        return self.located(where, path, lambda: settled(value))

    def select(self, select: Select, frame: pl.LazyFrame, scope: Scope) -> pl.LazyFrame:
        """Add the columns of one select, walking first if it says so."""
        if select.mode == "repeat":
            levels = self.repeat(select, frame, scope)
            plain = replace(select, mode="", paths=())
            kept = [*frame.collect_schema().names(), *(f"={name}" for name in select.names())]
            return pl.concat(
                [self.select(plain, *level).select(kept) for level in levels], how="vertical_relaxed"
            )
        if select.mode:
            frame, scope = self.for_each(select, frame, scope)
        frame = frame.with_columns(self.column(column, scope) for column in select.columns)
        for nested in select.selects:
            frame = self.select(nested, frame, scope)
        if select.union:
            kept = [*frame.collect_schema().names(), *(f"={name}" for name in select.union[0].names())]
            frame = pl.concat(
                [self.select(part, frame, scope).select(kept) for part in select.union], how="vertical"
            )
        return frame

    def for_each(self, select: Select, frame: pl.LazyFrame, scope: Scope) -> tuple[pl.LazyFrame, Scope]:
        """One row for each item of the path; `forEachOrNull` keeps rows without items."""
        path, where, number = select.paths[0], (*select.where, select.mode), next(self.numbers)
        value = self.settled(path, scope, where)
        frame = self.explode(frame, value, number, or_null=select.mode == "forEachOrNull")
        this = Value(pl.col(f"@{number}"), value.dtype, type=value.type)
        return frame, replace(scope, this=this, row_index=pl.col(f"#{number}").fill_null(0))

    def explode(self, frame: pl.LazyFrame, value: Value, number: int, *, or_null: bool) -> pl.LazyFrame:
        item, index = f"@{number}", f"#{number}"
        if not value.many:
            frame = frame.with_columns(value.expr.alias(item), pl.lit(0, dtype=pl.Int64).alias(index))
            return frame if or_null else frame.filter(pl.col(item).is_not_null())
        frame = frame.with_columns(value.expr.alias(item))
        frame = frame.with_columns(pl.int_ranges(pl.col(item).list.len().cast(pl.Int64)).alias(index))
        return frame.explode(item, index, empty_as_null=or_null, keep_nulls=or_null)

    def repeat(self, select: Select, frame: pl.LazyFrame, scope: Scope) -> list[tuple[pl.LazyFrame, Scope]]:
        """Walk the paths again and again, as deep as the frame's schema goes; one frame for each depth and path.

        Rows are numbered in reading order (an item, then what is below it) for `%rowIndex`.
        """
        number, where = next(self.numbers), (*select.where, "repeat")
        row, key, index = f"@row{number}", f"@key{number}", f"#{number}"
        start = frame.with_row_index(row).with_columns(pl.lit("").alias(key))
        waiting, levels = [(start, scope.this, 0)], []
        faults: dict[str, TimelineError | None] = {}
        while waiting:
            above, this, depth = waiting.pop(0)
            for order, path in enumerate(select.paths):
                try:
                    below = self.settled(path, scope.at(this), where)
                except TimelineError as error:  # a path need not be legal at every depth, only at one
                    faults.setdefault(path, error)
                    continue
                faults[path] = None
                if below.empty or depth >= _DEEPEST_REPEAT:
                    continue
                step = next(self.numbers)
                walked = self.explode(above, below, step, or_null=False)
                place = pl.col(f"#{step}").cast(pl.String).str.zfill(8)
                walked = walked.with_columns((pl.col(key) + f".{order}" + place).alias(key))
                item = Value(pl.col(f"@{step}"), below.dtype, type=below.type)
                waiting.append((walked, item, depth + 1))
                levels.append((walked, item))
        if fault := next(filter(None, faults.values()), None):
            raise fault
        if not levels:
            walked = start.filter(pl.lit(False))
            return [(walked, replace(scope, this=Value(pl.lit(None), pl.Null())))]
        places = pl.concat([level.select(row, key) for level, _ in levels]).sort(row, key)
        places = places.with_columns(pl.int_range(pl.len()).over(row).alias(index))
        return [
            (
                level.join(places, on=[row, key], how="left"),
                replace(scope, this=item, row_index=pl.col(index)),
            )
            for level, item in levels
        ]

    def column(self, column: Column, scope: Scope) -> pl.Expr:
        value = self.settled(column.path, scope, column.where)
        dtype = self.located(column.where, column.path, lambda: _result_type(column, value))
        if not column.collection:
            return single(value).expr.cast(dtype).alias(f"={column.name}")
        items = value.expr if value.many else pl.concat_list(value.expr).list.drop_nulls()
        made = pl.lit([], dtype=pl.List(dtype)) if value.empty else items.cast(pl.List(dtype)).fill_null([])
        return made.alias(f"={column.name}")


def _result_type(column: Column, value: Value) -> pl.DataType:
    """The dtype a column promises, whatever elements the store has."""
    if isinstance(value.dtype, pl.Struct) and column.type is None:
        return value.dtype
    if isinstance(value.dtype, pl.Struct):
        raise TimelineError(f"column `{column.name}` is an object ({value.type}), not a {column.type}")
    return _DTYPES.get(
        column.type or value.type or "", pl.String() if value.empty or column.type else value.dtype
    )
