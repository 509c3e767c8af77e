"""Rejects and filtered rows are data: where the row stands and which rule stopped it."""

from collections.abc import Iterable

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema


class Reject(Schema):
    """One row that was stopped by one rule.

    `row` counts the data rows of `file` from 1 (the header is not counted). `mapping` is null when the row
    could not be read at all. `outcome` is "rejected" (something is wrong with it) or "filtered" (a declared
    rule leaves it out). `key` holds the row's key, so this table is as confidential as the source.
    """

    table = Required(pl.String)
    file = Required(pl.String)
    row = Required(pl.Int64)
    key = Nullable(pl.String)
    mapping = Nullable(pl.String)
    mapping_version = Nullable(pl.String)
    outcome = Required(pl.String)
    rule = Required(pl.String)
    element = Nullable(pl.String)
    message = Required(pl.String)


REJECTED, FILTERED = "rejected", "filtered"


def rejects(
    rows: pl.DataFrame,
    table: str,
    *,
    rule: str,
    message: str,
    outcome: str = REJECTED,
    element: str | None = None,
    mapping: str | None = None,
    version: str | None = None,
    key: pl.Expr | None = None,
) -> pl.DataFrame:
    """Rejects for `rows`, a frame with columns `_file` and `_row`: the same rule and message for all."""
    return rows.select(
        table=pl.lit(table), file=pl.col("_file").cast(pl.String), row=pl.col("_row"),
        key=(key if key is not None else pl.lit(None)).cast(pl.String), mapping=pl.lit(mapping, pl.String),
        mapping_version=pl.lit(version, pl.String), outcome=pl.lit(outcome), rule=pl.lit(rule),
        element=pl.lit(element, pl.String), message=pl.lit(message),
    )  # fmt: skip


def join_rejects(frames: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """All rejects in one frame; an empty one if there are none."""
    return pl.concat([Reject.empty(), *frames])
