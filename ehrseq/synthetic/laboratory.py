"""hosp/labevents: panels drawn on a schedule, values that follow severity, reason and conditions."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, pick, repeat_every, some_provider
from ehrseq.synthetic.hospital import Floats, Hospital
from ehrseq.synthetic.stays import severity_at

type Ints = NDArray[np.int64]

_NOISE = 0.25  # of one measurement, in standard deviations of the test
# panel: chance at most stays; hours between draws on the first day, and later; how many later draws at most
_PANELS = {
    "chemistry": (1.0, 8.0, 24.0, 12),
    "blood count": (1.0, 12.0, 36.0, 8),
    "liver": (0.45, 24.0, 72.0, 3),
    "coagulation": (0.35, 24.0, 72.0, 3),
    "blood gas": (0.10, 6.0, 24.0, 3),
    "cardiac": (0.10, 8.0, 96.0, 1),
    "inflammation": (0.10, 24.0, 48.0, 3),
}


def laboratory(block: Block, rng: np.random.Generator) -> Tables:
    """All blood and urine tests of the block's admissions. Outpatient tests are in `outpatient.py`."""
    row, hour, panel = _draws(block, rng)
    draw, item = _tests(block.hospital, panel)
    values = lab_values(block, row[draw], hour[draw], item, rng)
    specimen = block.ids.take("specimen", len(row))
    charted = block.seconds(row, hour)
    stored = block.stored(row, charted, rng.uniform(20, 180, len(row)))
    provider = some_provider(len(row), rng)
    urgent = (hour < 24) & (rng.random(len(row)) < 0.6)
    numeric = lab_rows(block.hospital, item, values).with_columns(
        subject_id=block.subject_id[row[draw]],
        hadm_id=block.hadm_id[row[draw]],
        specimen_id=specimen[draw],
        order_provider_id=provider.gather(draw),
        charttime=moment(charted[draw]),
        storetime=moment(stored[draw]),
        priority=pick(["ROUTINE", "STAT"], urgent[draw].astype(np.int64)),
    )
    events = pl.concat([numeric, _urine(block, rng)], how="diagonal_relaxed").sort(
        "subject_id", "charttime", maintain_order=True
    )
    return {"hosp/labevents": events.with_columns(labevent_id=block.ids.take("labevent", len(events)))}


def _draws(block: Block, rng: np.random.Generator) -> tuple[Ints, Floats, Ints]:
    """(admission, hour, panel) of every blood draw. Depends on the reason and on intensive care, not on outcomes."""
    stays, groups = block.stays, list(block.hospital.groups.values())
    count = len(stays)
    start = np.where(np.isnan(stays.ed_hours), 0.7, -0.6 * np.nan_to_num(stays.ed_hours)) + rng.uniform(
        0, 0.8, count
    )
    icu = ~np.isnan(stays.icu_in)
    parts = []
    for number, (panel, (usual, early, late, most)) in enumerate(_PANELS.items()):
        chance = np.array([group.panels.get(panel, usual) for group in groups])[stays.group]
        chance = np.where(
            icu & (panel in ("blood gas", "coagulation", "liver")), np.maximum(chance, 0.75), chance
        )
        wanted = rng.random(count) < chance
        pace = early * np.where(icu & (early < 20), 0.75, 1.0) * rng.uniform(0.85, 1.15, count)
        first = repeat_every(np.where(wanted, start, np.nan), np.minimum(23.5, stays.hours - 0.2), pace)
        morning = 24 + rng.uniform(1, 7, count)
        then = repeat_every(np.where(wanted, morning, np.nan), stays.hours - 0.5, np.full(count, late), most)
        for row, hour in (first, then):
            parts.append((row, hour + rng.uniform(0, 0.15, len(row)), np.full(len(row), number)))
    row, hour, panel_number = (np.concatenate(column) for column in zip(*parts, strict=True))
    return row, hour, panel_number


def _tests(hospital: Hospital, panel: Ints) -> tuple[Ints, Ints]:
    """Each draw's tests -> (draw [N], index of the test [N])."""
    names = list(_PANELS)
    members = [[i for i, lab in enumerate(hospital.labs) if lab.panel == name] for name in names]
    size = np.array([len(items) for items in members])
    flat, offset = np.concatenate(members), np.cumsum(size) - size
    draw = np.repeat(np.arange(len(panel)), size[panel])
    rank = np.arange(len(draw)) - np.repeat(np.cumsum(size[panel]) - size[panel], size[panel])
    return draw, flat[offset[panel[draw]] + rank]


