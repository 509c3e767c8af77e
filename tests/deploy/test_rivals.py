"""What stands beside a model's predictions, on the toy ward."""

from pathlib import Path

import numpy as np
import pytest
from toy.ward import ward

from ehrseq.deploy.rivals import ENSEMBLE, rivals, single_rows


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """The ward, and a model that knows the labels but for noise."""
    store, examples, _ = ward(tmp_path_factory.mktemp("ward"), 300)
    random, model = np.random.default_rng(0), {}
    for split in ("tuning", "held_out"):
        label = examples.value[single_rows(examples, split)]
        model[split] = 1 / (1 + np.exp(-(3 * (label - 0.5) + random.normal(size=len(label)))))
    return store, examples, model, rivals(store, examples, model, "oracle")


def test_all_stand_on_the_same_rows(beside: tuple) -> None:
    store, examples, _, found = beside
    rows = single_rows(examples, "held_out")
    assert set(found) == {"logistic", "gradient_boosting", ENSEMBLE}
    for columns in found.values():
        assert columns["subject_id"].tolist() == store.subject_id[examples.subject[rows]].tolist()
        assert columns["task"].tolist() == examples.tasks[examples.task[rows]].tolist()
        assert np.all((columns["probability"] > 0) & (columns["probability"] < 1))


def test_the_ensemble_leans_on_the_better_model(beside: tuple) -> None:
    _, examples, model, found = beside
    label = examples.value[single_rows(examples, "held_out")]

    def loss(p: np.ndarray) -> float:
        return float(-np.mean(label * np.log(p) + (1 - label) * np.log(1 - p)))

    assert loss(found[ENSEMBLE]["probability"]) < loss(model["held_out"]) + 0.02
    assert loss(found[ENSEMBLE]["probability"]) < loss(found["logistic"]["probability"])


def test_held_out_labels_are_not_looked_at(beside: tuple, tmp_path: Path) -> None:
    import dataclasses

    store, examples, model, found = beside
    hidden = np.where(examples.split == 2, np.nan, examples.value).astype(np.float32)
    blind = rivals(store, dataclasses.replace(examples, value=hidden), model, "oracle")
    for name, columns in found.items():
        np.testing.assert_array_equal(columns["probability"], blind[name]["probability"])
