"""The stages `model` and `predictions`: train on the token store, then predict the held-out patients.

The model is a dataset like any other: made once from the same tokens, labels and configuration. A training that
was stopped goes on from its last checkpoint, which is kept beside the dataset until the dataset is there.
"""

import shutil
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import Account, Input
from ehrseq.deploy.rivals import rivals
from ehrseq.deploy.several import predict_outputs
from ehrseq.evaluation.schema import Prediction
from ehrseq.training.config import TrainConfig

MODEL = "transformer"


def train_model(
    tokens: Path, examples: Path, out: Path, config: TrainConfig, *, warm: Path | None = None
) -> Result:
    """Train one model on all tasks of the examples; a folder for `ehrseq.training.predict`.

    `warm`: a model folder whose weights to start from.

    Raises: ModelError if a split has no labels; InterruptedRunError after SIGTERM (run again to go on).
    """
    inputs = [input_of("tokens", tokens), input_of("examples", examples)]
    if warm is not None:
        inputs.append(Input("start", sha256_file(warm / "weights.npz")))
    with Build(out, kind="model", config=config.to_dict(), inputs=inputs) as build:
        if not build.unchanged:
            from ehrseq.training.loop import train

            work = out.with_name(f".{out.name}.training-{build.fingerprint[:12]}")
            for stale in out.parent.glob(f".{out.name}.training-*"):
                if stale != work:
                    shutil.rmtree(stale)
            train(config, tokens, examples, work, warm=warm)
            shutil.copytree(work / "model", build.folder / "model")
            shutil.copy2(work / "history.json", build.folder / "history.json")
            for path in sorted(build.folder.rglob("*")):
                if path.is_file():
                    build.enter(path.relative_to(build.folder).as_posix(), rows=1)
            build.made("model", 1)
    for work in out.parent.glob(f".{out.name}.training-*"):
        shutil.rmtree(work)
    return build.result


def predict_held_out(
    tokens: Path, examples: Path, model: Path, out: Path, *, timeline: Path | None = None, seed: int = 0
) -> Result:
    """Predictions for every held-out label, by the model and by what stands beside it (see `rivals`).

    Baselines are fitted on the training split and chosen on the tuning split, as the model was. `timeline` is what the
    tokens were made of; without it there are no clinical scores.
    """
    inputs = [input_of("tokens", tokens), input_of("examples", examples), input_of("model", model)]
    with Build(out, kind="predictions", config={"split": "held_out", "seed": seed}, inputs=inputs) as build:
        if not build.unchanged:
            frames = _single(tokens, examples, model, timeline, seed)
            together = pl.concat(frames).sort("task", maintain_order=True)
            Prediction.check(together)
            build.write("held_out.parquet", together)
            several, rows = predict_outputs(build, tokens, examples, model), frames[0].height
            made = together.height + several.height
            rows += several.select("task", "subject_id", "prediction_time").n_unique()
            build.account("held-out labels", Account(rows, rows, made={"prediction": made}))
            build.made("predictions", made)
    return build.result


def _single(
    tokens: Path, examples: Path, model: Path, timeline: Path | None, seed: int
) -> list[pl.DataFrame]:
    """Of the tasks with one output: the model's frame first."""
    from ehrseq.tokens.packing import Examples
    from ehrseq.tokens.store import TokenStore
    from ehrseq.training.predict import predict

    store, asked = TokenStore.open(tokens), Examples.load(examples)
    found = {split: predict(model / "model", store, asked, split=split) for split in ("tuning", "held_out")}
    own = {split: of["probability"] for split, of in found.items()}
    beside = rivals(store, asked, own, MODEL, timeline=timeline, seed=seed)
    return [
        _frame(dict(found["held_out"]), MODEL),
        *(_frame(dict(columns), name) for name, columns in beside.items()),
    ]


def _frame(columns: dict[str, object], model: str) -> pl.DataFrame:
    frame = pl.DataFrame(columns)
    return frame.select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("prediction_time").cast(pl.Datetime("us")),
        pl.col("task").cast(pl.String),
        pl.col("probability").cast(pl.Float64),
        pl.col("label").fill_nan(None).cast(pl.Boolean),
        model=pl.lit(model),
    )
