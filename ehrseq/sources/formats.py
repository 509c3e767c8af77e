"""Sources whose files each hold rows of several tables: `format: ccda` or `hl7v2` in source.yaml."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

import polars as pl

from ehrseq.sources.declaration import Table

_READERS = {
    "ccda": "ehrseq.sources.ccda",
    "hl7v2": "ehrseq.sources.hl7v2",
    "assay": "ehrseq.adapters.genomics.assays",
    "vcf": "ehrseq.adapters.genomics.tables",  # adapters are found by name: nothing up-stream of them imports them
}


def format_files(data: Path, form: str) -> list[Path]:
    """All files below a folder that are of the format, by their names."""
    suffixes = import_module(_READERS[form]).SUFFIXES
    return sorted(p for p in data.rglob("*") if p.name.lower().endswith(suffixes) and p.is_file())


def format_batches(
    form: str, table: Table, files: Sequence[tuple[Path, str]]
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """(rows as text with `_file` and `_row`, rejects) of a table. Raises: SourceError."""
    yield from import_module(_READERS[form]).read(table, files)
