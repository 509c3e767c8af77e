"""The rows a task is judged on: the same for every model, checked, in one order, as arrays."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.evaluation.bootstrap import number_patients
from ehrseq.evaluation.checks import Floats, Integers, checked_scores
from ehrseq.evaluation.schema import Prediction, Truth

_KEY = [Prediction.subject_id, Prediction.prediction_time]


@dataclass(frozen=True)
class TaskRows:
    """One task's labelled predictions, sorted by (subject_id, prediction_time).

    `labels` [n] 0/1 float64; `clusters` [n] int64 numbers the patients from 0; `probabilities` maps each
    model to [n] float64; `risk` [n] is the true risk, or None if it is not known for every row.
    """

    task: str
    labels: Floats
    clusters: Integers
    probabilities: dict[str, Floats]
    risk: Floats | None = None

    @property
    def n(self) -> int:
        """Number of predictions."""
        return self.labels.size

    @property
    def positives(self) -> int:
        """Number of predictions whose outcome happened."""
        return int(self.labels.sum())

    @property
    def patients(self) -> int:
        """Number of distinct patients."""
        return int(self.clusters.max()) + 1


def task_rows(
    predictions: pl.DataFrame, truth: pl.DataFrame | None = None
) -> tuple[dict[str, TaskRows], list[str]]:
    """Predictions (schema `Prediction`) by task, in order of first appearance, and notes on what is left out.

    Raises: SchemaError if columns are wrong, a prediction is there twice with different values, labels
    disagree between models, or the models were not run on the same rows; ShapeError for a bad probability.
    """
    Prediction.check(predictions)
    if truth is not None:
        Truth.check(truth)
    notes: list[str] = []
    found = {}
    for (task,), rows in predictions.group_by([Prediction.task], maintain_order=True):
        labelled = rows.filter(pl.col(Prediction.label).is_not_null())
        if unknown := rows.height - labelled.height:
            notes.append(f"{task}: {unknown} predictions have no known outcome and are left out.")
        if labelled.height:
            found[str(task)] = _one_task(str(task), labelled, truth, notes)
    if not found:
        raise SchemaError(
            f"None of the {predictions.height} predictions has a label, so there is nothing to evaluate. "
            "Predict on labelled rows: `ehrseq label` makes them."
        )
    return found, notes


def _one_task(task: str, rows: pl.DataFrame, truth: pl.DataFrame | None, notes: list[str]) -> TaskRows:
    columns = [*_KEY, Prediction.model, Prediction.probability, Prediction.label]
    distinct = rows.select(columns).unique().sort(Prediction.model, *_KEY)
    if repeated := rows.height - distinct.height:
        notes.append(f"{task}: {repeated} predictions are exact repeats of another and are counted once.")
    twice = distinct.height - distinct.select(*_KEY, Prediction.model).n_unique()
    if twice:
        raise SchemaError(
            f"Predictions of task {task}: {twice} share subject, time and model with another but differ in "
            "probability or label. Expected one prediction for each."
        )
    by_model = {
        str(model): part for (model,), part in distinct.group_by([Prediction.model], maintain_order=True)
    }
    first = next(iter(by_model.values()))
    probabilities = {}
    for model, part in by_model.items():
        _same_rows(task, next(iter(by_model)), first, model, part)
        labels = part[Prediction.label].cast(pl.Float64).to_numpy()
        probabilities[model] = checked_scores(
            part[Prediction.probability].to_numpy(), labels, probabilities=True
        )
    clusters = number_patients(first[Prediction.subject_id].to_numpy())
    labels = first[Prediction.label].cast(pl.Float64).to_numpy()
    return TaskRows(task, labels, clusters, probabilities, _risk(task, first, truth, notes))


def _same_rows(task: str, name: str, first: pl.DataFrame, other_name: str, other: pl.DataFrame) -> None:
    """Raises: SchemaError unless both models were run on the same rows with the same labels."""
    if not first.select(_KEY).equals(other.select(_KEY)):
        lacking = first.join(other, on=_KEY, how="anti").height, other.join(first, on=_KEY, how="anti").height
        raise SchemaError(
            f"Predictions of task {task}: {other_name} lacks {lacking[0]} of the rows of {name} and has "
            f"{lacking[1]} others. Models are compared on the same rows only: predict again with both."
        )
    if not first[Prediction.label].equals(other[Prediction.label]):
        differing = (first[Prediction.label] != other[Prediction.label]).sum()
        raise SchemaError(
            f"Predictions of task {task}: {name} and {other_name} disagree on {differing} labels of the same "
            "rows. Join both to the labels of one `ehrseq label` run."
        )


def _risk(task: str, rows: pl.DataFrame, truth: pl.DataFrame | None, notes: list[str]) -> Floats | None:
    """The true risk of each row, or None with a note if it is not known for all."""
    if truth is None:
        return None
    known = truth.filter(pl.col(Truth.task) == task).group_by(_KEY).agg(pl.col(Truth.risk).mean())
    risk = rows.join(known, on=_KEY, how="left", maintain_order="left")[Truth.risk]
    if missing := risk.null_count():
        notes.append(
            f"{task}: the true risk is unknown for {missing} of {rows.height} predictions, "
            "so what is attainable is not stated."
        )
        return None
    return checked_scores(risk.to_numpy(), np.zeros(risk.len()), probabilities=True)
