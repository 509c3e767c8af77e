"""Map the rows of some patients: every mapping in turn, and for every row a verdict.

A row is used (it made a resource, or was joined), rejected (something is wrong with it) or filtered (a declared
rule left it out). The first of these that is true for any mapping of the row counts.
"""

from collections.abc import Iterator, Sequence, Set
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import polars as pl
from polars.exceptions import ColumnNotFoundError, ComputeError, InvalidOperationError, PolarsError

from ehrseq.core.errors import MappingError
from ehrseq.core.parquet import row_groups, write_parquet
from ehrseq.fhir import validate
from ehrseq.fhir.merged import surviving
from ehrseq.mapping.compile import Link, Plan
from ehrseq.mapping.rows import common_dtype
from ehrseq.mapping.specification import Explode, Join, Mapping, expressions, walk
from ehrseq.mapping.verdicts import Verdicts
from ehrseq.sources.rejects import FILTERED, REJECTED, join_rejects, rejects

_INDEX = "~index"  # the row of the table
_LINE = "~line"  # the row after exploding
_SUBJECT = "~subject"  # whose row it is: who survives, if patients were merged
NOTHING = "no value"
_SLICE, _HELD = (
    262_144,
    1_000_000,
)  # rows made into resources at a time, and resources of a type held in memory
_SAMPLED = 500  # resources at most that a mapping's sample holds in a bucket
_PROVENANCE = ("_mapping", "_file", "_row")


@dataclass
class Made:
    """Resources by type; what is too much for memory waits in files below `spool`."""

    spool: Path | None = None
    frames: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    spooled: dict[str, list[Path]] = field(default_factory=dict)

    def add(self, resource: str, frame: pl.DataFrame) -> None:
        """Add resources of one type."""
        if not frame.height:
            return
        frames = self.frames.setdefault(resource, [])
        frames.append(frame)
        if self.spool is not None and sum(part.height for part in frames) >= _HELD:
            files = self.spooled.setdefault(resource, [])
            files.append(self.spool / f"{resource}-{len(files):05d}.parquet")
            write_parquet(frames, files[-1], compression="lz4", statistics=False)
            frames.clear()

    def __iter__(self) -> Iterator[tuple[str, Iterator[pl.DataFrame]]]:
        """Types in order, each with its resources in the order they were made, a part at a time."""
        for resource in sorted(self.frames):
            yield resource, chain(self._waiting(resource), self.frames[resource])

    def _waiting(self, resource: str) -> Iterator[pl.DataFrame]:
        for path in self.spooled.get(resource, []):
            whole = pl.scan_parquet(path)
            yield from row_groups(whole, whole.select(pl.len()).collect().item())


@dataclass
class Mapped:
    """What the rows of a bucket made: resources by type, verdicts by table, rejects, unmapped codes, ids.

    `validated` counts the resources that also went through `fhir.resources.R4B`.
    """

    made: Made
    verdicts: dict[str, Verdicts]
    rejects: pl.DataFrame
    unmapped: pl.DataFrame
    ids: dict[str, pl.Series]
    validated: int

    @property
    def resources(self) -> dict[str, pl.DataFrame]:
        """Resources by type, in memory."""
        return {name: pl.concat(frames) for name, frames in self.made}


def map_rows(
    plans: Sequence[Plan],
    tables: Map[str, pl.DataFrame],
    lookups: Map[str, pl.DataFrame],
    known: Map[str, pl.Series],
    *,
    merged: pl.DataFrame | None = None,
    spool: Path | None = None,
    check_references: bool = True,
    full_validation: float = 0.0,
) -> Mapped:
    """Map `tables` (frames with `_file`, `_row`), which hold all rows of some patients, or all shared rows.

    `lookups` are shared tables that may be joined; `known` are references already made by other mappings; `merged` says
    which subjects are one (retired, survivor). Resources beyond the first million of a type wait below `spool`, not in
    memory, if it is given. `full_validation` is the fraction of resources that also pass through
    `fhir.resources.R4B`.
    """
    owners = plans[0].owners if plans else {}
    tables = {
        name: frame.with_columns(surviving(frame[owners[name]], merged).alias(_SUBJECT))
        if name in owners
        else frame
        for name, frame in tables.items()
    }
    made = Made(spool)
    state = _State(tables, lookups, known, {link.target for plan in plans for link in plan.links}, made)
    for plan in plans:
        if plan.mapping.table in tables:
            try:
                state.map(plan, check_references, full_validation)
            except (ComputeError, InvalidOperationError) as error:
                raise MappingError(_failing(plan.mapping, tables, error)) from None
    rejected, unmapped = join_rejects(state.rejects), _count(state.unmapped)
    return Mapped(made, state.verdicts, rejected, unmapped, state.ids, state.validated)


