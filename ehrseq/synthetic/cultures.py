"""hosp/microbiologyevents: cultures taken before antibiotics, answered one to three days later."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, keep, moment, pick, some_provider
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import DAY

type Ints = NDArray[np.int64]


def cultures(block: Block, rng: np.random.Generator) -> Tables:
    """One row per culture without growth; one per antibiotic tested where something grew."""
    stays, hospital = block.stays, block.hospital
    suspicion = np.maximum(hospital.of_groups("infection")[stays.group], 0.1)
    parts = []
    for number in range(len(hospital.specimens)):
        row = np.flatnonzero((rng.random(len(stays)) < suspicion) & (stays.hours > 8))
        parts.append((row, np.full(len(row), number)))
    row, kind = (np.concatenate(column) for column in zip(*parts, strict=True))
    hour = np.maximum(stays.treated_hour[row] - rng.uniform(0.2, 0.9, len(row)), 0.1)
    grows = rng.random(len(row)) < 0.4 * suspicion[row]
    charted = block.seconds(row, hour)
    culture = pl.DataFrame(
        {
            **block.key(row),
            "micro_specimen_id": block.ids.take("specimen", len(row)),
            "order_provider_id": some_provider(len(row), rng),
            "chartdate": moment(charted // DAY * DAY),
            "charttime": moment(charted),
            "spec_itemid": np.array([entry["spec"] for entry in hospital.specimens])[kind],
            "spec_type_desc": pick([entry["name"] for entry in hospital.specimens], kind),
            "test_seq": np.ones(len(row), np.int64),
            **_stored(block, row, charted, rng.uniform(20, 70, len(row)) * 60),
            "test_itemid": np.array([entry["test"] for entry in hospital.specimens])[kind],
            "test_name": pick([entry["test_name"] for entry in hospital.specimens], kind),
        }
    )
    tests = len(hospital.antibiotics)
    position = np.repeat(np.arange(len(row)), np.where(grows, tests, 1))
    events = culture[position].with_columns(**_growth(block, grows, position, rng))
    events = events.sort("subject_id", "charttime", maintain_order=True)
    return {
        "hosp/microbiologyevents": events.with_columns(
            microevent_id=block.ids.take("microevent", len(events))
        )
    }


def _stored(block: Block, row: Ints, charted: Ints, minutes: Floats) -> dict[str, pl.Series]:
    stored = block.stored(row, charted, minutes)
    return {"storedate": moment(stored // DAY * DAY), "storetime": moment(stored)}


def _growth(
    block: Block, grows: NDArray[np.bool_], position: Ints, rng: np.random.Generator
) -> dict[str, pl.Series]:
    """The organism of a culture that grew and its answer to each antibiotic; null and a comment otherwise."""
    hospital, grown = block.hospital, grows[position]
    organism = rng.integers(0, len(hospital.organisms), len(grows))[position]
    rank = np.arange(len(position)) - np.searchsorted(position, position)
    resistant = rng.random(len(position)) < 0.2
    steps = np.where(resistant, 3, rng.integers(0, 3, len(position)))
    return {
        "org_itemid": keep(pl.Series(np.array(list(hospital.organisms))[organism]), grown),
        "org_name": pick(list(hospital.organisms.values()), np.where(grown, organism, -1)),
        "isolate_num": keep(pl.Series(np.ones(len(position), np.int64)), grown),
        "ab_itemid": keep(pl.Series(np.array(list(hospital.antibiotics))[rank]), grown),
        "ab_name": pick(list(hospital.antibiotics.values()), np.where(grown, rank, -1)),
        "dilution_text": pick(["<=1", "<=2", "<=4", "=>16"], np.where(grown, steps, -1)),
        "dilution_comparison": pick(
            ["<=        ", "=>        "], np.where(grown, resistant.astype(np.int64), -1)
        ),
        "dilution_value": keep(pl.Series(np.array([1, 2, 4, 16])[steps]), grown),
        "interpretation": pick(["S", "R"], np.where(grown, resistant.astype(np.int64), -1)),
        "comments": pick(["NO GROWTH."], np.where(grown, -1, 0)),
    }
