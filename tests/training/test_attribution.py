"""Attribution on the toy ward, whose causes are known: shares add up, they find the cause, and it was the cause."""

import numpy as np
import pytest
from toy.ward import CREATININE, DRUG, LACTATE, TASKS, ward

from ehrseq.models.attribution import Shares, attribute, make_attribution
from ehrseq.models.registry import definition
from ehrseq.tokens.packing import Examples, previous_of
from ehrseq.tokens.store import TokenStore
from ehrseq.training.config import TrainConfig
from ehrseq.training.loop import fit
from ehrseq.training.model_folder import TrainedModel, load_model
from ehrseq.training.predict import predict, prediction_loader

CONFIG = TrainConfig.from_dict(
    {
        "context": 64, "row_length": 128, "batch_rows": 8, "epochs": 4, "patience": 4, "learning_rate": 2e-3,
        "wide_rate": 3.0, "wide_prior": 0.5,
        "model": {"dim": 16, "layers": 1, "heads": 2, "attention": "reference", "pools": 2},
    }
)  # fmt: skip
CAUSES = {"level": LACTATE, "trend": CREATININE, "recent": DRUG}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[TokenStore, Examples, TrainedModel]:
    folder = tmp_path_factory.mktemp("ward")
    store, examples, _ = ward(folder / "store", 300)
    fit(CONFIG, store, examples, folder / "run")
    return store, examples, load_model(folder / "run")


@pytest.fixture(scope="module")
def all_shares(trained: tuple[TokenStore, Examples, TrainedModel]) -> Shares:
    return shares(trained, most=None, steps=32)


def shares(
    trained: tuple[TokenStore, Examples, TrainedModel], most: int | None, steps: int, batch_rows: int = 8
) -> Shares:
    store, examples, model = trained
    bind = definition(model.config.model, model.inputs)
    return attribute(
        make_attribution(bind, steps), model.parameters, store, examples, examples.rows("held_out"),
        context=64, row_length=128, batch_rows=batch_rows, most=most,
    )  # fmt: skip


def logits(model: TrainedModel, store: TokenStore, examples: Examples) -> np.ndarray:
    probability = predict(model, store, examples)["probability"]
    return np.log(probability) - np.log1p(-probability)


def without(store: TokenStore, examples: Examples, tokens: np.ndarray) -> tuple[TokenStore, Examples]:
    """The same store and labels, as if these tokens had never been recorded."""
    left = np.ones(store.tokens, bool)
    left[tokens] = False
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(left)])
    other = object.__new__(TokenStore)
    other.__dict__.update(store.__dict__)
    for name in ("code", "time", "value", "bin", "unit", "modality", "zone", "event"):
        setattr(other, name, np.asarray(getattr(store, name))[left])
    first = np.asarray(store.offsets)[examples.subject]
    other.offsets = before[np.asarray(store.offsets)]
    other.previous = previous_of(other.code, np.diff(other.offsets))
    kept = ("subject", "task", "value", "split", "prediction_time", "tasks")
    moved = {name: getattr(examples, name) for name in kept}
    return other, Examples(position=before[first + examples.position] - before[first], **moved)


def test_shares_add_up_to_what_the_record_says(trained, all_shares):
    """The sum over all events is the logit less that of a record of bare ticks of time."""
    store, examples, model = trained
    one = definition(model.config.model, model.inputs)(model.parameters)
    rows = examples.rows("held_out")[:40]
    loader = prediction_loader(model.config, store, examples, rows)
    for batch in loader.epoch():
        given = {name: value for name, value in batch.items() if name != "label_row"}
        whole = np.asarray(one(given))
        ticks = np.asarray(one(given | {"gate": np.zeros(batch["code"].shape, np.float32)}))
        for row, seat in zip(*np.nonzero(batch["label_row"] >= 0), strict=True):
            mine = all_shares.label == batch["label_row"][row, seat]
            assert mine.any()
            assert all_shares.share[mine].sum() == pytest.approx(whole[row, seat] - ticks[row, seat], abs=0.1)


def test_the_largest_share_is_the_known_cause(trained, all_shares):
    store, examples, _ = trained
    first = np.append(True, np.diff(all_shares.label) > 0)
    task, code = examples.task[all_shares.label[first]], np.asarray(store.code)[all_shares.token[first]]
    hits = [float(np.mean(code[task == number] == CAUSES[name])) for number, name in enumerate(TASKS)]
    assert min(hits[:2]) > 0.6  # of 60 codes; one guess in 60 would be right by chance


def test_taking_the_named_events_away_changes_the_prediction_more_than_others(trained, all_shares):
    store, examples, model = trained
    label, where = np.unique(all_shares.label, return_index=True)
    chosen = all_shares.token[where]
    random = np.random.default_rng(0)
    sizes = np.append(where[1:], len(all_shares.label)) - where
    others = all_shares.token[where + random.integers(1, sizes)]
    whole = logits(model, store, examples)[label]
    changes = []
    for tokens in (chosen, others):
        change = np.zeros(len(label))
        for task in range(len(TASKS)):  # the labels of one moment share a record: one of them at a time
            mine = np.flatnonzero(examples.task[label] == task)
            pruned, moved = without(store, examples, tokens[mine])
            change[mine] = np.abs(logits(model, pruned, moved)[label[mine]] - whole[mine])
        changes.append(change.mean())
    assert changes[0] > 3 * changes[1]


def test_shares_depend_on_nothing_but_the_record(trained):
    """Neither the rows of a batch nor the labels of other patients change them."""
    one, other = shares(trained, 3, 4), shares(trained, 3, 4, batch_rows=2)
    assert np.array_equal(one.label, other.label)
    assert np.array_equal(one.token, other.token)
    assert np.allclose(one.share, other.share, atol=1e-5)
    assert np.bincount(one.label).max() == 3
