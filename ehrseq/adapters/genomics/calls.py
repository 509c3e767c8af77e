"""Blocks of a VCF → one row for each allele, other than the reference, that a sample carries."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from ehrseq.adapters.genomics.alleles import BREAKEND, NO_CHANGE, STAR, STRUCTURAL, SYMBOLIC, with_alleles
from ehrseq.adapters.genomics.annotation import NOTED, annotated, info
from ehrseq.adapters.genomics.assembly import chromosome
from ehrseq.adapters.genomics.genotypes import Genotypes, genotypes
from ehrseq.adapters.genomics.vcf import Block, Header

_FIELDS = ("PS", "DP", "AD", "CN", "FT")
_COHORT = 100  # samples from which on their own frequency says something of a population
CALL = pl.Schema({"at": pl.Int64(), "sample": pl.UInt32(), "allele": pl.Int16(), "copies": pl.Int16(),
                  "ploidy": pl.Int16(), "unknown": pl.Int16(), "phased": pl.Boolean(), "genotype": pl.String(),
                  **dict.fromkeys(_FIELDS, pl.String())})  # fmt: skip
"""A carried allele: `at` is the record's place in its block, `sample` that of the sample in the heading."""


def called(block: Block, header: Header) -> tuple[Genotypes, pl.DataFrame]:
    """The block's genotypes, and CALL rows of those with an allele other than the reference."""
    number, records = len(header.samples), block.records
    if number == 1:
        cells = records["samples"]
    else:
        cells = records["samples"].str.split("\t").explode(empty_as_null=True, keep_nulls=True)
    named = (records["format"] == "GT") | records["format"].str.starts_with("GT:")
    texts = cells if (records["format"] == "GT").all() else cells.str.splitn(":", 2).struct.field("field_0")
    if not named.all():
        texts = pl.select(pl.when(pl.Series(np.repeat(named.to_numpy(), number))).then(texts)).to_series()
    found = genotypes(texts, number)
    at, sample, code = found.carriers()
    rows = pl.DataFrame({"at": at, "sample": sample.astype(np.uint32), "code": code})
    rows = rows.with_columns(cell=cells.gather(at * number + sample), format=records["format"].gather(at))
    joined = _fields(rows).join(found.carried, on="code", how="inner", maintain_order="left")
    return found, joined.select(CALL.names()).cast(CALL)


def _fields(rows: pl.DataFrame) -> pl.DataFrame:
    """Add the fields of FORMAT that are wanted; one step for each distinct FORMAT."""
    parts = [pl.DataFrame(schema={**rows.schema, **dict.fromkeys(_FIELDS, pl.String())})]
    for (form,), some in rows.group_by("format", maintain_order=True):
        keys = str(form).split(":")
        cell = pl.col("cell").str.split(":")
        values = [
            cell.list.get(keys.index(name), null_on_oob=True).alias(name)
            if name in keys
            else pl.lit(None, pl.String).alias(name)
            for name in _FIELDS
        ]
        parts.append(some.with_columns(values))
    whole = pl.concat(parts)
    return whole if len(parts) == 2 else whole.sort("at", "sample")


def sites(
    block: Block, calls: pl.DataFrame, header: Header, assembly: str | None, noted: pl.DataFrame | None
) -> pl.DataFrame:
    """One row for each (record, allele) that somebody carries: what it is, and what is known of it."""
    carried = calls.group_by("at", "allele", maintain_order=True).agg(
        carried=pl.col("copies").cast(pl.Int64).sum()
    )
    records = block.records.select("row", "chrom", "pos", "id", "ref", "alt", "filter", "info")
    frame = pl.concat([carried, records[carried["at"].to_list()]], how="horizontal").with_columns(
        alt=pl.col("alt").str.split(",").list.get(pl.col("allele") - 1, null_on_oob=True),
        chromosome=chromosome(pl.col("chrom")),
    )
    frame = annotated(with_alleles(frame, assembly), header.csq, noted)
    if len(header.samples) >= _COHORT:
        share = pl.col("carried") / (2 * len(header.samples))
        frame = frame.with_columns(frequency=pl.coalesce("frequency", share))
    said = info("SVTYPE").str.extract("^([A-Z]+)")
    kind = pl.when((pl.col("kind") == SYMBOLIC) | info("END").is_not_null()).then(
        said
    )  # else its bases say it all
    end = info("END").str.to_integer(strict=False)
    low, high = (
        info(key).str.split(",").list.eval(pl.element().str.to_integer(strict=False))
        for key in ("CIPOS", "CIEND")
    )
    precise = low.is_null() | high.is_null()
    at = [column.list.get(place, null_on_oob=True) for column in (low, high) for place in (0, 1)]
    structural = kind.is_in(list(STRUCTURAL))
    return frame.with_columns(
        structure=kind,
        change_code=kind.replace_strict({k: v[0] for k, v in STRUCTURAL.items()}, default=None),
        change_display=kind.replace_strict({k: v[1] for k, v in STRUCTURAL.items()}, default=None),
        inner_start=pl.when(structural).then(pl.when(precise).then("pos").otherwise(pl.col("pos") + at[1])),
        inner_end=pl.when(structural).then(pl.when(precise).then(end).otherwise(end - at[2].abs())),
        outer_start=pl.when(structural & ~precise).then(pl.col("pos") - at[0].abs()),
        outer_end=pl.when(structural & ~precise).then(end + at[3]),
        id=pl.when(pl.col("id").str.contains(r"^rs\d+$")).then("id"),
        filter=pl.when(~pl.col("filter").is_in([".", "PASS", ""])).then("filter"),
    ).drop("info", "carried")


