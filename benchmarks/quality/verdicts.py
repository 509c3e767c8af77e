"""What a quality benchmark prints: DESIGN section 12 `results`, differences to the baselines, and each seed alone."""

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from learners import Learned
from numpy.typing import NDArray

from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter
from ehrseq.evaluation.metrics import auroc, average_precision
from ehrseq.evaluation.results import assess
from ehrseq.models.trees import lightgbm

METER = Meter()
_SHOWN = ("auroc", "auprc", "brier", "ece", "calibration_slope")


@dataclass(frozen=True)
class Outcome:
    """A task's labels [n] of the held-out rows, and what was predicted."""

    task: str
    subjects: NDArray[np.int64]
    labels: NDArray[np.float64]
    learned: Learned
    extra: dict[tuple[str, str], float] = field(default_factory=dict)  # by model and metric

    def predictions(self) -> pl.DataFrame:
        """As evaluation reads them."""
        frames = [
            pl.DataFrame(
                {
                    "subject_id": self.subjects,
                    "prediction_time": pl.Series(np.arange(len(self.labels))).cast(pl.Datetime("us")),
                    "task": self.task,
                    "probability": probability,
                    "label": self.labels == 1,
                    "model": model,
                }
            )
            for model, probability in self.learned.held_out.items()
        ]
        return pl.concat(frames)

    def of_seed(self) -> dict[str, Any]:
        """AUROC and AUPRC of each model and seed alone: mean and standard deviation."""
        found = {}
        for model, each in self.learned.of_seed.items():
            scores = np.array([[auroc(self.labels, p), average_precision(self.labels, p)] for p in each])
            mean, spread = scores.mean(axis=0), scores.std(axis=0)
            found[model] = {
                "seeds": len(each),
                **{
                    name: [round(float(mean[n]), 4), round(float(spread[n]), 4)]
                    for n, name in enumerate(_SHOWN[:2])
                },
            }
        return found


def report(name: str, outcomes: list[Outcome], as_json: bool, sizes: dict[str, int]) -> None:
    """Judge with patient-clustered intervals and print."""
    found = assess(pl.concat([outcome.predictions() for outcome in outcomes]))
    results = [result.to_json() for result in found.results]
    for outcome in outcomes:
        results += [
            {"task": outcome.task, "model": model, "metric": metric, "value": value, "low": None, "high": None,
             "n": len(outcome.labels), "positives": int(outcome.labels.sum())}
            for (model, metric), value in outcome.extra.items()
        ]  # fmt: skip
    library = lightgbm()
    line = {
        "name": name, **sizes, "results": results,
        "differences": [difference.to_json() for difference in found.differences],
        "seeds": {outcome.task: outcome.of_seed() for outcome in outcomes},
        "ensembles": {o.task: o.learned.ensemble.to_dict() for o in outcomes if o.learned.ensemble},
        **METER.read(), "device": "cpu",
        "versions": versions() | {"lightgbm": library.__version__ if library else "not there: scikit-learn"},
    }  # fmt: skip
    if not as_json:
        table(line)
    print(json.dumps(line) if as_json else f"{line['seconds']:.0f} s, {line['cpu_seconds']:.0f} CPU-s")


def table(line: dict[str, Any]) -> None:
    """For a reader."""
    for task in line["seeds"]:
        print(f"\n{task}")
        mine = [result for result in line["results"] if result["task"] == task]
        for model in dict.fromkeys(result["model"] for result in mine):
            of = {result["metric"]: result for result in mine if result["model"] == model}
            cells = [
                f"{metric} {of[metric]['value']:.4f} ({of[metric]['low']:.3f}-{of[metric]['high']:.3f})"
                for metric in _SHOWN[:2]
            ]
            rest = [
                f"{metric} {result['value']:.3f}"
                for metric, result in of.items()
                if metric not in (*_SHOWN[:2], "calibration_intercept")
            ]
            print(f"  {model:18s} {'  '.join(cells)}  {'  '.join(rest)}")
        for one in line["differences"]:
            if one["task"] == task and one["model"] == "ensemble":
                print(f"  ensemble - {one['reference']}: {one['metric']} {one['value']:+.4f} "
                      f"({one['low']:+.4f} to {one['high']:+.4f})")  # fmt: skip
        print(f"  each seed alone: {json.dumps(line['seeds'][task])}")
        print(f"  weights: {json.dumps(line['ensembles'].get(task))}")
