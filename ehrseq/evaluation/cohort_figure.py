"""Whom a task is about, and who was left out and why: one flow a task, as a figure and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.svg import BLUE, GRID, INK, MUTED, ORANGE, new_figure, style, to_svg
from ehrseq.evaluation.wording import counted, integer, percent, task_words

_MOST_STEPS = 8  # the smallest exclusions beyond these are drawn as one


@dataclass(frozen=True, slots=True)
class CohortFlow:
    """From candidates to labels: `steps` are (reason, how many left for it) in order, `positives` by label.

    `predictions_per_patient` maps a number of predictions to how many patients have it.
    """

    task: str
    candidates: int
    steps: Sequence[tuple[str, int]]
    labels: int
    patients: int
    positives: dict[str, int]
    predictions_per_patient: dict[int, int] = field(default_factory=dict)

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
        }


def cohort_figure(flows: Sequence[CohortFlow]) -> str:
    """One panel a task: a bar for the candidates, one for who remains after each exclusion, the last one with its
    true labels. Raises: ShapeError if there is no task."""
    if not flows:
        raise ShapeError("There is no task to draw the cohort of.")
    bars = [len(_drawn(flow)) + 2 for flow in flows]
    with style():
        figure, panels = new_figure(
            9.6, 0.62 * len(flows) + 0.24 * sum(bars), rows=len(flows), gridspec_kw={"height_ratios": bars}
        )
        for axes, flow in zip(panels, flows, strict=True):
            _panel(axes, flow)
        return to_svg(figure, name="cohort", label="Candidates, exclusions and labels of each task")


def _drawn(flow: CohortFlow) -> list[tuple[str, int]]:
    """The steps, the smallest ones as one where there are many."""
    if len(flow.steps) <= _MOST_STEPS:
        return list(flow.steps)
    kept = sorted(flow.steps, key=lambda step: -step[1])[: _MOST_STEPS - 1]
    rest = sum(
        count for step in flow.steps if step not in kept for count in step[1:] if isinstance(count, int)
    )
    return [step for step in flow.steps if step in kept] + [("other reasons", rest)]


def _panel(axes: Axes, flow: CohortFlow) -> None:
    steps = _drawn(flow)
    remain = flow.candidates - np.cumsum([0, *(count for _, count in steps)])
    names = ["candidates", *(reason for reason, _ in steps), "labels"]
    whole = max(flow.candidates, 1)
    axes.barh(range(len(remain)), remain, height=0.66, color=BLUE, alpha=0.35)
    gone = [0, *(count for _, count in steps)]
    axes.barh(range(len(remain)), gone, left=remain, height=0.66, color=GRID)
    last = len(remain)
    axes.barh(last, flow.labels, height=0.66, color=BLUE, alpha=0.75)
    texts = [
        integer(flow.candidates),
        *(f"\N{MINUS SIGN}{integer(count)}" for _, count in steps),
        _said(flow),
    ]
    if len(flow.positives) == 1:
        axes.barh(last, next(iter(flow.positives.values())), height=0.66, color=ORANGE)
    for height, text in enumerate(texts):
        strong = height in (0, last)
        axes.text(1.01 * whole, height, text, va="center", fontsize=9, color=INK if strong else MUTED)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.set(xlim=(0, whole), ylim=(len(names) - 0.4, -0.6), xticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_title(task_words(flow.task).title)


def _said(flow: CohortFlow) -> str:
    of = f"{integer(flow.labels)} of {counted(flow.patients, 'patients')}"
    if len(flow.positives) != 1:
        shares = sorted(count / max(flow.labels, 1) for count in flow.positives.values())
        return f"{of}\n{len(flow.positives)} outcomes, {percent(shares[0])} to {percent(shares[-1])}"
    (true,) = flow.positives.values()
    return f"{of}\n{integer(true)} true ({percent(true / max(flow.labels, 1))})"
