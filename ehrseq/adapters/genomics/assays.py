"""Measurements by the thousand as a few: cell-free DNA, expression, methylation, proteins, wearables as `measurements`.

One row a sample and feature: a code with a number, known from the report (a day of a wearable: from its end).

| file | what it holds | what becomes of it |
|---|---|---|
| `*.fragments.tsv` | sample, length, end (first bases), chromosome, start | lengths, end motifs, bins |
| `*.matrix.tsv` | feature, then a column a sample | the most extreme features of each sample, as quantiles |
| `*.minutes.csv` | sample, time, then a column a signal | mean, least, most, sum and minutes of each day |
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.adapters.genomics.assembly import chromosome
from ehrseq.adapters.genomics.links import NAMES, read_links
from ehrseq.core.errors import SourceError, closest
from ehrseq.sources.declaration import Table
from ehrseq.sources.rejects import join_rejects, rejects

FRAGMENTS, MATRIX, MINUTES = ".fragments.tsv", ".matrix.tsv", ".minutes.csv"
SUFFIXES = (FRAGMENTS, f"{FRAGMENTS}.gz", MATRIX, f"{MATRIX}.gz", MINUTES, f"{MINUTES}.gz", *NAMES)
MEASURED = pl.Schema({
    "sample": pl.String(), "code": pl.String(), "display": pl.String(), "value": pl.Float64(), "day": pl.Date(),
})  # fmt: skip
TOP = 50
"""Features of a matrix that a sample keeps: those farthest from the others' median."""
_SHORT, _LONG = (100, 150), (151, 220)  # Source: Cristiano et al. 2019 (DELFI), Nature 570
_BIN = 5_000_000
_CONTROL = "control"


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of the table `measurements`. Raises: SourceError."""
    readers = {FRAGMENTS: fragments, MATRIX: matrix, MINUTES: minutes}
    for path, name in files:
        plain = path.name.removesuffix(".gz")
        reader = next((reader for end, reader in readers.items() if plain.endswith(end)), None)
        if reader is None:
            continue
        text = pl.read_csv(path, separator="," if reader is minutes else "\t", infer_schema=False)
        measured = reader(text, path).with_columns(_row=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
        over = pl.col("day").cast(pl.Datetime("us")) + pl.duration(days=1)
        linked = measured.join(
            read_links(path.parent), on="sample", how="left", maintain_order="left"
        ).with_columns(reported=pl.coalesce(over, "reported"), _file=pl.lit(name))
        lost = linked.filter(pl.col("patient").is_null())
        message = "samples.csv does not say whose sample this is"
        kept = linked.filter(pl.col("patient").is_not_null())
        yield (
            kept.select(*table.columns, "_file", "_row"),
            rejects(lost, table.name, rule="unlinked", message=message),
        )
    empty = {**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    yield pl.DataFrame(schema=empty), join_rejects([])


def fragments(text: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Cell-free DNA: median length, short against long, diversity of end motifs, and bins against the controls'
    (samples whose name begins with `control`; without two of them no bins).
    """
    _need(text, path, "sample", "length", "end", "chromosome", "start")
    frame = text.with_columns(
        pl.col("length").cast(pl.Int64, strict=False),
        pl.col("start").cast(pl.Int64, strict=False),
        chromosome=chromosome(pl.col("chromosome")),
        end=pl.col("end").str.to_uppercase().str.slice(0, 4),
    ).drop_nulls(["sample", "length"])
    length = pl.col("length")
    lengths = frame.group_by("sample", maintain_order=True).agg(
        length_median=length.median(),
        short_to_long=length.is_between(*_SHORT).sum() / length.is_between(*_LONG).sum(),
        fragments=pl.len().cast(pl.Float64),
    )
    ends = frame.filter(pl.col("end").str.contains("^[ACGT]{4}$")).group_by("sample", "end").len()
    share = pl.col("len") / pl.col("len").sum()
    # entropy over all 256 motifs, 1 for an even spread. Source: Jiang et al. 2020, Cancer Discovery 10
    diversity = ends.group_by("sample").agg(motif_diversity=-(share * share.log()).sum() / np.log(256))
    plain = lengths.join(diversity, on="sample", how="left", maintain_order="left").unpivot(
        index="sample", variable_name="code", value_name="value"
    )
    return _measured(pl.concat([plain, _bins(frame)]), "cfdna")


