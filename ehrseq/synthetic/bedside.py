"""icu/chartevents, outputevents and datetimeevents: what nurses of intensive care write down."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, pick, repeat_every, some_caregiver
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import severity_at

type Ints = NDArray[np.int64]

_NOISE = 0.3  # of one reading, in standard deviations
_MOST_READINGS = 30  # five days of readings every four hours; afterwards the wards have the patient


def bedside(block: Block, rng: np.random.Generator) -> Tables:
    """Vital signs, urine output and the dates of lines, for stays with intensive care."""
    return {
        "icu/chartevents": _vitals(block, rng),
        "icu/outputevents": _urine_output(block, rng),
        "icu/datetimeevents": _line_dates(block, rng),
    }


def icu_key(block: Block, row: Ints, rng: np.random.Generator) -> dict[str, Ints]:
    """subject_id, hadm_id, stay_id and a caregiver [N]."""
    return {**block.key(row), "stay_id": block.stay_id[row], "caregiver_id": some_caregiver(len(row), rng)}


def _vitals(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays, vitals = block.stays, block.hospital.vitals
    parts = []
    for every in sorted({vital.every for vital in vitals}):
        items = np.array([number for number, vital in enumerate(vitals) if vital.every == every])
        row, hour = repeat_every(
            stays.icu_in + 0.2, stays.icu_out, np.full(len(stays), float(every)), _MOST_READINGS * 4 // every
        )
        parts.append((np.repeat(row, len(items)), np.repeat(hour, len(items)), np.tile(items, len(row))))
    row, hour, item = (np.concatenate(column) for column in zip(*parts, strict=True))
    value = _readings(block, row, hour, item, rng)
    charted = block.seconds(row, hour)
    number = pl.Series(value)
    plain = number.cast(pl.String).str.strip_suffix(".0")
    words = [
        word for vital in vitals for word in [*(vital.words or []), *[""] * (6 - len(vital.words or []))]
    ]
    worded = np.array([vital.words is not None for vital in vitals])[item]
    low = np.array([vital.low for vital in vitals])[item]
    spoken = pick(words, np.where(worded, item * 6 + (value - low).astype(np.int64), -1))
    return pl.DataFrame(
        {
            **icu_key(block, row, rng),
            "charttime": moment(charted),
            "storetime": moment(block.stored(row, charted, rng.uniform(1, 40, len(row)))),
            "itemid": np.array([vital.id for vital in vitals])[item],
            "value": pl.select(pl.coalesce(spoken, plain)).to_series(),
            "valuenum": number,
            "valueuom": pick([vital.unit for vital in vitals], item),
            "warning": np.zeros(len(row), np.int64),
        }
    ).sort("subject_id", "charttime", maintain_order=True)


def _readings(block: Block, row: Ints, hour: Floats, item: Ints, rng: np.random.Generator) -> Floats:
    vitals = block.hospital.vitals
    load = np.array([vital.load for vital in vitals])[item]
    mean, sd = (
        np.array([vital.mean for vital in vitals])[item],
        np.array([vital.sd for vital in vitals])[item],
    )
    low, high = (
        np.array([vital.low for vital in vitals])[item],
        np.array([vital.high for vital in vitals])[item],
    )
    ten = 10.0 ** np.array([vital.digits for vital in vitals])[item]
    score = block.patients.vital_offset[block.stays.subject[row], item]
    score = score + load * severity_at(block.stays, row, hour) + _NOISE * rng.normal(size=len(row))
    return np.clip(np.rint((mean + sd * score) * ten) / ten, low, high)


def _urine_output(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays, item = block.stays, block.hospital.icu_items["urine"]
    row, hour = repeat_every(stays.icu_in + 1, stays.icu_out, np.full(len(stays), 6.0), 16)
    charted = block.seconds(row, hour)
    volume = np.exp(5.7 - 0.35 * severity_at(stays, row, hour) + 0.3 * rng.normal(size=len(row)))
    return pl.DataFrame(
        {
            **icu_key(block, row, rng),
            "charttime": moment(charted),
            "storetime": moment(block.stored(row, charted, rng.uniform(1, 60, len(row)))),
            "itemid": np.full(len(row), item.id),
            "value": np.maximum(np.rint(volume / 5) * 5, 0),
            "valueuom": pick(["ml"], np.zeros(len(row), np.int64)),
        }
    )


def _line_dates(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays, item = block.stays, block.hospital.icu_items["line_date"]
    row = np.flatnonzero(stays.icu_out - stays.icu_in > 1)
    charted = block.seconds(row, stays.icu_in[row] + 0.5)
    return pl.DataFrame(
        {
            **icu_key(block, row, rng),
            "charttime": moment(charted),
            "storetime": moment(block.stored(row, charted, rng.uniform(1, 30, len(row)))),
            "itemid": np.full(len(row), item.id),
            "value": moment(block.seconds(row, np.zeros(len(row)))),
            "valueuom": pick(["Date and Time"], np.zeros(len(row), np.int64)),
            "warning": np.zeros(len(row), np.int64),
        }
    )
