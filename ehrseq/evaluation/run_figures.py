"""Figures of a run as SVG text: how training went, and where the rows of each table went."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from ehrseq.core.errors import ShapeError
from ehrseq.core.manifest import Account
from ehrseq.evaluation.svg import BLUE, GRID, MUTED, ORANGE, SERIES, new_figure, style, to_svg
from ehrseq.evaluation.wording import METRIC_NAMES, integer

_SPLITS = ("train", "tuning", "held_out")
_LOWER_IS_BETTER = ("loss", "brier", "ece", "error")

type History = Sequence[Mapping[str, float]]


def history_figure(history: History) -> str:
    """Training history: rows with `step` and numbers such as `train_loss`, `tuning_loss`, `tuning_auroc`.

    A row may lack any number but `step`. One panel per quantity (what follows the split's name), one line per
    split; the best tuning value is marked. Raises: ShapeError if a row has no step or nothing can be drawn.
    """
    panels = _panels(history)
    if not panels:
        raise ShapeError("The training history holds no numbers beside `step`.")
    with style():
        figure, axes = new_figure(min(10.6, 3.5 * len(panels)), 2.6, columns=len(panels))
        for place, (quantity, lines) in zip(axes, panels.items(), strict=True):
            _history_panel(place, quantity, lines)
        return to_svg(figure, name="history", label="Training history")


def _panels(history: History) -> dict[str, dict[str, np.ndarray]]:
    """{quantity: {split: [k, 2] of step and value}}"""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in history:
        if "step" not in row:
            raise ShapeError("A row of the training history has no `step`.")
        for key, value in row.items():
            if key == "step" or not isinstance(value, int | float) or not np.isfinite(value):
                continue
            split = next((name for name in _SPLITS if key.startswith((f"{name}_", f"{name}/"))), "")
            quantity = key[len(split) + 1 :] if split else key
            found.setdefault(quantity, {}).setdefault(split, []).append((row["step"], value))
    return {
        name: {split: np.array(points) for split, points in lines.items()} for name, lines in found.items()
    }


def _history_panel(axes: Axes, quantity: str, lines: dict[str, np.ndarray]) -> None:
    colors = {"train": MUTED, "tuning": BLUE, "held_out": ORANGE}
    for split, points in lines.items():
        color = colors.get(split, SERIES[0])
        axes.plot(
            points[:, 0], points[:, 1], color=color, linewidth=1.6, label=split.replace("_", "-") or None
        )
        if split == "tuning":
            lower = any(quantity.endswith(name) for name in _LOWER_IS_BETTER)
            best = points[np.argmin(points[:, 1]) if lower else np.argmax(points[:, 1])]
            axes.plot(*best, marker="o", markersize=5, color=color)
            axes.annotate(
                f"{best[1]:.3g}", best, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8.5
            )
    title = METRIC_NAMES.get(quantity, quantity.replace("_", " ").replace("/", " "))
    axes.set_title(title[:1].upper() + title[1:])
    axes.set_xlabel("Step")
    axes.margins(y=0.15)
    axes.grid(axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: integer(int(value))))
    if any(lines):
        axes.legend(loc="best")


def accounting_figure(accounts: Mapping[str, Account]) -> str:
    """Where each table's rows went: used, filtered or rejected, as shares, with the number of rows beside.

    Raises: ShapeError if there is no table.
    """
    if not accounts:
        raise ShapeError("There are no tables to account for.")
    shares = np.array([_shares(account) for account in accounts.values()])
    heights = np.arange(len(accounts))
    kinds = (("used", BLUE, 0.75), ("filtered", GRID, 1.0), ("rejected", ORANGE, 1.0))
    with style():
        figure, (axes,) = new_figure(9.6, 0.75 + 0.235 * len(accounts))
        left = np.zeros(len(accounts))
        for column, (name, color, alpha) in enumerate(kinds):
            axes.barh(
                heights, shares[:, column], left=left, height=0.66, color=color, alpha=alpha, label=name
            )
            left = left + shares[:, column]
        for height, account in zip(heights, accounts.values(), strict=True):
            axes.text(1.01, float(height), f"{integer(account.rows_in)} rows", va="center", fontsize=9)
        axes.set_yticks(heights, list(accounts))
        axes.tick_params(axis="y", length=0, pad=6)
        axes.set(xlim=(0, 1), ylim=(len(accounts) - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
        return to_svg(
            figure, name="accounting", label="Used, filtered and rejected rows of each source table"
        )


def _shares(account: Account) -> tuple[float, float, float]:
    rows = max(account.rows_in, 1)
    return account.used / rows, account.filtered / rows, account.rejected / rows
