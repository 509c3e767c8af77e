"""PLINK 1 (bed, bim, fam) and PLINK 2 (pgen, pvar, psam) as a matrix of allele counts.

Source: https://www.cog-genomics.org/plink/1.9/formats#bed; pgenlib reads PLINK 2.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.core.errors import ConfigError, SourceError

_MAGIC = b"\x6c\x1b\x01"  # variant after variant
_COUNTS = np.array([2, -1, 1, 0], np.int8)  # copies of A1: 00 both, 01 missing, 10 one, 11 none
MISSING = -1


@dataclass(frozen=True, slots=True)
class Panel:
    """`counts` [variants, samples] int8: copies of `alternate`, -1 where not called. `variants`: chromosome, id,
    position, alternate, reference. `samples`: sample, sex (1 male, 2 female, 0 unknown).
    """

    counts: np.ndarray
    variants: pl.DataFrame
    samples: pl.DataFrame


def read_plink(path: Path) -> Panel:
    """Read PREFIX.bed or PREFIX.pgen with the two files beside it. Raises: SourceError, ConfigError without pgenlib."""
    return _read_pgen(path) if path.suffix == ".pgen" else _read_bed(path.with_suffix(".bed"))


def _read_bed(path: Path) -> Panel:
    variants = _table(
        path.with_suffix(".bim"), ("chromosome", "id", "morgan", "position", "alternate", "reference")
    )
    samples = _table(path.with_suffix(".fam"), ("family", "sample", "father", "mother", "sex", "phenotype"))
    try:
        raw = np.fromfile(path, np.uint8)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}.") from error
    width = -(-samples.height // 4)
    if raw[:3].tobytes() != _MAGIC or len(raw) != 3 + width * variants.height:
        raise SourceError(
            f"{path}: is no PLINK 1 file of {variants.height} variants and {samples.height} samples, variant after "
            "variant. Expected the .bim and .fam that it was written with."
        )
    packed = raw[3:].reshape(variants.height, width)
    codes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8)) & 3
    counts = _COUNTS[codes.reshape(variants.height, -1)[:, : samples.height]]
    return Panel(counts, _typed(variants), samples.select("sample", "sex"))


def _read_pgen(path: Path) -> Panel:
    try:
        from pgenlib import PgenReader
    except ImportError as error:
        raise ConfigError("PLINK 2 needs pgenlib: pip install 'ehrseq[genomics]'.") from error
    variants = _headed(path.with_suffix(".pvar"), "#CHROM").rename(
        {"#CHROM": "chromosome", "POS": "position", "ID": "id", "REF": "reference", "ALT": "alternate"}
    )
    samples = _headed(path.with_suffix(".psam"), "#")
    samples = samples.rename({name: name.lstrip("#") for name in samples.columns})
    samples = samples.select(
        sample="IID", sex=pl.col("SEX").replace("NA", "0") if "SEX" in samples.columns else pl.lit("0")
    )
    counts = np.empty((variants.height, samples.height), np.int8)
    try:
        with PgenReader(
            str(path).encode(), raw_sample_ct=samples.height, variant_ct=variants.height
        ) as reader:
            reader.read_range(0, variants.height, counts)
    except (RuntimeError, OSError) as error:
        raise SourceError(f"{path}: pgenlib cannot read it: {error}.") from error
    return Panel(np.where(counts < 0, MISSING, counts).astype(np.int8), _typed(variants), samples)


def _typed(variants: pl.DataFrame) -> pl.DataFrame:
    return variants.select("chromosome", "id", pl.col("position").cast(pl.Int64), "alternate", "reference")


def _table(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """A table without a heading, split at blanks or tabs."""
    try:
        lines = pl.DataFrame({"line": path.read_text().splitlines()}, schema={"line": pl.String})
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}. It belongs beside the .bed file."
        ) from error
    fields = pl.col("line").str.strip_chars().str.replace_all(r"\s+", "\t").str.split("\t")
    table = lines.filter(pl.col("line") != "").select(
        fields.list.get(at, null_on_oob=True).alias(name) for at, name in enumerate(columns)
    )
    if table[columns[-1]].null_count():
        raise SourceError(f"{path}: a line has fewer than {len(columns)} fields.")
    return table


def _headed(path: Path, mark: str) -> pl.DataFrame:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise SourceError(
            f"{path}: cannot be read: {error.strerror}. It belongs beside the .pgen file."
        ) from error
    at = next(
        (n for n, line in enumerate(lines) if line.startswith(mark) and not line.startswith("##")), None
    )
    if at is None:
        raise SourceError(f"{path}: has no heading that begins with {mark}.")
    return pl.read_csv("\n".join(lines[at:]).encode(), separator="\t", infer_schema=False)
