"""Alleles as a VCF writes them → what kind of change they are, normalised, and their SPDI.

Normalised means trimmed of what reference and alternate share, at the end first and then at the beginning, so that the
change stands as far left as its record shows; further to the left only the reference sequence could tell.
Source: https://genome.sph.umich.edu/wiki/Variant_Normalization; Holmes et al. 2020, SPDI.
"""

import polars as pl

from ehrseq.adapters.genomics.assembly import accessions

SEQUENCE, SYMBOLIC, BREAKEND, STAR, NO_CHANGE = "sequence", "symbolic", "breakend", "star", "no change"
# Sequence Ontology, as Genomics Reporting's "DNA change type" has it
STRUCTURAL = {
    "INS": ("SO:0000667", "insertion"), "DEL": ("SO:0000159", "deletion"), "DUP": ("SO:1000035", "duplication"),
    "INV": ("SO:1000036", "inversion"), "CNV": ("SO:0001019", "copy_number_variation"),
}  # fmt: skip
_NO_CHANGE = (".", "<NON_REF>", "<*>")


def kind_of(alternate: pl.Expr) -> pl.Expr:
    """What an ALT is: sequence, symbolic (`<DEL>`), breakend, star (lost with an upstream deletion) or no change.

    >>> alternates = pl.DataFrame({"a": ["T", "<DEL>", "N[17:5[", "*", "<NON_REF>", "."]})
    >>> alternates.select(kind_of(pl.col("a"))).to_series().to_list()
    ['sequence', 'symbolic', 'breakend', 'star', 'no change', 'no change']
    """
    return (
        pl.when(alternate.is_in(_NO_CHANGE))
        .then(pl.lit(NO_CHANGE))
        .when(alternate == "*")
        .then(pl.lit(STAR))
        .when(alternate.str.contains(r"[\[\]]|^\.[A-Za-z]|[A-Za-z]\.$"))
        .then(pl.lit(BREAKEND))
        .when(alternate.str.starts_with("<"))
        .then(pl.lit(SYMBOLIC))
        .when(alternate.str.contains(r"^[ACGTNacgtnRYSWKMBDHVryswkmbdhv]+$"))
        .then(pl.lit(SEQUENCE))
    )


def trimmed(reference: str, alternate: str) -> tuple[int, str, str]:
    """(bases cut off in front, reference, alternate) with nothing in common at either end.

    >>> trimmed("CAA", "CA"), trimmed("A", "G"), trimmed("GCACA", "GCA")
    ((1, 'A', ''), (0, 'A', 'G'), (1, 'CA', ''))
    """
    end = 0
    while end < min(len(reference), len(alternate)) and reference[-1 - end] == alternate[-1 - end]:
        end += 1
    # a repeat is cut at its end, so that the change stands at its beginning; one base in front always stays in VCF
    reference, alternate = reference[: len(reference) - end], alternate[: len(alternate) - end]
    start = 0
    while start < min(len(reference), len(alternate)) and reference[start] == alternate[start]:
        start += 1
    return start, reference[start:], alternate[start:]


def with_alleles(sites: pl.DataFrame, assembly: str | None) -> pl.DataFrame:
    """Add `kind`, `start` (0-based), `bases`, `change` (normalised), `given_spdi` and `spdi`.

    `sites`: `chromosome`, `pos`, `ref`, `alt`. SPDIs are null where assembly or chromosome is not known.
    """
    frame = sites.with_columns(
        pl.col("ref").str.to_uppercase(),
        kind=kind_of(pl.col("alt")),
        alt=pl.when(kind_of(pl.col("alt")) == SEQUENCE)
        .then(pl.col("alt").str.to_uppercase())
        .otherwise("alt"),
    )
    longer = (pl.col("kind") == SEQUENCE) & (
        (pl.col("ref").str.len_bytes() > 1) | (pl.col("alt").str.len_bytes() > 1)
    )
    pairs = frame.filter(longer).select("ref", "alt").unique(maintain_order=True)  # each distinct pair once
    cut = [trimmed(reference, alternate) for reference, alternate in pairs.iter_rows()]
    pairs = pairs.with_columns(
        pl.Series("cut", [found[0] for found in cut], pl.Int64),
        pl.Series("bases", [found[1] for found in cut], pl.String),
        pl.Series("change", [found[2] for found in cut], pl.String),
    )
    named = accessions(assembly) if assembly else {}
    accession = pl.col("chromosome").replace_strict(named, default=None, return_dtype=pl.String)
    joined = frame.join(pairs, on=["ref", "alt"], how="left", maintain_order="left").with_columns(
        start=pl.col("pos") - 1 + pl.col("cut").fill_null(0),
        bases=pl.coalesce("bases", "ref"),
        change=pl.coalesce("change", "alt"),
        accession=accession,
    )
    spdi = pl.concat_str("accession", "start", "bases", "change", separator=":")
    return joined.drop("cut").with_columns(
        given_spdi=pl.concat_str("accession", pl.col("pos") - 1, "ref", "alt", separator=":"),
        spdi=pl.when(pl.col("kind") == SEQUENCE).then(spdi),
    )
