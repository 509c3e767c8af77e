"""Time stumps: what boosting chooses on the toy ward, and that numpy and the network answer alike."""

import jax
import numpy as np
import pytest
from toy.ward import DRUG, LACTATE, ward

from ehrseq.models.boosting import Stumps, _fired, choose_stumps
from ehrseq.models.config import Inputs
from ehrseq.models.families import StumpsConfig
from ehrseq.models.registry import definition, initial, learned_from_data
from ehrseq.models.stumps import as_parameters
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore

CONFIG = StumpsConfig(dim=8, stumps=24, pool=400, kept_a_round=2, wide=False)

type Ward = tuple[TokenStore, Examples]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Ward:
    store, examples, _ = ward(tmp_path_factory.mktemp("ward"), 150)
    return store, examples


def test_what_matters_is_chosen_and_the_same_again(toy: Ward) -> None:
    store, examples = toy
    rows = examples.rows("train")
    first, again = (choose_stumps(store, examples, rows, CONFIG, context=64, seed=0) for _ in range(2))
    for name in ("code", "sign", "level", "days"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert len(first.code) == CONFIG.stumps
    assert {LACTATE, DRUG} <= set(first.code[:12].tolist())  # the causes of two tasks, among 60 codes
    recent = first.days[first.code == DRUG]
    assert recent.min() < 2  # "within the last 12 hours" is what it tells


def test_the_network_answers_as_the_pairs_do(toy: Ward) -> None:
    store, examples = toy
    rows = examples.rows("train")[:40]
    random = np.random.default_rng(1)
    stumps = Stumps(
        np.append(random.integers(2, 20, CONFIG.stumps - 1), 0).astype(np.int32),
        random.choice([-1.0, 1.0], CONFIG.stumps).astype(np.float32),
        np.where(random.random(CONFIG.stumps) < 0.5, -np.inf, random.normal(size=CONFIG.stumps)).astype(
            np.float32
        ),
        np.exp(random.uniform(-3, 6, CONFIG.stumps)).astype(np.float32),
    )
    expected = _fired(store, examples, rows, stumps, context=64).toarray()
    expected[:, stumps.code == 0] = 0
    inputs = Inputs.of(store.vocabulary, tuple(examples.tasks.tolist()))
    values = initial(CONFIG, inputs) | {f"trunk.{name}": x for name, x in as_parameters(stumps).items()}
    bind = definition(CONFIG, inputs)
    answers = jax.jit(lambda batch: bind(values).trunk.answers(batch, batch["label_at"], batch["label_time"]))
    loader = Loader(store, examples, rows, context=64, row_length=64, batch_rows=4, shuffle=False)
    seen = 0
    for batch in loader.epoch():
        place = {int(row): number for number, row in enumerate(rows)}
        for seat in zip(*np.nonzero(batch["label_row"] >= 0), strict=True):
            found = np.asarray(answers(batch))[seat]
            np.testing.assert_array_equal(found, expected[place[int(batch["label_row"][seat])]])
            seen += 1
    assert seen == len(rows)
    assert 0.05 < expected.mean() < 0.95


def test_facts_of_the_data_come_before_the_first_step(toy: Ward) -> None:
    store, examples = toy
    facts = learned_from_data(CONFIG, store, examples, examples.rows("train"), 64, 0)
    assert set(facts) == {"trunk.code_s", "trunk.sign_s", "trunk.level_s", "trunk.days_s"}


def test_labels_that_teach_nothing_leave_stumps_that_are_never_true(toy: Ward) -> None:
    """One label of each task: nothing tells yes from no."""
    store, examples = toy
    wide = StumpsConfig(stumps=300, pool=300)
    chosen = choose_stumps(store, examples, examples.rows("train")[:3], wide, context=64, seed=0)
    assert (chosen.code == 0).all()
    assert len(chosen.code) == wide.stumps
