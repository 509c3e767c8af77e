"""Genotypes as text → what each sample carries of each allele.

A file has few distinct genotypes (`0|0`, `0/1`, `./1`…): each is parsed once, and all else is arrays of their numbers.
"""

import re
from dataclasses import dataclass

import numpy as np
import polars as pl

REFERENCE, CARRIER, MISSING = 0, 1, 2
"""What a genotype is: all alleles known and reference; at least one other allele; nothing called, or only in part."""
_GENOTYPE = re.compile(r"^[/|]?(?:\d+|\.)(?:[/|](?:\d+|\.))*$")

CARRIED = pl.Schema({
    "code": pl.UInt32(), "allele": pl.Int16(), "copies": pl.Int16(), "ploidy": pl.Int16(), "unknown": pl.Int16(),
    "phased": pl.Boolean(), "genotype": pl.String(),
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Genotypes:
    """`codes` [records, samples] uint32 into the distinct genotypes; `kinds` [distinct] uint8; `carried`: CARRIED, one
    row for each allele other than the reference that a distinct genotype has.
    """

    codes: np.ndarray
    kinds: np.ndarray
    carried: pl.DataFrame

    def counts(self) -> np.ndarray:
        """How many records each sample has of each kind: [samples, 3]."""
        kinds = self.kinds[self.codes]
        return np.stack([(kinds == kind).sum(axis=0) for kind in (REFERENCE, CARRIER, MISSING)], axis=1)

    def dosages(self) -> np.ndarray:
        """Copies of the first alternate allele [records, samples] float32; NaN where not called; of one copy twice."""
        first = np.zeros(len(self.kinds), np.float32)
        first[self.kinds == MISSING] = np.nan
        mine = self.carried.filter(pl.col("allele") == 1)
        scaled = mine["copies"].to_numpy() * 2 / mine["ploidy"].to_numpy()
        first[mine["code"].to_numpy()] = scaled
        return np.asarray(first[self.codes])

    def carriers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(record, sample, code) of every genotype with an allele other than the reference."""
        record, sample = np.nonzero(self.kinds[self.codes] == CARRIER)
        return record, sample, self.codes[record, sample]


def genotypes(texts: pl.Series, samples: int) -> Genotypes:
    """Genotypes of a block. `texts`: records × samples, row by row; null where a record gives none.

    >>> found = genotypes(pl.Series(["0|0", "0/1", "./1", "."]), samples=2)
    >>> found.counts().tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    filled = texts.fill_null(".")
    distinct = filled.unique(maintain_order=True)
    codes = filled.replace_strict(distinct, pl.int_range(len(distinct), dtype=pl.UInt32, eager=True))
    parsed = [_parse(text) for text in distinct]
    kinds = np.array([_kind(alleles) for alleles, _ in parsed], np.uint8)
    rows = [
        (code, allele, alleles.count(allele), len(alleles), alleles.count(-1), phased, distinct[code])
        for code, (alleles, phased) in enumerate(parsed)
        for allele in sorted(set(alleles))
        if allele > 0
    ]
    carried = pl.DataFrame(rows, schema=CARRIED, orient="row")
    return Genotypes(codes.to_numpy().reshape(-1, samples), kinds, carried)


def _parse(text: str) -> tuple[list[int], bool]:
    """Alleles (-1: unknown), and whether they are in the order of their chromosomes. What is no genotype is unknown."""
    if not _GENOTYPE.match(text):
        return [-1], False
    alleles = [-1 if part == "." else int(part) for part in re.split(r"[/|]", text.lstrip("/|"))]
    return alleles, "|" in text and "/" not in text.lstrip("/|")


def _kind(alleles: list[int]) -> int:
    if any(allele > 0 for allele in alleles):
        return CARRIER
    return MISSING if -1 in alleles else REFERENCE
