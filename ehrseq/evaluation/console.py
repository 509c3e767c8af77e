"""The headline table for a terminal: task x (attainable, models, baselines), with intervals."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from ehrseq.evaluation.evidence import Result
from ehrseq.evaluation.verdict import Evidence, evidence
from ehrseq.evaluation.wording import (
    METRIC_NAMES,
    integer,
    model_name,
    model_order,
    number,
    percent,
    span,
    task_words,
)

_MOST_COLUMNS = 4  # models side by side in 80 characters; more are listed one below the other


def results_table(results: Sequence[Result], *, metric: str = "auroc") -> Table:
    """One metric of all models and tasks, readable at 80 columns; a value without enough outcomes is dim.

    Print it with `rich.print(results_table(results))`. Up to four models stand side by side, more one below
    the other.
    """
    chosen = [result for result in results if result.metric == metric]
    models = model_order(result.model for result in chosen)
    tasks = list(dict.fromkeys(result.task for result in chosen))
    known = any(result.attainable is not None for result in chosen)
    table = Table(
        title=f"{METRIC_NAMES.get(metric, metric)} with 95 % intervals, held-out patients",
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1, 1, 0),
    )
    table.add_column("Task", min_width=20)
    fill = _fill_wide if len(models) + known <= _MOST_COLUMNS + 1 else _fill_long
    fill(table, chosen, tasks, models, known)
    return table


def _fill_wide(table: Table, results: list[Result], tasks: list[str], models: list[str], known: bool) -> None:
    """A row per task, a column per model."""
    for name in (["attainable"] if known else []) + [model_name(model) for model in models]:
        table.add_column(name.replace(" ", "\n"), justify="right", min_width=10, vertical="top")
    for task in tasks:
        of_task = {result.model: result for result in results if result.task == task}
        first = next(iter(of_task.values()))
        ceiling = [Text(number(first.attainable))] if known else []
        table.add_row(_task(first), *ceiling, *(_cell(of_task.get(model)) for model in models))


def _fill_long(table: Table, results: list[Result], tasks: list[str], models: list[str], known: bool) -> None:
    """A row per task and model."""
    table.padding = (0, 2, 0, 0)
    table.add_column("Model")
    table.add_column("Value", justify="right")
    table.add_column("95 % interval", justify="right")
    for task in tasks:
        of_task = {result.model: result for result in results if result.task == task}
        first = next(iter(of_task.values()))
        lines = [_long(of_task[model]) for model in models if model in of_task]
        if known:
            lines.append((Text("attainable"), Text(number(first.attainable)), Text("")))
        heads = [_task(first).split("\n")[0], *_task(first).split("\n")[1:]]
        for index, line in enumerate(lines):
            table.add_row(
                heads[index] if index < len(heads) else "", *line, end_section=index == len(lines) - 1
            )


def _long(result: Result) -> tuple[Text, Text, Text]:
    value, _, interval = _cell(result).plain.partition("\n")
    style = _value_style(result)
    return Text(model_name(result.model)), Text(value, style), Text(interval, "dim")


def _task(result: Result) -> Text:
    words = task_words(result.task)
    counts = f"{integer(result.positives)} of {integer(result.n)} ({percent(result.prevalence)})"
    return Text.assemble((words.title, "bold"), "\n", (counts, "dim"))


def _cell(result: Result | None) -> Text:
    if result is None:
        return Text("—")
    return Text.assemble(
        (number(result.value), _value_style(result)), "\n", (span(result.low, result.high), "dim")
    )


def _value_style(result: Result) -> str:
    return "dim" if result.metric == "auroc" and evidence(result) is Evidence.NOTHING else "bold"
