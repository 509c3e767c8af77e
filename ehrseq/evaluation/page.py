"""What the report's template shows, in the words and order in which it is shown. No layout here, no HTML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ehrseq.core.manifest import Account, total
from ehrseq.evaluation import figures, run_figures
from ehrseq.evaluation.cohort import TaskRows
from ehrseq.evaluation.cohort_figure import cohort_figure
from ehrseq.evaluation.evidence import ATTAINABLE, Evaluation, Result
from ehrseq.evaluation.panel import METRICS
from ehrseq.evaluation.report_data import CohortRow, Lineage, ReportData
from ehrseq.evaluation.results import COMPARED
from ehrseq.evaluation.sentences import digits_of, judgement
from ehrseq.evaluation.several_page import several_task
from ehrseq.evaluation.verdict import Evidence, Verdict, verdicts
from ehrseq.evaluation.wording import (
    METRIC_NAMES,
    counted,
    integer,
    model_name,
    model_order,
    number,
    percent,
    signed,
    slug,
    span,
    task_words,
)

_ALWAYS_UNCHECKED = (
    "The intervals cover the chance of which patients were held out, not the chance in "
    "training: another seed or another split may move every number.",
    "Subgroups: nothing here is split by age, sex, origin or ward, where a model may do worse.",
    "Comparisons are not corrected for their number: of twenty without a true difference, one looks real.",
    "Nothing was tried at another hospital, in a later year, or in daily use.",
)
_SYNTHETIC_UNCHECKED = (
    "The patients are generated. How well a model does on them says nothing about how it does on real ones.",
)
_MEBIBYTE = 1024.0**2


@dataclass(frozen=True, slots=True)
class Cell:
    """A number, its interval and perhaps a word on it, ready to print."""

    value: str
    interval: str = ""
    word: str = ""


def page(data: ReportData) -> dict[str, Any]:
    """The template's only variable."""
    found = data.evaluation
    spoken = {verdict.task: verdict for verdict in verdicts(found)}
    return {
        "title": data.title,
        "synthetic": data.synthetic,
        "made": data.made,
        "command": data.command,
        "verdicts": [_verdict(verdict) for verdict in spoken.values()],
        "headline": _headline(found, spoken),
        "forest": Markup(figures.forest_figure(found))
        if any(found.of(task) for task in found.tasks)
        else None,
        "tasks": [_task(found, spoken[task]) for task in found.tasks],
        "several": [several_task(one) for one in data.several],
        "cohort": _cohort(data.cohort or _evaluated(found)),
        "exclusions": Markup(cohort_figure(data.exclusions)) if data.exclusions else None,
        "flow": [{"name": step.name, "count": integer(step.count)} for step in data.flow],
        "accounts": _accounts(data.accounts),
        "lineage": [_lineage(item) for item in data.lineage],
        "versions": dict(data.versions),
        "config": dict(_flat(data.model_config)),
        "history": Markup(run_figures.history_figure(data.history)) if data.history else None,
        "notes": found.notes,
        "not_checked": [
            *data.not_checked,
            *(_SYNTHETIC_UNCHECKED if data.synthetic else ()),
            *_ALWAYS_UNCHECKED,
        ],
        "shows_attainable": bool(found.ceilings),
    }


def _verdict(verdict: Verdict) -> dict[str, str]:
    return {
        "title": task_words(verdict.task).title,
        "anchor": f"task-{slug(verdict.task)}",
        "grade": verdict.evidence.name.lower(),
        "grade_words": verdict.evidence.value,
        "text": verdict.text,
    }


def _headline(found: Evaluation, spoken: Mapping[str, Verdict]) -> dict[str, Any]:
    """Task x (attainable, models, baselines), AUROC."""
    models = model_order(result.model for result in found.results)
    ceilings = [ATTAINABLE] if found.ceilings else []
    rows = []
    for task in found.tasks:
        ceiling = [result for result in found.ceilings if (result.task, result.metric) == (task, "auroc")]
        by_model = {result.model: result for result in [*found.of(task), *ceiling]}
        any_result = next(iter(by_model.values()), None) or next(r for r in found.results if r.task == task)
        rows.append(
            {
                "title": task_words(task).title,
                "anchor": f"task-{slug(task)}",
                "counts": _counts(any_result),
                "weak": spoken[task].evidence is Evidence.NOTHING,
                "lead": spoken[task].model,
                "cells": [(model, _cell(by_model.get(model))) for model in [*ceilings, *models]],
            }
        )
    return {"columns": [model_name(model) for model in [*ceilings, *models]], "rows": rows}


def _counts(result: Result) -> str:
    words = task_words(result.task)
    return f"{integer(result.positives)} of {integer(result.n)} {words.rows} ({percent(result.prevalence)})"


