"""The stage `report`: judge the predictions, and write one page for people and one file for programs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of, versions
from ehrseq.core.files import sha256_file, write_json
from ehrseq.core.manifest import Input, read_manifest
from ehrseq.training.config import TrainConfig


def write_evaluation(
    out: Path,
    *,
    title: str,
    predictions: Path,
    fhir: Path | None,
    timeline: Path,
    tokens: Path,
    labels: Sequence[Path],
    model: Path,
    config: TrainConfig,
    truth: Path | None = None,
    command: str = "",
    seed: int = 0,
) -> Result:
    """Judge `predictions` with intervals and write `report.html` and `results.json`.

    `fhir` is None where the timeline was not made of FHIR. `truth` (a Parquet file of true risks) marks the data as
    synthetic.
    """
    inputs = [input_of("predictions", predictions)]
    if truth is not None:
        inputs.append(Input("truth", sha256_file(truth)))
    settings = {"title": title, "command": command, "seed": seed}
    with Build(out, kind="report", config=settings, inputs=inputs) as build:
        if not build.unchanged:
            from ehrseq.deploy.several import assess_outputs
            from ehrseq.evaluation.report import ReportData, lineage_of, write_report
            from ehrseq.evaluation.results import Evaluation, assess
            from ehrseq.evaluation.several_page import several_sentence

            risks = pl.read_parquet(truth) if truth is not None else None
            rows = pl.read_parquet(predictions / "held_out.parquet")
            found = Evaluation([])
            if rows.height:
                found = assess(rows, truth=risks, seed=seed, one_outcome="note")
            several = assess_outputs(predictions, labels, seed=seed)
            flows = [_exclusions(folder) for folder in labels]
            data = ReportData(
                title=title,
                evaluation=found,
                synthetic=truth is not None,
                command=command,
                cohort=_cohort(labels, timeline),
                exclusions=flows,
                several=several,
                flow=_flow(fhir, timeline, tokens, labels),
                accounts=read_manifest(fhir or timeline).sources,
                lineage=lineage_of(
                    [*([fhir] if fhir else []), timeline, tokens, *labels, model, predictions]
                ),
                versions=versions(),
                model_config=config.to_dict(),
                history=_history(model),
            )
            write_report(build.path("report.html"), data)
            write_json(
                build.path("results.json"),
                {
                    "results": [result.to_json() for result in found.results],
                    "differences": [difference.to_json() for difference in found.differences],
                    "verdicts": [*_verdicts(found), *(several_sentence(one) for one in several)],
                    "several": [one.to_json() for one in several],
                    "notes": found.notes,
                },
            )
            write_json(build.path("cohort.json"), {"tasks": [flow.to_json() for flow in flows]})
            build.enter("cohort.json", rows=len(flows))
            build.enter("report.html", rows=1)
            build.enter("results.json", rows=len(found.results))
            build.made("results", len(found.results))
    return build.result


def _verdicts(found: Any) -> list[str]:
    from ehrseq.evaluation.verdict import verdicts

    return [str(verdict.text) for verdict in verdicts(found)]


def _cohort(labels: Iterable[Path], timeline: Path) -> list[Any]:
    from ehrseq.evaluation.report import cohort_of

    splits = pl.read_parquet(timeline / "metadata/subject_splits.parquet")
    rows = []
    for folder in labels:
        table = pl.read_parquet(folder / "data/*.parquet")
        rows += cohort_of(folder.name, table, splits)
    return rows


def _exclusions(labels: Path) -> Any:
    from ehrseq.evaluation.cohort_figure import CohortFlow

    manifest = read_manifest(labels, "labels")
    (books,) = manifest.sources.values()
    notes = manifest.notes
    asked = {int(times): patients for times, patients in notes["predictions_per_subject"].items()}
    steps = [(reason, count) for reason, count in notes["flow"]]
    years = {int(year): count for year, count in notes["predictions_per_year"].items()}
    return CohortFlow(
        labels.name,
        books.rows_in,
        steps,
        books.used,
        notes["subjects"],
        dict(notes["positives"]),
        asked,
        years,
    )


def _flow(fhir: Path | None, timeline: Path, tokens: Path, labels: Iterable[Path]) -> list[Any]:
    from ehrseq.evaluation.report import FlowStep

    labelled = sum(sum(shard.rows for shard in read_manifest(folder).shards) for folder in labels)
    return [
        FlowStep("source rows", read_manifest(fhir or timeline).rows["in"]),
        *([FlowStep("FHIR resources", sum(read_manifest(fhir).made.values()))] if fhir else []),
        FlowStep("events", sum(s.rows for s in read_manifest(timeline).shards if s.path.startswith("data/"))),
        FlowStep("tokens", int(read_manifest(tokens).notes["store"]["tokens"])),
        FlowStep("labels", labelled),
    ]


def _history(model: Path) -> list[dict[str, float]]:
    """Training history as rows with `step` and one column a number."""
    import json

    rows = []
    for entry in json.loads((model / "history.json").read_text()):
        row: dict[str, float] = {"step": entry["epoch"] + 1}
        losses = [value for value in entry["train_loss"].values() if value is not None]
        if losses:
            row["train_loss"] = sum(losses) / len(losses)
        for name in ("loss", "auroc"):
            if (value := entry["tuning"]["all"].get(name)) is not None:
                row[f"tuning_{name}"] = value
        rows.append(row)
    return rows
