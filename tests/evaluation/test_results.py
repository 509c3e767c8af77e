"""Predictions in, results, differences and verdicts out."""

import json
from typing import Any

import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ehrseq.core.errors import SchemaError, ShapeError
from ehrseq.evaluation.checks import UndefinedMetricError
from ehrseq.evaluation.evidence import Difference, Evaluation, Result
from ehrseq.evaluation.results import assess, evaluate
from ehrseq.evaluation.sentences import compare
from ehrseq.evaluation.verdict import Evidence, evidence, verdict, verdicts


@pytest.fixture(scope="module")
def found(invented: Any) -> Evaluation:
    return assess(invented.predictions, truth=invented.truth, replicates=200)


def test_values_are_those_of_the_rows(found: Evaluation, invented: Any) -> None:
    rows = invented.predictions.filter(task="readmission_30d", model="transformer")
    result = next(r for r in found.of("readmission_30d") if r.model == "transformer")
    assert result.value == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    assert (result.n, result.positives) == (rows.height, rows["label"].sum())
    assert result.patients == rows["subject_id"].n_unique()
    assert result.prevalence == pytest.approx(rows["label"].mean())
    auprc = next(r for r in found.of("readmission_30d", "auprc") if r.model == "transformer")
    assert auprc.value == pytest.approx(average_precision_score(rows["label"], rows["probability"]))
    assert {r.metric for r in found.results} >= {"auroc", "auprc", "brier", "ece"}
    assert all(r.low is not None and r.high is not None and r.low <= r.high for r in found.results)


def test_attainable_is_the_metric_of_the_true_risk(found: Evaluation, invented: Any) -> None:
    truth = invented.truth.filter(task="readmission_30d")
    best = roc_auc_score(truth["outcome"], truth["risk"])
    for result in found.of("readmission_30d"):
        assert result.attainable == pytest.approx(best)
        assert result.share == pytest.approx((result.value - 0.5) / (best - 0.5))
        assert result.share_low is not None
        assert result.share_high is not None
        assert result.share_low <= result.share <= result.share_high
    ceiling = found.ceiling("readmission_30d")
    assert ceiling is not None
    assert ceiling.value == pytest.approx(best)
    assert not any(r.model == "attainable" for r in found.results)


def test_order_of_rows_does_not_matter_and_the_seed_does(invented: Any) -> None:
    first = evaluate(invented.predictions, replicates=50)
    shuffled = invented.predictions.sample(fraction=1.0, shuffle=True, seed=1).sort("task")
    assert sorted(map(str, evaluate(shuffled, replicates=50))) == sorted(map(str, first))
    assert evaluate(invented.predictions, replicates=50, seed=9) != first


def test_json_has_the_promised_keys(found: Evaluation, invented: Any) -> None:
    record = json.loads(json.dumps(found.results[0].to_json()))
    assert {"task", "model", "metric", "value", "low", "high", "n", "positives", "attainable"} <= set(record)
    assert "attainable" not in evaluate(invented.predictions, replicates=10)[0].to_json()


def test_models_are_compared_with_each_baseline(found: Evaluation) -> None:
    pairs = {(d.model, d.reference, d.metric) for d in found.differences if d.task == "readmission_30d"}
    assert pairs == {
        ("transformer", reference, metric)
        for reference in ("gradient_boosting", "logistic")
        for metric in ("auroc", "auprc", "brier")
    }
    worst = next(d for d in found.differences if d.reference == "logistic" and d.metric == "auroc")
    assert worst.value > 0.0
    assert worst.distinguishable


def test_one_outcome_is_an_error_or_a_verdict(invented: Any) -> None:
    nobody = invented.predictions.with_columns(
        label=pl.col("label") & (pl.col("task") != "in_hospital_mortality_24h")
    )
    with pytest.raises(UndefinedMetricError, match="in_hospital_mortality_24h"):
        evaluate(nobody)
    found = assess(nobody, replicates=20, one_outcome="note")
    assert found.of("in_hospital_mortality_24h") == []
    assert {r.metric for r in found.results if r.task == "in_hospital_mortality_24h"} == {"brier", "ece"}
    assert all(r.value == r.value for r in found.results)  # no NaN
    first, second = verdicts(found)
    assert first.evidence is Evidence.NOTHING
    assert "0 deaths among 1,200 admissions" in first.text
    assert second.evidence is Evidence.CLEAR
    assert any("in_hospital_mortality_24h" in note for note in found.notes)