UNMAPPED = pl.Schema({"map": pl.String, "value": pl.String, "rows": pl.Int64})


def _count(frames: list[pl.DataFrame]) -> pl.DataFrame:
    together = pl.concat([pl.DataFrame(schema=UNMAPPED), *frames])
    return together.group_by("map", "value").agg(pl.col("rows").sum()).sort("map", "value")


class _State:
    def __init__(
        self,
        tables: Map[str, pl.DataFrame],
        lookups: Map[str, pl.DataFrame],
        known: Map[str, pl.Series],
        targets: Set[str],
        made: "Made",
    ) -> None:
        indexed = {name: frame.with_row_index(_INDEX) for name, frame in {**lookups, **tables}.items()}
        self.tables = indexed
        self.verdicts = {name: Verdicts.on(frame.height) for name, frame in indexed.items()}
        self.lookups: dict[tuple[str, tuple[str, ...]], pl.DataFrame] = {}
        self.targets = targets  # mappings that something refers to
        self.ids = dict(known)
        self.whose: dict[str, pl.DataFrame] = {}
        self.made = made
        self.rejects: list[pl.DataFrame] = []
        self.unmapped: list[pl.DataFrame] = []
        self.validated = 0

    def map(self, plan: Plan, check_references: bool, full_validation: float) -> None:
        """Run one mapping over its table."""
        mapping = plan.mapping
        rows = self.tables[mapping.table]
        if mapping.explode:
            rows = self._explode(rows, plan, mapping.explode)
        rows = rows.with_row_index(_LINE)
        for join in mapping.joins:
            rows = self._join(rows, join, plan)
        for name, expression in plan.lets.items():
            rows = rows.with_columns(expression.alias(name))
        for skip in mapping.skips:
            hit = rows.select(pl.sql_expr(skip.when).fill_null(False)).to_series()
            if hit.any():
                self.verdicts[mapping.table].mark(FILTERED, skip.reason, rows.filter(hit)[_INDEX])
                rows = rows.filter(~hit)
        clocks = {clock.column for clock in plan.clocks}
        rows = rows.with_columns(
            plan.identifier.alias("~id"),
            *(plan.leaves[name].alias(name) for name in plan.leaves if name in clocks),
            *(pl.sql_expr(sql).alias(f"~winner{index}") for index, sql in enumerate(mapping.winner)),
        )
        for clock in plan.clocks:
            good = pl.col(clock.column).is_not_null() | clock.reading.is_null()
            rows = self._keep(plan, rows, good, clock.rule, clock.element, clock.message)
        rows = self._keep(plan, rows, pl.col("~id").is_not_null(), "key", "key", "part of the key is missing")
        for rule in mapping.rejects:
            good = ~pl.sql_expr(rule.when).fill_null(False)
            rows = self._keep(plan, rows, good, rule.reason, None, f"{rule.reason}: {rule.when}")
        if not mapping.gather:
            rows = self._winners(plan, rows)
        rest = [plan.leaves[name].alias(name) for name in plan.leaves if name not in clocks]
        together = mapping.gather or any(link.target == mapping.name for link in plan.links)
        for part in rows.iter_slices(max(rows.height, 1) if together else _SLICE):
            rows = part.with_columns(rest)
            made = rows.select(pl.col("~id").alias("id"), *plan.resource)
            rows, made = self._valid(plan, rows, made, full_validation)
            if check_references:
                rows, made = self._resolved(plan, rows, made)
            if mapping.gather:
                rows, made = self._gathered(plan, rows, made)
            self._finish(plan, rows, made)

    def _explode(self, rows: pl.DataFrame, plan: Plan, explode: Explode) -> pl.DataFrame:
        """One row for each value, in the order of rows and columns; rows without any are filtered."""
        if explode.by:
            pieces = pl.col(explode.columns[0]).str.split(explode.by).alias(explode.value)
            long = rows.with_columns(pieces).explode(explode.value)
            long = long.with_columns(pl.col(explode.value).str.strip_chars())
            if explode.value != explode.columns[0]:
                long = long.drop(explode.columns[0])
            long = long.filter(pl.col(explode.value) != "")
        else:
            dtype = common_dtype([rows.schema[name] for name in explode.columns])
            kept = [name for name in rows.columns if name not in explode.columns]
            long = rows.with_columns(pl.col(explode.columns).cast(dtype)).unpivot(
                explode.columns, index=kept, variable_name=explode.name, value_name=explode.value
            )
            long = long.drop_nulls(explode.value).sort(_INDEX, maintain_order=True)
            if explode.attributes:
                about = {explode.name: explode.columns, **explode.attributes}
                long = long.join(
                    pl.DataFrame(about, strict=False), on=explode.name, how="left", maintain_order="left"
                )
        empty = rows.join(long.select(_INDEX).unique(), on=_INDEX, how="anti")
        if empty.height:
            self.verdicts[plan.mapping.table].mark(FILTERED, NOTHING, empty[_INDEX])
        return long

    def _gathered(
        self, plan: Plan, rows: pl.DataFrame, made: pl.DataFrame
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """One resource for each id: the gathered lists of all its rows together, the rest of its first row."""
        self.verdicts[plan.mapping.table].used[rows[_INDEX].to_numpy()] = True
        first = rows.unique("~id", keep="first", maintain_order=True)
        gathered = [
            pl.col(name).explode().drop_nulls() if name in plan.mapping.gather else pl.col(name).first()
            for name in made.columns
            if name != "id"
        ]
        return first, made.group_by("id", maintain_order=True).agg(gathered).select(made.columns)

    def _join(self, rows: pl.DataFrame, join: Join, plan: Plan) -> pl.DataFrame:
        """The rows with their partners, who belong to the same subject if they belong to any."""
        mine, theirs = plan.owners.get(plan.mapping.table), plan.owners.get(join.table)
        owned = mine is not None and theirs is not None and theirs not in join.right_keys
        lookup = self._lookup(join, owned)
        special = {_INDEX: f"~joined {join.table}", _SUBJECT: "~whose"}
        names = {
            name: special.get(name, join.prefix + name)
            for name in lookup.columns
            if name not in join.right_keys
        }
        lefts, rights = [left for left, _ in join.on], list(join.right_keys)
        lookup = lookup.rename(names)
        if owned:
            lefts, rights = [*lefts, _SUBJECT], [*rights, "~whose"]
        if join.asof is None:
            return rows.join(lookup, left_on=lefts, right_on=rights, how="left", maintain_order="left")
        left, right = join.asof
        right = names.get(right, right)
        timed = rows.sort(left, nulls_last=False, maintain_order=True)
        return timed.join_asof(
            lookup.sort(right, maintain_order=True), left_on=left, right_on=right, by_left=lefts, by_right=rights,
            strategy="backward", coalesce=False, check_sortedness=False,
        ).sort(_LINE)  # fmt: skip

    def _lookup(self, join: Join, owned: bool) -> pl.DataFrame:
        """The table of a join, unique by its keys (and time), for each subject if it is `owned`."""
        keys = (*join.right_keys, *((join.asof[1],) if join.asof else ()), *((_SUBJECT,) if owned else ()))
        if (join.table, keys) not in self.lookups:
            table = self.tables[join.table]
            if join.asof:
                table = table.drop_nulls(join.asof[1])
            unique = table.unique(list(keys), keep="first", maintain_order=True)
            if unique.height < table.height:
                losers = table.join(unique.select(_INDEX), on=_INDEX, how="anti")
                self.verdicts[join.table].mark(FILTERED, "duplicate key", losers[_INDEX])
            unused = ["_file", "_row", *([] if owned else [_SUBJECT])]
            self.lookups[join.table, keys] = unique.drop(unused, strict=False)
        return self.lookups[join.table, keys]

    def _keep(
        self, plan: Plan, rows: pl.DataFrame, good: pl.Expr, rule: str, element: str | None, message: str
    ) -> pl.DataFrame:
        """Rows where `good` holds; the others become rejects."""
        mask = rows.select(good).to_series()
        if mask.all():
            return rows
        self._reject(plan, rows.filter(~mask), rule, element, message)
        return rows.filter(mask)

    def _reject(self, plan: Plan, rows: pl.DataFrame, rule: str, element: str | None, message: str) -> None:
        mapping = plan.mapping
        self.verdicts[mapping.table].mark(REJECTED, rule, rows[_INDEX])
        self.rejects.append(
            rejects(rows, mapping.table, rule=rule, message=message, element=element, mapping=mapping.label,
                    version=str(mapping.version), key=pl.col("~id"))
        )  # fmt: skip

    def _winners(self, plan: Plan, rows: pl.DataFrame) -> pl.DataFrame:
        """One row for each id: the one with the greatest `winner` values, the last one if they tie."""
        if (
            rows["~id"].hash().n_unique() == rows.height
        ):  # far cheaper than the texts; a collision does no harm
            return rows
        order = [f"~winner{index}" for index in range(len(plan.mapping.winner))]
        best = rows.sort([*order, _LINE], nulls_last=False).unique("~id", keep="last")[_LINE]
        losers = rows.filter(~pl.col(_LINE).is_in(best.implode()))
        own = [name for name in self.tables[plan.mapping.table].columns if name in rows.columns]
        columns = [name for name in own if name not in (_INDEX, "_file", "_row")]
        if explode := plan.mapping.explode:
            columns += [name for name in (explode.name, explode.value) if name and name not in columns]
        same = rows.filter(rows.select(columns).is_duplicated())[_LINE]
        verdicts = self.verdicts[plan.mapping.table]
        verdicts.mark(FILTERED, "duplicate row", losers.filter(pl.col(_LINE).is_in(same.implode()))[_INDEX])
        verdicts.mark(FILTERED, "superseded", losers[_INDEX])
        return rows.filter(pl.col(_LINE).is_in(best.implode()))

    def _valid(
        self, plan: Plan, rows: pl.DataFrame, made: pl.DataFrame, full_validation: float
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Reject what breaks FHIR: columnar rules on every row, `fhir.resources.R4B` on a fraction.

        The first row speaks for all where an element is of one form in all; dates and clocks are well formed when the
        year has four digits.
        """
        resource = plan.mapping.resource
        known = plan.constant if validate.violations(made.head(1), resource).is_empty() else frozenset()
        dated = [name for name in plan.dated if name in made.columns]
        strange = made.select(pl.col(dated).str.contains("^([+-]|0000)").any()).row(0) if dated else ()
        known |= {name for name, is_strange in zip(dated, strange, strict=True) if not is_strange}
        found = validate.violations(made, resource, known_good=known)
        if full_validation > 0:
            limit = _SAMPLED if full_validation < 1 else None
            sampled = validate.full(made, resource, fraction=full_validation, limit=limit)
            found = pl.concat([found, sampled])
            self.validated += len(validate.sample(made, full_validation, limit=limit))
        if found.is_empty():
            return rows, made
        first = found.unique("index", keep="first", maintain_order=True)
        for (rule, element, message), part in first.group_by(
            "rule", "element", "message", maintain_order=True
        ):
            self._reject(plan, rows[part["index"]], str(rule), str(element), str(message))
        good = ~pl.int_range(rows.height, eager=True, dtype=pl.UInt32).is_in(first["index"].implode())
        return rows.filter(good), made.filter(good)

    def _resolved(
        self, plan: Plan, rows: pl.DataFrame, made: pl.DataFrame
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Reject dangling references, again and again where a mapping refers to itself."""
        name = plan.mapping.name
        while True:
            before = rows.height
            for link in plan.links:
                good = self._resolves(plan, rows, link)
                if not good.all():
                    self._reject(
                        plan,
                        rows.filter(~good),
                        "reference",
                        link.element,
                        f"refers to no resource of {link.target}",
                    )
                    rows, made = rows.filter(good), made.filter(good)
            if rows.height == before or all(link.target != name for link in plan.links):
                return rows, made

    def _resolves(self, plan: Plan, rows: pl.DataFrame, link: Link) -> pl.Series:
        """Whether a reference is absent, or to what was made: for the same subject, if it was made for any."""
        column, itself = rows[link.column], link.target == plan.mapping.name
        whose = _whose(plan, rows) if itself else self.whose.get(link.target)
        if whose is None or plan.mapping.table not in plan.owners:
            known = (
                f"{plan.mapping.resource}/" + rows["~id"] if itself else self.ids.get(link.target, _NO_IDS)
            )
            return column.is_null() | column.is_in(known.implode())
        asked = rows.select(pl.col(link.column).alias("~to"), pl.col(_SUBJECT).alias("~mine"))
        found = asked.join(whose, on="~to", how="left", maintain_order="left")
        same = (pl.col("~whose") == pl.col("~mine")).fill_null(False)
        return found.select(pl.col("~to").is_null() | same).to_series()

    def _finish(self, plan: Plan, rows: pl.DataFrame, made: pl.DataFrame) -> None:
        mapping = plan.mapping
        verdicts = self.verdicts[mapping.table]
        verdicts.used[rows[_INDEX].to_numpy()] = True
        verdicts.made[mapping.resource] = verdicts.made.get(mapping.resource, 0) + rows.height
        for join in mapping.joins:
            joined = rows[f"~joined {join.table}"].drop_nulls().unique()
            self.verdicts[join.table].used[joined.to_numpy()] = True
        if mapping.name in self.targets:
            made_here = f"{mapping.resource}/" + rows["~id"]
            self.ids[mapping.name] = pl.concat([self.ids.get(mapping.name, _NO_IDS), made_here])
            if (whose := _whose(plan, rows)) is not None:
                known = [self.whose[mapping.name]] if mapping.name in self.whose else []
                self.whose[mapping.name] = pl.concat([*known, whose])
        for item in plan.translations:
            missing = rows.filter(
                pl.col(item.value).is_not_null()
                & pl.col(item.code).is_null()
                & pl.col(item.present).is_not_null()
            )
            counted = missing.group_by(pl.col(item.value).alias("value")).agg(rows=pl.len().cast(pl.Int64))
            self.unmapped.append(counted.select(pl.lit(item.map).alias("map"), "value", "rows"))
        provenance = (pl.lit(mapping.label).alias("_mapping"), rows["_file"], rows["_row"])
        self.made.add(mapping.resource, made.with_columns(*provenance))


def _whose(plan: Plan, rows: pl.DataFrame) -> pl.DataFrame | None:
    """References to what the rows make, and the subject of each; None if they belong to no subject."""
    if plan.mapping.table not in plan.owners:
        return None
    made = rows.select(
        pl.format(f"{plan.mapping.resource}/{{}}", "~id").alias("~to"),
        pl.col(_SUBJECT).alias("~whose"),
    )
    return made.unique("~to", keep="first", maintain_order=True)


def _failing(mapping: Mapping, tables: Map[str, pl.DataFrame], error: PolarsError) -> str:
    """What to say of an expression that checks well and fails on the data, of which nothing is quoted."""
    place, found = mapping.document.at(("template",)), "an expression"
    casts = [
        (mapping.document.at(node.where), sql)
        for _, node in walk(mapping.template)
        for _, sql in expressions(node)
    ]
    for where, sql in casts:
        try:
            tables[mapping.table].select(pl.sql_expr(sql))
        except ColumnNotFoundError:
            continue  # of a join
        except PolarsError:
            if "CAST" in sql.upper() and "TRY_CAST" not in sql.upper():
                place, found = where, f"`{sql}`"
                break
    return (
        f"{place}  {found} fails on the data ({type(error).__name__}). Use TRY_CAST(… AS …) where a cast may "
        "fail; it gives null."
    )


_NO_IDS = pl.Series([], dtype=pl.String)
