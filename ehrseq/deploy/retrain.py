"""`ehrseq retrain`: new data, a new model, a gate; promoted, or refused with exit code 4.

    WORK/fhir, WORK/timeline        grow from run to run; only changed buckets are made again
    WORK/runs/<run-id>/             one folder a run: start.json (which champion it is held against), the stages of
                                    `ehrseq train`, champion/ (its predictions on the same patients), decision.json
    MODELS/<name>/                  the registry; a refused model stays there as challenger

A run-id names the work: a run that has decided answers the same again, a run that was killed goes on. The champion it
is compared with is written down first, so a kill between promotion and decision.json does not compare it with itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

import ehrseq
from ehrseq.core.errors import ConfigError, ExitCode
from ehrseq.core.files import write_json
from ehrseq.core.measure import Meter
from ehrseq.core.progress import log
from ehrseq.deploy.drift import Finding, compare
from ehrseq.deploy.fitting import MODEL, predict_held_out, train_model
from ehrseq.deploy.gate import Check, judge, periods
from ehrseq.deploy.lease import Lease, lease
from ehrseq.deploy.measured import calibrated
from ehrseq.deploy.pipeline import Stages, label_tasks, read_source
from ehrseq.deploy.profile import Profile, profile
from ehrseq.deploy.registry import CHALLENGER, CHAMPION, Registry, add, promote
from ehrseq.deploy.reporting import write_evaluation
from ehrseq.deploy.retrain_plan import RetrainPlan, read_retrain
from ehrseq.deploy.subgroups import PREFIXES, with_groups
from ehrseq.deploy.version import ModelVersion
from ehrseq.tasks.audit import LeakageError, audit
from ehrseq.timeline.meds import scan_events
from ehrseq.tokens.examples import make_examples
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.tokens.vocabulary import Vocabulary
from ehrseq.training.predict import predict

START, DECISION = "start.json", "decision.json"


@dataclass(frozen=True)
class Decision:
    """What a retraining came to. `status`: promoted or refused; `fresh` is False if it had been decided before."""

    run_id: str
    out: Path
    status: str
    version: str | None
    champion: str | None
    checks: list[dict[str, Any]]
    cost: dict[str, float]
    fresh: bool = True

    @property
    def exit_code(self) -> int:
        """0 promoted, 4 refused."""
        return int(ExitCode.DONE if self.status == "promoted" else ExitCode.MODEL_GATE)

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "status": self.status if self.fresh else f"{self.status} before", "out": str(self.out),
            "run_id": self.run_id, "version": self.version, "champion_before": self.champion,
            "checks": self.checks, **self.cost,
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Every check with its sentence, the refused ones first, then the verdict."""
        for check in sorted(self.checks, key=lambda one: one["passed"]):
            mark = Text("passed  ", style="green") if check["passed"] else Text("REFUSED ", style="bold red")
            yield mark + Text(f"{check['name']:<12}{check['sentence']}", style="")
        again = "" if self.fresh else " (decided before; nothing was done)"
        yield Text(f"{self.run_id}: {self.status} {self.version or ''}{again}. {self.out}", style="bold")


def retrain(
    config: Path, *, run_id: str | None = None, workers: int = 1, now: datetime | None = None
) -> Decision:
    """Retrain as a file says (see `read_retrain`). `run_id`: default, the UTC date. `now`: for the history.

    Raises: ConfigError; BusyError (75) if another retraining holds the lease; InterruptedRunError (75) after SIGTERM:
    the same command goes on; what stages raise.
    """
    plan, stamp = read_retrain(Path(config)), now or datetime.now(UTC)
    run_id = run_id or stamp.strftime("%Y-%m-%d")
    if not run_id or "/" in run_id or run_id.startswith("."):
        raise ConfigError(f"--run-id {run_id!r}: expected a folder's name, such as 2026-11-26.")
    out = plan.work / "runs" / run_id
    with lease(plan.work / "retrain.lease", owner=f"run {run_id}", hours=plan.lease_hours) as held:
        if (out / DECISION).is_file():
            told = json.loads((out / DECISION).read_text())
            return Decision(run_id, out, **told, fresh=False)
        return _Retraining(plan, run_id, out, held, workers, stamp).work()


