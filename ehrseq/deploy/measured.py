"""What a version knows about its own predictions: calibration, the familiar, subgroups, how training data looked."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrseq.core.files import write_json
from ehrseq.deploy.familiar import REASONS, Familiar
from ehrseq.deploy.fitting import MODEL
from ehrseq.deploy.profile import profile
from ehrseq.deploy.subgroups import PREFIXES, judge_groups, with_groups
from ehrseq.evaluation.recalibration import Recalibration
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training.model_folder import TrainedModel, load_model
from ehrseq.training.predict import predict

BINS = 10  # of the scores' distribution


def measure_version(run: Path, timeline: Path, out: Path) -> None:
    """Write `calibration.json`, `familiar.json`, `subgroups.json` and `reference.parquet` of a run's model to `out`."""
    model, store = load_model(run / "model"), TokenStore.open(run / "tokens")
    examples = Examples.load(run / "examples")
    held_out = pl.read_parquet(run / "predictions" / "held_out.parquet").filter(model=MODEL)
    familiar = Familiar.fit(store, examples, model.config.context)
    calibration = _calibration(model, store, examples, held_out)
    write_json(out / "calibration.json", calibration)
    write_json(out / "familiar.json", familiar.to_json())
    lines = {task: Recalibration.from_json(one) for task, one in calibration["tasks"].items()}
    grouped = with_groups(calibrated(held_out, lines), timeline)
    abstained = {
        split: _abstained(familiar, store, examples, split, model.config.context)
        for split in ("train", "held_out")
    }
    groups = judge_groups(grouped, (*PREFIXES, "age"))
    write_json(out / "subgroups.json", {"held_out": groups, "abstained": abstained})
    profile(timeline).save(out / "reference.parquet")


def calibrated(predictions: pl.DataFrame, lines: dict[str, Recalibration]) -> pl.DataFrame:
    """Predictions with `probability` calibrated, `low` and `high` beside it, and the model's own as `score`."""
    parts = []
    for (task,), rows in predictions.group_by("task", maintain_order=True):
        value, low, high = lines[str(task)].apply(rows["probability"].to_numpy())
        parts.append(
            rows.with_columns(
                score=pl.col("probability"),
                probability=pl.Series(value),
                low=pl.Series(low),
                high=pl.Series(high),
            )
        )
    return pl.concat(parts) if parts else predictions.with_columns(
        score=pl.col("probability"), low=pl.col("probability"), high=pl.col("probability")
    )  # fmt: skip


def _calibration(
    model: TrainedModel, store: TokenStore, examples: Examples, held_out: pl.DataFrame
) -> dict[str, Any]:
    """Lines fitted on the tuning split; what they do on the held-out one; how scores are distributed there."""
    tuning = pl.DataFrame(dict(predict(model, store, examples, split="tuning"))).filter(
        pl.col("label").is_not_nan()
    )
    tasks, prevalence, scores = {}, {}, {}
    for task in map(str, examples.tasks[examples.single()]):
        rows, judged = (
            tuning.filter(task=task),
            held_out.filter(pl.col("task") == task, pl.col("label").is_not_null()),
        )
        line = Recalibration.fit(
            rows["label"].to_numpy(), rows["probability"].to_numpy(), rows["subject_id"].to_numpy()
        )
        tasks[task] = line.to_json()
        known = examples.value[(examples.task == list(examples.tasks).index(task)) & (examples.split == 0)]
        prevalence[task] = float(np.nanmean(known))
        value = judged["probability"].to_numpy()
        after = line.apply(value)[0] if len(value) else value
        scores[task] = {
            "edges": np.quantile(after, np.arange(1, BINS) / BINS).tolist() if len(value) else [],
            "n": len(value), "positives": int(judged["label"].sum() or 0),
            "mean_before": float(value.mean()) if len(value) else None,
            "mean_after": float(after.mean()) if len(value) else None,
            "brier_before": _brier(judged["label"], value), "brier_after": _brier(judged["label"], after),
        }  # fmt: skip
    return {"tasks": tasks, "prevalence": prevalence, "held_out": scores}


def _brier(labels: pl.Series, probability: Any) -> float | None:
    return (
        float(np.mean((labels.cast(pl.Float64).to_numpy() - probability) ** 2)) if len(probability) else None
    )


def _abstained(
    familiar: Familiar, store: TokenStore, examples: Examples, split: str, context: int
) -> dict[str, int]:
    """How many predictions of a split would have been refused, by reason."""
    rows = examples.rows(split)
    why, _ = familiar.judge(store, examples, rows, context)
    counts = np.bincount(why, minlength=len(REASONS)).tolist()
    return {"asked": len(rows), **dict(zip(REASONS[1:], counts[1:], strict=True))}
