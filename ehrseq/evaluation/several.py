"""How well tasks with several outputs are predicted: all discharge diagnoses together, as Rajkomar et al. report them.

- *Frequency-weighted AUROC*: the mean of the outputs' AUROCs, each weighted by how often it is true.
- *Mean AUROC*: the plain mean, in which a rare diagnosis counts as much as a common one.
- *Micro-F1*: the harmonic mean of precision and recall of all (label, output) pairs, at one threshold for all outputs
  that was chosen on the tuning patients.

Outputs without both classes among the rows are left out of the AUROCs, and counted. Intervals resample patients, as
everywhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.bootstrap import REPLICATES, Resamples, percentile_interval
from ehrseq.evaluation.checks import Floats, Integers
from ehrseq.evaluation.evidence import Difference, Result
from ehrseq.evaluation.ranking import Ranking
from ehrseq.evaluation.wording import is_baseline, model_order

METRICS = ("weighted_auroc", "mean_auroc", "micro_f1")
_CELLS = 400_000_000  # of replicates x labels x outputs; beyond it there are fewer replicates
_FEWEST_REPLICATES = 100


@dataclass(frozen=True, slots=True, eq=False)
class SeveralRows:
    """One task's labelled predictions: n labels of P patients, O outputs.

    `truth` [n, O] bool; `clusters` [n] numbers the patients from 0; `probabilities` maps each model to [n, O] and
    `thresholds` to the one chosen on the tuning patients; `meanings` says in words what an output is.
    """

    task: str
    outputs: Sequence[str]
    truth: NDArray[np.bool_]
    clusters: Integers
    probabilities: Mapping[str, NDArray[np.floating]]
    thresholds: Mapping[str, float]
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputResult:
    """One output: how often it is true, and each model's AUROC as (value, low, high)."""

    output: str
    meaning: str
    positives: int
    auroc: Mapping[str, tuple[float, float | None, float | None]]


@dataclass(frozen=True, slots=True)
class SeveralResult:
    """What was found of one task. `judged` of the `outputs` have both classes; `of_outputs` are the commonest."""

    task: str
    outputs: int
    judged: int
    results: list[Result]
    differences: list[Difference]
    of_outputs: list[OutputResult]

    def to_json(self) -> dict[str, object]:
        """As plain values."""
        return {
            "task": self.task, "outputs": self.outputs, "judged": self.judged,
            "results": [result.to_json() for result in self.results],
            "differences": [difference.to_json() for difference in self.differences],
            "of_outputs": [
                {
                    "output": one.output, "meaning": one.meaning, "positives": one.positives,
                    "auroc": {model: list(values) for model, values in one.auroc.items()},
                }
                for one in self.of_outputs
            ],
        }  # fmt: skip


def micro_f1(truth: NDArray[np.bool_], probability: NDArray[np.floating], threshold: float) -> float:
    """F1 of all pairs [n, O] at a threshold; 0 if nothing true is found.

    >>> micro_f1(np.array([[True, False], [True, True]]), np.array([[0.9, 0.8], [0.1, 0.7]]), 0.5)
    0.6666666666666666
    """
    hits = int((truth & (probability >= threshold)).sum())
    return 2 * hits / max(int(truth.sum()) + int((probability >= threshold).sum()), 1)


