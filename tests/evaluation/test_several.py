"""Metrics of several outputs against scikit-learn's, and what is said of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from ehrseq.core.errors import ShapeError
from ehrseq.evaluation.evidence import Evaluation
from ehrseq.evaluation.report import ReportData, render_report
from ehrseq.evaluation.several import SeveralRows, assess_several, best_threshold, micro_f1


def drawn(seed: int, labels: int = 200, outputs: int = 7) -> SeveralRows:
    """Outputs from common to rare, the last one never true; two models, one of them knows something."""
    random = np.random.default_rng(seed)
    rate = np.append(np.geomspace(0.5, 0.03, outputs - 1), 0.0)
    signal = random.normal(size=(labels, outputs))
    truth = random.random((labels, outputs)) < np.clip(rate * np.exp(signal) / np.exp(0.5), 0, 1)
    model = 1 / (1 + np.exp(-(signal + random.normal(size=signal.shape))))
    return SeveralRows(
        "discharge_diagnoses_24h", [f"ICD//{number}" for number in range(outputs)], truth,
        random.integers(0, labels // 2, labels) % (labels // 3), {"transformer": model, "logistic": model * 0 + rate},
        {"transformer": 0.6, "logistic": 0.3}, {"ICD//0": "Heart & failure"},
    )  # fmt: skip


def numbered(rows: SeveralRows) -> SeveralRows:
    _, clusters = np.unique(rows.clusters, return_inverse=True)
    return SeveralRows(
        rows.task, rows.outputs, rows.truth, clusters, rows.probabilities, rows.thresholds, rows.meanings
    )


def test_metrics_are_those_of_scikit_learn():
    rows = numbered(drawn(1))
    found = assess_several(rows)
    both = rows.truth.any(0)
    assert (found.outputs, found.judged) == (7, int(both.sum()))
    truth, model = rows.truth[:, both], rows.probabilities["transformer"][:, both]
    expected = {
        "weighted_auroc": roc_auc_score(truth, model, average="weighted"),
        "mean_auroc": roc_auc_score(truth, model, average="macro"),
        "micro_f1": f1_score(rows.truth, rows.probabilities["transformer"] >= 0.6, average="micro"),
    }
    mine = {result.metric: result for result in found.results if result.model == "transformer"}
    for metric, value in expected.items():
        assert mine[metric].value == pytest.approx(value)
        assert mine[metric].low < value < mine[metric].high
    first = found.of_outputs[0]
    assert (first.output, first.positives) == ("ICD//0", int(rows.truth[:, 0].sum()))
    assert first.auroc["transformer"][0] == pytest.approx(roc_auc_score(truth[:, 0], model[:, 0]))
    assert first.auroc["logistic"] == pytest.approx((0.5, 0.5, 0.5))  # one number for everybody
    (difference,) = [one for one in found.differences if one.metric == "weighted_auroc"]
    assert difference.distinguishable
    assert difference.value == pytest.approx(expected["weighted_auroc"] - 0.5)


def test_a_resample_is_the_same_rows_again():
    """Intervals weigh patients: twice the same patients are the same numbers, and the same seed the same interval."""
    rows = numbered(drawn(2))
    assert assess_several(rows, seed=3).to_json() == assess_several(rows, seed=3).to_json()
    twice = SeveralRows(
        rows.task, rows.outputs, np.repeat(rows.truth, 2, 0), np.repeat(rows.clusters, 2),
        {model: np.repeat(values, 2, 0) for model, values in rows.probabilities.items()}, rows.thresholds,
    )  # fmt: skip
    for one, other in zip(assess_several(rows).results, assess_several(twice).results, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))


pairs = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.5, 0.9])), min_size=1, max_size=30
)


@given(pairs)
@settings(max_examples=200, deadline=None)
def test_no_threshold_is_better(rows: list[tuple[bool, float]]):
    truth, probability = (np.asarray(column)[:, None] for column in zip(*rows, strict=True))
    best = micro_f1(truth, probability, best_threshold(truth, probability))
    assert best == pytest.approx(max([micro_f1(truth, probability, at) for at in (0.1, 0.2, 0.5, 0.9)]))


def test_nothing_to_judge_is_an_error():
    rows = drawn(1)
    never = SeveralRows(
        "t", rows.outputs, rows.truth & False, rows.clusters, rows.probabilities, rows.thresholds
    )
    with pytest.raises(ShapeError, match="no output is both true and false among the 200 labels"):
        assess_several(never)


def test_the_report_has_a_section():
    found = assess_several(numbered(drawn(1)))
    page = render_report(ReportData("Ward", Evaluation([]), several=[found]))
    assert "Frequency-weighted AUROC of the transformer" in page
    assert "Heart &amp; failure" in page
    assert 'href="#task-discharge_diagnoses_24h"' in page
