"""Polygenic scores: PGS Catalog scoring files against the genotypes of a block.

A scoring file's effect allele may be the reference or the alternate, on this strand or the other; where both alleles
are each other's complement (A/T, C/G) the strand cannot be told and the given one is taken. Files for another
assembly are refused. Source: https://www.pgscatalog.org/downloads/#scoring_header, harmonised columns first.
"""

import gzip
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.adapters.genomics.assembly import by_words, chromosome
from ehrseq.core.errors import SourceError

FOLDER = "scores"
_SCORED = pl.Schema({
    "sample": pl.String(), "score": pl.String(), "name": pl.String(), "sum": pl.Float64(), "z": pl.Float64(),
    "percentile": pl.Float64(), "found": pl.Float64(),
})  # fmt: skip
_COHORT = 100  # samples from which on their own scores give mean and deviation


@dataclass(slots=True)
class Score:
    """A scoring file: id, name, and per variant chromosome, position, effect and other allele, weight, frequency."""

    id: str
    name: str
    variants: pl.DataFrame
    found: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mean: float = 0.0
    variance: float = 0.0
    frequencies: bool = True


def read_scores(folder: Path, assembly: str | None) -> list[Score]:
    """All scoring files in `scores/`. Raises: SourceError for a file without weights, or of another assembly."""
    paths = sorted((folder / FOLDER).glob("*.txt*")) if (folder / FOLDER).is_dir() else []
    return [_read(path, assembly) for path in paths]


def _read(path: Path, assembly: str | None) -> Score:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        lines = file.read().splitlines()
    said = dict(line[1:].split("=", 1) for line in lines if line.startswith("#") and "=" in line)
    frame = pl.read_csv(
        "\n".join(line for line in lines if line and not line.startswith("#")).encode(),
        separator="\t",
        infer_schema=False,
    )
    built = by_words(said.get("HmPOS_build") or said.get("genome_build") or "")
    if assembly and built and assembly not in built:
        raise SourceError(
            f"{path}: is for {' or '.join(built)}, the variants are of {assembly}. Take the harmonised file for it."
        )
    names = frame.columns
    place = ("hm_chr", "hm_pos") if "hm_pos" in names else ("chr_name", "chr_position")
    other = next(
        (name for name in ("other_allele", "hm_inferOtherAllele", "reference_allele") if name in names), None
    )
    if missing := [name for name in (*place, "effect_allele", "effect_weight") if name not in names]:
        raise SourceError(
            f"{path}: has no column {missing[0]}. Expected a PGS Catalog scoring file with positions."
        )
    none = pl.lit(None, pl.String)
    variants = frame.select(
        chromosome=chromosome(pl.col(place[0])),
        pos=pl.col(place[1]).cast(pl.Int64, strict=False),
        effect=pl.col("effect_allele").str.to_uppercase(),
        other=pl.col(other).str.to_uppercase() if other else none,
        weight=pl.col("effect_weight").cast(pl.Float64, strict=False),
        share=(pl.col("allelefrequency_effect") if "allelefrequency_effect" in names else none).cast(
            pl.Float64, strict=False
        ),
    )
    return Score(said.get("pgs_id", path.name.split(".")[0]), said.get("pgs_name", path.name), variants)


def add_block(scores: list[Score], records: pl.DataFrame, dosages: np.ndarray) -> None:
    """Add what a block's variants give. `records`: chromosome, pos, ref, alt (biallelic or not: the first alternate).
    `dosages` [records, samples]: copies of the first alternate, NaN where not called (taken as the block's mean).
    """
    for score in scores:
        if not len(score.sums):
            score.sums = np.zeros(dosages.shape[1])
        places = records.with_row_index("row").join(score.variants, on=["chromosome", "pos"], how="inner")
        if not places.height:
            continue
        turned = [
            pl.col(name).str.replace_many(list("ACGT"), list("TGCA")).alias(f"{name}_turned")
            for name in ("effect", "other")
        ]
        places = places.with_columns(turned)
        kept = []
        for effect, other in (("effect", "other"), ("effect_turned", "other_turned")):
            for allele, rest, sign in (("alt", "ref", 1), ("ref", "alt", -1)):
                fits = (pl.col(effect) == pl.col(allele)) & (
                    pl.col(other).is_null() | (pl.col(other) == pl.col(rest))
                )
                kept.append(pl.when(fits).then(pl.lit(sign)))
        places = places.with_columns(sign=pl.coalesce(kept)).filter(
            pl.col("sign").is_not_null() & pl.col("weight").is_not_null()
        )
        places = places.unique(["chromosome", "pos"], keep="first", maintain_order=True)
        if not places.height:
            continue
        counts = dosages[places["row"].to_numpy()]
        known = ~np.isnan(counts)
        mean = np.where(known, counts, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        counts = np.where(known, counts, mean[:, None])
        alternate, weight = places["sign"].to_numpy() > 0, places["weight"].to_numpy()
        score.sums += weight @ np.where(alternate[:, None], counts, 2 - counts)
        share = places["share"].to_numpy().astype(float)
        score.frequencies &= bool(np.isfinite(share).all())
        score.mean += float(2 * np.nansum(weight * share))
        score.variance += float(2 * np.nansum(weight**2 * share * (1 - share)))
        score.found += places.height


def score_rows(scores: list[Score], samples: tuple[str, ...]) -> pl.DataFrame:
    """One row a sample and score: sum, z and percentile (null where nothing says what is usual), percent found.

    Usual is what the file's own samples have, from 100 on; else what the scoring file's frequencies give.
    """
    from scipy.stats import norm  # type: ignore[import-untyped]

    rows = []
    for score in scores:
        if not score.found:
            continue
        usual = (np.nan, np.nan)
        if score.frequencies and score.variance > 0:
            usual = (score.mean, np.sqrt(score.variance))
        if len(samples) >= _COHORT and score.sums.std() > 0:
            usual = (score.sums.mean(), score.sums.std())
        z = (score.sums - usual[0]) / usual[1]
        rows.append(pl.DataFrame({
            "sample": samples, "score": score.id, "name": score.name, "sum": score.sums,
            "z": pl.Series(z).fill_nan(None), "percentile": pl.Series(100 * norm.cdf(z)).fill_nan(None),
            "found": 100 * score.found / score.variants.height,
        }))  # fmt: skip
    whole = pl.concat([pl.DataFrame(schema=_SCORED), *(frame.cast(_SCORED) for frame in rows)])
    return whole.with_columns(row=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
