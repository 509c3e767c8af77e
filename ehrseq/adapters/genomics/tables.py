"""A VCF as the tables of source `vcf`: records, samples, variants, phases, regions.

`records`: every line of the file (it is accounted for; what it gave stands in the others). `samples`: a row a sample,
with how many records it has of each kind. `variants`: a row for each allele that a sample carries, and one for the
sample itself (`variant` null), from which its report is made. `common`: the carried alleles that are not reported one
by one: 1 % of alleles or more, of no consequence that is known, and `regions.bed` does not ask for them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.adapters.genomics.annotation import FILE as NOTES
from ehrseq.adapters.genomics.annotation import read_notes
from ehrseq.adapters.genomics.assembly import accessions, agreed, by_lengths, by_words, chromosome
from ehrseq.adapters.genomics.calls import called, phase_rows, sites, variant_rows
from ehrseq.adapters.genomics.links import NAMES, moment, read_links
from ehrseq.adapters.genomics.regions import NOT_CALLED, REPORTED, STUDIED, common, inside, read_bed
from ehrseq.adapters.genomics.scores import add_block, read_scores, score_rows
from ehrseq.adapters.genomics.vcf import Header, VcfError, opened, read_blocks, read_header
from ehrseq.core.errors import SourceError
from ehrseq.sources.declaration import Table
from ehrseq.sources.rejects import join_rejects, rejects

PHARMACOGENES = "pharmacogenes.csv"
_PHARMACOGENE = ("sample", "gene", "diplotype", "phenotype")
FILES = (".vcf", ".vcf.gz", ".vcf.bgz", ".bcf")
SUFFIXES = (*FILES, *NAMES, NOTES, REPORTED, STUDIED, NOT_CALLED, PHARMACOGENES, ".txt", ".txt.gz")
"""What the name of a file ends in; files that stand beside the VCF are inputs as well."""
_ROWS_AT_ONCE = 200_000
RARE = 0.01
"""From this frequency on an allele is common. Source: 1000 Genomes Project 2015, Nature 526, low-frequency variants."""
_OF_CONSEQUENCE = (
    "transcript_ablation", "splice_acceptor_variant", "splice_donor_variant", "stop_gained", "frameshift_variant",
    "stop_lost", "start_lost", "transcript_amplification", "inframe_insertion", "inframe_deletion", "missense_variant",
    "protein_altering_variant",
)  # fmt: skip
"""Consequences of high and moderate impact. Source: https://www.ensembl.org/info/genome/variation/prediction."""


@dataclass(slots=True)
class FileTables:
    """What one file gives, by table; rejects are those of `records` and `samples`."""

    rows: dict[str, list[pl.DataFrame]] = field(default_factory=dict)
    rejects: dict[str, list[pl.DataFrame]] = field(default_factory=dict)

    def refuse(self, table: str, file: str, rows: Sequence[int], rule: str, message: str) -> None:
        """Add rejects; row 0 is the file as a whole."""
        places = pl.DataFrame({"_row": rows}, schema={"_row": pl.Int64}).with_columns(_file=pl.lit(file))
        self.rejects.setdefault(table, []).append(rejects(places, table, rule=rule, message=message))


def read(table: Table, files: Sequence[tuple[Path, str]]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Yield (rows, rejects) of a table. Raises: SourceError without samples.csv, or for mixed assemblies."""
    empty = pl.DataFrame(
        schema={**dict.fromkeys(table.columns, pl.String), "_file": pl.String, "_row": pl.Int64}
    )
    nothing = True
    for path, name in files:
        if not path.name.lower().endswith(FILES):
            continue
        _one_assembly(path.parent)
        found = _file_tables(path, name, _stamp(path.parent))
        unread = join_rejects(found.rejects.get(table.name, []))
        for frame in found.rows.get(table.name, []):
            for part in frame.iter_slices(_ROWS_AT_ONCE):
                nothing = False
                yield part.select(*table.columns, _row="row").with_columns(_file=pl.lit(name)), unread
                unread = unread.clear()
        if unread.height:
            yield empty, unread
    if nothing:
        yield empty, join_rejects([])


@lru_cache(64)
def _one_assembly(folder: Path) -> None:
    """Refuse a folder whose files are of different assemblies. Raises: SourceError."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.lower().endswith(FILES):
            try:
                with opened(path) as text:
                    header = read_header(text, path.name)
                assembly = agreed(None, by_lengths(header.contigs), by_words(header.words), path.name)
            except SourceError:
                continue  # it becomes a reject of its own
            if assembly:
                found[assembly] = path.name
    if len(found) > 1:
        named = " and ".join(f"{name} ({assembly})" for assembly, name in sorted(found.items()))
        raise SourceError(
            f"{folder}: holds files of different assemblies: {named}. Positions of one mean nothing in the other: map "
            "them from separate folders, or lift one over."
        )


def _stamp(folder: Path) -> int:
    """Changes when a file of the folder does, those beside a VCF among them."""
    return hash(
        tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file())
    )


