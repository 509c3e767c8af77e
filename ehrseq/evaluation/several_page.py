"""What the report and the terminal say of tasks with several outputs, in words and in order. No layout here."""

from typing import Any

from ehrseq.evaluation.evidence import Difference, Result
from ehrseq.evaluation.sentences import judgement
from ehrseq.evaluation.several import METRICS, OutputResult, SeveralResult
from ehrseq.evaluation.wording import (
    METRIC_NAMES,
    integer,
    is_baseline,
    model_name,
    model_order,
    number,
    percent,
    signed,
    slug,
    span,
    task_words,
)


def several_sentence(found: SeveralResult) -> str:
    """The task's result in one paragraph: the network (or the best there is) beside its baseline."""
    of = {result.model: result for result in found.results if result.metric == METRICS[0]}
    models = model_order(of)
    lead = next((model for model in models if not is_baseline(model)), models[0])
    result, words = of[lead], task_words(found.task)
    said = (
        f"{words.title}: {integer(found.judged)} of {integer(found.outputs)} outputs could be judged on "
        f"{integer(result.n)} {words.rows}. Frequency-weighted AUROC of the {model_name(lead)} "
        f"{number(result.value)} ({span(result.low, result.high)})"
    )
    others = [f"{model_name(model)} {number(of[model].value)}" for model in models if model != lead]
    difference = next(
        (one for one in found.differences if (one.metric, one.model) == (METRICS[0], lead)), None
    )
    return f"{said}, {', '.join(others)}{_compared(difference)}." if others else f"{said}."


def _compared(difference: Difference | None) -> str:
    if difference is None:
        return ""
    interval = span(difference.low, difference.high, 3)
    return f"; difference {signed(difference.value, 3)} ({interval}), {judgement(difference)}"


def several_task(found: SeveralResult) -> dict[str, Any]:
    """For the template: models by metrics, differences, and the commonest outputs."""
    models = model_order(result.model for result in found.results)
    cells = {(result.model, result.metric): result for result in found.results}
    first = found.results[0]
    return {
        "title": task_words(found.task).title,
        "name": found.task,
        "anchor": f"task-{slug(found.task)}",
        "counts": f"{integer(first.n)} {task_words(found.task).rows} of {integer(first.patients)} patients, "
        f"{number(first.positives / first.n, 1)} of {integer(found.outputs)} outputs true on average",
        "judged": f"{integer(found.judged)} of {integer(found.outputs)}",
        "sentence": several_sentence(found),
        "metrics": [METRIC_NAMES[metric] for metric in METRICS],
        "rows": [
            {"name": model_name(model), "cells": [_cell(cells[model, metric]) for metric in METRICS]}
            for model in models
        ],
        "models": [model_name(model) for model in models],
        "outputs": [_output(one, models, first.n) for one in found.of_outputs],
    }


def _cell(result: Result) -> dict[str, str]:
    return {"value": number(result.value), "interval": span(result.low, result.high), "word": ""}


def _output(one: OutputResult, models: list[str], labels: int) -> dict[str, Any]:
    return {
        "name": one.output,
        "meaning": one.meaning,
        "count": f"{integer(one.positives)} ({percent(one.positives / labels)})",
        "cells": [
            {"value": number(one.auroc[model][0]), "interval": span(*one.auroc[model][1:]), "word": ""}
            for model in models
        ],
    }
