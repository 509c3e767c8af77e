"""What stands beside a model's predictions: baselines, clinical scores, and the ensemble of it and the baselines.

Baselines and scores are fitted on the training split. The ensemble's weights are fitted on the tuning split, so with
few tuning labels it is close to the mean of its models' log odds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.progress import log

if TYPE_CHECKING:
    from ehrseq.tokens.packing import Examples, Ints
    from ehrseq.tokens.store import TokenStore

ENSEMBLE = "ensemble"

type Columns = dict[str, NDArray[Any]]


def rivals(
    store: "TokenStore",
    examples: "Examples",
    model: Mapping[str, NDArray[np.float64]],
    name: str,
    *,
    timeline: Path | None = None,
    seed: int = 0,
) -> dict[str, Columns]:
    """Held-out predictions by name, as columns; `model` has the model's own probabilities by split.

    `model["tuning"]` and `model["held_out"]` are of the labels of one output, in the order of the examples. Scores of
    points need the record's own numbers, so without its `timeline` there are no clinical scores.
    """
    from ehrseq.models.baselines import BASELINES, fit_baseline

    rows = {split: single_rows(examples, split) for split in ("tuning", "held_out")}
    given = {name: {split: model[split] for split in rows}}
    found = {}
    for baseline in BASELINES:
        fitted = fit_baseline(baseline, store, examples, seed=seed)
        log("baseline", name=baseline)
        given[baseline] = {split: fitted.predict(store, examples, which) for split, which in rows.items()}
        found[baseline] = _columns(store, examples, rows["held_out"], given[baseline]["held_out"])
    together = _ensemble(examples, rows, given)
    found[ENSEMBLE] = _columns(store, examples, rows["held_out"], together)
    return found | (_clinical(store, examples, rows["held_out"], timeline) if timeline else {})


def single_rows(examples: "Examples", split: str) -> "Ints":
    """Rows of a split whose task has one output."""
    rows = examples.rows(split)
    found: Ints = rows[examples.single()[examples.task[rows]]]
    return found


def _ensemble(
    examples: "Examples",
    rows: Mapping[str, "Ints"],
    given: Mapping[str, Mapping[str, NDArray[np.float64]]],
) -> NDArray[np.float64]:
    """One stack for each task."""
    from ehrseq.models.ensemble import fit_ensemble

    out = np.zeros(len(rows["held_out"]))
    for task in np.unique(examples.task[rows["held_out"]]).tolist():
        mine = {split: examples.task[which] == task for split, which in rows.items()}
        tuning = {name: of["tuning"][mine["tuning"]] for name, of in given.items()}
        stack = fit_ensemble("stacked", tuning, examples.value[rows["tuning"]][mine["tuning"]])
        out[mine["held_out"]] = stack.predict(
            {name: of["held_out"][mine["held_out"]] for name, of in given.items()}
        )
        weights = dict(zip(stack.models, np.round(stack.weights, 3).tolist(), strict=True))
        log("ensemble", task=str(examples.tasks[task]), weights=weights)
    return out


def _clinical(store: "TokenStore", examples: "Examples", rows: "Ints", timeline: Path) -> dict[str, Columns]:
    """Each clinical score on the tasks that it is for, where the record has its codes."""
    from ehrseq.models.clinical_scores import factor_values, fit_score, shipped_scores
    from ehrseq.tokens.raw_values import raw_values

    scores = shipped_scores(store.vocabulary["codes"])
    wanted = [
        (score, number)
        for score in scores
        for number, task in enumerate(examples.tasks.tolist())
        if score.tasks in task and examples.single()[number]
    ]
    if not wanted:
        return {}
    values = raw_values(store, timeline)
    found: dict[str, Columns] = {}
    for score, task in wanted:
        train, mine = single_rows(examples, "train"), rows[examples.task[rows] == task]
        train = train[(examples.task[train] == task) & ~np.isnan(examples.value[train])]
        if len(np.unique(examples.value[train])) < 2:
            continue
        fitted = fit_score(score, factor_values(store, examples, train, score, values), examples.value[train])
        log("clinical score", name=score.name, task=str(examples.tasks[task]))
        predicted = fitted.predict(factor_values(store, examples, mine, score, values))
        part = _columns(store, examples, mine, predicted)
        before = found.get(score.name)
        found[score.name] = _joined(before, part) if before else part
    return found


def _joined(one: Columns, other: Columns) -> Columns:
    return {key: np.concatenate([one[key], other[key]]) for key in one}


def _columns(store: "TokenStore", examples: "Examples", rows: "Ints", probability: Any) -> Columns:
    return {
        "subject_id": np.asarray(store.subject_id)[examples.subject[rows]],
        "prediction_time": examples.prediction_time[rows].astype("datetime64[us]"),
        "task": examples.tasks[examples.task[rows]],
        "label": examples.value[rows].astype(np.float64),
        "probability": probability,
    }
