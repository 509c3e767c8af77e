"""icu/inputevents, ingredientevents and procedureevents: what ran, what it was made of, and what was done."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.bedside import icu_key
from ehrseq.synthetic.block import Block, Tables, moment, pick, repeat_every
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import severity_at
from ehrseq.synthetic.treatment import vasopressor_hours, ventilator_hours

type Ints = NDArray[np.int64]


def infusions(block: Block, rng: np.random.Generator) -> Tables:
    """Fluids, norepinephrine whose rate follows severity, sedation, and procedures of intensive care."""
    running = pl.concat(
        [_fluids(block, rng), _pressors(block, rng), _sedation(block, rng)], how="diagonal_relaxed"
    )
    running = running.sort("subject_id", "starttime", maintain_order=True)
    return {
        "icu/inputevents": running,
        "icu/ingredientevents": _ingredients(block, running),
        "icu/procedureevents": _procedures(block, rng),
    }


def _kilograms(block: Block, row: Ints) -> Floats:
    return np.round(block.patients.weight_lb[block.stays.subject[row]] * 0.4536, 1)


def _running(
    block: Block, item: str, row: Ints, start: Floats, end: Floats, amount: Floats, rate: Floats,
    units: tuple[str, str], order: Ints, category: str, rng: np.random.Generator,
) -> pl.DataFrame:  # fmt: skip
    begun, done = block.seconds(row, start), block.seconds(row, end)
    return pl.DataFrame(
        {
            **icu_key(block, row, rng),
            "starttime": moment(begun),
            "endtime": moment(done),
            "storetime": moment(block.stored(row, begun, rng.uniform(0, 15, len(row)))),
            "itemid": np.full(len(row), block.hospital.icu_items[item].id),
            "amount": np.round(amount, 3),
            "amountuom": pick([units[0]], np.zeros(len(row), np.int64)),
            "rate": np.round(rate, 4),
            "rateuom": pick([units[1]], np.zeros(len(row), np.int64)),
            "orderid": block.ids.take("order", len(row)),
            "linkorderid": order,
            "patientweight": _kilograms(block, row),
            "totalamount": np.full(len(row), 250.0),
            "isopenbag": np.zeros(len(row), np.int64),
            "continueinnextdept": np.zeros(len(row), np.int64),
            "originalamount": np.round(amount, 3),
            "originalrate": np.round(rate, 4),
        }
    ).with_columns(
        linkorderid=pl.when(pl.col("linkorderid") < 0).then("orderid").otherwise("linkorderid"),
        ordercategoryname=pl.lit(category),
        secondaryordercategoryname=pl.lit("02-Fluids (Crystalloids)"),
        ordercomponenttypedescription=pl.lit("Main order parameter"),
        ordercategorydescription=pl.lit("Continuous Med" if category == "01-Drips" else "Continuous IV"),
        totalamountuom=pl.lit("ml"),
        statusdescription=pl.lit("FinishedRunning"),
    )


def _fluids(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays = block.stays
    row, start = repeat_every(stays.icu_in + 0.5, stays.icu_out - 0.5, np.full(len(stays), 8.0), 8)
    end = np.minimum(start + rng.uniform(2, 7, len(row)), stays.icu_out[row])
    rate = np.rint(np.clip(90 + 35 * severity_at(stays, row, start) + rng.normal(0, 20, len(row)), 20, 500))
    units = ("ml", "mL/hour")
    alone = np.full(len(row), -1)
    return _running(
        block,
        "infusion",
        row,
        start,
        end,
        rate * (end - start),
        rate,
        units,
        alone,
        "02-Fluids (Crystalloids)",
        rng,
    )


def _pressors(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    """The rate is changed every three hours: its trend says whether treatment works."""
    stays = block.stays
    row, start = repeat_every(vasopressor_hours(block), stays.icu_out - 0.2, np.full(len(stays), 3.0), 16)
    needed = np.flatnonzero(severity_at(stays, row, start) > 0.6)
    row, start = row[needed], start[needed]
    end = np.minimum(start + 3, stays.icu_out[row])
    rate = 0.05 * np.exp(0.7 * severity_at(stays, row, start) + rng.normal(0, 0.15, len(row)))
    amount = rate * _kilograms(block, row) * (end - start) * 60 / 1000
    order = _one_per_stay(block, row)
    return _running(
        block, "vasopressor", row, start, end, amount, rate, ("mg", "mcg/kg/min"), order, "01-Drips", rng
    )


def _one_per_stay(block: Block, row: Ints) -> Ints:
    stays, position = np.unique(row, return_inverse=True)
    return block.ids.take("order", len(stays))[position]


def _sedation(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    start = ventilator_hours(block) + 0.3
    row = np.flatnonzero(~np.isnan(start))
    begun = start[row]
    end = np.minimum(begun + rng.uniform(4, 30, len(row)), block.stays.icu_out[row])
    rate = np.round(rng.uniform(10, 50, len(row)))
    amount = rate * _kilograms(block, row) * (end - begun) * 60 / 1000
    units = ("mg", "mcg/kg/min")
    return _running(
        block, "sedation", row, begun, end, amount, rate, units, np.full(len(row), -1), "01-Drips", rng
    )


def _ingredients(block: Block, running: pl.DataFrame) -> pl.DataFrame:
    """Fluids again, as their water: the same order, two ingredients each."""
    items = block.hospital.icu_items
    fluid = running.filter(pl.col("itemid") == items["infusion"].id)
    columns = [
        "subject_id", "hadm_id", "stay_id", "caregiver_id", "starttime", "endtime", "storetime", "itemid", "amount",
        "amountuom", "rate", "rateuom", "orderid", "linkorderid", "statusdescription", "originalamount", "originalrate",
    ]  # fmt: skip
    both = [fluid.with_columns(itemid=pl.lit(items[name].id, pl.Int64)) for name in ("ingredient", "water")]
    return pl.concat(both).select(columns).sort("subject_id", "starttime", "orderid", "itemid")


def _procedures(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays, count = block.stays, len(block.stays)
    until = stays.icu_out - 0.1
    ventilated = ventilator_hours(block)
    parts = [
        ("line", stays.icu_in + 0.3, until, "Peripheral Lines"),
        ("ventilation", ventilated, np.minimum(ventilated + rng.uniform(6, 90, count), until), "Ventilation"),
        (
            "imaging",
            np.where(rng.random(count) < 0.6, stays.icu_in + 0.6, np.nan),
            stays.icu_in + 0.65,
            "Imaging",
        ),
    ]
    frames = []
    for item, start, end, category in parts:
        row = np.flatnonzero(~np.isnan(start) & (end > start))
        begun, done = block.seconds(row, start[row]), block.seconds(row, end[row])
        order = block.ids.take("order", len(row))
        minutes = (done - begun) // 60
        frames.append(
            pl.DataFrame(
                {
                    **icu_key(block, row, rng),
                    "starttime": moment(begun),
                    "endtime": moment(done),
                    "storetime": moment(block.stored(row, done, rng.uniform(0, 60, len(row)))),
                    "itemid": np.full(len(row), block.hospital.icu_items[item].id),
                    "value": minutes,
                    "orderid": order,
                    "linkorderid": order,
                    "patientweight": _kilograms(block, row),
                    "isopenbag": np.ones(len(row), np.int64),
                    "continueinnextdept": np.zeros(len(row), np.int64),
                    "ORIGINALAMOUNT": minutes,
                    "ORIGINALRATE": np.ones(len(row), np.int64),
                }
            ).with_columns(
                valueuom=pl.lit("min"), ordercategoryname=pl.lit(category),
                ordercategorydescription=pl.lit("ContinuousProcess"), statusdescription=pl.lit("FinishedRunning"),
            )
        )  # fmt: skip
    return pl.concat(frames).sort("subject_id", "starttime", maintain_order=True)
