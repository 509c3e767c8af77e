"""hosp/poe and poe_detail: every order of an admission, numbered through the subject's life."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, repeat_every, some_provider
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.risk import sigmoid
from ehrseq.synthetic.stays import severity_at
from ehrseq.synthetic.treatment import Courses, ventilator_hours

type Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Numbered:
    """What the other tables need of the orders: `poe_id`, `poe_seq` and provider of each course [N]."""

    poe_id: pl.Series
    poe_seq: pl.Series
    provider: pl.Series


def orders(block: Block, courses: Courses, rng: np.random.Generator) -> tuple[Tables, Numbered]:
    """Write the orders. A course stopped by a doctor has a second order that discontinues the first."""
    parts = [*_standing(block, rng), *_by_need(block, rng), *_drugs(block, courses, rng)]
    frame = pl.concat(parts, how="diagonal_relaxed")
    subject = block.subject_id[frame["row"].to_numpy()]
    frame = (
        frame.with_columns(
            subject_id=pl.Series(subject),
            hadm_id=pl.Series(block.hadm_id[frame["row"].to_numpy()]),
            order_provider_id=some_provider(len(frame), rng),
        )
        .sort("subject_id", "seconds", maintain_order=True)
        .with_columns(poe_seq=pl.int_range(1, pl.len() + 1).over("subject_id"))
        .with_columns(poe_id=pl.format("{}-{}", "subject_id", "poe_seq"))
    )
    starts = frame.filter(pl.col("course").is_not_null() & (pl.col("transaction_type") == "New"))
    stops = frame.filter(pl.col("transaction_type") == "D/C")
    frame = frame.join(
        starts.select("course", transaction_type=pl.lit("D/C"), discontinue_of_poe_id="poe_id"),
        on=["course", "transaction_type"], how="left",
    ).join(
        stops.select("course", transaction_type=pl.lit("New"), discontinued_by_poe_id="poe_id"),
        on=["course", "transaction_type"], how="left",
    ).sort("subject_id", "poe_seq")  # fmt: skip
    by_course = starts.sort("course")
    numbered = Numbered(by_course["poe_id"], by_course["poe_seq"], by_course["order_provider_id"])
    detail = frame.filter(pl.col("field_name").is_not_null())
    return {
        "hosp/poe": frame.select(
            "poe_id", "poe_seq", "subject_id", "hadm_id", "order_type", "order_subtype", "transaction_type",
            "discontinue_of_poe_id", "discontinued_by_poe_id", "order_provider_id",
            ordertime=moment(frame["seconds"].to_numpy()), order_status=pl.lit("Inactive"),
        ),
        "hosp/poe_detail": detail.select("poe_id", "poe_seq", "subject_id", "field_name", "field_value"),
    }, numbered  # fmt: skip


def _order(
    block: Block,
    row: Ints,
    hour: Floats,
    kind: str,
    subtype: str | None = None,
    *,
    detail: tuple[str, str] | None = None,
) -> pl.DataFrame:
    hour = np.minimum(hour, block.stays.hours[row] - 0.1)
    name, value = detail or (None, None)
    return pl.DataFrame({"row": row, "seconds": block.seconds(row, hour)}).with_columns(
        order_type=pl.lit(kind),
        order_subtype=pl.lit(subtype, pl.String),
        transaction_type=pl.lit("New"),
        field_name=pl.lit(name, pl.String),
        field_value=pl.lit(value, pl.String),
        course=pl.lit(None, pl.Int64),
    )


def _standing(block: Block, rng: np.random.Generator) -> list[pl.DataFrame]:
    """What nearly everybody gets: admission, diet, monitoring, daily laboratory work, discharge."""
    stays, count = block.stays, len(block.stays)
    row = np.arange(count)
    parts = []
    for service in block.hospital.services:
        of = np.array([group.service == service for group in block.hospital.groups.values()])[stays.group]
        detail = ("Admit to", block.hospital.services[service])
        parts.append(_order(block, row[of], np.full(of.sum(), 0.1), "ADT orders", "Admit", detail=detail))
    for kind, subtype, share in (
        ("General Care", "Vitals/Monitoring", 0.95), ("General Care", "Activity", 0.8),
        ("Nutrition", "Diet Order", 0.9),
        ("IV therapy", "IV access", 0.8), ("Lab", None, 1.0), ("Lab", None, 0.7), ("Cardiology", "ECG", 0.5),
        ("General Care", "Telemetry", 0.4), ("Radiology", "General Xray", 0.6), ("Radiology", "CT Scan", 0.25),
    ):  # fmt: skip
        some = row[rng.random(count) < share]
        parts.append(_order(block, some, rng.uniform(0.1, 4, len(some)), kind, subtype))
    daily, hour = repeat_every(np.full(count, 22.0), stays.hours - 6, np.full(count, 24.0), 12)
    parts.append(_order(block, daily, hour + rng.uniform(0, 1.5, len(daily)), "Lab"))
    home = row[~stays.died]
    final = ("Discharge Planning", "Finalized")
    parts.append(
        _order(
            block,
            home,
            stays.hours[home] - rng.uniform(0.5, 3, len(home)),
            "ADT orders",
            "Discharge",
            detail=final,
        )
    )
    return parts


def _by_need(block: Block, rng: np.random.Generator) -> list[pl.DataFrame]:
    """Orders that follow from how the patient is and lives: oxygen, code status, therapists, social work."""
    stays, count = block.stays, len(block.stays)
    row = np.arange(count)
    hour = rng.uniform(2, 20, count)
    severity = severity_at(stays, row, hour)
    alone = block.patients.alone[stays.subject]
    ventilated = ventilator_hours(block)
    chances = [
        (("Respiratory", "Oxygen Therapy", None), sigmoid(1.5 * severity - 1.2)),
        (
            ("General Care", "Code status", ("Code status", "DNR/DNI")),
            sigmoid(0.8 * severity + 0.07 * (stays.age - 75) - 2.8),
        ),
        (("Consults", "Social Work", ("Consult Status", "Routine")), np.where(alone, 0.6, 0.08)),
        (
            ("Consults", "Physical Therapy", ("Consult Status", "Routine")),
            sigmoid(np.asarray(0.06 * (stays.age - 70) - 0.4, float)),
        ),
    ]  # fmt: skip
    parts = []
    for (kind, subtype, detail), chance in chances:
        some = row[(rng.random(count) < chance) & (hour < stays.hours - 0.5)]
        parts.append(_order(block, some, hour[some], kind, subtype, detail=detail))
    some = np.flatnonzero(~np.isnan(ventilated))
    parts.append(_order(block, some, ventilated[some], "Respiratory", "Mechanical Ventilation"))
    return parts


def _drugs(block: Block, courses: Courses, rng: np.random.Generator) -> list[pl.DataFrame]:
    number = np.arange(len(courses))
    lead = rng.uniform(0.2, 1.0, len(courses))
    start = _order(block, courses.row, np.maximum(courses.start - lead, 0.05), "Medications")
    ended = np.flatnonzero(courses.stopped)
    stop = _order(block, courses.row[ended], courses.stop[ended], "Medications").with_columns(
        transaction_type=pl.lit("D/C")
    )
    return [start.with_columns(course=pl.Series(number)), stop.with_columns(course=pl.Series(ended))]
