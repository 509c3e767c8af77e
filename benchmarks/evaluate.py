"""Time an evaluation with patient-clustered intervals against scikit-learn's AUROC alone, resampled as often.

    python benchmarks/evaluate.py --rows 10000 --replicates 1000 --seed 0

Measured: `results.assess` of one task and one model, so all seven metrics with intervals. Rows are invented
predictions of 0.7 times as many patients. Floor: one `sklearn.metrics.roc_auc_score` on the same rows, times
the replicates; below 1, seven metrics with intervals cost less than the AUROC in a plain loop.
One run warms up, then the median of `--runs`; CPU seconds, as wall time depends on who else is at work.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.evaluation.calibration import expit
from ehrseq.evaluation.results import assess


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()

    predictions = invented(chosen.rows, chosen.seed)
    labels, scores = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    spent = [cost(lambda: assess(predictions, replicates=chosen.replicates)) for _ in range(chosen.runs + 1)][
        1:
    ]
    loops = 20
    floor = cost(lambda: [roc_auc_score(labels, scores) for _ in range(loops)])["cpu_seconds"]
    floor_seconds = floor / loops * chosen.replicates
    cpu = statistics.median(run["cpu_seconds"] for run in spent)
    record = {
        "name": "evaluate",
        "rows": chosen.rows,
        "replicates": chosen.replicates,
        "seconds": statistics.median(run["seconds"] for run in spent),
        "cpu_seconds": cpu,
        "cpu_seconds_range": [
            min(run["cpu_seconds"] for run in spent),
            max(run["cpu_seconds"] for run in spent),
        ],
        "rows_per_cpu_second": round(chosen.rows / cpu),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": "sklearn roc_auc_score x replicates", "cpu_seconds": round(floor_seconds, 3)},
        "ratio_to_floor": round(cpu / floor_seconds, 3),
        "versions": versions(),
        "device": platform.machine(),
    }
    print(json.dumps(record))


def invented(rows: int, seed: int) -> pl.DataFrame:
    """Predictions of one model on one task, as `ehrseq.evaluation.schema.Prediction` says."""
    source = np.random.default_rng(seed)
    logits = source.normal(-2.5, 1.3, rows)
    return pl.DataFrame(
        {
            "subject_id": source.integers(0, max(1, int(0.7 * rows)), rows),
            "prediction_time": pl.Series(np.arange(rows)).cast(pl.Datetime("us")),
            "task": ["in_hospital_mortality_24h"] * rows,
            "probability": expit(logits + 0.5 * source.normal(size=rows)),
            "label": source.random(rows) < expit(logits),
            "model": ["model"] * rows,
        }
    )


def cost(work: Callable[[], object]) -> dict[str, float]:
    """What one call costs."""
    meter = Meter()
    work()
    return meter.read()


if __name__ == "__main__":
    main()
