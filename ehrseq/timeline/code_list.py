"""The codes of a timeline: of one bucket, and of all buckets together (`metadata/codes.parquet`)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from ehrseq.timeline.events import DESCRIPTION
from ehrseq.timeline.schema import Code, Event


def bucket_codes(events: pl.DataFrame, parents: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Rows of `Code`, by code. `events`: Event and `_description`. `parents`: pairs of code and parent.

    Of several descriptions the first in alphabetical order is kept, so that it does not depend on the order of rows.
    """
    above = pl.concat(parents).group_by("code").agg(parent_codes=pl.col("parent").unique().sort())
    counted = events.group_by(Event.code).agg(
        description=pl.col(DESCRIPTION).min(), events=pl.len().cast(pl.Int64)
    )
    return counted.join(above, on="code", how="left").select(Code.polars_schema().names()).sort("code")


def merged_codes(parts: Iterable[Path]) -> pl.DataFrame:
    """Rows of `Code` of all buckets together, by code. `parts`: the buckets' own tables."""
    every = pl.concat([Code.empty(), *(pl.read_parquet(path) for path in parts)])
    above = every.explode("parent_codes").drop_nulls("parent_codes").group_by("code")
    parents = above.agg(pl.col("parent_codes").unique().sort())
    counted = every.group_by("code").agg(pl.col("description").min(), pl.col("events").sum())
    return counted.join(parents, on="code", how="left").select(Code.polars_schema().names()).sort("code")
