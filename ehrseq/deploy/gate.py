"""The gate between a trained model and the champion's place: declared limits, each with a sentence; all must hold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

import polars as pl

from ehrseq.core.errors import ConfigError, EhrseqError
from ehrseq.deploy.drift import Finding, Limits, check_limits, compare_outcomes
from ehrseq.evaluation.bootstrap import paired_difference
from ehrseq.evaluation.metrics import auroc
from ehrseq.models.config import checked_fields

METRICS = ("auroc", "auprc", "brier")
_KEY = ["subject_id", "prediction_time", "task"]


@dataclass(frozen=True, slots=True)
class GateConfig:
    """What a new model must show on held-out patients."""

    min_events: int = 20  # outcomes of each task
    metric: str = "auroc"
    difference: float = (
        -0.02
    )  # least lower end of the 95 % interval of (new - champion); for brier: -(new - champion)
    calibration: float = (
        1.5  # most that observed / expected, or its inverse, may be while its interval excludes 1
    )
    subgroup: float = 0.55  # least AUROC of the worst group with `subgroup_events` outcomes
    subgroup_events: int = 20
    drift: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"gate.metric is {self.metric!r}. Expected one of {', '.join(METRICS)}.")
        if self.min_events < 1 or self.calibration < 1 or not 0 <= self.subgroup <= 1:
            raise ConfigError(
                "gate: min_events must be 1 or more, calibration 1 or more, subgroup between 0 and 1; found "
                f"{self.min_events}, {self.calibration:g}, {self.subgroup:g}."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GateConfig":
        """From plain values. Raises: ConfigError for an unknown key or an impossible value."""
        given = checked_fields(cls, values, "gate")
        if "drift" in given:
            given["drift"] = check_limits(given["drift"])
        return cls(**given)


@dataclass(frozen=True, slots=True)
class Check:
    """One demand of the gate and how it was met."""

    name: str
    what: str
    passed: bool
    measured: float | None
    limit: float | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


def judge(
    new: pl.DataFrame,
    champion: pl.DataFrame | None,
    drift: Sequence[Finding],
    groups: Sequence[str],
    config: GateConfig,
    *,
    seed: int = 0,
) -> list[Check]:
    """All checks of a new model.

    `new`: predictions on held-out patients (schema `Prediction`) with `period` ("frozen" or "newest") and the columns
    `groups`; `champion`: the same rows by the champion, or None if there is none yet. `drift`: findings in the newest
    period against what the champion was trained on.
    """
    labelled = new.filter(pl.col("label").is_not_null())
    checks = [
        check
        for task in sorted(labelled["task"].unique())
        for check in _task(str(task), labelled, champion, config, seed)
    ]
    checks += [
        check
        for task in sorted(labelled["task"].unique())
        for check in _groups(str(task), labelled, groups, config)
    ]
    checks += [
        Check("drift", one.what, not one.exceeded, one.measured, one.limit, f"{one.check}: {one.sentence}")
        for one in drift
    ]
    if not labelled.height:
        checks.append(
            Check("events", "all", False, 0, config.min_events, "no held-out prediction has a known outcome.")
        )
    return checks


def _task(
    task: str, labelled: pl.DataFrame, champion: pl.DataFrame | None, config: GateConfig, seed: int
) -> list[Check]:
    mine = labelled.filter(task=task)
    events = int(mine["label"].sum())
    least = config.min_events
    found = [
        Check(
            "events",
            task,
            events >= least,
            events,
            least,
            f"{task}: {events} outcomes held out (limit {least}).",
        )
    ]
    for period in ("frozen", "newest"):
        rows = mine.filter(period=period)
        outcome = compare_outcomes(
            f"{task}, {period}", rows["label"], rows["probability"], rows["subject_id"],
            Limits(calibration=config.calibration), seed=seed,
        )  # fmt: skip
        if outcome:
            found.append(
                Check(
                    "calibration",
                    outcome.what,
                    not outcome.exceeded,
                    outcome.measured,
                    outcome.limit,
                    outcome.sentence,
                )
            )
        if champion is not None:
            found.append(_difference(task, period, rows, champion, config, seed))
    return found


def _difference(
    task: str, period: str, rows: pl.DataFrame, champion: pl.DataFrame, config: GateConfig, seed: int
) -> Check:
    what, limit = f"{task}, {period}", config.difference
    both = rows.join(champion.select(*_KEY, theirs="probability"), on=_KEY, how="inner")
    events = int(both["label"].sum() or 0)
    if events in (0, both.height):
        return Check("difference", what, True, None, limit, f"{what}: one outcome only, nothing to compare.")
    sign = -1.0 if config.metric == "brier" else 1.0
    try:
        found = paired_difference(
            both["label"].cast(pl.Float64).to_numpy(), both["probability"].to_numpy(), both["theirs"].to_numpy(),
            both["subject_id"].to_numpy(), metric=config.metric, seed=seed,
        )  # fmt: skip
    except EhrseqError as error:
        return Check("difference", what, False, None, limit, f"{what}: cannot be compared: {error}")
    ends = [sign * end for end in (found.low, found.high) if end is not None]
    low = min(ends) if len(ends) == 2 else None
    words = f"{what}: {config.metric} better by {sign * found.value:+.4f} than the champion's"
    if low is None:
        return Check(
            "difference", what, False, None, limit, f"{words}, without an interval: too few patients."
        )
    return Check(
        "difference", what, low >= limit, low, limit,
        f"{words}, at least {low:+.4f} (limit {limit:+.4f}), on {both.height} predictions with {events} outcomes.",
    )  # fmt: skip


def _groups(task: str, labelled: pl.DataFrame, groups: Sequence[str], config: GateConfig) -> list[Check]:
    """The worst group of those with enough outcomes."""
    worst: tuple[float, str, int] | None = None
    for group in groups:
        for (value,), rows in labelled.filter(pl.col("task") == task, pl.col(group).is_not_null()).group_by(
            group
        ):
            events = int(rows["label"].sum())
            if config.subgroup_events <= events <= rows.height - config.subgroup_events:
                area = auroc(rows["label"].cast(pl.Float64).to_numpy(), rows["probability"].to_numpy())
                if worst is None or area < worst[0]:
                    worst = (area, f"{group} {value}", events)
    if worst is None:
        return [
            Check(
                "subgroup",
                task,
                True,
                None,
                config.subgroup,
                f"{task}: no group has enough outcomes to judge.",
            )
        ]
    area, name, events = worst
    words = f"{task}: the worst group, {name}, has AUROC {area:.3f}"
    sentence = f"{words} on {events} outcomes (limit {config.subgroup:g})."
    return [
        Check(
            "subgroup",
            f"{task}, {name}",
            bool(area >= config.subgroup),
            float(area),
            config.subgroup,
            sentence,
        )
    ]


def periods(predictions: pl.DataFrame, newest_days: float) -> pl.DataFrame:
    """Predictions with `period`: "newest" for those of the last `newest_days` before the latest one, else "frozen"."""
    if predictions.is_empty():
        return predictions.with_columns(period=pl.lit("frozen"))
    time = pl.col("prediction_time")
    newest = time > time.max() - timedelta(days=newest_days)
    return predictions.with_columns(period=pl.when(newest).then(pl.lit("newest")).otherwise(pl.lit("frozen")))