def zygosity() -> pl.Expr:
    """Allelic state in words, from `chromosome`, `copies`, `ploidy` and `share`; null where part of it is unknown.

    Of the mitochondrion it is the share of reads: homoplasmic from 0.99 on (as vcf2fhir has it).
    """
    one, share = pl.col("ploidy") == 1, pl.col("share")
    of_reads = (
        pl.when(share > 0.99)
        .then(pl.lit("homoplasmic"))
        .when(share.is_not_null())
        .then(pl.lit("heteroplasmic"))
    )
    return (
        pl.when((pl.col("chromosome") == "MT") & one)
        .then(of_reads)
        .when(pl.col("unknown") > 0)
        .then(None)
        .when(one)
        .then(pl.lit("hemizygous"))
        .when(pl.col("copies") == pl.col("ploidy"))
        .then(pl.lit("homozygous"))
        .otherwise(pl.lit("heterozygous"))
    )


def left_out() -> pl.Expr:
    """In a word why an allele is not reported, from the columns of table `variants`; null if it is. The mapping's
    `skip` says it in a sentence.
    """
    reasons = {
        "no chromosome": pl.col("chromosome").is_null(),
        "outside": ~pl.col("in_regions"),
        "filter": pl.col("filter").is_not_null(),
        "star": pl.col("kind") == STAR,
        "breakend": pl.col("kind") == BREAKEND,
        "symbolic": pl.col("kind") == SYMBOLIC,
        "two copies": (pl.col("chromosome") == "MT") & (pl.col("ploidy") > 1),
    }
    return pl.coalesce(pl.when(when.fill_null(False)).then(pl.lit(word)) for word, when in reasons.items())


def variant_rows(calls: pl.DataFrame, known: pl.DataFrame, samples: Sequence[str]) -> pl.DataFrame:
    """The rows of table `variants` (all that stands in the file; whose they are comes later)."""
    rows = calls.join(known, on=["at", "allele"], how="left", maintain_order="left")
    depths = pl.col("AD").str.split(",")
    number = lambda text: text.cast(pl.Float64, strict=False)  # noqa: E731
    read = number(
        depths.list.get(pl.min_horizontal(pl.col("allele"), depths.list.len() - 1), null_on_oob=True)
    )
    depth = number(pl.col("DP"))
    change = (
        pl.when(pl.col("structure").is_in(list(STRUCTURAL)))
        .then(pl.lit("structural"))
        .otherwise(pl.col("kind"))
    )
    phased = pl.col("phased") & (pl.col("ploidy") > 1)
    place = pl.concat_str("chromosome", pl.col("start") + 1, "bases", "change", separator="-")
    return (
        rows.with_columns(share=pl.when(depth > 0).then(read / depth), kind=change)
        .with_columns(zygosity=zygosity())
        .select(
            sample=pl.Series(samples, dtype=pl.String).gather(rows["sample"]),
            row="row",
            variant=pl.when(pl.col("inner_end").is_not_null())
            .then(pl.concat_str(place, "inner_end", separator="-"))
            .otherwise(place),
            chromosome="chromosome",
            accession="accession",
            position="pos",
            reference="ref",
            alternate=pl.when(~pl.col("kind").is_in([NO_CHANGE])).then("alt"),
            kind="kind",
            dbsnp="id",
            filter="filter",
            given_spdi="given_spdi",
            spdi="spdi",
            **{name: pl.col(name) for name in (*NOTED, "frequency")},
            **{name: pl.col(name) for name in ("change_code", "change_display")},
            **{name: pl.col(name) for name in ("inner_start", "inner_end", "outer_start", "outer_end")},
            genotype="genotype",
            zygosity="zygosity",
            copies=pl.col("copies").cast(pl.Int64),
            ploidy=pl.col("ploidy").cast(pl.Int64),
            phase_set=pl.when(phased & pl.col("PS").str.contains(r"^\d+$")).then("PS"),
            share="share",
            copy_number=number(pl.col("CN")),
            in_regions="in_regions",
            common="common",
        )
        .with_columns(left_out=left_out())
    )


def phase_rows(variants: pl.DataFrame) -> pl.DataFrame:
    """Neighbours of one phase set: cis where both stand on the same copy, trans where they do not."""
    kept = variants.filter(
        pl.col("phase_set").is_not_null() & pl.col("left_out").is_null() & ~pl.col("common")
    )
    group = ["sample", "chromosome", "phase_set"]
    pairs = kept.with_columns(
        (pl.col(name).shift(-1).over(group)).alias(f"next_{name}") for name in ("variant", "genotype")
    ).filter(pl.col("next_variant").is_not_null())
    relation = (
        pl.when(pl.col("genotype") == pl.col("next_genotype")).then(pl.lit("Cis")).otherwise(pl.lit("Trans"))
    )
    return pairs.select(
        "sample", "row", "chromosome", "phase_set", "variant", "next_variant", relation=relation
    )
