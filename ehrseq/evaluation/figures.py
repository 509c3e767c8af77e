"""Figures of an evaluation as SVG text: forest of AUROCs, ROC, precision-recall, calibration.

The model a verdict speaks of is drawn strong and blue, with its interval; baselines are thin; what the true
risk attains is a dashed line in ink. Each function returns one `<svg>` element (see `svg`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ehrseq.evaluation import curves
from ehrseq.evaluation.checks import Floats
from ehrseq.evaluation.cohort import TaskRows
from ehrseq.evaluation.evidence import ATTAINABLE, Evaluation, Result
from ehrseq.evaluation.svg import GRID, INK, MUTED, PAPER, SERIES, new_figure, style, themed, to_svg
from ehrseq.evaluation.wording import model_name, model_order, number, percent, slug, span, task_words

_SQUARE = (3.5, 3.45)  # inches
_ROOM_FOR_WORDS = 0.08  # below this height of the prevalence line its label would meet the axis


@dataclass(frozen=True, slots=True)
class _Pen:
    """How one model is drawn."""

    name: str
    color: str
    width: float
    dash: str | tuple[int, tuple[float, ...]]
    order: int


def pens(models: list[str], lead: str | None = None) -> dict[str, _Pen]:
    """One pen per model, the same in every figure; `lead` (default: the first) is the strong one."""
    ordered = [model for model in model_order(models) if model != ATTAINABLE]
    lead = lead if lead in ordered else next(iter(ordered), None)
    ordered.sort(key=lambda model: model != lead)
    dashes: list[str | tuple[int, tuple[float, ...]]] = [
        "-",
        "-",
        (0, (4.0, 1.2)),
        (0, (1.0, 1.2)),
        (0, (6, 2, 1, 2)),
    ]
    found = {
        model: _Pen(
            model_name(model),
            SERIES[index % len(SERIES)],
            2.0 if model == lead else 1.2,
            dashes[index % len(dashes)],
            5 if model == lead else 4,
        )
        for index, model in enumerate(ordered)
    }
    if ATTAINABLE in models:
        found[ATTAINABLE] = _Pen("attainable", INK, 1.0, (0, (2.0, 2.0)), 3)
    return found


def keys(models: list[str], lead: str | None = None) -> list[tuple[str, str]]:
    """(name, small `<svg>` of its line) of each model: a legend that several figures can share."""
    found = []
    for pen in pens(models, lead).values():
        dash = "" if isinstance(pen.dash, str) else " ".join(f"{pen.width * part:g}" for part in pen.dash[1])
        line = (
            '<svg class="key" width="28" height="8" viewBox="0 0 28 8" aria-hidden="true">'
            f'<line x1="1" x2="27" y1="4" y2="4" style="stroke: {themed(pen.color)}; '
            f'stroke-width: {pen.width:g}; stroke-dasharray: {dash or "none"}"/></svg>'
        )
        found.append((pen.name, line))
    return found


def roc_figure(rows: TaskRows, *, lead: str | None = None, seed: int = 0, legend: bool = True) -> str:
    """ROC curves of all models of a task, the lead's with its 95 % band. Needs both outcomes."""
    scores, drawing = _scores(rows, lead)
    with style():
        figure, (axes,) = new_figure(*_SQUARE)
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1.0, zorder=1)
        for model, values in scores.items():
            pen = drawing[model]
            if pen.order == 5:
                low, high = curves.roc_band(rows.labels, values, rows.clusters, seed)
                axes.fill_between(curves.GRID, low, high, color=pen.color, alpha=0.15, linewidth=0, zorder=2)
            _line(axes, pen, *curves.roc_points(rows.labels, values))
        _unit_square(axes, "False positive rate", "True positive rate")
        axes.set_title("ROC")
        if legend:
            axes.legend(loc="lower right")
        return to_svg(
            figure, name=f"roc-{slug(rows.task)}", label=f"ROC curves, {task_words(rows.task).title}"
        )


def precision_recall_figure(rows: TaskRows, *, lead: str | None = None, legend: bool = True) -> str:
    """Precision against recall of all models of a task, above the prevalence. Needs both outcomes."""
    scores, drawing = _scores(rows, lead)
    prevalence = rows.positives / rows.n
    with style():
        figure, (axes,) = new_figure(*_SQUARE)
        axes.axhline(prevalence, color=GRID, linewidth=1.0, zorder=1)
        if prevalence > _ROOM_FOR_WORDS:
            place: dict[str, Any] = {
                "xytext": (3, -3),
                "textcoords": "offset points",
                "va": "top",
                "fontsize": 8.5,
            }
            axes.annotate(f"prevalence {percent(prevalence)}", (0.0, prevalence), color=MUTED, **place)
        for model, values in scores.items():
            recall, precision = curves.precision_recall_points(rows.labels, values)
            _line(axes, drawing[model], recall, precision, drawstyle="steps-pre")
        _unit_square(axes, "Recall (sensitivity)", "Precision (positive predictive value)")
        axes.set_title("Precision and recall")
        if legend:
            axes.legend(loc="upper right")
        return to_svg(
            figure, name=f"pr-{slug(rows.task)}", label=f"Precision and recall, {task_words(rows.task).title}"
        )