def _task(found: Evaluation, verdict: Verdict) -> dict[str, Any]:
    task = verdict.task
    results = [result for result in [*found.results, *found.ceilings] if result.task == task]
    models: list[str] = model_order(result.model for result in found.results if result.task == task)
    if any(result.model == ATTAINABLE for result in results):
        models.append(ATTAINABLE)
    by_name = {(result.model, result.metric): result for result in results}
    metrics = [metric for metric in METRICS if any((model, metric) in by_name for model in models)]
    cohort = found.cohorts.get(task)
    return {
        "title": task_words(task).title,
        "name": task,
        "anchor": f"task-{slug(task)}",
        "counts": _counts(results[0]),
        "patients": integer(results[0].patients),
        "metrics": [METRIC_NAMES[metric] for metric in metrics],
        "rows": [
            {"name": model_name(model), "cells": [_cell(by_name.get((model, metric))) for metric in metrics]}
            for model in models
        ],
        "differences": [] if verdict.evidence is Evidence.NOTHING else _differences(found, task),
        "difference_metrics": [METRIC_NAMES[metric] for metric in COMPARED],
        "legend": [(name, Markup(line)) for name, line in figures.keys(models, verdict.model)],
        "figures": _task_figures(cohort, verdict.model),
    }


def _differences(found: Evaluation, task: str) -> list[dict[str, Any]]:
    """A row per pair of models, a cell per metric."""
    rows: dict[str, dict[str, Cell]] = {}
    for difference in found.differences:
        if difference.task == task:
            digits = 3 if difference.metric == "brier" else digits_of(difference)
            interval = span(difference.low, difference.high, digits)
            pair = f"{model_name(difference.model)} − {model_name(difference.reference)}"
            cell = Cell(signed(difference.value, digits), interval, judgement(difference))
            rows.setdefault(pair, {})[difference.metric] = cell
    return [
        {"name": pair, "cells": [cells.get(metric, Cell("—")) for metric in COMPARED]}
        for pair, cells in rows.items()
    ]


def _task_figures(rows: TaskRows | None, lead: str | None) -> list[Markup]:
    """ROC, precision-recall and calibration; none without rows or with one outcome only."""
    if rows is None or rows.positives in (0, rows.n):
        return []
    drawn = (
        figures.roc_figure(rows, lead=lead, legend=False),
        figures.precision_recall_figure(rows, lead=lead, legend=False),
        figures.calibration_figure(rows, lead=lead, legend=False),
    )
    return [Markup(figure) for figure in drawn]


def _cell(result: Result | None) -> Cell:
    if result is None:
        return Cell("—")
    digits = 1 if result.metric == "workup" else 3 if result.metric in ("brier", "ece") else 2
    return Cell(number(result.value, digits), span(result.low, result.high, digits))


def _cohort(rows: Sequence[CohortRow]) -> dict[str, Any]:
    """Task x split: outcomes of predictions, and patients."""
    splits = list(dict.fromkeys(row.split for row in rows))
    tasks = list(dict.fromkeys(row.task for row in rows))
    by_name = {(row.task, row.split): row for row in rows}
    return {
        "columns": [split.replace("_", "-") for split in splits],
        "rows": [
            {
                "title": task_words(task).title,
                "cells": [_cohort_cell(by_name.get((task, split))) for split in splits],
            }
            for task in tasks
        ],
    }


def _cohort_cell(row: CohortRow | None) -> Cell:
    if row is None or row.predictions == 0:
        return Cell("—")
    share = percent(row.positives / row.predictions)
    counts = f"{integer(row.positives)} of {integer(row.predictions)}"
    return Cell(f"{counts} ({share})", counted(row.patients, "patients"))


def _evaluated(found: Evaluation) -> list[CohortRow]:
    """The evaluated rows alone, where nothing is known of the other splits."""
    firsts = {result.task: result for result in reversed(found.results)}
    of_tasks = (firsts[task] for task in found.tasks)
    return [CohortRow(r.task, "evaluated", r.patients, r.n, r.positives) for r in of_tasks]


def _accounts(accounts: Mapping[str, Account]) -> dict[str, Any] | None:
    """The books: a sentence, a figure, and a row per table; None if there are none."""
    if not accounts:
        return None
    books = total(accounts.values())
    rows = [{"table": table, **_account(account)} for table, account in accounts.items()]
    return {
        "rows": rows,
        "total": {"table": "All tables", **_account(books), "reasons": [], "made": []},
        "balanced": all(account.balanced for account in accounts.values()),
        "figure": Markup(run_figures.accounting_figure(accounts)),
    }


def _account(account: Account) -> dict[str, Any]:
    def listed(counts: Mapping[str, int]) -> list[str]:
        return [
            f"{name}: {integer(count)}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1])
        ]

    numbers = {name: integer(getattr(account, name)) for name in ("rows_in", "used", "rejected", "filtered")}
    return {
        **numbers,
        "any_rejected": account.rejected > 0,
        "reasons": listed(account.reasons),
        "made": listed(account.made),
    }


def _lineage(item: Lineage) -> dict[str, str]:
    return {
        "name": item.name,
        "kind": item.kind,
        "from": ", ".join(item.inputs) or "—",
        "sha256": item.sha256,
        "fingerprint": item.fingerprint,
        "version": item.code_version,
        "seconds": "—" if item.seconds is None else f"{item.seconds:,.1f} s",
        "memory": "—" if item.peak_rss_bytes is None else f"{item.peak_rss_bytes / _MEBIBYTE:,.0f} MiB",
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted name, value) pairs."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            yield f"{prefix}{key}", ", ".join(map(str, value)) or "—"
        else:
            yield f"{prefix}{key}", "—" if value is None else str(value)
