"""Predictions and evaluation of the tasks with several outputs, beside those of a single yes or no.

`held_out_several.parquet` (schema `SeveralPrediction`) has a row for each label and model; the outputs' names and the
thresholds, chosen on the tuning patients, stand in the manifest.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.core.manifest import read_manifest
from ehrseq.core.progress import log
from ehrseq.core.schema import Required, Schema
from ehrseq.tasks.several import OUTPUTS

if TYPE_CHECKING:
    from ehrseq.evaluation.several import SeveralResult
    from ehrseq.tokens.packing import Examples
    from ehrseq.tokens.store import TokenStore
    from ehrseq.training.predict import SeveralPrediction

FILE = "held_out_several.parquet"
_MODEL, _BASELINE = "transformer", "logistic"


class SeveralPredictions(Schema):
    """A model's probability of each output, in the manifest's order, and the numbers of those that came true."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    task = Required(pl.String)
    model = Required(pl.String)
    probability = Required(pl.List(pl.Float32))
    true = Required(pl.List(pl.Int32))


def predict_outputs(build: Build, tokens: Path, examples: Path, model: Path) -> pl.DataFrame:
    """Predict what the examples ask several outputs of, by the model and a baseline, and write it; empty if nothing."""
    from ehrseq.models.several_baseline import fit_several
    from ehrseq.tokens.packing import Examples
    from ehrseq.tokens.store import TokenStore
    from ehrseq.training.predict import predict_several

    asked, store = Examples.load(examples), TokenStore.open(tokens)
    if asked.single().all():
        return SeveralPredictions.empty()
    found = {
        split: predict_several(model / "model", store, asked, split=split) for split in ("tuning", "held_out")
    }
    frames, notes = [], {}
    for task, held_out in found["held_out"].items():
        baseline = fit_several(store, asked, asked.tasks.tolist().index(task))
        log("baseline", name=_BASELINE, task=task, outputs=len(held_out.outputs))
        probabilities = {_MODEL: {split: of[task].probability for split, of in found.items()}}
        probabilities[_BASELINE] = {
            split: baseline.predict(store, asked, of[task].rows) for split, of in found.items()
        }
        notes[task] = {
            "outputs": list(held_out.outputs),
            "thresholds": {
                name: _threshold(found["tuning"][task], of["tuning"]) for name, of in probabilities.items()
            },
        }
        frames += [
            _frame(store, asked, task, name, held_out, of["held_out"]) for name, of in probabilities.items()
        ]
    together = pl.concat(frames)
    build.write(FILE, together)
    build.notes["several"] = notes
    return together


def _threshold(tuning: "SeveralPrediction", probability: Any) -> float:
    from ehrseq.evaluation.several import best_threshold

    return best_threshold(tuning.true, probability)


def _frame(
    store: "TokenStore",
    asked: "Examples",
    task: str,
    model: str,
    found: "SeveralPrediction",
    probability: Any,
) -> pl.DataFrame:
    outputs = len(found.outputs)
    label, output = np.nonzero(found.true)
    number = pl.Series("label", np.arange(len(found.rows)))
    true = pl.DataFrame({"label": label, "true": output.astype(np.int32)}).group_by("label").agg("true")
    frame = pl.DataFrame(
        {
            "subject_id": np.asarray(store.subject_id)[asked.subject[found.rows]],
            "prediction_time": asked.prediction_time[found.rows].astype("datetime64[us]"),
            "probability": pl.Series(
                np.asarray(probability, np.float32), dtype=pl.Array(pl.Float32, outputs)
            ),
            "label": number,
        }
    )
    frame = frame.join(true, on="label", how="left", maintain_order="left")
    frame = frame.with_columns(
        pl.col("subject_id").cast(pl.Int64), pl.col("probability").cast(pl.List(pl.Float32)),
        pl.col("true").fill_null([]).cast(pl.List(pl.Int32)), task=pl.lit(task), model=pl.lit(model),
    ).select(SeveralPredictions.polars_schema().names())  # fmt: skip
    SeveralPredictions.check(frame)
    return frame


def assess_outputs(predictions: Path, labels: Sequence[Path], *, seed: int = 0) -> list["SeveralResult"]:
    """Judge what `predict_outputs` wrote; nothing if it wrote nothing."""
    from ehrseq.core.errors import ShapeError
    from ehrseq.evaluation.bootstrap import number_patients
    from ehrseq.evaluation.several import SeveralRows, assess_several

    found = []
    for task, of in read_manifest(predictions).notes.get("several", {}).items():
        frame = pl.read_parquet(predictions / FILE).filter(task=task)
        one, outputs = frame.filter(model=_MODEL), of["outputs"]
        truth = np.zeros((one.height, len(outputs)), bool)
        counts = one["true"].list.len().to_numpy()
        truth[np.repeat(np.arange(one.height), counts), one["true"].explode().drop_nulls().to_numpy()] = True
        rows = SeveralRows(
            task, outputs, truth, number_patients(one["subject_id"].to_numpy()),
            {name: _matrix(frame.filter(model=name), len(outputs)) for name in of["thresholds"]},
            of["thresholds"], _meanings(next(folder for folder in labels if folder.name == task)),
        )  # fmt: skip
        try:
            found.append(assess_several(rows, seed=seed))
        except ShapeError as error:
            log("report", task=task, note=str(error))
    return found


def _matrix(frame: pl.DataFrame, outputs: int) -> Any:
    return frame["probability"].explode().to_numpy().reshape(-1, outputs)


def _meanings(labels: Path) -> dict[str, str]:
    table = pl.read_parquet(labels / OUTPUTS, columns=["output", "meaning"]).drop_nulls()
    return dict(table.iter_rows())
