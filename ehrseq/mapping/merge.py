"""The source's link table of merged patients: which number was given up for which.

Nothing is rewritten: rows keep the number they came with, and so do the resources made from them. What is known here is
only whose rows belong together, so taking a link back takes the merge back.
"""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

from ehrseq.fhir.merged import RETIRED, SURVIVOR
from ehrseq.sources.database import Partition
from ehrseq.sources.declaration import Merge, Table
from ehrseq.sources.tables import COLUMN_DTYPES, read_batches


def read_links(merge: Merge, table: Table, files: Iterable[Path | Partition]) -> pl.DataFrame:
    """The links of a delivery; rows that cannot be read are rejects of the first pass, not of this one."""
    frames = [no_links(table, merge)]
    for rows, _ in read_batches(table, [(path, path.name) for path in files]):
        frames.append(as_links(rows, merge))
    return pl.concat(frames)


def as_links(rows: pl.DataFrame, merge: Merge) -> pl.DataFrame:
    """Rows of the link table as links."""
    return rows.select(pl.col(merge.retired).alias(RETIRED), pl.col(merge.into).alias(SURVIVOR))


def no_links(table: Table, merge: Merge) -> pl.DataFrame:
    """An empty frame of links."""
    dtype = COLUMN_DTYPES[table.columns[merge.retired]]
    return pl.DataFrame(schema={RETIRED: dtype, SURVIVOR: dtype})