def _bins(frame: pl.DataFrame) -> pl.DataFrame:
    """z of each 5-Mb bin's share of fragments against the controls'."""
    placed = frame.drop_nulls(["chromosome", "start"])
    where = pl.concat_str(pl.lit("bin"), "chromosome", pl.col("start") // _BIN, separator="-")
    counts = placed.group_by("sample", code=where).len()
    counts = counts.with_columns(share=pl.col("len") / pl.col("len").sum().over("sample"))
    control = pl.col("sample").str.starts_with(_CONTROL)
    usual = counts.filter(control).group_by("code")
    usual_shares = usual.agg(mean=pl.col("share").mean(), deviation=pl.col("share").std())
    known = usual_shares.filter(pl.col("deviation") > 0)
    others = counts.filter(~control).join(known, on="code").sort("sample", "code")
    return others.select("sample", "code", value=(pl.col("share") - pl.col("mean")) / pl.col("deviation"))


def matrix(text: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Expression, methylation or proteins: per sample the TOP features farthest from the others' median (in median
    absolute deviations), each with its quantile among the samples.
    """
    feature, *samples = text.columns
    long = text.unpivot(samples, index=feature, variable_name="sample", value_name="value")
    long = long.with_columns(pl.col("value").cast(pl.Float64, strict=False)).drop_nulls()
    value = pl.col("value")
    middle = value.median().over(feature)
    spread = (value - middle).abs().median().over(feature)
    ranked = long.with_columns(
        distance=((value - middle) / spread).abs(),
        quantile=(value.rank().over(feature) - 0.5) / pl.len().over(feature),
    ).filter(pl.col("distance").is_finite())
    best = ranked.filter(pl.col("distance").rank("ordinal", descending=True).over("sample") <= TOP)
    kept = best.select("sample", code=feature, value="quantile").sort("sample", "code")
    return _measured(kept, path.name.split(".")[0])


def minutes(text: pl.DataFrame, path: Path) -> pl.DataFrame:
    """A wearable: of each day and signal the mean, least, most, sum and how many minutes it has."""
    _need(text, path, "sample", "time")
    signals = [name for name in text.columns if name not in ("sample", "time")]
    time = pl.coalesce(
        pl.col("time").str.to_datetime(form, strict=False)
        for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S")
    )
    numbers = [pl.col(name).cast(pl.Float64, strict=False) for name in signals]
    days = text.select("sample", *numbers, day=time.dt.date()).drop_nulls("day")
    statistics = {"mean": "mean", "minimum": "min", "maximum": "max", "sum": "sum", "minutes": "count"}
    of_days = days.group_by("sample", "day", maintain_order=True).agg(
        getattr(pl.col(name), method)().cast(pl.Float64).alias(f"{name}-{word}")
        for name in signals
        for word, method in statistics.items()
    )
    long = of_days.unpivot(index=["sample", "day"], variable_name="code", value_name="value")
    return _measured(long.sort("sample", "day", maintain_order=True), "wearable")


def _measured(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    """MEASURED, without features that have no number."""
    named = frame.select(
        "sample",
        pl.concat_str(pl.lit(kind), "code", separator="-").alias("code"),
        pl.col("code").alias("display"),
        "value",
        (pl.col("day") if "day" in frame.columns else pl.lit(None, pl.Date)).alias("day"),
    )
    return named.filter(pl.col("value").is_finite()).cast(MEASURED)


def _need(frame: pl.DataFrame, path: Path, *columns: str) -> None:
    for name in columns:
        if name not in frame.columns:
            raise SourceError(f"{path}: has no column `{name}`.{closest(name, frame.columns)}")
