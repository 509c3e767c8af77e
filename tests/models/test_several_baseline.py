"""The baseline of several outputs against scikit-learn's logistic regression of each."""

from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from toy.ward import of_several, ward

from ehrseq.models.several_baseline import _features, fit_several


def test_each_output_is_a_logistic_regression(tmp_path: Path):
    store, examples, _ = ward(tmp_path, 300)
    asked = of_several(examples)
    fitted = fit_several(store, asked, 0)
    rows = {split: asked.rows(split)[asked.task[asked.rows(split)] == 0] for split in ("train", "held_out")}
    found = fitted.predict(store, asked, rows["held_out"])
    features = {
        split: _features(store, asked, mine, fitted.columns, fitted.codes) for split, mine in rows.items()
    }
    truth = asked.several.dense(rows["train"], 0)
    for column in range(3):
        alone = LogisticRegression(C=fitted.chosen, max_iter=2000, tol=1e-8)
        alone.fit(features["train"][:, :-1], truth[:, column])
        expected = alone.predict_proba(features["held_out"][:, :-1])[:, 1]
        np.testing.assert_allclose(found[:, column], expected, atol=2e-3)


def test_the_future_changes_nothing(tmp_path: Path):
    store, examples, _ = ward(tmp_path, 60)
    asked = of_several(examples)
    fitted = fit_several(store, asked, 0)
    rows = np.flatnonzero(asked.task == 0)
    early = rows[asked.position[rows] < np.diff(store.offsets)[asked.subject[rows]]]
    assert len(early) > 20
    before = fitted.predict(store, asked, early)
    last = np.zeros(store.subjects, np.int64)
    np.maximum.at(last, asked.subject[early], asked.position[early])
    later = np.arange(store.tokens) >= np.repeat(store.offsets[:-1] + last, np.diff(store.offsets))
    store.code = np.where(later, 4, np.asarray(store.code))
    np.testing.assert_array_equal(before, fitted.predict(store, asked, early))
