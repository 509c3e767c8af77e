"""Between admissions: hosp/omr, and laboratory tests that belong to no admission."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, pick, some_provider
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.laboratory import lab_rows, scale, usual_scores
from ehrseq.synthetic.stays import DAY, HOUR

type Ints = NDArray[np.int64]

_PANELS = ("chemistry", "blood count")
_QUIET = -0.4  # severity of somebody who walks in


def outpatient(block: Block, rng: np.random.Generator) -> Tables:
    """Up to two visits in the year before each admission, after the discharge before it."""
    row, time = _visits(block, rng)
    return {"hosp/omr": _omr(block, row, time, rng), "hosp/labevents": _tests(block, row, time, rng)}


def _visits(block: Block, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """(admission that follows, seconds since 1970) of each visit, in office hours, the patient at home."""
    stays = block.stays
    same = np.r_[False, stays.subject[1:] == stays.subject[:-1]]
    before = np.r_[0, stays.end[:-1]]
    earliest = stays.admit - 365 * DAY
    earliest = np.where(same, np.maximum(earliest, before + 5 * DAY), earliest)
    room = stays.admit - 3 * DAY - earliest
    count = np.where(room > 10 * DAY, rng.binomial(2, 0.5, len(stays)), 0)
    row = np.repeat(np.arange(len(stays)), count)
    time = earliest[row] + (rng.random(len(row)) * room[row]).astype(np.int64)
    return row, time // DAY * DAY + rng.integers(8 * 60, 17 * 60, len(row)) * 60


def _omr(block: Block, row: Ints, time: Ints, rng: np.random.Generator) -> pl.DataFrame:
    who, count = block.stays.subject[row], len(row)
    weight = np.round(block.patients.weight_lb[who] * rng.normal(1, 0.02, count), 1)
    height = block.patients.height_in[who]
    body_mass = np.round(weight * 703 / height**2, 1)
    systolic, diastolic = rng.normal(130, 16, count), rng.normal(76, 9, count)
    results = {
        "Blood Pressure": pl.select(
            pl.format("{}/{}", pl.Series(systolic.astype(np.int64)), pl.Series(diastolic.astype(np.int64)))
        ).to_series(),
        "Weight (Lbs)": _words(weight),
        "Height (Inches)": _words(height),
        "BMI (kg/m2)": _words(body_mass),
    }
    day = pl.Series((time // DAY).astype(np.int32)).cast(pl.Date)
    frames = [
        pl.DataFrame(
            {"subject_id": block.subject_id[row], "chartdate": day, "result_value": value}
        ).with_columns(seq_num=pl.lit(1), result_name=pl.lit(name))
        for name, value in results.items()
    ]
    omr = pl.concat(frames).unique(
        ["subject_id", "chartdate", "result_name"], keep="first", maintain_order=True
    )
    return omr.sort("subject_id", "chartdate", maintain_order=True)


def _words(value: Floats) -> pl.Series:
    return pl.Series(value).cast(pl.String).str.strip_suffix(".0")


def _tests(block: Block, row: Ints, time: Ints, rng: np.random.Generator) -> pl.DataFrame:
    hospital = block.hospital
    some = np.flatnonzero(rng.random(len(row)) < 0.6)
    items = np.array([number for number, lab in enumerate(hospital.labs) if lab.panel in _PANELS])
    visit, item = np.repeat(some, len(items)), np.tile(items, len(some))
    load = np.array([lab.load for lab in hospital.labs])[item]
    score = usual_scores(block)[row[visit], item] + _QUIET * load + 0.33 * rng.normal(size=len(item))
    specimen = np.repeat(block.ids.take("specimen", len(some)), len(items))
    events = lab_rows(hospital, item, scale(hospital, item, score))
    return events.with_columns(
        labevent_id=block.ids.take("labevent", len(events)),
        subject_id=block.subject_id[row[visit]],
        specimen_id=specimen,
        order_provider_id=some_provider(len(visit), rng),
        charttime=moment(time[visit]),
        storetime=moment(time[visit] + 6 * HOUR),
        priority=pick(["ROUTINE"], np.zeros(len(visit), np.int64)),
    ).sort("subject_id", "charttime", maintain_order=True)
