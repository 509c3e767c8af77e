"""BED files: what was asked for (`regions.bed`), looked at (`studied.bed`) and could not be called (`nocall.bed`)."""

from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.adapters.genomics.assembly import CHROMOSOMES, chromosome
from ehrseq.core.errors import SourceError

REPORTED, STUDIED, NOT_CALLED = "regions.bed", "studied.bed", "nocall.bed"
REGION = pl.Schema({"chromosome": pl.String(), "start": pl.Int64(), "end": pl.Int64()})


def read_bed(path: Path) -> pl.DataFrame:
    """REGION: 0-based, half-open, sorted, overlapping ones joined. Raises: SourceError."""
    lines = [
        line
        for line in path.read_text().splitlines()
        if line and not line.startswith(("#", "track", "browser"))
    ]
    fields = pl.DataFrame({"line": lines}, schema={"line": pl.String}).select(
        pl.col("line").str.strip_chars().str.replace_all(r"\s+", "\t").str.splitn("\t", 4).struct.unnest()
    )
    number = [pl.col(f"field_{at}").str.to_integer(strict=False) for at in (1, 2)]
    frame = fields.select(chromosome=chromosome(pl.col("field_0")), start=number[0], end=number[1])
    wrong = frame.select(~(pl.col("start") <= pl.col("end")).fill_null(False)).to_series()
    if wrong.any():
        raise SourceError(
            f"{path}: line {wrong.arg_true()[0] + 1} is no region. Expected chromosome, start, end."
        )
    return merged(frame.drop_nulls())


def merged(frame: pl.DataFrame) -> pl.DataFrame:
    """The same ground without overlaps, in the order of chromosomes."""
    ordered = frame.filter(pl.col("start") < pl.col("end")).sort(
        pl.col("chromosome").replace_strict(CHROMOSOMES, range(len(CHROMOSOMES)), return_dtype=pl.Int32),
        "start",
    )
    reach = pl.col("end").cum_max().shift(1).over("chromosome")
    run = (pl.col("start") > reach).fill_null(True).cum_sum().over("chromosome")
    joined = ordered.with_columns(run=run).group_by("chromosome", "run", maintain_order=True)
    return joined.agg(pl.col("start").min(), pl.col("end").max()).select(REGION.names()).cast(REGION)


def inside(regions: pl.DataFrame, chromosomes: pl.Series, positions: pl.Series) -> pl.Series:
    """Whether each position (from 1) lies in a region."""
    places = pl.DataFrame({"chromosome": chromosomes, "at": positions - 1}).with_row_index("n").sort("at")
    found = places.join_asof(
        regions.sort("start"), left_on="at", right_on="start", by="chromosome", check_sortedness=False
    )
    return found.sort("n").select((pl.col("at") < pl.col("end")).fill_null(False)).to_series()


def common(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """The ground that both have."""
    parts = []
    for (name,), mine in left.group_by("chromosome", maintain_order=True):
        other = right.filter(pl.col("chromosome") == name)
        start = np.maximum(mine["start"].to_numpy()[:, None], other["start"].to_numpy())
        end = np.minimum(mine["end"].to_numpy()[:, None], other["end"].to_numpy())
        keep = start < end
        parts.append(
            pl.DataFrame({"start": start[keep], "end": end[keep]}).with_columns(chromosome=pl.lit(name))
        )
    return merged(pl.concat([pl.DataFrame(schema=REGION), *(part.select(REGION.names()) for part in parts)]))
