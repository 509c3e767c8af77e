"""Predictions: a model folder, a store and examples in; one probability per label out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ModelError
from ehrseq.models.config import Inputs
from ehrseq.models.registry import Parameters, definition
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples, Several
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
        """One epoch of `loader` -> logits [number of labels in the examples], NaN where not asked; [.., O] of all
        outputs where a task has several."""
        given = [(batch["label_row"], self.forward(parameters, on_device(batch))) for batch in loader.epoch()]
        rows = [row.reshape(-1) for row, _ in given]
        values = [np.asarray(logits, np.float64).reshape(-1, *logits.shape[2:]) for _, logits in given]
        row = np.concatenate([np.zeros(0, np.int32), *rows])
        out = np.full((int(row.max(initial=-1)) + 1, *(values[0].shape[1:] if values else ())), np.nan)
        if values:
            out[row[row >= 0]] = np.concatenate(values)[row >= 0]
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
    """Predict every label of `examples` (of `split`) that is a single yes or no, in their order. n labels.

    Returns `subject_id` int64, `prediction_time` datetime64[us], `task` str, `probability` float64,
    `label` float64 (NaN = unknown), each [n]. A prediction depends on the tokens before it and on nothing later.
    Tasks with several outputs are predicted by `predict_several`.

    Raises: ModelError if the store has another vocabulary than the model, or a task the model does not know.
    """
    trained = load_model(model) if isinstance(model, Path) else model
    rows = examples.rows(split)
    rows = rows[examples.single()[examples.task[rows]]]
    asked, logits = _logits(trained, store, examples, rows)
    if logits.ndim == 2:
        logits = logits[np.arange(len(rows)), asked.first_output()[asked.task[rows]]]
    return {
        "subject_id": np.asarray(store.subject_id)[examples.subject[rows]],
        "prediction_time": examples.prediction_time[rows].astype("datetime64[us]"),
        "task": examples.tasks[examples.task[rows]],
        "probability": 1 / (1 + np.exp(-logits)),
        "label": examples.value[rows].astype(np.float64),
    }


@dataclass(frozen=True, slots=True, eq=False)
class SeveralPrediction:
    """Predictions of a task with several outputs: n labels, O outputs."""

    rows: NDArray[np.int64]  # [n] in the examples
    outputs: tuple[str, ...]  # [O]
    probability: NDArray[np.float32]  # [n, O]
    true: NDArray[np.bool_]  # [n, O]


def predict_several(
    model: Path | TrainedModel, store: "TokenStore", examples: Examples, *, split: str | None = None
) -> dict[str, SeveralPrediction]:
    """Predict every label of `examples` (of `split`) that has several outputs, by task. Raises: as `predict`."""
    trained = load_model(model) if isinstance(model, Path) else model
    found = {}
    for number in np.flatnonzero(~examples.single()):
        task = str(examples.tasks[number])
        rows = examples.rows(split)
        rows = rows[examples.task[rows] == number]
        asked, logits = _logits(trained, store, examples, rows)
        mine = int(np.flatnonzero(asked.tasks == task)[0])
        first, stop = asked.first_output()[mine : mine + 2]
        probability = (1 / (1 + np.exp(-logits[:, first:stop]))).astype(np.float32)
        names = tuple(str(name).removeprefix(f"{task}.") for name in asked.outputs[first:stop])
        truth = asked.several.dense(rows, mine) if asked.several else np.zeros(probability.shape, bool)
        found[task] = SeveralPrediction(rows, names, probability, truth)
    return found


def _logits(
    trained: TrainedModel, store: "TokenStore", examples: Examples, rows: NDArray[Any]
) -> tuple[Examples, NDArray[np.float64]]:
    """The examples as the model knows them, and logits of `rows`: [n], or [n, O]."""
    trained.check(store)
    asked = _for_model(trained, examples)
    loader = prediction_loader(trained.config, store, asked, rows)
    logits = scorer(trained.config, trained.inputs).logits(trained.parameters, loader)
    return asked, logits[rows]


def _for_model(trained: TrainedModel, examples: Examples) -> Examples:
    """The same examples with tasks and outputs numbered as the model knows them; outputs it does not know are left
    out."""
    outputs = list(trained.inputs.tasks)
    several = [str(task) for task in examples.tasks[~examples.single()]]
    of_output = [next((task for task in several if name.startswith(f"{task}.")), name) for name in outputs]
    known = list(dict.fromkeys(of_output))
    unknown = [str(task) for task in examples.tasks if task not in known]
    if unknown:
        raise ModelError(
            f"the model does not know task {unknown[0]!r}; it was trained on {', '.join(known)}."
        )
    number = np.asarray([known.index(task) for task in examples.tasks], np.int32)
    first = np.append(0, np.cumsum([of_output.count(task) for task in known]))
    return replace(
        examples,
        task=number[examples.task],
        tasks=np.asarray(known),
        several=_renumbered(examples.several, outputs, first) if examples.several else None,
    )


def _renumbered(several: Several, outputs: list[str], first: NDArray[np.int64]) -> Several:
    places = {name: place for place, name in enumerate(outputs)}
    to = np.asarray([places.get(name, -1) for name in several.outputs.tolist()], np.int32)
    true = to[several.true]
    kept = np.append(0, np.cumsum(true >= 0))[several.offsets]
    return Several(np.asarray(outputs), first, kept, true[true >= 0])