def calibration_figure(rows: TaskRows, *, lead: str | None = None, seed: int = 0, legend: bool = True) -> str:
    """Observed against predicted risk in ten bins of equal mass, and where the lead's predictions lie."""
    scores, drawing = _scores(rows, lead)
    with style():
        figure, (axes, counts) = new_figure(
            *_SQUARE, rows=2, sharex=True, gridspec_kw={"height_ratios": [5, 1], "hspace": 0.03}
        )
        most = 0.0
        for model, values in scores.items():
            pen = drawing[model]
            found = curves.reliability(rows.labels, values, rows.clusters, seed)
            if pen.order == 5:
                bars = np.stack([found.observed - found.low, found.high - found.observed]).clip(0.0)
                axes.errorbar(
                    found.predicted,
                    found.observed,
                    bars,
                    fmt="none",
                    color=pen.color,
                    linewidth=1.2,
                    zorder=5,
                )
                most = max(most, float(found.predicted.max()), float(found.high.max()))
            most = max(most, float(found.predicted.max()), float(found.observed.max()))
            _line(
                axes,
                pen,
                found.predicted,
                found.observed,
                marker="o",
                markersize=4.5 if pen.order == 5 else 2.2,
            )
        limit = min(1.0, max(most * 1.06, 0.001))
        axes.plot([0, limit], [0, limit], color=GRID, linewidth=1.0, zorder=1)
        axes.set(xlim=(0, limit), ylim=(0, limit), ylabel="Observed")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_title("Calibration")
        if legend:
            axes.legend(loc="upper left")
        _histogram(counts, next(scores[model] for model in scores if drawing[model].order == 5), limit)
        label = f"Calibration, {task_words(rows.task).title}"
        return to_svg(figure, name=f"calibration-{slug(rows.task)}", label=label)


def forest_figure(evaluation: Evaluation, metric: str = "auroc") -> str:
    """Every model's AUROC with its interval, task by task; a diamond marks what the true risk attains."""
    groups = [
        (task, evaluation.of(task, metric), evaluation.ceiling(task, metric)) for task in evaluation.tasks
    ]
    groups = [group for group in groups if group[1]]
    drawing = pens([result.model for _, results, _ in groups for result in results])
    heights, position = [], 0.0
    with style():
        lines = sum(len(results) + (ceiling is not None) + 1.5 for _, results, ceiling in groups)
        figure, (axes,) = new_figure(9.6, 0.7 + 0.215 * lines)
        for task, results, ceiling in groups:
            axes.text(
                0.0, position, task_words(task).title, fontweight="bold", transform=axes.get_yaxis_transform()
            )
            for result in [*results, *([ceiling] if ceiling else [])]:
                position += 1.0
                _forest_line(axes, result, position, drawing.get(result.model))
                heights.append((position, model_name(result.model)))
            position += 1.5
        _forest_axes(axes, heights, position)
        return to_svg(figure, name=f"forest-{metric}", label="AUROC with 95 % intervals by task and model")


def _forest_line(axes: Axes, result: Result, height: float, pen: _Pen | None) -> None:
    color = pen.color if pen else INK
    if result.low is not None and result.high is not None:
        axes.plot(
            [result.low, result.high], [height, height], color=color, linewidth=1.8, alpha=0.55, zorder=3
        )
    axes.plot([result.value], [height], marker="o" if pen else "D", markersize=6 if pen else 5, color=color,
              markeredgecolor=PAPER, markeredgewidth=0.8, zorder=4)  # fmt: skip
    axes.text(
        1.01,
        height,
        f"{number(result.value)}  ({span(result.low, result.high)})",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=9,
    )


def _forest_axes(axes: Axes, heights: list[tuple[float, str]], bottom: float) -> None:
    axes.set_ylim(bottom - 0.8, -0.8)
    low, high = axes.get_xlim()
    axes.set_xlim(min(0.5, low) - 0.005, min(1.0, max(high, 0.8)) + 0.005)
    axes.set_yticks([height for height, _ in heights], [name for _, name in heights])
    axes.tick_params(axis="y", length=0, pad=6, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel("AUROC (0.5 is a coin, 1 is perfect) with 95 % interval")


def _scores(rows: TaskRows, lead: str | None) -> tuple[dict[str, Floats], dict[str, _Pen]]:
    scores = dict(rows.probabilities)
    if rows.risk is not None:
        scores[ATTAINABLE] = rows.risk
    drawing = pens(list(scores), lead)
    return {model: scores[model] for model in drawing}, drawing


def _line(axes: Axes, pen: _Pen, x: Floats, y: Floats, **more: Any) -> None:
    axes.plot(
        x,
        y,
        color=pen.color,
        linewidth=pen.width,
        linestyle=pen.dash,
        label=pen.name,
        zorder=pen.order,
        **more,
    )


def _unit_square(axes: Axes, x: str, y: str) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x, ylabel=y)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])


def _histogram(axes: Axes, values: Floats, limit: float) -> None:
    """Where the predictions lie; those beyond `limit` are not shown, as nothing is drawn above them."""
    axes.hist(values, bins=list(np.linspace(0.0, limit, 41)), color=SERIES[0], alpha=0.45)
    axes.set(xlim=(0, limit), xlabel="Predicted risk", yticks=[])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(5))
