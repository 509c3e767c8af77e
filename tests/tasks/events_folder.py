"""Small timelines as folders, from (subject, time, code, value) rows."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.timeline.meds import CODES
from ehrseq.timeline.schema import Code, Event

type Row = tuple[int, datetime | None, str, float | None]


def timeline(folder: Path, rows: Iterable[Row], shards: int = 1) -> Path:
    """A timeline with these events; subjects go to shards in turn."""
    frame = pl.DataFrame(
        list(rows), orient="row",
        schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "code": pl.String, "numeric_value": pl.Float32},
    )  # fmt: skip
    known = {"resource_type": "Encounter", "resource_id": "e", "modality": "record"}
    blank = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in Event.polars_schema().items()
        if name not in frame.columns
    ]
    whole = frame.with_columns(blank).with_columns(**{name: pl.lit(text) for name, text in known.items()})
    whole = whole.select(Event.polars_schema().names()).sort(
        "subject_id", "time", nulls_last=False, maintain_order=True
    )
    codes = whole.group_by("code").agg(events=pl.len().cast(pl.Int64)).sort("code")
    codes = codes.with_columns(
        description=pl.lit(None, pl.String), parent_codes=pl.lit(None, pl.List(pl.String))
    )
    with Build(
        folder, kind="timeline", config={"rows": len(whole), "shards": shards}, inputs=[], force=True
    ) as build:
        for shard in range(shards):
            build.write(f"data/{shard:04d}.parquet", whole.filter(pl.col("subject_id") % shards == shard))
        build.write(CODES, codes.select(Code.polars_schema().names()))
    return folder
