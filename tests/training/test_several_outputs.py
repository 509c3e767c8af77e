"""Tasks with several outputs: one seat a label, each output its own loss, the same numbers whatever else is asked."""

from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from toy.ward import TASKS, of_several, ward

from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples, Several
from ehrseq.tokens.store import TokenStore
from ehrseq.training.config import TrainConfig
from ehrseq.training.loop import fit
from ehrseq.training.predict import predict, predict_several
from ehrseq.training.scores import weighted_auroc
from ehrseq.training.step import on_device, several_sums

CONFIG = TrainConfig.from_dict(
    {
        "context": 128, "row_length": 128, "batch_rows": 4, "epochs": 3, "learning_rate": 2e-3, "wide_rate": 1.0,
        "model": {"dim": 32, "layers": 1, "heads": 2, "attention": "reference", "pools": 2},
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStore, Examples, np.ndarray, Path]:
    folder = tmp_path_factory.mktemp("several")
    store, examples, risk = ward(folder, 500)
    asked = of_several(examples)
    fit(CONFIG, store, asked, folder / "run")
    return store, asked, risk, folder / "run"


def test_each_output_has_its_own_sums(tmp_path: Path):
    store, examples, _ = ward(tmp_path, 30)
    asked = of_several(examples)
    asked.value[:5] = np.nan
    loader = Loader(store, asked, np.arange(len(asked)), context=128, row_length=128, shuffle=False)
    found, expected = np.zeros((2, 4)), np.zeros((2, 4))
    random = np.random.default_rng(0)
    for batch in loader.epoch():
        logits = random.normal(size=(*batch["label_at"].shape, 4))
        found += np.asarray(several_sums(jnp.asarray(logits, jnp.float32), on_device(batch)))
        for row, seat in zip(*np.nonzero(batch["label_weight"]), strict=True):
            label = batch["label_row"][row, seat]
            true = asked.several.true[asked.several.offsets[label] : asked.several.offsets[label + 1]]
            for output in range(3) if asked.task[label] == 0 else [3]:
                logit = logits[row, seat, output]
                expected[0, output] += np.logaddexp(0, logit) - logit * (output in true)
                expected[1, output] += 1
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert expected[1].tolist() == [len(asked) / 2 - 5] * 3 + [len(asked) / 2]


def test_every_output_is_learned_and_predicted(learned: tuple[TokenStore, Examples, np.ndarray, Path]):
    store, asked, risk, run = learned
    (found,) = predict_several(run, store, asked, split="held_out").values()
    assert found.outputs == TASKS
    assert asked.split[found.rows].tolist() == [2] * len(found.rows)
    np.testing.assert_array_equal(found.true, asked.several.dense(found.rows, 0))
    truth = found.true.astype(float)
    best = weighted_auroc(truth, np.stack([risk[3 * found.rows + column] for column in range(3)], axis=1))
    assert weighted_auroc(truth, found.probability.astype(float)) > 0.5 + 0.5 * (best - 0.5)


def test_the_single_task_beside_it_is_predicted_as_ever(
    learned: tuple[TokenStore, Examples, np.ndarray, Path],
):
    store, asked, _, run = learned
    found = predict(run, store, asked, split="held_out")
    assert set(found["task"]) == {"level"}
    rows = asked.rows("held_out")
    rows = rows[asked.task[rows] == 1]
    np.testing.assert_array_equal(found["label"], asked.value[rows])
    alone = replace(
        asked.take(rows), task=np.zeros(len(rows), np.int32), tasks=np.asarray(["level"]), several=None
    )
    np.testing.assert_allclose(predict(run, store, alone)["probability"], found["probability"], rtol=1e-5)


def test_outputs_are_found_by_name(learned: tuple[TokenStore, Examples, np.ndarray, Path]):
    """Another delivery asks other outputs in another order; the model knows three, and says the same of them."""
    store, asked, _, run = learned
    mine = asked.take(np.flatnonzero(asked.task == 0))
    to = np.asarray([3, 1, 0], np.int32)
    names = ["billed.recent", "billed.trend", "billed.unheard", "billed.level"]
    several = Several(np.asarray(names), np.asarray([0, 4]), mine.several.offsets, to[mine.several.true])
    other = replace(mine, tasks=np.asarray(["billed"]), several=several)
    (expected,), (found,) = (predict_several(run, store, one).values() for one in (mine, other))
    assert found.outputs == expected.outputs
    np.testing.assert_array_equal(found.true, expected.true)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-4)