def best_threshold(truth: NDArray[np.bool_], probability: NDArray[np.floating]) -> float:
    """The threshold with the highest micro-F1 on these pairs [n, O]; 0.5 where nothing is true.

    >>> best_threshold(np.array([[True, False], [True, False]]), np.array([[0.9, 0.2], [0.4, 0.3]]))
    0.4
    """
    if not truth.any():
        return 0.5
    order = np.argsort(-probability, axis=None, kind="stable")
    score, hits = probability.reshape(-1)[order], np.cumsum(truth.reshape(-1)[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + hits[-1])
    last = np.append(score[1:] != score[:-1], True)  # of equal scores all are above the threshold
    return float(score[np.argmax(np.where(last, f1, -1.0))])


def assess_several(rows: SeveralRows, *, seed: int = 0, most: int = 20) -> SeveralResult:
    """Every metric with its interval, the models compared in pairs, and the `most` commonest outputs one by one.

    Raises: ShapeError if arrays do not fit, or no output has both classes.
    """
    count = rows.truth.sum(0)
    both = np.flatnonzero((count > 0) & (count < len(rows.truth)))
    if not len(both):
        raise ShapeError(f"{rows.task}: no output is both true and false among the {len(rows.truth)} labels.")
    if any(found.shape != rows.truth.shape for found in rows.probabilities.values()):
        raise ShapeError(f"{rows.task}: probabilities and labels have different shapes.")
    common = both[np.argsort(-count[both], kind="stable")]
    models = model_order(rows.probabilities)
    panels = {model: _Panel(rows, model, common) for model in models}
    patients = int(rows.clusters.max()) + 1
    replicates = int(np.clip(_CELLS / rows.truth.size, _FEWEST_REPLICATES, REPLICATES))
    points = {model: panel.measure(np.ones((1, patients))) for model, panel in panels.items()}
    draws: dict[str, list[dict[str, Floats]]] = {model: [] for model in models}
    for weights in Resamples(patients, replicates, seed):
        for model in models:
            draws[model].append(panels[model].measure(weights))
    drawn = {model: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
             for model, parts in draws.items()}  # fmt: skip
    results = [_result(rows, model, metric, points, drawn) for model in models for metric in METRICS]
    return SeveralResult(
        rows.task, len(rows.outputs), len(both), results, _differences(rows.task, models, points, drawn),
        [
            OutputResult(
                rows.outputs[column], rows.meanings.get(rows.outputs[column], ""), int(count[column]),
                {model: _interval(points[model]["each"][0, place], drawn[model]["each"][:, place]) for model in models},
            )
            for place, column in enumerate(common[:most])
        ],
    )  # fmt: skip


class _Panel:
    """One model's predictions, ready for any number of weightings of the patients; `columns` the outputs, by count."""

    def __init__(self, rows: SeveralRows, model: str, columns: Integers) -> None:
        truth, probability = (
            rows.truth[:, columns],
            np.asarray(rows.probabilities[model][:, columns], np.float64),
        )
        self._patients = int(rows.clusters.max()) + 1
        self._rankings = [
            Ranking(truth[:, column].astype(np.float64), probability[:, column], rows.clusters)
            for column in range(len(columns))
        ]
        self._positive = self._per_patient(rows.clusters, truth)
        above = rows.probabilities[model] >= rows.thresholds[model]
        pairs = [(rows.truth & above).sum(1), rows.truth.sum(1) + above.sum(1)]
        self._pairs = self._per_patient(rows.clusters, np.stack(pairs, axis=1))

    def _per_patient(self, clusters: Integers, values: NDArray[np.generic]) -> Floats:
        out = np.zeros((self._patients, values.shape[1]))
        np.add.at(out, clusters, values.astype(np.float64))
        return out

    def measure(self, weights: Floats) -> dict[str, Floats]:
        """`METRICS` [R] and `each` output's AUROC [R, O] for weights [R, patients]."""
        each = np.stack([ranking.measure(weights)["auroc"] for ranking in self._rankings], axis=1)
        defined = np.isfinite(each)
        frequency = np.where(defined, weights @ self._positive, 0.0)
        filled = np.where(defined, each, 0.0)
        hits, sizes = (weights @ self._pairs).T
        return {
            "weighted_auroc": (filled * frequency).sum(1) / np.maximum(frequency.sum(1), 1e-9),
            "mean_auroc": filled.sum(1) / np.maximum(defined.sum(1), 1),
            "micro_f1": 2 * hits / np.maximum(sizes, 1e-9),
            "each": each,
        }


type _Found = Mapping[str, Mapping[str, Floats]]


def _interval(value: float, draws: Floats) -> tuple[float, float | None, float | None]:
    found = percentile_interval(float(value), draws)
    return found.value, found.low, found.high


def _result(rows: SeveralRows, model: str, metric: str, points: _Found, drawn: _Found) -> Result:
    value, low, high = _interval(points[model][metric][0], drawn[model][metric])
    labels, true = len(rows.truth), int(rows.truth.sum())
    return Result(
        rows.task,
        model,
        metric,
        value,
        low,
        high,
        labels,
        true,
        int(rows.clusters.max()) + 1,
        true / rows.truth.size,
    )


def _differences(task: str, models: Sequence[str], points: _Found, drawn: _Found) -> list[Difference]:
    """Every model that is no baseline against every baseline."""
    return [
        Difference(
            task, metric, model, reference,
            *_interval(
                points[model][metric][0] - points[reference][metric][0],
                drawn[model][metric] - drawn[reference][metric],
            ),
        )
        for model in models if not is_baseline(model)
        for reference in models if is_baseline(reference)
        for metric in METRICS
    ]  # fmt: skip