def test_rows_that_cannot_be_compared_are_refused(invented: Any) -> None:
    p = invented.predictions
    lacking = p.filter((pl.col("model") != "logistic") | (pl.int_range(pl.len()) % 7 != 0))
    with pytest.raises(SchemaError, match="lacks"):
        evaluate(lacking)
    with pytest.raises(SchemaError, match="share subject, time and model"):
        evaluate(pl.concat([p, p.head(3).with_columns(probability=pl.lit(0.5))]))
    other = pl.when(pl.col("model") == "logistic").then(~pl.col("label")).otherwise("label")
    with pytest.raises(SchemaError, match="disagree"):
        evaluate(p.with_columns(label=other))
    with pytest.raises(SchemaError, match="probability"):
        evaluate(p.drop("probability"))
    with pytest.raises(ShapeError, match="expected 0 to 1"):
        evaluate(p.with_columns(probability=pl.col("probability") * 3))
    with pytest.raises(SchemaError, match="nothing to evaluate"):
        evaluate(p.with_columns(label=pl.lit(None, pl.Boolean)))


def test_what_is_left_out_is_noted(invented: Any) -> None:
    p, truth = invented.predictions, invented.truth
    early = pl.col("subject_id") < 10_000_100
    unknown = p.with_columns(label=pl.when(early).then(None).otherwise("label"))
    part = truth.filter(pl.col("subject_id") > 10_000_200)
    found = assess(pl.concat([unknown, unknown.tail(5)]), truth=part, replicates=10)
    assert any("no known outcome" in note for note in found.notes)
    assert any("exact repeats" in note for note in found.notes)
    assert any("true risk is unknown" in note for note in found.notes)
    assert found.ceilings == []
    assert all(r.attainable is None for r in found.results)


def result(positives: int, n: int, low: float | None, high: float | None) -> Result:
    return Result("t", "m", "auroc", 0.8, low, high, n, positives, n, positives / n)


@pytest.mark.parametrize(
    ("positives", "n", "low", "high", "grade"),
    [
        (49, 1000, 0.78, 0.82, Evidence.NOTHING),
        (50, 1000, 0.78, 0.82, Evidence.ROUGH),
        (100, 1000, 0.78, 0.82, Evidence.CLEAR),
        (100, 1000, 0.74, 0.85, Evidence.ROUGH),
        (100, 1000, 0.65, 0.86, Evidence.NOTHING),
        (980, 1000, 0.78, 0.82, Evidence.NOTHING),  # the rarer outcome counts
        (500, 1000, None, None, Evidence.NOTHING),
    ],
)
def test_the_rule(positives: int, n: int, low: float | None, high: float | None, grade: Evidence) -> None:
    assert evidence(result(positives, n, low, high)) is grade


def test_verdict_on_too_few_names_counts_and_interval(tiny: Any) -> None:
    found = assess(tiny.predictions, truth=tiny.truth, replicates=200)
    said = verdict(found, "in_hospital_mortality_24h")
    best = max(found.of("in_hospital_mortality_24h"), key=lambda r: r.model == "transformer")
    assert said.evidence is Evidence.NOTHING
    assert said.text.startswith(
        f"Too few outcomes to conclude anything: {best.positives} deaths among 150 admissions"
    )
    assert f"{best.low:.2f}–{best.high:.2f}" in said.text
    assert "etter than" not in said.text


def test_verdict_compares_in_words(found: Evaluation) -> None:
    text = verdict(found, "readmission_30d").text
    assert "readmissions among 1,200 discharges" in text
    assert "Better than logistic regression by" in text
    assert "of the lift over a coin" in text


def test_the_best_of_several_models_is_called_so(invented: Any) -> None:
    second = invented.predictions.filter(model="transformer").with_columns(model=pl.lit("lru"))
    found = assess(pl.concat([invented.predictions, second]), replicates=20)
    assert "the best of 2 models on these rows" in verdict(found, "readmission_30d").text


def test_differences_in_words() -> None:
    even = Difference("t", "auroc", "transformer", "gradient_boosting", 0.02, -0.01, 0.05)
    lower = Difference("t", "brier", "transformer", "logistic", -0.01, -0.015, -0.005)
    assert compare(even).endswith("+0.02 (−0.01 to 0.05): not distinguishable")
    assert compare(lower).endswith("better")
