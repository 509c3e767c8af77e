"""`ehrseq run`, `ehrseq train` and `ehrseq demo`: every stage in its own folder, then a report.

Each stage is a dataset of its own, so a second run does only what has changed, and a stopped one goes on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.dataset import Result
from ehrseq.core.errors import TaskError
from ehrseq.core.manifest import Account
from ehrseq.core.measure import Meter
from ehrseq.core.progress import log
from ehrseq.deploy.plan import read_plan
from ehrseq.training.config import TrainConfig

FEW_PATIENTS = 1_000
FHIR, MEDS = "fhir", "meds"
"""Sources that no mapping reads: files of FHIR resources, and MEDS datasets."""

_PATHS = ("fhir", "timeline", "tokens", "model")


def split_for(patients: int) -> tuple[float, float, float]:
    """Shares of patients for training, tuning and held out: 8:1:1, and 6:1:3 where a tenth would measure nothing.

    >>> split_for(46_520), split_for(100)
    ((0.8, 0.1, 0.1), (0.6, 0.1, 0.3))
    """
    return (0.8, 0.1, 0.1) if patients >= FEW_PATIENTS else (0.6, 0.1, 0.3)


@dataclass(frozen=True)
class Outcome:
    """What a run made: its folder, every stage's result, the evaluation's results and verdicts, the cost."""

    out: Path
    stages: dict[str, Result]
    evaluation: dict[str, Any]
    skipped: dict[str, str]
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.out / "report" / "report.html"

    @property
    def first(self) -> Result:
        """The stage that read the source: `fhir`, or `timeline` where the source is MEDS."""
        return next(iter(self.stages.values()))

    @property
    def unchanged(self) -> bool:
        """Whether no stage had anything to do."""
        return all(stage.status == "unchanged" for stage in self.stages.values())

    def summary(self) -> dict[str, Any]:
        """For `--json`: DESIGN section 12."""
        manifest = self.first.manifest
        return {
            "status": "unchanged" if self.unchanged else "made",
            "out": str(self.out),
            "rows": manifest.rows,
            "made": manifest.made,
            **self.cost,
            **{name: str(self.stages[name].out) for name in _PATHS if name in self.stages},
            "stages": {name: {"status": stage.status, **_cost(stage)} for name, stage in self.stages.items()},
            "report": str(self.report),
            "results": self.evaluation["results"],
            "verdicts": self.evaluation["verdicts"],
            "skipped_tasks": self.skipped,
        }

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The books, what each stage cost, the table of results, the verdicts, the report's path."""
        from ehrseq.console import accounting_table
        from ehrseq.evaluation.console import results_table
        from ehrseq.evaluation.evidence import Result as Metric

        books: dict[str, Account] = self.first.manifest.sources
        parts: list[Any] = [accounting_table(books), Text()]
        parts.append(_stages(self.stages))
        parts += [Text(), results_table([Metric(**result) for result in self.evaluation["results"]])]
        parts += [Text(f"• {verdict}") for verdict in self.evaluation["verdicts"]]
        parts += [Text(f"• {task}: left out: {why}", style="yellow") for task, why in self.skipped.items()]
        seconds, peak = self.cost["seconds"], self.cost["peak_rss_bytes"] / 2**30
        parts += [
            Text(),
            Text.assemble(f"{seconds:.0f} s, {peak:.1f} GiB. Report: ", (str(self.report), "bold")),
        ]
        yield Group(*parts)


def _cost(stage: Result) -> dict[str, Any]:
    return {key: stage.run.get(key) for key in ("seconds", "cpu_seconds", "peak_rss_bytes")}


def _stages(stages: dict[str, Result]) -> Table:
    from ehrseq.console import made_in_short

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    table.add_column("made")
    for name, stage in stages.items():
        cost = "unchanged" if stage.status == "unchanged" else f"{stage.run['seconds']:.1f}"
        table.add_row(name, cost, Text(made_in_short(stage.manifest.made, most=2), style="dim"))
    return table


def run(
    source: str | Path,
    data: str | Path,
    out: Path,
    *,
    tasks: Sequence[str] | None = None,
    validate: str = "sample",
    max_reject_fraction: float = 0.05,
    seed: int = 0,
    workers: int = 1,
    config: TrainConfig | None = None,
    title: str | None = None,
    command: str | None = None,
) -> Outcome:
    """Map, serialize, tokenize, label, train, predict and judge; one folder for each stage below `out`.

    `source` is a shipped source, a folder of mappings, `fhir` (NDJSON or Bundles, imported instead of mapped) or
    `meds` (imported as a timeline). `data` is a folder or a database; if it holds `truth.parquet`, as a generated
    hospital does, the report shows what was attainable. Patients are split by `split_for`. A task with labels of one
    kind only is left out, with its reason.
    """
    from ehrseq.sources.database import shown

    stages, place = Stages(Meter(), Path(out)), shown(str(data))
    truth = Path(data) / "truth.parquet"
    timeline = read_source(source, data, stages, validate, max_reject_fraction, seed, workers)
    return _learn(
        stages,
        timeline,
        tasks=tasks,
        config=config or TrainConfig(seed=seed),
        seed=seed,
        workers=workers,
        title=title or f"{_name(source)}: {Path(place.partition('?')[0]).name}",
        command=command or f"ehrseq run {source} {place} --out {out}",
        truth=truth if truth.is_file() else None,
    )


