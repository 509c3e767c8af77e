"""The page stands alone, is well-formed, says the numbers it was given, and bears the lack of any part."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from rich.console import Console

from ehrseq.core.dataset import Build
from ehrseq.core.errors import ShapeError
from ehrseq.core.manifest import Account
from ehrseq.evaluation import figures, run_figures
from ehrseq.evaluation.console import results_table
from ehrseq.evaluation.evidence import Evaluation
from ehrseq.evaluation.report import (
    CohortRow,
    FlowStep,
    ReportData,
    cohort_of,
    lineage_of,
    render_report,
    write_report,
)
from ehrseq.evaluation.results import assess

HISTORY = [
    {"step": k, "train_loss": 1 / (k + 1), "tuning_loss": 1.1 / (k + 1), "tuning_auroc": 0.7}
    for k in range(9)
]


@pytest.fixture(scope="module")
def evaluation(tiny: Any) -> Evaluation:
    return assess(tiny.predictions, truth=tiny.truth, replicates=60)


@pytest.fixture(scope="module")
def full(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> ReportData:
    folder = tmp_path_factory.mktemp("datasets") / "timeline"
    with Build(folder, kind="timeline", config={}, inputs=[]) as build:
        build.write("data/0000.parquet", pl.DataFrame({"a": [1]}))
    return ReportData(
        title="Generated <hospital> & friends",
        evaluation=evaluation,
        synthetic=True,
        made="2150-01-01",
        command="ehrseq demo --patients 7",
        cohort=[CohortRow("readmission_30d", "train", 812, 1234, 321)],
        flow=[FlowStep("source rows", 98765)],
        accounts={
            "hosp/labevents": Account(100, 90, 4, 6, reasons={"no subject": 4}, made={"Observation": 90})
        },
        lineage=lineage_of([folder]),
        versions={"polars": "2.1.0"},
        model_config={"family": "transformer", "training": {"learning_rate": 0.0003, "tasks": ["a", "b"]}},
        history=HISTORY,
        not_checked=["Wards were not looked at."],
    )


@pytest.fixture(scope="module")
def page(full: ReportData) -> str:
    return render_report(full)


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", " ".join(ElementTree.fromstring(page).itertext()))


def test_nothing_is_fetched(page: str) -> None:
    assert not re.search(r'(src|action|data|poster)\s*=\s*["\']', page.replace('name="color-scheme"', ""))
    assert re.findall(r'href="([^#][^"]*)"', page) == []
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)


def test_it_is_well_formed_and_ids_are_unique(page: str) -> None:
    root = ElementTree.fromstring(page)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    targets = {element.get("href", "")[1:] for element in root.iter() if element.tag == "a"}
    assert targets <= set(ids)


def test_it_says_what_it_was_given(page: str, full: ReportData) -> None:
    text = text_of(page)
    for result in full.evaluation.of("readmission_30d"):
        assert f"{result.value:.2f}" in text
        assert f"{result.low:.2f}–{result.high:.2f}" in text
    for words in (
        "Generated <hospital> & friends",
        "Synthetic data.",
        "Too few outcomes to conclude anything",
        "321 of 1,234 (26 %)",
        "98,765",
        "no subject: 4",
        "Observation: 90",
        "ehrseq demo --patients 7",
        full.lineage[0].sha256[:16],
        "training.learning_rate",
        "0.0003",
        "Wards were not looked at.",
        "polars 2.1.0",
    ):
        assert words in text, words


def test_only_the_evaluation_is_needed(evaluation: Evaluation) -> None:
    text = text_of(render_report(ReportData("Small", evaluation)))
    assert "Synthetic" not in text
    assert "What was not checked" in text
    for absent in ("Where the rows went", "Data and versions", "Model and training"):
        assert absent not in text


def test_a_task_with_one_outcome_is_shown_without_figures(tiny: Any) -> None:
    nobody = assess(tiny.predictions.with_columns(label=pl.lit(False)), replicates=10, one_outcome="note")
    text = text_of(render_report(ReportData("Nobody", nobody)))
    assert "Nothing can be concluded: 0 deaths" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_odd_names_do_not_break_the_page(tiny: Any) -> None:
    odd = tiny.predictions.with_columns(
        task=pl.lit('a "b" <c> & ') + pl.col("task"),
        probability=pl.lit(0.2),
        model=pl.lit("x <y> ") + pl.col("model"),
    )
    page = render_report(ReportData("Odd", assess(odd, replicates=10)))
    assert 'A "b" <c> & readmission 30d' in text_of(page)


def test_books_that_do_not_balance_are_called_so(evaluation: Evaluation) -> None:
    wrong = ReportData("Wrong", evaluation, accounts={"a": Account(10, 9)})
    assert "The books do not balance" in text_of(render_report(wrong))


def test_same_data_same_bytes(full: ReportData, page: str, tmp_path: Path) -> None:
    written = write_report(tmp_path / "deep" / "report.html", full)
    assert written.read_text() == page


def test_cohort_counts_labels_by_split() -> None:
    labels = pl.DataFrame({"subject_id": [1, 1, 2, 3], "boolean_value": [True, False, True, False]})
    splits = pl.DataFrame({"subject_id": [1, 2], "split": ["train", "held_out"]})
    assert cohort_of("t", labels, splits) == [
        CohortRow("t", "train", 1, 2, 1),
        CohortRow("t", "held_out", 1, 1, 1),
        CohortRow("t", "no split", 1, 1, 0),
    ]


def test_figures_are_svg_that_stands_alone(evaluation: Evaluation) -> None:
    rows = evaluation.cohorts["readmission_30d"]
    drawn = [
        figures.roc_figure(rows),
        figures.precision_recall_figure(rows),
        figures.calibration_figure(rows),
        figures.forest_figure(evaluation),
        run_figures.history_figure(HISTORY),
        run_figures.accounting_figure({"hosp/a": Account(3, 2, 1)}),
    ]
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert root.get("aria-label")
        assert "var(--fig-" in svg
    assert figures.roc_figure(rows) == drawn[0]
    with pytest.raises(ShapeError, match="step"):
        run_figures.history_figure([{"train_loss": 1.0}])
    with pytest.raises(ShapeError, match="no numbers"):
        run_figures.history_figure([{"step": 1.0}])


@pytest.mark.parametrize("copies", [1, 2])
def test_the_terminal_table_fits_80_columns(evaluation: Evaluation, tiny: Any, copies: int) -> None:
    results = evaluation.results
    if copies == 2:  # six models: listed below each other
        more = tiny.predictions.with_columns(model=pl.col("model") + "_again")
        results = assess(pl.concat([tiny.predictions, more]), replicates=10).results
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for result in results:
        if result.metric == "auroc":
            assert f"{result.low:.2f}–{result.high:.2f}" in text
