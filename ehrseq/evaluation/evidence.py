"""What an evaluation finds, as plain records: results, differences, and the rows behind them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from ehrseq.evaluation.cohort import TaskRows

ATTAINABLE = "attainable"


@dataclass(frozen=True, slots=True)
class Result:
    """One metric of one model on one task, with its 95 % interval (None where there is none).

    `n` predictions of `patients` patients, `positives` with the outcome; `prevalence` = positives / n.
    `discarded` counts resamples in which the metric had no value.
    `attainable` is the same metric of the true risk on the same rows (synthetic data only).
    `share` is (auroc - 0.5) / (attainable - 0.5): how much of the attainable lift over a coin was reached.
    """

    task: str
    model: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    positives: int
    patients: int
    prevalence: float
    discarded: int = 0
    attainable: float | None = None
    share: float | None = None
    share_low: float | None = None
    share_high: float | None = None

    @property
    def width(self) -> float:
        """Width of the interval; infinite if there is no interval."""
        return float("inf") if self.low is None or self.high is None else self.high - self.low

    def to_json(self) -> dict[str, Any]:
        """As a plain dict; `attainable` and `share...` are absent where they are unknown."""
        optional = ("attainable", "share", "share_low", "share_high")
        return {key: value for key, value in asdict(self).items() if key not in optional or value is not None}


@dataclass(frozen=True, slots=True)
class Difference:
    """`metric` of `model` minus that of `reference`, same rows and resamples, with its 95 % interval."""

    task: str
    metric: str
    model: str
    reference: str
    value: float
    low: float | None
    high: float | None

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low is not None and self.high is not None and (self.low > 0.0 or self.high < 0.0)

    def to_json(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Everything `results.assess` found.

    `ceilings` are the results of the true risk itself (model "attainable"), with intervals. `notes` say what
    was left out and why, in plain words. `cohorts` holds the rows behind the numbers, for figures.
    """

    results: list[Result]
    differences: list[Difference] = field(default_factory=list)
    ceilings: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cohorts: dict[str, TaskRows] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they were first seen."""
        return list(self.cohorts) or list(dict.fromkeys(result.task for result in self.results))

    def of(self, task: str, metric: str = "auroc") -> list[Result]:
        """One metric of every model on a task, without the ceiling."""
        return [result for result in self.results if (result.task, result.metric) == (task, metric)]

    def ceiling(self, task: str, metric: str = "auroc") -> Result | None:
        """The metric of the true risk, or None where it is not known."""
        found = (result for result in self.ceilings if (result.task, result.metric) == (task, metric))
        return next(found, None)
