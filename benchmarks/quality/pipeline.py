"""The way of a quality benchmark from raw files to arrays: map, timeline, tokens, labels, examples. All cached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import ehrseq
from ehrseq.models.series import without_implausible
from ehrseq.tokens.examples import make_examples
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.raw_values import raw_values
from ehrseq.tokens.store import TokenStore

HERE = Path(__file__).parent
WORKERS = 4


@dataclass(frozen=True)
class Prepared:
    """A token store, its labels, and the tokens' numbers as the record gives them (implausible ones left out)."""

    store: TokenStore
    examples: Examples
    values: NDArray[np.float32]  # [N]
    work: Path  # holds `examples`, and `values.npy` for workers

    @property
    def names(self) -> list[str]:
        """Codes by id."""
        return self.store.vocabulary["codes"]

    def subjects(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """subject_id of the labels `rows`."""
        return np.asarray(self.store.subject_id)[self.examples.subject[rows]]

    def rows(self, task: str, split: str) -> NDArray[np.int64]:
        """Label rows of a task in a split."""
        rows = self.examples.rows(split)
        return rows[self.examples.task[rows] == self.examples.tasks.tolist().index(task)]


def prepare(
    source: str | Path,
    data: Path,
    work: Path,
    splits: Mapping[str, Sequence[int]] | None,
    tasks: Sequence[str],
    **tokenize: Any,
) -> Prepared:
    """Every stage below `work`; `splits` names the subjects of train and tuning, all others are held out."""
    ehrseq.map(source, data, work / "fhir", workers=WORKERS)
    given = None
    if splits is not None:
        given = work / "splits.parquet"
        frames = [pl.DataFrame({"subject_id": list(who), "split": name}) for name, who in splits.items()]
        pl.concat(frames).sort("subject_id").write_parquet(given)
    ehrseq.timeline(work / "fhir", work / "timeline", splits=given, workers=WORKERS)
    ehrseq.tokenize(work / "timeline", work / "tokens", **tokenize)
    labels = [work / "labels" / task for task in tasks]
    for task, folder in zip(tasks, labels, strict=True):
        ehrseq.label(str(HERE / "tasks" / f"{task}.yaml"), work / "timeline", folder)
    make_examples(work / "tokens", labels, work / "examples")
    store = TokenStore.open(work / "tokens")
    raw = raw_values(store, work / "timeline")
    values = without_implausible(store.vocabulary["codes"], np.asarray(store.code), raw)
    np.save(work / "values.npy", values.astype(np.float32))
    return Prepared(store, Examples.load(work / "examples"), values.astype(np.float32), work)
