"""Predictions: a model folder, a store and examples in; one probability per label out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ModelError
from ehrseq.models.config import Inputs
from ehrseq.models.registry import Parameters, definition
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples
from ehrseq.training.config import TrainConfig
from ehrseq.training.model_folder import TrainedModel, load_model
from ehrseq.training.step import make_forward, on_device

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore


@dataclass(frozen=True, slots=True)
class Scorer:
    """A compiled forward pass for one shape of batch; use it for every evaluation of a run."""

    forward: Callable[..., Any]

    def logits(self, parameters: Parameters, loader: Loader) -> NDArray[np.float64]:
        """One epoch of `loader` -> logits [number of labels in the examples], NaN where not asked."""
        given = [(batch["label_row"], self.forward(parameters, on_device(batch))) for batch in loader.epoch()]
        rows = [row.reshape(-1) for row, _ in given]
        values = [np.asarray(logits, np.float64).reshape(-1) for _, logits in given]
        row = np.concatenate([np.zeros(0, np.int32), *rows])
        out = np.full(int(row.max(initial=-1)) + 1, np.nan)
        out[row[row >= 0]] = np.concatenate([np.zeros(0), *values])[row >= 0]
        return out


def scorer(config: TrainConfig, inputs: Inputs) -> Scorer:
    """A scorer for models of this configuration."""
    return Scorer(make_forward(definition(config.model, inputs)))


def prediction_loader(
    config: TrainConfig, store: "TokenStore", examples: Examples, rows: NDArray[Any]
) -> Loader:
    """The loader of an evaluation: planned order, the training's shapes."""
    return Loader(
        store,
        examples,
        rows,
        context=config.context,
        row_length=config.row_length,
        batch_rows=config.batch_rows,
        shuffle=False,
    )


def predict(
    model: Path | TrainedModel, store: "TokenStore", examples: Examples, *, split: str | None = None
) -> Mapping[str, NDArray[Any]]:
    """Predict every label of `examples` (of `split`), in their order. n labels.

    Returns `subject_id` int64, `prediction_time` datetime64[us], `task` str, `probability` float64,
    `label` float64 (NaN = unknown), each [n]. A prediction depends on the tokens before it and on nothing later.

    Raises: ModelError if the store has another vocabulary than the model, or a task the model does not know.
    """
    trained = load_model(model) if isinstance(model, Path) else model
    trained.check(store)
    rows = examples.rows(split)
    asked = _for_model(trained, examples)
    loader = prediction_loader(trained.config, store, asked, rows)
    logits = scorer(trained.config, trained.inputs).logits(trained.parameters, loader)[rows]
    return {
        "subject_id": np.asarray(store.subject_id)[examples.subject[rows]],
        "prediction_time": examples.prediction_time[rows].astype("datetime64[us]"),
        "task": examples.tasks[examples.task[rows]],
        "probability": 1 / (1 + np.exp(-logits)),
        "label": examples.value[rows].astype(np.float64),
    }


def _for_model(trained: TrainedModel, examples: Examples) -> Examples:
    """The same examples with tasks numbered as the model knows them."""
    known = list(trained.inputs.tasks)
    unknown = [str(task) for task in examples.tasks if task not in known]
    if unknown:
        raise ModelError(
            f"the model does not know task {unknown[0]!r}; it was trained on {', '.join(known)}."
        )
    number = np.asarray([known.index(task) for task in examples.tasks], np.int32)
    return Examples(
        subject=examples.subject,
        position=examples.position,
        task=number[examples.task],
        value=examples.value,
        split=examples.split,
        prediction_time=examples.prediction_time,
        tasks=np.asarray(known),
    )
