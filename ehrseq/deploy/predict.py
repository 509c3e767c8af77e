"""`ehrseq predict`: a model version and records in; predictions, abstentions and reasons out, as Parquet and as FHIR.

OUT/fhir, OUT/timeline, OUT/tokens     what was made of DATA, with the model's own views and vocabulary
OUT/predictions/predictions.parquet    schema `scoring.Scored`
OUT/predictions/abstained.parquet      schema `scoring.Abstained`
OUT/predictions/basis.parquet          the events that moved each prediction most, traced to their resources
OUT/predictions/bundles/*.json         with --format fhir: transactions of PUTs (see `risk_assessment`)
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

import ehrseq
from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import ConfigError, ModelError, SchemaError
from ehrseq.core.files import sha256_file, write_bytes
from ehrseq.core.manifest import Input, read_manifest
from ehrseq.deploy import referring, risk_assessment
from ehrseq.deploy.registry import find_model
from ehrseq.deploy.scoring import MOST_REASONS, Answer, Predictor
from ehrseq.deploy.version import ModelVersion
from ehrseq.tasks.asking import ask
from ehrseq.timeline.meds import scan_events
from ehrseq.timeline.serialize import timeline as make_timeline
from ehrseq.tokens.store import TokenStore

FORMS = ("parquet", "fhir")
DEAD = "MEDS_DEATH"
_KEY = ("subject_id", "prediction_time", "task")
_BASIS = pl.Schema({
    "subject_id": pl.Int64(), "prediction_time": pl.Datetime("us"), "task": pl.String(), "rank": pl.UInt32(),
    "share": pl.Float64(), "token": pl.Int64(), "code": pl.String(), "time": pl.Datetime("us"),
    "resource_type": pl.String(), "resource_id": pl.String(),
})  # fmt: skip


@dataclass(frozen=True)
class Predicted:
    """What a prediction run made: the stage's result, and how many were predicted and refused."""

    result: Result
    model: str

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        manifest, run = self.result.manifest, self.result.run
        return {
            "status": self.result.status, "out": str(self.result.out), "model": self.model, "rows": manifest.rows,
            "made": manifest.made, "notes": manifest.notes,
            **{key: run.get(key) for key in ("seconds", "cpu_seconds", "peak_rss_bytes")},
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The books by task, where the files are, and that nobody has looked at them."""
        from ehrseq.console import accounting_table

        manifest = self.result.manifest
        yield accounting_table(manifest.sources)
        made = ", ".join(f"{count:,} {what}" for what, count in manifest.made.items() if count)
        yield Text(
            f"{self.result.out}: {made or 'nothing to predict'}, by {self.model} ({self.result.status})"
        )
        yield Text("Preliminary: not reviewed by anybody. Not a medical device.", style="dim")


def predict(
    model: str | Path, data: Path, out: Path, *, form: str = "parquet", at: str = "task", tasks: tuple[str, ...] = (),
    models: Path = Path("models"), reasons: int = MOST_REASONS, workers: int = 1, recorded: datetime | None = None,
) -> Predicted:  # fmt: skip
    """Predict for all patients of `data`: a timeline, a run, a FHIR store, or FHIR files (NDJSON, Bundles).

    `model`: see `registry.find_model`. `at`: `task` asks when the tasks ask, `now` at each patient's last event, an
    ISO time (UTC) then. `form`: parquet, or fhir for bundles beside it. `tasks`: those to predict; none = all.
    `recorded`: what the Provenance says (None: the clock).

    Raises: ModelError if the model is damaged, unknown, or was made with other views; ConfigError; what stages raise.
    """
    if form not in FORMS:
        raise ConfigError(f"--format {form}: expected {' or '.join(FORMS)}.")
    version, out = find_model(model, models), Path(out)
    asked_tasks = tasks or version.tasks
    if strange := sorted(set(asked_tasks) - set(version.tasks)):
        raise ModelError(
            f"{version.label} does not know task {strange[0]!r}; it knows {', '.join(version.tasks)}."
        )
    timeline = timeline_for(version, Path(data), out, workers)
    tokens = ehrseq.tokenize(
        timeline,
        out / "tokens",
        vocabulary=version.folder / "model",
        timezone=version.timezone,
        workers=workers,
    ).out
    config = {"model": version.label, "at": at, "form": form, "tasks": list(asked_tasks), "reasons": reasons}
    inputs = [Input("model", version.sha256), input_of("timeline", timeline), input_of("tokens", tokens)]
    with Build(out / "predictions", kind="prediction_run", config=config, inputs=inputs) as build:
        if not build.unchanged:
            store = TokenStore.open(tokens)
            asked = asked_of(version, timeline, at, asked_tasks)
            answer = Predictor(version).answer(store, asked, reasons=reasons)
            basis = basis_of(answer, timeline, store)
            _write(build, answer, basis)
            if form == "fhir":
                stamp = recorded or datetime.now(UTC)
                _bundles(
                    build, version, answer, basis, timeline, sha256_file(tokens / "manifest.json"), stamp
                )
    return Predicted(build.result, version.label)


def timeline_for(version: ModelVersion, data: Path, out: Path, workers: int) -> Path:
    """The timeline of `data`, made below `out` with the version's views where it is not one already.

    Raises: SchemaError if there is nothing to read; ModelError for a timeline of other views than the model's.
    """
    config = version.lineage["timeline"]["config"]
    place = data / "timeline" if (data / "timeline" / "manifest.json").is_file() else data
    kind = read_manifest(place).kind if (place / "manifest.json").is_file() else None
    if kind == "timeline":
        given = read_manifest(place).config
        if any(given.get(key) != config.get(key) for key in ("rules", "declared")):
            raise ModelError(
                f"{place}: was made with view rules {str(given.get('rules'))[:12]}, {version.label} with "
                f"{str(config.get('rules'))[:12]}: its events mean something else. Give the FHIR store instead."
            )
        return place
    if kind not in (None, "fhir"):
        raise SchemaError(
            f"{place}: holds {kind!r}; expected a timeline, a FHIR store, NDJSON files or Bundles."
        )
    fhir = place if kind == "fhir" else ehrseq.import_fhir(place, out / "fhir", workers=workers).out
    zone, declared = config.get("timezone", "UTC"), json.loads(config.get("declared", "{}"))
    return Path(
        make_timeline(
            fhir, out / "timeline", views=version.views, timezone=zone, declared=declared, workers=workers
        ).out
    )


def asked_of(version: ModelVersion, timeline: Path, at: str, tasks: tuple[str, ...]) -> pl.DataFrame:
    """Who is asked about, when, for which task: subject_id, prediction_time, task.

    Raises: ConfigError if `at` is neither task, now nor an ISO time; SchemaError for an empty timeline.
    """
    if at == "task":
        return pl.concat(
            ask(version.task_file(task), timeline).with_columns(task=pl.lit(task)) for task in tasks
        )
    moment = _moment(at)
    events = scan_events(timeline)
    visible = events if moment is None else events.filter(pl.col("time") <= moment)
    last = (
        visible.filter(pl.col("time").is_not_null()).group_by("subject_id")
        .agg(prediction_time=pl.col("time").max(), dead=(pl.col("code") == DEAD).any()).collect()
    )  # fmt: skip
    when = pl.col("prediction_time") if moment is None else pl.lit(moment).cast(pl.Datetime("us"))
    alive = last.filter(~pl.col("dead")).select("subject_id", prediction_time=when)
    names = pl.DataFrame({"task": list(tasks)})
    return alive.join(names, how="cross").sort(_KEY)


def _moment(at: str) -> datetime | None:
    if at == "now":
        return None
    try:
        given = datetime.fromisoformat(at)
    except ValueError as error:
        raise ConfigError(
            f"--at {at!r}: expected task, now, or an ISO time such as 2026-11-26T08:00:00."
        ) from error
    return given.astimezone(UTC).replace(tzinfo=None) if given.tzinfo else given


def basis_of(answer: Answer, timeline: Path, store: TokenStore) -> pl.DataFrame:
    """The events that moved each prediction most: key, rank (from 1), share (logits), code, time, resource."""
    if answer.shares is None:
        return pl.DataFrame(schema=_BASIS)
    examples, label = answer.examples, answer.shares.label
    found = pl.DataFrame(
        {
            "subject_id": store.subject_id[examples.subject[label]],
            "prediction_time": examples.prediction_time[label].astype("datetime64[us]"),
            "task": examples.tasks[examples.task[label]],
            "share": answer.shares.share,
            "token": answer.shares.token,
        }
    ).with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.UInt32).over(*_KEY))
    sources = referring.resources(timeline, store, answer.shares.token)
    joined = found.join(sources.drop("subject_id"), on="token", how="left").sort(*_KEY, "rank")
    # a token is named as `ehrseq show --token` counts it: within its subject
    first = store.offsets[store.index_of(joined["subject_id"].to_numpy())]
    return joined.with_columns(token=pl.col("token") - pl.Series(first)).select(*_BASIS).cast(dict(_BASIS))  # type: ignore[arg-type]


def _write(build: Build, answer: Answer, basis: pl.DataFrame) -> None:
    for name, frame in (("predictions", answer.scored), ("abstained", answer.abstained), ("basis", basis)):
        build.write(f"{name}.parquet", frame.sort(_KEY, maintain_order=True), sorted_by=_KEY)
    for task, account in answer.books.items():
        build.account(task, account)
    build.made("predictions", answer.scored.height)
    build.made("abstained", answer.abstained.height)
    reasons: Mapping[str, int] = dict(answer.abstained.group_by("reason").len().sort("reason").iter_rows())
    build.notes["abstained"] = reasons


def _bundles(
    build: Build, version: ModelVersion, answer: Answer, basis: pl.DataFrame, timeline: Path, tokens_sha256: str,
    recorded: datetime,
) -> None:  # fmt: skip
    asked = pl.concat([answer.scored.select(_KEY), answer.abstained.select(_KEY)])
    made = risk_assessment.assessments(
        version, answer.scored, answer.abstained, referring.patients(timeline, asked["subject_id"].unique()),
        referring.encounters(timeline, asked), basis,
    )  # fmt: skip
    origins = risk_assessment.provenances(version, made, recorded=recorded, tokens_sha256=tokens_sha256)
    for number, text in enumerate(
        risk_assessment.transactions(risk_assessment.device(version), made, origins)
    ):
        name = f"bundles/{number:05d}.json"
        write_bytes(build.path(name), text.encode())
        build.enter(name, rows=1)
    build.made("RiskAssessment", made.height)
    build.made("Provenance", origins.height)
