"""What a report may show, field by field, and how to gather it from datasets."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import input_of
from ehrseq.core.manifest import Account, read_manifest, read_run
from ehrseq.evaluation.cohort_figure import CohortFlow
from ehrseq.evaluation.evidence import Evaluation
from ehrseq.evaluation.run_figures import History
from ehrseq.evaluation.several import SeveralResult


@dataclass(frozen=True, slots=True)
class CohortRow:
    """Who a task is about in one split: `positives` of the `predictions` (one per admission, usually)."""

    task: str
    split: str
    patients: int
    predictions: int
    positives: int


@dataclass(frozen=True, slots=True)
class FlowStep:
    """One station of the data, e.g. FlowStep("source rows", 1204333)."""

    name: str
    count: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """One dataset the numbers rest on.

    `sha256` is the hash of its manifest, which holds those of its shards; `seconds` and `peak_rss_bytes` are
    those of the run that made it, None if unknown.
    """

    name: str
    kind: str
    fingerprint: str
    sha256: str
    code_version: str
    inputs: tuple[str, ...] = ()
    seconds: float | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class ReportData:
    """What a report may show."""

    # the page's heading, e.g. "Generated hospital, 2,000 patients"
    title: str
    # what `results.assess` returned: results, differences, ceilings, notes, and rows for the figures
    evaluation: Evaluation
    # true puts "Synthetic data" on the page; a generated hospital must say so
    synthetic: bool = False
    # a line under the heading: when and with which version; empty keeps the page a function of the data alone
    made: str = ""
    # the command that makes this page again
    command: str = ""
    # patients, predictions and outcomes per task and split (`cohort_of`); empty: the evaluated rows only
    cohort: Sequence[CohortRow] = ()
    # who was left out of each task and why (`cohort_figure.CohortFlow`)
    exclusions: Sequence[CohortFlow] = ()
    # tasks with several outputs (`several.assess_several`), all discharge diagnoses for one
    several: Sequence[SeveralResult] = ()
    # the stations of the data in order: source rows, FHIR resources, events, tokens, labels
    flow: Sequence[FlowStep] = ()
    # the books of each source table, as in the manifests' `sources`
    accounts: Mapping[str, Account] = field(default_factory=dict)
    # the datasets behind the numbers, in order (`lineage_of`)
    lineage: Sequence[Lineage] = ()
    # name -> version of what ran, as in `run.json`
    versions: Mapping[str, str] = field(default_factory=dict)
    # the model's and the training's configuration; nested mappings are shown as dotted names
    model_config: Mapping[str, Any] = field(default_factory=dict)
    # rows with `step` and numbers such as `train_loss`, `tuning_loss` (see `run_figures.history_figure`)
    history: History = ()
    # sentences on what nobody looked at, beside those that hold for every report
    not_checked: Sequence[str] = ()


def lineage_of(folders: Iterable[Path]) -> list[Lineage]:
    """Lineage of datasets, from their manifests; only the last part of a path is kept.

    Raises: SchemaError if a folder is not a dataset.
    """
    found = []
    for folder in folders:
        manifest, run = read_manifest(folder), read_run(folder)
        found.append(
            Lineage(
                name=folder.name,
                kind=manifest.kind,
                fingerprint=manifest.fingerprint,
                sha256=input_of(folder.name, folder).sha256,
                code_version=manifest.code_version,
                inputs=tuple(item.name for item in manifest.inputs),
                seconds=run.get("seconds"),
                peak_rss_bytes=run.get("peak_rss_bytes"),
            )
        )
    return found


def cohort_of(task: str, labels: pl.DataFrame, splits: pl.DataFrame) -> list[CohortRow]:
    """Count one task's labels by split.

    `labels` has `subject_id` and `boolean_value` (a MEDS label table), `splits` `subject_id` and `split`;
    labels of subjects without a split are counted under "no split".
    """
    order = pl.Enum(["train", "tuning", "held_out", "no split"])
    counts = (
        labels.join(splits.select("subject_id", "split"), on="subject_id", how="left")
        .group_by(pl.col("split").fill_null("no split").cast(order))
        .agg(pl.col("subject_id").n_unique(), pl.len(), pl.col("boolean_value").sum())
        .sort("split")
    )
    return [CohortRow(task, *row) for row in counts.iter_rows()]