class _Retraining:
    def __init__(
        self, plan: RetrainPlan, run_id: str, out: Path, held: Lease, workers: int, now: datetime
    ) -> None:
        self.plan, self.run_id, self.out, self.held, self.workers, self.now = (
            plan,
            run_id,
            out,
            held,
            workers,
            now,
        )
        self.meter = Meter()
        self.stages = Stages(self.meter, out)
        self.champion = self._champion()

    def _champion(self) -> ModelVersion | None:
        """The champion when this run began, opened and checked."""
        registry = Registry.read(self.plan.models / self.plan.name)
        path = self.out / START
        if not path.is_file():
            self.out.mkdir(parents=True, exist_ok=True)
            write_json(path, {"champion": registry.aliases.get(CHAMPION)})
        version = json.loads(path.read_text())["champion"]
        return registry.open(version) if version else None

    def step(self, name: str, result: Any) -> Path:
        """Enter a stage, and give a sign of life."""
        self.held.renew()
        return self.stages.add(name, result)

    def work(self) -> Decision:
        """All stages, the gate, the decision."""
        plan = self.plan
        shared = Stages(self.meter, plan.work)
        timeline = read_source(
            plan.source, plan.data, shared, "sample", plan.max_reject_fraction, plan.seed, self.workers
        )
        self.held.renew()
        drift = self._drift(timeline)
        try:
            predictions = self._train(timeline)
        except LeakageError as error:
            leaks = [Check("leakage", one.where, False, None, None, str(one)) for one in error.findings]
            return self._decide(None, [*leaks, *(_of_drift(one) for one in drift)])
        version = add(
            self.out, plan.name, models=plan.models, timeline=timeline, alias=CHALLENGER, now=self.now
        )
        checks = [Check("leakage", "all", True, None, None, "the leakage audit found nothing.")]
        checks += self._judge(version, predictions, timeline, drift)
        return self._decide(version, checks)

    def _train(self, timeline: Path) -> Path:
        """Tokens to predictions on held-out patients, and a report."""
        plan, out, champion = self.plan, self.out, self.champion
        extend = champion.folder / "model" if champion else None
        tokens = self.step(
            "tokens", ehrseq.tokenize(timeline, out / "tokens", extend=extend, workers=self.workers)
        )
        labels, _ = label_tasks(self.stages, timeline, plan.tasks)
        examples = self.step("examples", make_examples(tokens, labels, out / "examples"))
        self.step("audit", audit(timeline, tokens, labels, examples, out / "audit", seed=plan.seed))
        warm = champion.folder / "model" if champion and plan.start == "warm" else None
        model = self.step("model", train_model(tokens, examples, out / "model", plan.train, warm=warm))
        predictions = self.step(
            "predictions", predict_held_out(tokens, examples, model, out / "predictions", seed=plan.seed)
        )
        evaluation = write_evaluation(
            out / "report", title=f"{plan.name}: {self.run_id}", predictions=predictions, fhir=self._fhir(),
            timeline=timeline, tokens=tokens, labels=labels, model=model, config=plan.train,
            command=f"ehrseq retrain --run-id {self.run_id}", seed=plan.seed,
        )  # fmt: skip
        self.step("report", evaluation)
        return predictions

    def _fhir(self) -> Path | None:
        place = self.plan.work / "fhir"
        return place if (place / "manifest.json").is_file() else None

    def _judge(
        self, version: ModelVersion, predictions: Path, timeline: Path, drift: list[Finding]
    ) -> list[Check]:
        rows = pl.read_parquet(predictions / "held_out.parquet").filter(model=MODEL)
        new = with_groups(periods(calibrated(rows, version.calibration), self.plan.newest_days), timeline)
        theirs = self._of_champion(timeline)
        return judge(new, theirs, drift, (*PREFIXES, "age"), self.plan.gate, seed=self.plan.seed)

    def _of_champion(self, timeline: Path) -> pl.DataFrame | None:
        """The champion's predictions of the same labels, from tokens of its own vocabulary."""
        champion = self.champion
        if champion is None:
            return None
        place = self.out / "champion"
        known = [path for path in sorted(self.out.glob("labels/*")) if path.name in champion.tasks]
        if not known:
            return None
        vocabulary = champion.folder / "model"
        tokens = ehrseq.tokenize(
            timeline,
            place / "tokens",
            vocabulary=vocabulary,
            timezone=champion.timezone,
            workers=self.workers,
        ).out
        examples = make_examples(tokens, known, place / "examples").out
        found = predict(champion.trained, TokenStore.open(tokens), Examples.load(examples), split="held_out")
        self.held.renew()
        frame = pl.DataFrame(dict(found)).with_columns(pl.col("label").fill_nan(None).cast(pl.Boolean))
        return calibrated(frame, champion.calibration)

    def _drift(self, timeline: Path) -> list[Finding]:
        """The newest period against what the champion was trained on."""
        if self.champion is None:
            return []
        now = newest(timeline, self.plan.newest_days)
        before = Profile.load(self.champion.folder / "reference.parquet")
        words = Vocabulary.load(self.champion.folder / "model")
        return compare(before, now, words, self.plan.gate.drift)

    def _decide(self, version: ModelVersion | None, checks: list[Check]) -> Decision:
        """Promote if all checks passed; write the decision last."""
        passed = all(check.passed for check in checks) and version is not None
        told = [check.to_json() for check in checks]
        self.held.check()
        if passed and version is not None:
            why = f"passed the gate of run {self.run_id}"
            promote(
                self.plan.name,
                version.version,
                models=self.plan.models,
                why=why,
                now=self.now,
                run_id=self.run_id,
            )
        before = self.champion.version if self.champion else None
        decided: Mapping[str, Any] = {
            "status": "promoted" if passed else "refused", "version": version.version if version else None,
            "champion": before, "checks": told, "cost": self.meter.read(),
        }  # fmt: skip
        write_json(self.out / DECISION, decided)
        log("retrain", run_id=self.run_id, status=decided["status"], version=decided["version"])
        return Decision(self.run_id, self.out, **decided)


def newest(timeline: Path, days: float) -> Profile:
    """Profile of the last `days` of a timeline."""
    last = scan_events(timeline).select(pl.col("time").max()).collect().item()
    return profile(timeline, start=last - timedelta(days=days) if last else None)


def _of_drift(one: Finding) -> Check:
    return Check("drift", one.what, not one.exceeded, one.measured, one.limit, f"{one.check}: {one.sentence}")
