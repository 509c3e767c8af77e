"""Human reference assemblies: chromosomes, their lengths by which an assembly is known, and their RefSeq accessions."""

import re
from collections.abc import Mapping

import polars as pl

from ehrseq.core.errors import SourceError

CHROMOSOMES = (*map(str, range(1, 23)), "X", "Y", "MT")
ASSEMBLIES = ("GRCh37", "GRCh38")
# Source: https://www.ncbi.nlm.nih.gov/grc/human/data, assembly reports of GRCh37 and GRCh38
_LENGTHS = {
    "GRCh37": (
        249250621, 243199373, 198022430, 191154276, 180915260, 171115067, 159138663, 146364022, 141213431, 135534747,
        135006516, 133851895, 115169878, 107349540, 102531392, 90354753, 81195210, 78077248, 59128983, 63025520,
        48129895, 51304566, 155270560, 59373566,
    ),
    "GRCh38": (
        248956422, 242193529, 198295559, 190214555, 181538259, 170805979, 159345973, 145138636, 138394717, 133797422,
        135086622, 133275309, 114364328, 107043718, 101991189, 90338345, 83257441, 80373285, 58617616, 64444167,
        46709983, 50818468, 156040895, 57227415,
    ),
}  # fmt: skip
_VERSIONS = {
    "GRCh37": (10, 11, 11, 11, 9, 11, 13, 10, 11, 10, 9, 11, 10, 8, 9, 9, 10, 9, 9, 10, 8, 10, 10, 9),
    "GRCh38": (11, 12, 12, 12, 10, 12, 14, 11, 12, 11, 10, 12, 11, 9, 10, 10, 11, 10, 10, 11, 9, 11, 11, 10),
}
_WRITTEN = {
    "GRCh37": re.compile(r"grch37|hg19|b37|hs37|build\s*37|human_g1k_v37", re.IGNORECASE),
    "GRCh38": re.compile(r"grch38|hg38|b38|hs38|build\s*38", re.IGNORECASE),
}
_SEX = {"23": "X", "24": "Y", "25": "X", "26": "MT", "M": "MT", "XY": "X"}  # as PLINK counts


def accessions(assembly: str) -> dict[str, str]:
    """RefSeq accession of each chromosome.

    >>> accessions("GRCh38")["X"]
    'NC_000023.11'
    """
    named = zip(CHROMOSOMES, _VERSIONS[assembly], strict=False)
    found = {name: f"NC_{number:06d}.{version}" for number, (name, version) in enumerate(named, start=1)}
    return {**found, "MT": "NC_012920.1"}


def chromosome(name: pl.Expr) -> pl.Expr:
    """1 to 22, X, Y or MT, whatever prefix and case it is written with; null for any other sequence.

    >>> names = pl.DataFrame({"c": ["chr1", "x", "chrM", "MT", "23", "GL000191.1"]})
    >>> names.select(chromosome(pl.col("c")))["c"].to_list()
    ['1', 'X', 'MT', 'MT', 'X', None]
    """
    short = name.cast(pl.String).str.to_uppercase().str.strip_prefix("CHR").replace(_SEX)
    return pl.when(short.is_in(CHROMOSOMES)).then(short)


def by_lengths(lengths: Mapping[str, int]) -> set[str]:
    """Assemblies that have chromosomes of these lengths. `lengths`: by name, as a header declares them."""
    names = pl.DataFrame({"name": list(lengths)}, schema={"name": pl.String})
    short = names.select(chromosome(pl.col("name"))).to_series().to_list()
    found = set()
    for known, length in zip(short, lengths.values(), strict=True):
        if known and known != "MT":
            at = CHROMOSOMES.index(known)
            found |= {name for name in ASSEMBLIES if _LENGTHS[name][at] == length} or {"neither"}
    return found


def by_words(text: str) -> set[str]:
    """Assemblies that a text names: GRCh37, hg19, b37…

    >>> by_words("ftp://1000genomes/hs37d5.fa.gz")
    {'GRCh37'}
    """
    return {name for name, words in _WRITTEN.items() if words.search(text)}


def agreed(declared: str | None, lengths: set[str], words: set[str], place: str) -> str | None:
    """The one assembly that all signs agree on; what is declared counts for files that say nothing. None if nothing is
    known.

    Raises: SourceError if lengths, words and declaration are of different assemblies, or of another genome.
    """
    named = next(iter(by_words(declared)), declared) if declared else None
    if named is not None and named not in ASSEMBLIES:
        raise SourceError(f"{place}: assembly {declared} is not known. Expected {' or '.join(ASSEMBLIES)}.")
    found = lengths or words  # lengths are facts, words are names of files
    if len(found) > 1 or "neither" in found:
        raise SourceError(
            f"{place}: its contigs are of {' and '.join(sorted(found)).replace('neither', 'another genome')}. "
            "Variants of different assemblies cannot be told apart by position: separate the files by assembly."
        )
    detected = next(iter(found), None)
    if named and detected and named != detected:
        raise SourceError(
            f"{place}: declared as {named}, but its contigs are of {detected}. Correct the declaration, or lift the "
            "file over."
        )
    return named or detected
