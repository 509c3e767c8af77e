"""Who a prediction was made for: sex, age and kind of admission, as the timeline says at that moment.

A group is the last event, at or before the prediction, whose code begins with a given prefix; what stands behind the
prefix names it. So any site, ward or payer that the record has can be a group too.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.errors import EhrseqError
from ehrseq.evaluation.bootstrap import intervals
from ehrseq.timeline.meds import scan_events
from ehrseq.timeline.schema import Event

PREFIXES = {"sex": "Patient.gender//", "admission": "Encounter.type//"}
FEWEST = 30  # predictions in a group; below, there is nothing to say
_AGES = (18.0, 45.0, 65.0, 80.0)
_DAYS_PER_YEAR = 365.25


def with_groups(
    predictions: pl.DataFrame, timeline: Path, prefixes: Mapping[str, str] = PREFIXES
) -> pl.DataFrame:
    """`predictions` (subject_id, prediction_time, ...) with a column for each group, and `age`; null = not known."""
    asked = predictions.select("subject_id", "prediction_time").unique().sort("subject_id", "prediction_time")
    wanted = pl.any_horizontal(
        pl.col(Event.code) == "MEDS_BIRTH",
        *(pl.col(Event.code).str.starts_with(one) for one in prefixes.values()),
    )
    events = (
        scan_events(timeline).filter(wanted).select(Event.subject_id, Event.time, Event.code)
        .join(asked.lazy().select("subject_id").unique(), on="subject_id", how="semi").collect()
    )  # fmt: skip
    for name, prefix in prefixes.items():
        mine = events.filter(pl.col(Event.code).str.starts_with(prefix))
        asked = _latest(asked, mine, name, prefix)
    births = events.filter(code="MEDS_BIRTH").group_by("subject_id").agg(born=pl.col("time").min())
    asked = asked.join(births, on="subject_id", how="left")
    years = (pl.col("prediction_time") - pl.col("born")).dt.total_days() / _DAYS_PER_YEAR
    asked = asked.with_columns(age=_band(years)).drop("born")
    return predictions.join(asked, on=["subject_id", "prediction_time"], how="left", maintain_order="left")


def _latest(asked: pl.DataFrame, events: pl.DataFrame, name: str, prefix: str) -> pl.DataFrame:
    value = pl.col(Event.code).str.strip_prefix(prefix)
    static = events.filter(pl.col("time").is_null()).group_by("subject_id").agg(fixed=value.last())
    moving = (
        events.filter(pl.col("time").is_not_null()).select("subject_id", "time", moved=value).sort("time")
    )
    found = asked.sort("prediction_time").join_asof(
        moving,
        left_on="prediction_time",
        right_on="time",
        by="subject_id",
        strategy="backward",
        check_sortedness=False,
    )
    found = found.join(static, on="subject_id", how="left").with_columns(
        pl.coalesce("moved", "fixed").str.replace("^[^/]*//", "").alias(name)
    )
    return found.select(*asked.columns, name).sort("subject_id", "prediction_time")


def _band(years: pl.Expr) -> pl.Expr:
    """The name of an age's band; null where it is not known."""
    names = _band_names()
    band: pl.Expr = pl.when(years >= _AGES[-1]).then(pl.lit(names[-1]))
    for edge, name in reversed(list(zip(_AGES, names[:-1], strict=True))):
        band = pl.when(years < edge).then(pl.lit(name)).otherwise(band)
    return band


def _band_names() -> list[str]:
    edges = [f"{age:.0f}" for age in _AGES]
    inner = [f"{low}-{int(high) - 1}" for low, high in pairwise(edges)]
    return [f"under {edges[0]}", *inner, f"{edges[-1]} and over"]


def judge_groups(
    grouped: pl.DataFrame, groups: tuple[str, ...], *, replicates: int = 200, seed: int = 0
) -> list[dict[str, Any]]:
    """AUROC, Brier and observed/expected of each task in each group with both outcomes and `FEWEST` predictions.

    `grouped`: predictions with labels and the columns `groups`. Groups that are too small are listed with their size
    alone.
    """
    found: list[dict[str, Any]] = []
    labelled = grouped.filter(pl.col("label").is_not_null())
    for task in labelled["task"].unique().sort():
        rows = labelled.filter(task=task)
        for group in groups:
            for (value,), part in sorted(
                rows.filter(pl.col(group).is_not_null()).group_by(group), key=lambda item: str(item[0][0])
            ):
                found.append(
                    {"task": task, "group": group, "value": value, **_judged(part, replicates, seed)}
                )
    return found


def _judged(rows: pl.DataFrame, replicates: int, seed: int) -> dict[str, Any]:
    positives, expected = int(rows["label"].sum()), float(rows["probability"].sum())
    told: dict[str, Any] = {
        "n": rows.height,
        "positives": positives,
        "patients": rows["subject_id"].n_unique(),
    }
    told["observed_to_expected"] = positives / expected if expected else None
    if rows.height < FEWEST or positives in (0, rows.height):
        return told
    try:
        measured = intervals(
            rows["label"].cast(pl.Float64).to_numpy(), rows["probability"].to_numpy(), rows["subject_id"].to_numpy(),
            replicates=replicates, seed=seed,
        )  # fmt: skip
    except EhrseqError:
        return told
    for metric in ("auroc", "brier"):
        one = measured[metric]
        told[metric] = {"value": one.value, "low": one.low, "high": one.high}
    return told
