"""The data-quality gate of a stage: a dataset with too many rejected rows is not put in place."""

import os
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.core.errors import DataQualityError
from ehrseq.core.manifest import total
from ehrseq.core.parquet import write_parquet


def refuse_rejects(
    build: Build, limit: float, by: Sequence[str], *, noun: str = "rows", held: int = 0
) -> None:
    """Refuse the dataset if more than the fraction `limit` of its rows in were rejected.

    `held`: rows in that were accepted by an earlier run, of which the fraction is not.

    `by`: columns of `rejects/*.parquet` (which has `outcome`) whose commonest values the message names. The rejects are
    left beside the dataset's place, as `<out>.rejects.parquet`. Raises: DataQualityError; StorageError.
    """
    books, beside = total(build.accounts.values()), Path(f"{build.out}.rejects.parquet")
    rows_in = books.rows_in - held
    if books.rejected <= limit * rows_in:
        beside.unlink(missing_ok=True)  # of a refused run before: it says nothing of this dataset
        return
    rejected = pl.scan_parquet(build.folder / "rejects" / "*.parquet").filter(outcome="rejected").collect()
    whole = build.path("refused.parquet")
    write_parquet(rejected, whole)
    os.replace(whole, beside)
    worst = rejected.group_by(by).len().sort("len", *by, descending=[True, *(False for _ in by)]).head(3)
    reasons = "; ".join(f"{' '.join(map(str, row[:-1]))} {row[-1]:,}" for row in worst.iter_rows())
    raise DataQualityError(
        f"{build.out}: {books.rejected:,} of {rows_in:,} {noun} were rejected, more than --max-reject-fraction "
        f"{limit:g} ({reasons}). Nothing was written there; the rejected {noun} and their reasons are in {beside}."
    )