@lru_cache(1)
def _file_tables(path: Path, name: str, _changed: int) -> FileTables:
    """All tables of a file, held for the tables that are read from it next."""
    found = FileTables()
    links = read_links(path.parent)
    try:
        with opened(path) as text:
            header = read_header(text, path.name)
            _File(path, name, header, links, found).read(text)
    except SourceError as error:
        found.rows.clear()
        found.refuse("records", name, [0], getattr(error, "rule", "assembly"), str(error))
    return found


def _pharmacogenes(folder: Path, samples: tuple[str, ...]) -> pl.DataFrame:
    """Diplotypes and phenotypes that a caller of star alleles (PharmCAT, say) gave. Raises: SourceError."""
    path = folder / PHARMACOGENES
    none = pl.DataFrame(schema={**dict.fromkeys(_PHARMACOGENE, pl.String), "row": pl.Int64})
    if not path.is_file():
        return none
    frame = pl.read_csv(path, infer_schema=False)
    if missing := [name for name in _PHARMACOGENE if name not in frame.columns]:
        raise SourceError(f"{path}: has no column `{missing[0]}`. Expected {', '.join(_PHARMACOGENE)}.")
    rows = frame.select(*_PHARMACOGENE, row=pl.int_range(1, pl.len() + 1, dtype=pl.Int64))
    return rows.filter(pl.col("sample").is_in(samples))


