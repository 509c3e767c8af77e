"""hosp/prescriptions, pharmacy, emar and emar_detail: what was ordered, dispensed and given."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, pick, repeat_every, some_provider
from ehrseq.synthetic.orders import Numbered
from ehrseq.synthetic.treatment import Courses

type Ints = NDArray[np.int64]

_FREQUENCY = {1: "DAILY", 2: "BID", 3: "Q8H", 4: "Q6H"}
_EVENTS = ["Administered", "Not Given", "Hold Dose"]


def medication(block: Block, courses: Courses, numbered: Numbered, rng: np.random.Generator) -> Tables:
    """The four drug tables of the block. `numbered`: the order of each course."""
    drugs = list(block.hospital.drugs.values())
    pharmacy_id = block.ids.take("pharmacy", len(courses))
    shared = pl.DataFrame(
        {
            **block.key(courses.row),
            "pharmacy_id": pharmacy_id,
            "poe_id": numbered.poe_id,
            "starttime": moment(block.seconds(courses.row, courses.start) // 3600 * 3600),
            "stoptime": moment(block.seconds(courses.row, courses.stop)),
            "route": pick([drug.route for drug in drugs], courses.drug),
            "doses_per_24_hrs": np.array([drug.per_day for drug in drugs])[courses.drug],
        }
    )
    emar, detail = _administrations(block, courses, pharmacy_id, numbered.poe_id, rng)
    return {
        "hosp/prescriptions": _prescriptions(block, courses, shared, numbered),
        "hosp/pharmacy": _pharmacy(block, courses, shared, rng),
        "hosp/emar": emar,
        "hosp/emar_detail": detail,
    }


def _amount(block: Block, drug: Ints) -> pl.Series:
    doses = pl.Series([drug.dose for drug in block.hospital.drugs.values()], dtype=pl.Float64)
    return doses.cast(pl.String).str.strip_suffix(".0").gather(drug)


def _prescriptions(block: Block, courses: Courses, shared: pl.DataFrame, numbered: Numbered) -> pl.DataFrame:
    names, drugs = list(block.hospital.drugs), list(block.hospital.drugs.values())
    dose = _amount(block, courses.drug)
    return shared.with_columns(
        poe_seq=numbered.poe_seq,
        order_provider_id=numbered.provider,
        drug_type=pl.lit("MAIN"),
        drug=pick(names, courses.drug),
        formulary_drug_cd=pick([drug.code for drug in drugs], courses.drug),
        gsn=pick([f"{n * 137 % 100_000:06d}" for n in range(1, len(drugs) + 1)], courses.drug),
        ndc=pick([f"{n * 7_919_317 % 10**9:011d}" for n in range(1, len(drugs) + 1)], courses.drug),
        prod_strength=pick([drug.strength for drug in drugs], courses.drug),
        dose_val_rx=dose,
        dose_unit_rx=pick([drug.unit for drug in drugs], courses.drug),
        form_val_disp=pl.lit("1"),
        form_unit_disp=pick([drug.strength.split()[-1].upper()[:4] for drug in drugs], courses.drug),
    )


def _pharmacy(block: Block, courses: Courses, shared: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    entered = block.seconds(courses.row, np.maximum(courses.start - 0.2, 0.05))
    given = np.array([drug.route == "IV" for drug in block.hospital.drugs.values()])[courses.drug]
    often = np.array([drug.per_day for drug in block.hospital.drugs.values()])[courses.drug]
    return shared.with_columns(
        medication=pick(list(block.hospital.drugs), courses.drug),
        proc_type=pick(["Unit Dose", "IV Piggyback"], given.astype(np.int64)),
        status=pick(["Expired", "Discontinued"], courses.stopped.astype(np.int64)),
        entertime=moment(entered),
        verifiedtime=moment(entered + rng.integers(0, 12, len(courses)) * 60),
        frequency=pick([_FREQUENCY.get(n) for n in range(5)], often),
        duration=np.ones(len(courses), np.int64),
        duration_interval=pl.lit("Ongoing"),
        expiration_value=np.full(len(courses), 36),
        expiration_unit=pl.lit("Hours"),
        dispensation=pl.lit("Omnicell"),
    )


def _administrations(
    block: Block, courses: Courses, pharmacy_id: Ints, poe_id: pl.Series, rng: np.random.Generator
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Every dose of the first day; later one a day of the treatment and one every second day of the rest."""
    drugs = list(block.hospital.drugs.values())
    pace = 24.0 / np.array([drug.per_day for drug in drugs])[courses.drug]
    first = repeat_every(courses.start, np.minimum(courses.stop, 26.0), np.maximum(pace, 5.9))
    later = np.where(courses.main, 24.0, 60.0)
    then = repeat_every(np.maximum(courses.start, 26.0) + 6, courses.stop - 0.3, later, 8)
    course = np.r_[first[0], then[0]]
    row, due = courses.row[course], np.r_[first[1], then[1]]
    given = np.minimum(due + rng.gamma(1.5, 0.2, len(due)), courses.stop[course] - 0.05)
    event = rng.choice(3, len(course), p=[0.92, 0.06, 0.02])
    charted = block.seconds(row, np.maximum(given, due - 0.2))
    dose = _amount(block, courses.drug[course])
    emar = (
        pl.DataFrame(
            {
                **block.key(row),
                "poe_id": poe_id.gather(course),
                "pharmacy_id": pharmacy_id[course],
                "enter_provider_id": some_provider(len(course), rng),
                "charttime": moment(charted),
                "medication": pick(list(block.hospital.drugs), courses.drug[course]),
                "event_txt": pick(_EVENTS, event),
                "scheduletime": moment(block.seconds(row, due)),
                "storetime": moment(block.stored(row, charted, rng.uniform(0, 20, len(course)))),
                "dose_due": dose,
                "dose_due_unit": pick([drug.unit for drug in drugs], courses.drug[course]),
                "product_code": pick([drug.code for drug in drugs], courses.drug[course]),
                "product_description": pick([drug.strength for drug in drugs], courses.drug[course]),
                "route": pick([drug.route for drug in drugs], courses.drug[course]),
            }
        )
        .sort("subject_id", "charttime", maintain_order=True)
        .with_columns(emar_seq=pl.int_range(1, pl.len() + 1).over("subject_id"))
        .with_columns(emar_id=pl.format("{}-{}", "subject_id", "emar_seq"))
    )
    extra = ["dose_due", "dose_due_unit", "product_code", "product_description", "route"]
    taken = pl.col("event_txt") == "Administered"
    detail = emar.select(
        "subject_id", "emar_id", "emar_seq", "pharmacy_id", *extra,
        parent_field_ordinal=pl.lit("1.1"),
        dose_given=pl.when(taken).then("dose_due"),
        dose_given_unit=pl.when(taken).then("dose_due_unit"),
    )  # fmt: skip
    return emar.drop(extra), detail
