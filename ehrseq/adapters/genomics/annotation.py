"""What is known of a variant: gene, consequence, HGVS names, significance, frequency.

From INFO (SnpEff's ANN, VEP's CSQ, ClinVar's CLNSIG and GENEINFO, AF, END…), and from `annotations.tsv` beside the
file, which counts more: a heading with chromosome, position, reference, alternate and any of the columns of NOTED.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrseq.adapters.genomics.assembly import chromosome
from ehrseq.core.errors import SourceError

FILE = "annotations.tsv"
NOTED = ("gene", "transcript", "hgvs_c", "hgvs_p", "consequence", "significance", "phenotype")
_PLACE = ("chromosome", "position", "reference", "alternate")
_ANN = {"consequence": 1, "gene": 3, "transcript": 6, "hgvs_c": 9, "hgvs_p": 10}
_CSQ = {"consequence": ("Consequence",), "gene": ("SYMBOL", "Gene"), "transcript": ("Feature",), "hgvs_c": ("HGVSc",),
        "hgvs_p": ("HGVSp",), "significance": ("CLIN_SIG",)}  # fmt: skip
_CSQ_FREQUENCY = ("gnomAD_AF", "gnomADe_AF", "gnomADg_AF", "MAX_AF")
_ALLELES_OF_A_POPULATION = 200  # AF of fewer says little: of one sample it is often the share of its reads
_NOT_SAID = ("", ".")


def info(key: str) -> pl.Expr:
    """The value of a key of INFO; null if it is not there."""
    return pl.col("info").str.extract(rf"(?:^|;){key}=([^;]*)")


def of_allele(value: pl.Expr) -> pl.Expr:
    """Of a list with a value for each alternate allele, that of column `allele` (from 1)."""
    return value.str.split(",").list.get(pl.col("allele") - 1, null_on_oob=True)


def annotated(sites: pl.DataFrame, csq: Sequence[str], noted: pl.DataFrame | None) -> pl.DataFrame:
    """Add NOTED and `frequency`. `sites`: `info`, `allele`, `chromosome`, `pos`, `ref`, `alt`, one row an allele."""
    frame = sites.with_columns(
        *(pl.lit(None, pl.String).alias(name) for name in NOTED),
        frequency=pl.when(info("AN").cast(pl.Int64, strict=False) >= _ALLELES_OF_A_POPULATION).then(
            of_allele(info("AF")).cast(pl.Float64, strict=False)
        ),
    )
    if frame.select(pl.col("info").str.contains(r"(?:^|;)(?:ANN|CSQ|CLNSIG|GENEINFO)=").any()).item():
        for key, fields in (("ANN", _ANN), ("CSQ", _csq_fields(csq))):
            frame = _by_tool(frame, key, fields)
        frame = frame.with_columns(
            significance=pl.coalesce("significance", info("CLNSIG")).str.replace_all("_", " "),
            gene=pl.coalesce("gene", info("GENEINFO").str.extract(r"^([^:|]+)")),
        )
    if noted is not None:
        left, right = ["chromosome", "pos", "ref", "alt"], list(_PLACE)
        frame = frame.join(
            noted, left_on=left, right_on=right, how="left", suffix="_noted", maintain_order="left"
        )
        frame = frame.with_columns(pl.coalesce(f"{name}_noted", name).alias(name) for name in NOTED)
    return frame.select(*sites.columns, *NOTED, "frequency")


def _csq_fields(names: Sequence[str]) -> dict[str, int]:
    wanted = {**_CSQ, "frequency": _CSQ_FREQUENCY}
    found = {
        key: next((names.index(name) for name in choice if name in names), -1)
        for key, choice in wanted.items()
    }
    return {key: at for key, at in found.items() if at >= 0}


def _by_tool(frame: pl.DataFrame, key: str, fields: dict[str, int]) -> pl.DataFrame:
    """The tool's first statement on the allele, or its first one where none names the allele so."""
    if not fields:
        return frame
    each = frame.select(pl.int_range(pl.len()).alias("n"), "alt", said=info(key).str.split(","))
    each = each.filter(pl.col("said").is_not_null()).explode("said", empty_as_null=True, keep_nulls=True)
    parts = pl.col("said").str.split("|")
    best = each.sort(pl.col("said").str.extract(r"^([^|]*)") != pl.col("alt"), maintain_order=True).unique(
        "n", keep="first", maintain_order=True
    )
    values = [parts.list.get(at, null_on_oob=True).alias(f"_{name}") for name, at in fields.items()]
    said = best.select("n", *values).with_columns(
        pl.when(~pl.col(f"_{name}").is_in(_NOT_SAID)).then(f"_{name}").alias(f"_{name}") for name in fields
    )
    said = said.with_columns(pl.col("_consequence").str.extract(r"^([^&]*)"))
    if "frequency" in fields:
        said = said.with_columns(pl.col("_frequency").cast(pl.Float64, strict=False))
    joined = frame.with_row_index("n").join(
        said.with_columns(pl.col("n").cast(pl.UInt32)), on="n", how="left", maintain_order="left"
    )
    filled = joined.with_columns(pl.coalesce(name, f"_{name}").alias(name) for name in fields)
    return filled.drop("n", *(f"_{name}" for name in fields))


def read_notes(folder: Path) -> pl.DataFrame | None:
    """`annotations.tsv`: _PLACE and NOTED, one row an allele; None if there is none. Raises: SourceError."""
    path = folder / FILE
    if not path.is_file():
        return None
    frame = pl.read_csv(path, separator="\t", infer_schema=False)
    if missing := [name for name in _PLACE if name not in frame.columns]:
        raise SourceError(f"{path}: has no column `{missing[0]}`. Expected {', '.join((*_PLACE, *NOTED))}.")
    absent = [pl.lit(None, pl.String).alias(name) for name in NOTED if name not in frame.columns]
    typed = frame.with_columns(
        *absent,
        chromosome=chromosome(pl.col("chromosome")),
        position=pl.col("position").str.to_integer(strict=False),
    )
    return typed.select(*_PLACE, *NOTED).unique([*_PLACE], keep="first", maintain_order=True)
