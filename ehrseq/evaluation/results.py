"""Predictions in, results out: every metric of every model with its interval, beside what was attainable.

    evaluation = assess(predictions, truth=truth)
    evaluation.results        one Result per task, model and metric
    evaluation.differences    every model against every baseline, paired
    verdicts(evaluation)      one sentence per task (module `verdict`)

All models of a task are judged on the same rows and the same resamples of patients.
"""

from dataclasses import replace
from typing import Literal

import polars as pl

from ehrseq.evaluation.bootstrap import REPLICATES, Draws, Interval, Resamples, percentile_interval, resample
from ehrseq.evaluation.checks import UndefinedMetricError
from ehrseq.evaluation.cohort import TaskRows, task_rows
from ehrseq.evaluation.evidence import ATTAINABLE, Difference, Evaluation, Result
from ehrseq.evaluation.panel import Panel
from ehrseq.evaluation.wording import is_baseline, model_order

__all__ = ["Difference", "Evaluation", "Result", "assess", "evaluate"]

COMPARED = ("auroc", "auprc", "brier")  # the metrics in which models are compared pair by pair


def evaluate(
    predictions: pl.DataFrame,
    *,
    truth: pl.DataFrame | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Result]:
    """Every metric of every model with its interval; see `assess` for the arguments.

    Raises: UndefinedMetricError if a task's rows have only one outcome; SchemaError; ShapeError.
    """
    return assess(predictions, truth=truth, replicates=replicates, seed=seed).results


def assess(
    predictions: pl.DataFrame,
    *,
    truth: pl.DataFrame | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
    one_outcome: Literal["raise", "note"] = "raise",
) -> Evaluation:
    """Judge predictions (schema `Prediction`), with the true risks (schema `Truth`) if they are known.

    `one_outcome` says what a task whose rows all have the same outcome is: an error, or a note and a verdict
    that nothing can be concluded (then it has no AUROC, never a NaN). Rows without a label are left out
    and noted. `truth` must cover all of a task's rows, else the task has no attainable value and a note.

    Raises: UndefinedMetricError (see above); SchemaError if columns are wrong, a row is there twice, or
    the models of a task were not run on the same rows; ShapeError for a probability outside [0, 1].
    """
    cohorts, notes = task_rows(predictions, truth)
    found = Evaluation([], [], [], notes, cohorts)
    for task, rows in cohorts.items():
        if rows.positives in (0, rows.n):
            which = "no" if rows.positives == 0 else "every"
            message = f"{task}: {which} prediction of {rows.n} has the outcome"
            if one_outcome == "raise":
                raise UndefinedMetricError(
                    f"{message}; nothing can be ranked. Check the labels or add patients."
                )
            notes.append(f"{message}, so there is no AUROC, AUPRC or calibration.")
        _assess_task(rows, Resamples(rows.patients, replicates, seed), found)
    return found


def _assess_task(rows: TaskRows, resamples: Resamples, found: Evaluation) -> None:
    """Add one task's results, ceilings and differences to `found`."""
    panels = {
        model: Panel(rows.labels, values, rows.clusters) for model, values in rows.probabilities.items()
    }
    if rows.risk is not None:
        panels[ATTAINABLE] = Panel(rows.labels, rows.risk, rows.clusters)
    points = {model: panel.point() for model, panel in panels.items()}
    draws = resample(panels, resamples)
    for model in model_order(panels):
        for metric, value in points[model].items():
            interval = percentile_interval(value, draws[model][metric])
            result = _result(rows, model, metric, interval)
            if model == ATTAINABLE:
                found.ceilings.append(result)
                continue
            ceiling = points.get(ATTAINABLE, {}).get(metric)
            found.results.append(_with_attainable(result, ceiling, draws))
    found.differences.extend(_differences(rows.task, points, draws))


def _result(rows: TaskRows, model: str, metric: str, interval: Interval) -> Result:
    return Result(
        task=rows.task,
        model=model,
        metric=metric,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        n=rows.n,
        positives=rows.positives,
        patients=rows.patients,
        prevalence=rows.positives / rows.n,
        discarded=interval.discarded,
    )


def _with_attainable(result: Result, ceiling: float | None, draws: dict[str, Draws]) -> Result:
    """Add what the true risk reaches and, for the AUROC, the share of its lift, on the same resamples."""
    if ceiling is None:
        return result
    if result.metric != "auroc" or ceiling <= 0.5:
        return replace(result, attainable=ceiling)
    lift, most = draws[result.model]["auroc"] - 0.5, draws[ATTAINABLE]["auroc"] - 0.5
    usable = most > 0.0
    share = percentile_interval((result.value - 0.5) / (ceiling - 0.5), lift[usable] / most[usable])
    return replace(result, attainable=ceiling, share=share.value, share_low=share.low, share_high=share.high)


def _differences(task: str, points: dict[str, dict[str, float]], draws: dict[str, Draws]) -> list[Difference]:
    """Every model that is no baseline against every baseline; without one, the first against the others."""
    models = [model for model in model_order(points) if model != ATTAINABLE]
    references = [model for model in models if is_baseline(model)] or models[1:]
    found = []
    for model in (model for model in models if model not in references):
        for reference in references:
            for metric in COMPARED:
                if metric in points[model] and metric in points[reference]:
                    value = points[model][metric] - points[reference][metric]
                    interval = percentile_interval(value, draws[model][metric] - draws[reference][metric])
                    found.append(
                        Difference(task, metric, model, reference, value, interval.low, interval.high)
                    )
    return found
