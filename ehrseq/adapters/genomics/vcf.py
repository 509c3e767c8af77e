"""VCF files as blocks of columns: the fixed fields of each record as text, and the text of all samples.

BCF is written out as VCF text by htslib (cyvcf2) and then read in the same way. gzip and bgzip are known by their
first bytes, whatever the file's name.
"""

import gzip
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import polars as pl

from ehrseq.core.errors import ConfigError, SourceError

FIXED = ("chrom", "pos", "id", "ref", "alt", "qual", "filter", "info")
_HEADING = ("#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO")
_BASES = r"^[ACGTNRYSWKMBDHVacgtnryswkmbdhv]+$"
_BLOCK_BYTES = 16 << 20
_LONGEST_HEADER = 64 << 20
_CONTIG = re.compile(r"##contig=<.*?\bID=([^,>]+)")
_LENGTH = re.compile(r"\blength=(\d+)")
_CSQ = re.compile(r"##INFO=<ID=CSQ,.*Format: ?([^\">]+)")


class VcfError(SourceError):
    """A file is no VCF or BCF that can be read. `rule` says in which way."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Header:
    """What stands above the records. `contigs`: lengths by name, of those that declare one. `date`: ##fileDate."""

    samples: tuple[str, ...]
    contigs: dict[str, int]
    words: str
    date: str | None
    csq: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """Some records. `records`: `row` (from 1 in the file), the eight fixed fields, `format`, and `samples`, the text
    of all samples with its tabs. `ragged`: rows that do not have the fields of the heading, or whose POS or REF is
    none.
    """

    records: pl.DataFrame
    ragged: pl.DataFrame


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The VCF text of a file, uncompressed. Raises: VcfError, SourceError if it cannot be opened."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        with gzip.open(path) if start == b"\x1f\x8b" else path.open("rb") as text:
            first = text.peek(5)[:5]
            if first[:3] != b"BCF":
                yield text  # type: ignore[misc]
                return
    except (OSError, EOFError) as error:
        raise VcfError("damaged", f"{path.name}: cannot be read: {error}. Check the file.") from error
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "text.vcf"
        _to_text(path, written)
        with written.open("rb") as text:
            yield text


def _to_text(path: Path, out: Path) -> None:
    try:
        from cyvcf2 import VCF, Writer
    except ImportError as error:
        raise ConfigError("BCF needs cyvcf2: pip install 'ehrseq[genomics]'.") from error
    try:
        with_records = VCF(str(path))
        writer = Writer(str(out), with_records)
        for record in with_records:  # one call of htslib each; BCF is binary, there is no text to split
            writer.write_record(record)
        writer.close()
    except Exception as error:  # cyvcf2 raises Exception itself
        raise VcfError("damaged", f"{path.name}: htslib cannot read this BCF: {error}.") from error


def read_header(text: IO[bytes], name: str) -> Header:
    """Read the lines that begin with #, and leave `text` at the first record. Raises: VcfError."""
    lines: list[str] = []
    for raw in text:
        if not raw.startswith(b"#"):
            break
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("#CHROM"):
            return _header(lines, line, name)
        lines.append(line)
        if sum(map(len, lines[-1:])) > _LONGEST_HEADER:
            break
    raise VcfError(
        "header", f"{name}: has no line `#CHROM POS ID REF ALT …` above its records. It is no VCF file."
    )


def _header(lines: list[str], heading: str, name: str) -> Header:
    columns = heading.split("\t")
    if tuple(columns[:8]) != _HEADING or (len(columns) > 8 and columns[8] != "FORMAT"):
        raise VcfError(
            "header", f"{name}: the heading is not `{' '.join(_HEADING)} FORMAT …` with tabs between."
        )
    samples = tuple(columns[9:])
    if len(set(samples)) < len(samples) or "" in samples:
        raise VcfError(
            "header", f"{name}: a sample stands twice in the heading, or has no name. Correct the heading."
        )
    contigs = {
        found[1]: int(length[1])
        for line in lines
        if (found := _CONTIG.match(line)) and (length := _LENGTH.search(line))
    }
    kept = ("##reference", "##contig", "##source_GENOME", "##assembly")
    words = "\n".join(line for line in lines if line.startswith(kept))
    date = next((line.partition("=")[2] for line in lines if line.startswith("##fileDate=")), None)
    csq = next((found[1].split("|") for line in lines if (found := _CSQ.match(line))), [])
    return Header(samples, contigs, words, date, tuple(csq))


def read_blocks(text: IO[bytes], header: Header, name: str) -> Iterator[Block]:
    """The records in blocks of about 16 MB of text. Raises: VcfError if the text is cut off or is not UTF-8."""
    row, rest = 1, b""
    while True:
        try:
            part = text.read(_BLOCK_BYTES)
        except (OSError, EOFError) as error:
            raise VcfError("damaged", f"{name}: damaged after record {row - 1}: {error}.") from error
        whole, _, rest = (rest + part).rpartition(b"\n") if part else (rest, b"", b"")
        if whole:
            block = _block(whole, header, row, name)
            row += block.records.height + block.ragged.height
            yield block
        if not part:
            return


def _block(whole: bytes, header: Header, row: int, name: str) -> Block:
    try:
        lines = whole.decode("utf-8").replace("\r", "").split("\n")
    except UnicodeDecodeError as error:
        raise VcfError("encoding", f"{name}: the text after record {row - 1} is not UTF-8.") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    frame = pl.DataFrame({"line": lines}, schema={"line": pl.String}).with_row_index("row", offset=row)
    tabs = 7 + (1 + len(header.samples) if header.samples else 0)
    fits = pl.col("line").str.count_matches("\t", literal=True)
    fits = fits >= 7 if not header.samples else fits == tabs
    fields = pl.col("line").str.splitn("\t", 10).struct
    names = [*FIXED, "format", "samples"]
    split = frame.filter(fits).select(
        pl.col("row").cast(pl.Int64),
        *(fields.field(f"field_{at}").alias(key) for at, key in enumerate(names)),
    )
    number = pl.col("pos").str.to_integer(strict=False)
    good = number.is_not_null() & pl.col("ref").str.contains(_BASES) & (pl.col("alt").str.len_bytes() > 0)
    ragged = frame.filter(~fits).select(pl.col("row").cast(pl.Int64))
    unread = split.filter(~good).select("row")
    return Block(split.filter(good).with_columns(pos=number), pl.concat([ragged, unread]).sort("row"))