def train(config: Path, *, workers: int = 1) -> Outcome:
    """Tokenize, label, train, predict and judge a timeline that is there, as a YAML file says; see `read_plan`.

    Raises: ConfigError for the file; what each stage raises.
    """
    plan = read_plan(Path(config))
    return _learn(
        Stages(Meter(), plan.out),
        plan.timeline,
        tasks=plan.tasks,
        config=plan.train,
        seed=plan.train.seed,
        workers=workers,
        title=f"{plan.timeline.parent.name or plan.timeline.name}: {plan.out.name}",
        command=f"ehrseq train {config}",
        truth=None,
    )


@dataclass
class Stages:
    """The stages of a run so far, by name, and what they cost."""

    meter: Meter
    out: Path
    done: dict[str, Result] = field(default_factory=dict)

    def add(self, name: str, result: Result) -> Path:
        """Enter a stage's result; returns its folder."""
        self.done[name] = result
        log("stage", name=name, status=result.status, **_cost(result))
        return result.out


def _learn(
    stages: Stages,
    timeline: Path,
    *,
    tasks: Sequence[str] | None,
    config: TrainConfig,
    seed: int,
    workers: int,
    title: str,
    command: str,
    truth: Path | None,
) -> Outcome:
    """The stages from the timeline on."""
    import ehrseq
    from ehrseq.deploy.fitting import predict_held_out, train_model
    from ehrseq.deploy.reporting import write_evaluation
    from ehrseq.tasks.audit import audit
    from ehrseq.tasks.definition import STANDARD_TASKS
    from ehrseq.tokens.examples import make_examples

    out = stages.out
    tokens = stages.add("tokens", ehrseq.tokenize(timeline, out / "tokens", workers=workers))
    labels, skipped = label_tasks(stages, timeline, tasks or STANDARD_TASKS)
    examples = stages.add("examples", make_examples(tokens, labels, out / "examples"))
    stages.add("audit", audit(timeline, tokens, labels, examples, out / "audit", seed=seed))
    model = stages.add("model", train_model(tokens, examples, out / "model", config))
    predictions = stages.add(
        "predictions",
        predict_held_out(tokens, examples, model, out / "predictions", timeline=timeline, seed=seed),
    )
    evaluation = write_evaluation(
        out / "report", title=title, predictions=predictions,
        fhir=stages.done["fhir"].out if "fhir" in stages.done else None, timeline=timeline, tokens=tokens,
        labels=labels, model=model, config=config, truth=truth, command=command, seed=seed,
    )  # fmt: skip
    results = json.loads((stages.add("report", evaluation) / "results.json").read_text())
    return Outcome(out, stages.done, results, skipped, stages.meter.read())


def label_tasks(stages: Stages, timeline: Path, tasks: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders of labels, and why tasks were left out. Raises: TaskError if none is left."""
    import ehrseq

    labels, skipped = [], {}
    for task in tasks:
        name = f"labels/{Path(task).stem}"
        try:
            labels.append(stages.add(name, ehrseq.label(task, timeline, stages.out / name)))
        except TaskError as error:
            if not getattr(error, "degenerate", False):
                raise
            skipped[str(task)] = str(error)
    if not labels:
        raise TaskError(f"{timeline}: no task has labels of both kinds: " + "; ".join(skipped.values()))
    return labels, skipped


def read_source(
    source: str | Path,
    data: str | Path,
    stages: Stages,
    validate: str,
    max_reject_fraction: float,
    seed: int,
    workers: int,
) -> Path:
    """The stages up to the timeline, which is returned."""
    import ehrseq

    fhir, timeline = stages.out / "fhir", stages.out / "timeline"
    limit = {"max_reject_fraction": max_reject_fraction}
    if source == MEDS:
        return stages.add("timeline", ehrseq.import_meds(Path(data), timeline, seed=seed, **limit))
    if source == FHIR:
        resources = ehrseq.import_fhir(Path(data), fhir, workers=workers, **limit)
    else:
        resources = ehrseq.map(source, data, fhir, validate=validate, workers=workers, **limit)
    stages.add("fhir", resources)
    split = split_for(resources.manifest.made.get("Patient", 0))
    return stages.add("timeline", ehrseq.timeline(fhir, timeline, split=split, workers=workers))


def _name(source: str | Path) -> str:
    return {FHIR: "FHIR", MEDS: "MEDS"}.get(str(source), Path(source).name)


def demo(
    out: Path = Path("ehrseq-demo"), *, patients: int = 2000, seed: int = 0, workers: int = 1
) -> Outcome:
    """Generate a hospital below `out/hospital` and run the whole way on it."""
    from ehrseq.deploy.generated import hospital

    meter, out = Meter(), Path(out)
    data = hospital(out / "hospital", patients=patients, seed=seed)
    outcome = run(
        "mimic_iv", data, out, seed=seed, workers=workers,
        title=f"Generated hospital, {patients:,} patients", command=f"ehrseq demo --patients {patients} --seed {seed}",
    )  # fmt: skip
    return Outcome(outcome.out, outcome.stages, outcome.evaluation, outcome.skipped, meter.read())