def lab_values(block: Block, row: Ints, hour: Floats, item: Ints, rng: np.random.Generator) -> Floats:
    """Measured values [N] of tests `item` at `hour` of admissions `row`, in the tests' first unit, rounded."""
    hospital, stays = block.hospital, block.stays
    by_group = hospital.lab_shifts([group.labs for group in hospital.groups.values()])
    usual = usual_scores(block) + by_group[stays.group]
    load = np.array([lab.load for lab in hospital.labs])[item]
    score = usual[row, item] + load * severity_at(stays, row, hour) + _NOISE * rng.normal(size=len(row))
    return scale(hospital, item, score)


def usual_scores(block: Block) -> Floats:
    """What the tests of an admission's patient show when nothing acute is wrong [S, L], in standard deviations."""
    by_condition = block.hospital.lab_shifts([entry.labs for entry in block.hospital.conditions.values()])
    return block.stays.conditions @ by_condition + block.patients.lab_offset[block.stays.subject]


def scale(hospital: Hospital, item: Ints, score: Floats) -> Floats:
    """Standard deviations -> values [N], rounded as the laboratory rounds."""
    labs = hospital.labs
    mean, sd = np.array([lab.mean for lab in labs])[item], np.array([lab.sd for lab in labs])[item]
    log = np.array([lab.log for lab in labs])[item]
    smallest = np.array([10.0**-lab.digits for lab in labs])[item]
    ten = 10.0 ** np.array([lab.digits for lab in labs])[item]
    value = np.where(log, mean * np.exp(np.where(log, sd, 0) * np.clip(score, -6, 6)), mean + sd * score)
    rounded: Floats = np.maximum(np.rint(value * ten) / ten, smallest)
    return rounded


def lab_rows(hospital: Hospital, item: Ints, value: Floats) -> pl.DataFrame:
    """The columns of labevents that follow from the test and its value."""
    labs = hospital.labs
    low, high = np.array([lab.low for lab in labs])[item], np.array([lab.high for lab in labs])[item]
    abnormal = (value < low) | (value > high)
    number = pl.Series(value)
    return pl.DataFrame(
        {
            "itemid": np.array([lab.id for lab in labs])[item],
            "value": number.cast(pl.String).str.strip_suffix(".0"),
            "valuenum": number,
            "valueuom": pick([lab.unit for lab in labs], item),
            "ref_range_lower": low,
            "ref_range_upper": high,
            "flag": pick(["abnormal"], np.where(abnormal, 0, -1)),
        }
    )


def _urine(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    """Tests answered in words, once in the first hours of some stays; infections give the last word."""
    tests, stays = block.hospital.text_labs, block.stays
    row = np.flatnonzero((rng.random(len(stays)) < 0.4) & (stays.hours > 6))
    hour = rng.uniform(0.5, 5, len(row))
    charted = block.seconds(row, hour)
    stored = block.stored(row, charted, rng.uniform(40, 200, len(row)))
    specimen = block.ids.take("specimen", len(row))
    draw, test = np.repeat(np.arange(len(row)), len(tests)), np.tile(np.arange(len(tests)), len(row))
    infected = block.hospital.of_groups("infection")[stays.group[row[draw]]] * 0.5
    word = np.where(rng.random(len(draw)) < infected, 3, rng.integers(0, 3, len(draw)))
    words = [answer for entry in tests for answer in entry.words]
    return pl.DataFrame(
        {
            **block.key(row[draw]),
            "specimen_id": specimen[draw],
            "itemid": np.array([entry.id for entry in tests])[test],
            "order_provider_id": some_provider(len(draw), rng),
            "charttime": moment(charted[draw]),
            "storetime": moment(stored[draw]),
            "value": pick(words, test * 4 + word),
            "flag": pick(["abnormal"], np.where(word == 3, 0, -1)),
            "priority": pick(["ROUTINE"], np.zeros(len(draw), np.int64)),
        }
    )
