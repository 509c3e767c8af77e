"""`ehrseq monitor`: is the model still shown what it was trained on, and does what it says still happen?

    OUT/predictions/…   what `ehrseq predict` makes of the records, if none are given
    OUT/monitor/        monitor.json for programs, monitor.html for people

Exit code 3 when a limit is exceeded. What is compared, and how, stands at the head of `drift`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

import ehrseq
from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import ConfigError, ExitCode, TaskError
from ehrseq.core.files import write_bytes, write_json
from ehrseq.core.manifest import Input
from ehrseq.core.yaml_lines import load_yaml
from ehrseq.deploy.drift import Finding, Limits, check_limits, compare, compare_outcomes, compare_scores
from ehrseq.deploy.monitor_page import page
from ehrseq.deploy.predict import timeline_for
from ehrseq.deploy.profile import Profile, profile
from ehrseq.deploy.registry import find_model
from ehrseq.deploy.subgroups import PREFIXES, with_groups
from ehrseq.deploy.version import ModelVersion
from ehrseq.timeline.meds import scan_events
from ehrseq.tokens.vocabulary import Vocabulary

GROUPS = (*PREFIXES, "age")


@dataclass(frozen=True)
class Monitored:
    """What monitoring found: the stage's result and every finding."""

    result: Result
    findings: list[Finding]
    model: str

    @property
    def exceeded(self) -> list[Finding]:
        """Findings beyond their limit."""
        return [one for one in self.findings if one.exceeded]

    @property
    def exit_code(self) -> int:
        """3 if a limit is exceeded."""
        return int(ExitCode.DATA_QUALITY if self.exceeded else ExitCode.DONE)

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "status": "exceeded" if self.exceeded else "within limits", "out": str(self.result.out),
            "model": self.model, "report": str(self.result.out / "monitor.html"),
            "findings": [one.to_json() for one in self.findings],
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What is beyond its limit, sentence by sentence; how many checks were within."""
        for one in self.exceeded:
            yield Text(f"{one.check:<12}", style="bold red") + Text(one.sentence)
        within = len(self.findings) - len(self.exceeded)
        yield Text(f"{self.model}: {len(self.exceeded)} beyond their limit, {within} within. ")
        yield Text(f"Report: {self.result.out / 'monitor.html'}", style="bold")


def monitor(
    model: str | Path, data: Path, out: Path, *, start: str | None = None, end: str | None = None, days: float = 31,
    limits: Path | None = None, models: Path = Path("models"), workers: int = 1,
) -> Monitored:  # fmt: skip
    """Compare the records of a period with those a model was trained on, and its predictions with what happened.

    The period is from `start` to `end` (ISO times, UTC), by default the last `days` of the records. `limits`: a YAML
    file of `drift.Limits`. Labels that are known by now are found by the tasks themselves.

    Raises: ModelError; ConfigError; what each stage raises.
    """
    version, out = find_model(model, models), Path(out)
    given = check_limits(load_yaml(limits).value or {}) if limits else Limits()
    timeline = timeline_for(version, Path(data), out, workers)
    first, last = _period(timeline, start, end, days)
    predictions = ehrseq.predict(
        version.folder, timeline, out, models=models, workers=workers, reasons=0
    ).result.out
    labels = _labels(version, timeline, out, workers)
    inputs = [
        Input("model", version.sha256),
        input_of("timeline", timeline),
        input_of("predictions", predictions),
    ]
    inputs += [input_of(f"labels/{folder.name}", folder) for folder in labels]
    config = {"start": str(first), "end": str(last), "limits": _plain(given)}
    with Build(out / "monitor", kind="monitor", config=config, inputs=inputs) as build:
        if not build.unchanged:
            found = _findings(version, timeline, predictions, labels, first, last, given)
            told = {
                "model": version.label, "start": str(first), "end": str(last), "limits": _plain(given),
                "exceeded": sum(one.exceeded for one in found), "findings": [one.to_json() for one in found],
            }  # fmt: skip
            write_json(build.path("monitor.json"), told)
            write_bytes(build.path("monitor.html"), page(version, told, found).encode())
            for name in ("monitor.json", "monitor.html"):
                build.enter(name, rows=len(found))
            build.notes["findings"] = told["findings"]
            build.made("findings", len(found))
    findings = [Finding(**one) for one in build.result.manifest.notes["findings"]]
    return Monitored(build.result, findings, version.label)


def _findings(
    version: ModelVersion, timeline: Path, predictions: Path, labels: Sequence[Path], start: datetime, end: datetime,
    limits: Limits,
) -> list[Finding]:  # fmt: skip
    before = Profile.load(version.folder / "reference.parquet")
    now = profile(timeline, start=start, end=end)
    found = compare(before, now, Vocabulary.load(version.folder / "model"), limits)
    time = pl.col("prediction_time")
    scored = pl.read_parquet(predictions / "predictions.parquet").filter(time >= start, time < end)
    refused = pl.read_parquet(predictions / "abstained.parquet").filter(time >= start, time < end)
    found += [_of_refused(scored.height, refused, limits), *_of_scores(version, scored, limits)]
    known = [_read_labels(folder) for folder in labels]
    if known and scored.height:
        both = scored.drop("label").join(
            pl.concat(known), on=["subject_id", "prediction_time", "task"], how="inner"
        )
        found += _of_outcomes(with_groups(both, timeline), limits)
    return sorted(found, key=lambda one: not one.exceeded)


def _of_refused(scored: int, refused: pl.DataFrame, limits: Limits) -> Finding:
    share = refused.height / max(scored + refused.height, 1)
    words = f"{100 * share:.1f} % of {scored + refused.height:,} predictions were refused (limit {limits.abstained:g})"
    if refused.height:
        reason = (
            refused.group_by("reason", "message")
            .len()
            .sort("len", "reason", descending=True)
            .row(0, named=True)
        )
        words += f", most of them because {reason['message']}"
    return Finding("abstained", "all tasks", share, limits.abstained, share > limits.abstained, f"{words}.")


def _of_scores(version: ModelVersion, scored: pl.DataFrame, limits: Limits) -> list[Finding]:
    told = json.loads((version.folder / "calibration.json").read_text())["held_out"]
    found = [
        compare_scores(
            task,
            told[task]["edges"],
            scored.filter(task=task)["probability"].to_numpy(),
            told[task]["n"],
            limits,
        )
        for task in version.tasks
    ]
    return [one for one in found if one]


def _of_outcomes(labelled: pl.DataFrame, limits: Limits) -> list[Finding]:
    """Calibration of each task, in all and in each group."""
    found = []
    for (task,), rows in sorted(labelled.group_by("task"), key=lambda item: str(item[0][0])):
        parts = [(str(task), rows)]
        for group in GROUPS:
            known = rows.filter(pl.col(group).is_not_null())
            parts += [(f"{task}, {group} {value}", part) for (value,), part in sorted(known.group_by(group))]
        for what, part in parts:
            found.append(
                compare_outcomes(
                    what, part["label"], part["probability"], part["subject_id"], limits, looks=len(parts)
                )
            )
    return [one for one in found if one]


def _labels(version: ModelVersion, timeline: Path, out: Path, workers: int) -> list[Path]:
    """Labels that are known by now, by the model's own task definitions; tasks of one kind only have none yet."""
    found = []
    for file in sorted((version.folder / "tasks").glob("*.yaml")):
        try:
            labels = ehrseq.label(file, timeline, out / "labels" / file.stem, workers=workers).out
        except TaskError as error:
            if not getattr(error, "degenerate", False):
                raise
            continue
        if file.stem in version.tasks:
            found.append(labels)
    return found


def _read_labels(folder: Path) -> pl.DataFrame:
    table = pl.read_parquet(folder / "data/*.parquet")
    return table.select("subject_id", "prediction_time", label="boolean_value", task=pl.lit(folder.name))


def _period(timeline: Path, start: str | None, end: str | None, days: float) -> tuple[datetime, datetime]:
    """First and last moment, the last excluded. Raises: ConfigError."""
    latest = scan_events(timeline).select(pl.col("time").max()).collect().item()
    if latest is None:
        raise ConfigError(f"{timeline}: holds no events with a time; there is nothing to monitor.")
    last = _time(end) if end else latest + timedelta(microseconds=1)
    first = _time(start) if start else last - timedelta(days=days)
    if first >= last:
        raise ConfigError(
            f"the period from {first} to {last} is empty. Give an earlier --start or a later --end."
        )
    return first, last


def _time(text: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r}: expected an ISO time such as 2026-11-01.") from error
    return given.astimezone(UTC).replace(tzinfo=None) if given.tzinfo else given


def _plain(limits: Limits) -> dict[str, float]:
    return asdict(limits)
