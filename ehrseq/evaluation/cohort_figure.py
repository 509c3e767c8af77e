"""Whom a task is about, and who was left out and why: one flow a task, as a figure and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.svg import BLUE, GRID, INK, MUTED, ORANGE, new_figure, style, to_svg
from ehrseq.evaluation.wording import counted, integer, percent, task_words

_HEIGHT = 0.66  # of a bar
_MOST_STEPS = 8  # the smallest exclusions beyond these are drawn as one


@dataclass(frozen=True, slots=True)
class CohortFlow:
    """From candidates to labels: `steps` are (reason, how many left for it) in order, `positives` by label.

    `predictions_per_patient` maps a number of predictions to how many patients have it, `per_year` a year to its
    predictions.
    """

    task: str
    candidates: int
    steps: Sequence[tuple[str, int]]
    labels: int
    patients: int
    positives: dict[str, int]
    predictions_per_patient: dict[int, int] = field(default_factory=dict)
    per_year: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The flow with what is left after each step, and the prevalence of each label."""
        left, steps = self.candidates, []
        for reason, count in self.steps:
            left -= count
            steps.append({"reason": reason, "left_out": count, "remain": left})
        return {
            "task": self.task,
            "candidates": self.candidates,
            "steps": steps,
            "labels": self.labels,
            "patients": self.patients,
            "positives": self.positives,
            "prevalence": {name: count / self.labels for name, count in self.positives.items()},
            "predictions_per_patient": self.predictions_per_patient,
            "predictions_per_year": self.per_year,
        }


def cohort_figure(flows: Sequence[CohortFlow]) -> str:
    """One panel a task: a bar for the candidates, what each exclusion takes away from it, and the labels with those
    that are true. Raises: ShapeError if there is no task."""
    if not flows:
        raise ShapeError("There is no task to draw the cohort of.")
    bars = [
        len(_drawn(flow)) + 5 for flow in flows
    ]  # candidates, labels, and the height of three for the title
    with style():
        figure, panels = new_figure(
            9.6, 0.27 * sum(bars), rows=len(flows), gridspec_kw={"height_ratios": bars}
        )
        figure.set_layout_engine("constrained", h_pad=0.13)  # inches above and below each panel
        for axes, flow in zip(panels, flows, strict=True):
            _panel(axes, flow)
        return to_svg(figure, name="cohort", label="Candidates, exclusions and labels of each task")


def _drawn(flow: CohortFlow) -> list[tuple[str, int]]:
    """The steps at which anybody left, the smallest ones as one where there are many."""
    steps = [(reason, count) for reason, count in flow.steps if count]
    if len(steps) <= _MOST_STEPS:
        return steps
    kept = sorted(steps, key=lambda step: -step[1])[: _MOST_STEPS - 1]
    rest = sum(count for reason, count in steps if (reason, count) not in kept)
    return [step for step in steps if step in kept] + [("other reasons", rest)]


def _panel(axes: Axes, flow: CohortFlow) -> None:
    steps, whole = _drawn(flow), max(flow.candidates, 1)
    remain = flow.candidates - np.cumsum([0, *(count for _, count in steps)])
    last = len(steps) + 1
    axes.barh(0, flow.candidates, height=_HEIGHT, color=BLUE, alpha=0.3)
    for row, (_, count) in enumerate(steps, start=1):
        seen = max(count, 0.003 * whole)  # a single patient is a line, not nothing
        axes.barh(row, seen, left=min(remain[row], whole - seen), height=_HEIGHT, color=MUTED, alpha=0.6)
        axes.plot([remain[row]] * 2, [row - _HEIGHT / 2, row + 1], color=GRID, linewidth=0.8, zorder=0)
    axes.barh(last, flow.labels, height=_HEIGHT, color=BLUE, alpha=0.3)
    if len(flow.positives) == 1:
        axes.barh(last, next(iter(flow.positives.values())), height=_HEIGHT, color=ORANGE)
    texts = [
        integer(flow.candidates),
        *(f"\N{MINUS SIGN}{integer(count)}  ({_share(count / whole)})" for _, count in steps),
        f"{integer(flow.labels)}  ({percent(flow.labels / whole)})",
    ]
    for row, text in enumerate(texts):
        strong = row in (0, last)
        axes.text(1.01 * whole, row, text, va="center", fontsize=9, color=INK if strong else MUTED)
    axes.set_yticks(range(last + 1), ["candidates", *(_words(reason) for reason, _ in steps), "labels"])
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set(xlim=(0, whole), ylim=(last + 0.5, -0.6), xticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(task_words(flow.task).title, pad=22)
    axes.text(0, 1, _said(flow), transform=axes.transAxes, va="bottom", fontsize=9, color=MUTED)


def _share(share: float) -> str:
    return percent(share) if share >= 0.0005 else "< 0.1 %"


def _words(reason: str) -> str:
    """A reason as a reader says it: `first_day: has discharge_or_death` -> `first day: has discharge or death`."""
    return reason.replace("_", " ").replace(".start", " starts").replace(".end", " ends")


def _said(flow: CohortFlow) -> str:
    """What is true of how many, who they are and when they are asked."""
    labels = max(flow.labels, 1)
    parts = [f"{integer(count)} true ({percent(count / labels)})" for count in flow.positives.values()]
    if len(parts) != 1:
        shares = sorted(count / labels for count in flow.positives.values())
        each = sum(flow.positives.values()) / labels
        parts = [
            f"{len(parts)} outcomes, true of {percent(shares[0])} to {percent(shares[-1])}, {each:.1f} a label"
        ]
    parts.append(counted(flow.patients, "patients"))
    if times := sorted(flow.predictions_per_patient):
        parts.append(
            f"asked {times[0]} to {times[-1]} times each"
            if times[-1] > times[0]
            else f"asked {times[0]} times each"
        )
    if years := sorted(flow.per_year):
        parts.append(f"{years[0]}" if len(years) == 1 else f"{years[0]} to {years[-1]}")
    return " · ".join(parts)
