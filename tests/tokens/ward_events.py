"""Small timelines of our own making, as the timeline stage would write them."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.core.dataset import Build
from ehrseq.timeline.schema import Event

START = datetime(2150, 1, 1)
SODIUM, GLUCOSE = "Observation//LOINC//2951-2", "Observation//LOINC//2345-7"
HEART_ATTACK, STROKE = "Condition//ICD-10-CM//I2101", "Condition//ICD-10-CM//I639"
NITRITE, REPORT = "Observation//local//nitrite", "DocumentReference//LOINC//18842-5"


def event(
    subject: int, hours: float | None, code: str, value: float | None = None, **more: Any
) -> dict[str, Any]:
    """One event `hours` after START; None = static."""
    time = None if hours is None else START + timedelta(hours=hours)
    row = dict.fromkeys(Event.polars_schema())
    given = {"subject_id": subject, "time": time, "code": code, "numeric_value": value}
    provenance = {"resource_type": "Observation", "resource_id": "o", "modality": "record"}
    return {**row, **given, **provenance, **more}


def patients(count: int = 12) -> list[dict[str, Any]]:
    """Patients 1..count with birth, sex, sodium in two units, glucose, an answer, a note and diagnoses."""
    rows = []
    for subject in range(1, count + 1):
        unit = "mmol/L" if subject % 3 else "mg/dL"
        factor = 1 if subject % 3 else 10
        rows += [
            event(
                subject,
                None,
                "Patient.gender//AdministrativeGender//" + ("female" if subject % 2 else "male"),
            ),
            event(subject, -400_000, "MEDS_BIRTH"),
            event(subject, 1, SODIUM, (130 + subject) * factor, unit=unit),
            event(subject, 2, SODIUM, (140 + subject) * factor, unit=unit),
            event(subject, 2, GLUCOSE, 5.0 + subject / 10, unit=" mmol/L"),
            event(subject, 3, NITRITE, text_value=" Positive" if subject % 2 else "Negative"),
            event(
                subject,
                4,
                REPORT,
                text_value=f"Chest pain, BP 120.5. Seen by dr{chr(96 + subject)}",
                modality="note",
            ),
            event(subject, 5, HEART_ATTACK if subject % 2 else f"Condition//ICD-10-CM//I21{subject:02d}"),
        ]
    return rows


def splits_of(count: int = 12) -> dict[int, str]:
    """The last two patients are held out, the two before tune."""
    names = ["train"] * (count - 4) + ["tuning"] * 2 + ["held_out"] * 2
    return dict(zip(range(1, count + 1), names, strict=True))


def frame_of(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Events as a frame, sorted as a timeline is."""
    frame = pl.DataFrame(rows, schema=Event.polars_schema(), orient="row")
    return frame.sort("subject_id", "time", nulls_last=False, maintain_order=True)


def split_frame(splits: dict[int, str]) -> pl.DataFrame:
    """`subject_splits.parquet`."""
    return pl.DataFrame(
        {"subject_id": list(splits), "split": list(splits.values())},
        schema_overrides={"subject_id": pl.Int64},
    )


def write_timeline(
    out: Path, rows: list[dict[str, Any]] | None = None, splits: dict[int, str] | None = None, shards: int = 2
) -> Path:
    """Write a timeline dataset of `shards` buckets to `out`."""
    frame = frame_of(patients() if rows is None else rows)
    with Build(out, kind="timeline", config={"shards": shards}, inputs=[], force=True) as build:
        for number in range(shards):
            part = frame.filter(pl.col("subject_id") % shards == number)
            build.write(f"data/{number:04d}.parquet", part, sorted_by=["subject_id", "time"])
        build.write("metadata/subject_splits.parquet", split_frame(splits_of() if splits is None else splits))
    return out


def with_attributes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sodium with a category, one of two specimens, and a rate; of patient n the rate is n mL/h."""
    for row in rows:
        if row["code"] == SODIUM:
            number = row["subject_id"]
            specimen = "serum" if number % 2 else "plasma"
            lines = [
                "category//laboratory",
                f"specimen//{specimen}",
                f"rate={number} mL/h",
                f"note//by dr {number}",
            ]
            row["attributes"] = "\n".join(lines)
    return rows
