"""Training on the toy ward: it learns, it can be killed, it goes on bit for bit, and it refuses to be mixed up."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy.ward import ward

from ehrseq.core.errors import ExitCode, InterruptedRunError, ModelError, TokenError
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training import loop
from ehrseq.training.config import TrainConfig
from ehrseq.training.loop import fit, train
from ehrseq.training.model_folder import load_model
from ehrseq.training.predict import predict
from ehrseq.training.scores import auroc

SMALL = TrainConfig.from_dict(
    {
        "context": 64,
        "row_length": 64,
        "batch_rows": 4,
        "epochs": 3,
        "patience": 3,
        "checkpoint_steps": 4,
        "learning_rate": 2e-3,
        "wide_rate": 1.0,
        "model": {"dim": 16, "layers": 1, "heads": 2, "attention": "reference", "pools": 2},
    }
)

type Ward = tuple[TokenStore, Examples, np.ndarray]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    return ward(tmp_path_factory.mktemp("small"), 40)


@pytest.fixture(scope="module")
def uninterrupted(small: Ward, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    assert fit(SMALL, small[0], small[1], out).status == "done"
    return out


def weights(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "model" / "weights.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def send_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM arrives while batch number `step` is being handed over."""
    calls = {"n": 0}
    on_device = loop.on_device

    def interrupting(batch: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return on_device(batch)

    monkeypatch.setattr(loop, "on_device", interrupting)


@pytest.mark.parametrize("stops", [(2, 9), (13,)])
def test_killed_and_resumed_equals_uninterrupted(
    stops: tuple[int, ...], small: Ward, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, examples, _ = small
    for stop in stops:
        with monkeypatch.context() as patch:
            send_at(stop, patch)
            with pytest.raises(InterruptedRunError, match="same command") as caught:
                fit(SMALL, store, examples, tmp_path)
        assert caught.value.exit_code == ExitCode.TEMPORARY == 75
        assert not (tmp_path / "model").exists()
    assert fit(SMALL, store, examples, tmp_path).status == "done"
    expected, found = weights(uninterrupted), weights(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert (tmp_path / "history.json").read_bytes() == (uninterrupted / "history.json").read_bytes()


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(
    small: Ward, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, examples, _ = small
    with monkeypatch.context() as patch:

        def crash(batch: Any, calls: list[int] = []) -> Any:  # noqa: B006 counts its calls
            calls.append(1)
            if len(calls) == 7:
                raise RuntimeError("power cut")
            return {name: value for name, value in batch.items() if name != "label_row"}

        patch.setattr(loop, "on_device", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            fit(SMALL, store, examples, tmp_path)
    # a save that was killed half-way: the files are there, the final name is not
    numbers = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert numbers
    last = tmp_path / "checkpoints" / str(numbers[-1])
    partial = tmp_path / "checkpoints" / f"{numbers[-1] + 1}.orbax-checkpoint-tmp"
    shutil.copytree(last, partial)
    shutil.rmtree(partial / "arrays")
    assert fit(SMALL, store, examples, tmp_path).status == "done"
    expected, found = weights(uninterrupted), weights(tmp_path)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_a_finished_run_is_left_alone(small: Ward, uninterrupted: Path) -> None:
    before = (uninterrupted / "model" / "weights.npz").stat().st_mtime_ns
    result = fit(SMALL, small[0], small[1], uninterrupted)
    assert result.status == "unchanged"
    assert len(result.history) == 3
    assert json.loads((uninterrupted / "history.json").read_text()) == result.history
    assert (uninterrupted / "model" / "weights.npz").stat().st_mtime_ns == before


def test_another_run_is_not_mixed_in(small: Ward, uninterrupted: Path) -> None:
    store, examples, _ = small
    with pytest.raises(ModelError, match=r"another configuration \(learning_rate"):
        fit(dataclasses.replace(SMALL, learning_rate=1e-4), store, examples, uninterrupted)
    flipped = dataclasses.replace(examples, value=1 - examples.value)
    with pytest.raises(ModelError, match="another labels"):
        fit(SMALL, store, flipped, uninterrupted)
    other = TokenStore.open(store.path)
    assert other.vocabulary["codes"]
    other.vocabulary_sha256 = "f" * 64
    with pytest.raises(ModelError, match="another vocabulary"):
        fit(SMALL, other, examples, uninterrupted)
    with pytest.raises(ModelError, match="model's own vocabulary"):
        predict(uninterrupted, other, examples)


def test_a_split_without_labels_is_refused(small: Ward, tmp_path: Path) -> None:
    store, examples, _ = small
    alone = dataclasses.replace(examples, split=np.zeros_like(examples.split))
    with pytest.raises(ModelError, match="'tuning'"):
        fit(SMALL, store, alone, tmp_path)


def test_a_task_without_labels_is_refused(small: Ward, tmp_path: Path) -> None:
    store, examples, _ = small
    missing = (examples.task == 1) & (examples.split == 0)
    unlabelled = dataclasses.replace(
        examples, value=np.where(missing, np.nan, examples.value).astype(np.float32)
    )
    with pytest.raises(ModelError, match="'trend' has no labels"):
        fit(SMALL, store, unlabelled, tmp_path)


def test_a_loss_that_is_not_finite_is_named(small: Ward, tmp_path: Path) -> None:
    store, examples, _ = small
    wild = dataclasses.replace(SMALL, learning_rate=1e38, clip=1e38)
    with pytest.raises(ModelError, match="not finite"):
        fit(wild, store, examples, tmp_path)
    assert not (tmp_path / "model").exists()


def test_damaged_inputs_are_named(small: Ward, tmp_path: Path) -> None:
    store, _, _ = small
    folder = tmp_path / "store"
    shutil.copytree(store.path, folder)
    content = (folder / "examples.npz").read_bytes()
    for damaged in (b"", b"not an archive", content[: len(content) // 2]):
        (folder / "examples.npz").write_bytes(damaged)
        with pytest.raises(TokenError, match="damaged"):
            train(SMALL, folder, folder, tmp_path / "out")
    (folder / "examples.npz").write_bytes(content)
    code = folder / "arrays" / "code.bin"
    code.write_bytes(code.read_bytes()[:-8])
    with pytest.raises(TokenError, match="truncated"):
        train(SMALL, folder, folder, tmp_path / "out")


def test_packed_predictions_are_those_of_each_label_alone(small: Ward, uninterrupted: Path) -> None:
    store, examples, _ = small
    rows = examples.rows("held_out")[:6]
    together = predict(uninterrupted, store, examples)["probability"][rows]
    for row, expected in zip(rows, together, strict=True):
        found = predict(uninterrupted, store, examples.take(np.asarray([row])))["probability"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)  # other rows, other order of sums


def test_predictions_are_in_the_order_of_the_labels(small: Ward, uninterrupted: Path) -> None:
    store, examples, _ = small
    every = predict(uninterrupted, store, examples)
    rows = examples.rows("held_out")
    held_out = predict(load_model(uninterrupted), store, examples, split="held_out")
    assert held_out["subject_id"].tolist() == (1000 + examples.subject[rows]).tolist()
    assert held_out["task"].tolist() == examples.tasks[examples.task[rows]].tolist()
    assert held_out["prediction_time"].dtype == np.dtype("datetime64[us]")
    assert np.all((every["probability"] > 0) & (every["probability"] < 1))
    np.testing.assert_allclose(every["probability"][rows], held_out["probability"], rtol=1e-5)


def test_predictions_do_not_depend_on_later_labels_or_tokens(small: Ward, uninterrupted: Path) -> None:
    store, examples, _ = small
    every = predict(uninterrupted, store, examples)["probability"]
    early = np.flatnonzero(
        examples.position < np.bincount(examples.subject, examples.position / 3)[examples.subject]
    )
    only = examples.take(early)
    changed = TokenStore.open(store.path)
    changed.code = np.array(store.code)
    last = np.zeros(store.subjects, np.int64)
    np.maximum.at(last, only.subject, only.position)
    later = np.arange(store.tokens) >= np.repeat(store.offsets[:-1] + last, np.diff(store.offsets))
    changed.code[later] = 4
    found = predict(uninterrupted, changed, only)["probability"]
    np.testing.assert_allclose(found, every[early], rtol=1e-5)  # other rows, other order of sums


def test_unknown_tasks_are_refused_and_fewer_are_fine(small: Ward, uninterrupted: Path) -> None:
    store, examples, _ = small
    rows = np.flatnonzero(examples.task == 2)
    changes = {"task": np.zeros(len(rows), np.int32), "tasks": examples.tasks[2:]}
    one = dataclasses.replace(examples.take(rows), **changes)
    expected = predict(uninterrupted, store, examples)["probability"][rows]
    np.testing.assert_allclose(predict(uninterrupted, store, one)["probability"], expected, rtol=1e-5)
    with pytest.raises(ModelError, match="does not know task 'sepsis'"):
        predict(uninterrupted, store, dataclasses.replace(one, tasks=np.asarray(["sepsis"])))


def test_a_damaged_model_is_named(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model here"):
        load_model(tmp_path)
    shutil.copytree(uninterrupted / "model", tmp_path / "model")
    (tmp_path / "model" / "weights.npz").write_bytes(b"PK")
    with pytest.raises(ModelError, match="damaged"):
        load_model(tmp_path)


def test_it_learns_the_language_of_the_ward(tmp_path: Path) -> None:
    store, examples, risk = ward(tmp_path, 700)
    config = TrainConfig.from_dict(
        {
            "context": 128,
            "row_length": 128,
            "batch_rows": 4,
            "epochs": 3,
            "learning_rate": 2e-3,
            "wide_rate": 1.0,
            "model": {"dim": 32, "layers": 1, "heads": 2, "attention": "reference", "pools": 2},
        }
    )
    result = train(config, tmp_path, tmp_path, tmp_path / "out")
    found = predict(result.model, store, examples, split="held_out")
    true = risk[examples.rows("held_out")]
    for task, enough in {"level": 0.6, "trend": 0.6}.items():
        mine = found["task"] == task
        best = auroc(found["label"][mine], true[mine])
        got = auroc(found["label"][mine], found["probability"][mine])
        assert (got - 0.5) / (best - 0.5) > enough, (task, got, best)
    shuffled = np.random.default_rng(0).permutation(found["label"])
    assert abs(auroc(shuffled, found["probability"]) - 0.5) < 0.06