class _File:
    """One file on its way into tables."""

    def __init__(self, path: Path, name: str, header: Header, links: pl.DataFrame, found: FileTables) -> None:
        self.path, self.name, self.header, self.found = path, name, header, found
        own = pl.DataFrame({"sample": header.samples}, schema={"sample": pl.String})
        written = moment(pl.lit(header.date, pl.String))
        self.links = own.join(links, on="sample", how="left", maintain_order="left").with_columns(
            pl.coalesce("reported", written).alias("reported"), source=pl.col("source").fill_null("germline")
        )
        declared = self.links["assembly"].drop_nulls().unique().to_list()
        if len(declared) > 1:
            raise VcfError(
                "assembly", f"{path.name}: samples.csv gives its samples {len(declared)} assemblies."
            )
        words = by_words(header.words)
        self.assembly = agreed(next(iter(declared), None), by_lengths(header.contigs), words, path.name)
        if self.assembly is None and header.samples:
            raise VcfError(
                "assembly",
                f"{path.name}: its header does not say of which assembly its positions are (no contig has a length, "
                "no reference is named). Say so in samples.csv, column `assembly`.",
            )
        self.beds = {
            bed: read_bed(path.parent / bed) for bed in (REPORTED, STUDIED, NOT_CALLED) if self._has(bed)
        }
        self.noted = read_notes(path.parent)
        self.scores = read_scores(path.parent, self.assembly)

    def _has(self, bed: str) -> bool:
        return (self.path.parent / bed).is_file()

    def read(self, text: object) -> None:
        """Read all records. Raises: VcfError."""
        counts = np.zeros((len(self.header.samples), 3), np.int64)
        records, rows = 0, []
        for block in read_blocks(text, self.header, self.path.name):  # type: ignore[arg-type]
            if block.ragged.height:
                message = "the line does not have the fields of the heading, or its POS or REF is none"
                self.found.refuse("records", self.name, block.ragged["row"].to_list(), "ragged", message)
            if not block.records.height:
                continue
            records += block.records.height
            self._put("records", block.records.select("row", "chrom", position="pos"))
            if self.header.samples:
                genotypes, calls = called(block, self.header)
                counts += genotypes.counts()
                if self.scores:
                    places = block.records.select(
                        "pos",
                        chromosome=chromosome(pl.col("chrom")),
                        ref=pl.col("ref").str.to_uppercase(),
                        alt=pl.col("alt").str.extract(r"^([^,]*)").str.to_uppercase(),
                    )
                    add_block(self.scores, places, genotypes.dosages())
                known = sites(block, calls, self.header, self.assembly, self.noted)
                rows.append(variant_rows(calls, self._known(known), self.header.samples))
        self._samples(records, counts, rows)

    def _put(self, table: str, frame: pl.DataFrame) -> None:
        self.found.rows.setdefault(table, []).append(frame)

    def _linked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Add whose a row is and when it was known; rows of samples that are not linked go."""
        return frame.join(
            self.links.filter(pl.col("patient").is_not_null()).drop("assembly"),
            on="sample",
            how="inner",
            maintain_order="left",
        ).with_columns(assembly=pl.lit(self.assembly))

    def _known(self, sites: pl.DataFrame) -> pl.DataFrame:
        """Add whether `regions.bed` asks for a site (null: there is none), and whether it is common."""
        asked = self.beds.get(REPORTED)
        within = None if asked is None else inside(asked, sites["chromosome"], sites["pos"])
        known = pl.any_horizontal(pl.col("significance", "phenotype").is_not_null())
        counts = pl.col("consequence").is_in(_OF_CONSEQUENCE).fill_null(False)
        return sites.with_columns(
            in_regions=pl.lit(None, pl.Boolean) if within is None else within
        ).with_columns(
            common=pl.col("in_regions").is_null()
            & (pl.col("frequency") >= RARE).fill_null(False)
            & ~known
            & ~counts
        )

    def _samples(self, records: int, counts: np.ndarray, rows: list[pl.DataFrame]) -> None:
        numbers = pl.DataFrame(counts, schema=["reference_calls", "carrier_calls", "missing_calls"])
        own = pl.concat([self.links.select("sample"), numbers], how="horizontal").with_columns(
            row=pl.int_range(1, pl.len() + 1, dtype=pl.Int64), records=pl.lit(records, pl.Int64)
        )
        linked = self._linked(own)
        unlinked = own.filter(~pl.col("sample").is_in(linked["sample"].to_list()))["row"].to_list()
        if unlinked:
            message = "samples.csv does not say whose sample this is; nothing of it is read"
            self.found.refuse("samples", self.name, unlinked, "unlinked", message)
        self._put("samples", linked)
        empty = pl.DataFrame(schema=rows[0].schema if rows else {"sample": pl.String})
        self._put(
            "variants", self._linked(pl.concat([empty, linked.select("sample", "row")], how="diagonal"))
        )
        if not rows:
            self.found.rows["variants"] = []
            return
        for part in rows:
            self._put("variants", self._linked(part.filter(~pl.col("common"))))
            self._put("common", self._linked(part.filter(pl.col("common"))))
            self._put("phases", self._linked(phase_rows(part)))
        self._put("pharmacogenes", self._linked(_pharmacogenes(self.path.parent, self.header.samples)))
        self._put("scores", self._linked(score_rows(self.scores, self.header.samples)))
        self._regions(linked)

    def _regions(self, samples: pl.DataFrame) -> None:
        """The ground that was looked at or could not be called, within what was asked for; a row a sample and range."""
        asked = self.beds.get(REPORTED)
        for bed, what in ((STUDIED, "studied"), (NOT_CALLED, "uncallable")):
            if bed not in self.beds:
                continue
            ground = common(self.beds[bed], asked) if asked is not None else self.beds[bed]
            named = accessions(self.assembly or "")
            ranges = ground.select(
                "chromosome",
                what=pl.lit(what),
                accession=pl.col("chromosome").replace_strict(named, return_dtype=pl.String),
                low=pl.col("start") + 1,
                high="end",
            ).with_row_index("row", offset=1)
            each = (
                samples.select("sample").join(ranges, how="cross").with_columns(pl.col("row").cast(pl.Int64))
            )
            self._put("regions", self._linked(each))
