"""Where patients were: patients, admissions, transfers, services and icustays."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, keep, moment, pick, some_provider
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import ADMISSION_TYPES, DAY, HOUR

type Ints = NDArray[np.int64]

_YEAR_GROUPS = {2009: "2008 - 2010", 2012: "2011 - 2013", 2015: "2014 - 2016", 2018: "2017 - 2019"}
_PLACES = [
    "EMERGENCY ROOM",
    "PHYSICIAN REFERRAL",
    "TRANSFER FROM HOSPITAL",
    "CLINIC REFERRAL",
    "WALK-IN/SELF REFERRAL",
]
_DISCHARGES = ["HOME", "HOME HEALTH CARE", "SKILLED NURSING FACILITY", "REHAB", "DIED"]


def movements(block: Block, rng: np.random.Generator) -> Tables:
    """The five tables that say who was where and when."""
    return {
        "hosp/patients": _patients(block),
        "hosp/admissions": _admissions(block, rng),
        "hosp/services": _services(block, rng),
        "hosp/transfers": _transfers(block, rng),
        "icu/icustays": _icustays(block),
    }


def _patients(block: Block) -> pl.DataFrame:
    patients, stays = block.patients, block.stays
    day = np.full(len(patients), -1)
    here = stays.died
    day[stays.subject[here]] = stays.end[here] // DAY
    later = stays.died_later_day >= 0
    day[stays.subject[later]] = stays.end[later] // DAY + stays.died_later_day[later]
    return pl.DataFrame(
        {
            "subject_id": patients.subject_id,
            "gender": pick(["M", "F"], patients.female.astype(np.int64)),
            "anchor_age": patients.age,
            "anchor_year": patients.anchor_year,
            "anchor_year_group": [_YEAR_GROUPS[year] for year in patients.real_year.tolist()],
            "dod": keep(pl.Series(day.astype(np.int32)).cast(pl.Date), day >= 0),
        }
    )


def _admissions(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    hospital, patients, stays = block.hospital, block.patients, block.stays
    who, count = stays.subject, len(stays)
    emergency = ~np.isnan(stays.ed_hours)
    place = np.where(
        emergency, 0, np.where(stays.planned, 1, rng.choice([1, 2, 3, 4], count, p=[0.3, 0.5, 0.1, 0.1]))
    )
    registered = stays.admit - np.rint(np.nan_to_num(stays.ed_hours) * 60).astype(np.int64) * 60
    return pl.DataFrame(
        {
            **block.key(np.arange(count)),
            "admittime": moment(stays.admit),
            "dischtime": moment(stays.end),
            "deathtime": moment(stays.end, stays.died),
            "admission_type": pick(list(ADMISSION_TYPES), stays.kind),
            "admit_provider_id": some_provider(count, rng),
            "admission_location": pick(_PLACES, place),
            "discharge_location": pick(_DISCHARGES, _destination(block, rng)),
            "insurance": pick(list(hospital.insurance), patients.insurance[who]),
            "language": pick(list(hospital.languages), patients.language[who]),
            "marital_status": pick(list(hospital.marital), patients.marital[who]),
            "race": pick(list(hospital.races), patients.race[who]),
            "edregtime": moment(registered, emergency),
            "edouttime": moment(block.seconds(np.arange(count), ward_hour(block)), emergency),
            "hospital_expire_flag": stays.died.astype(np.int64),
        }
    )


def _destination(block: Block, rng: np.random.Generator) -> Ints:
    """Index into _DISCHARGES: the older, the iller and the lonelier go home less."""
    stays = block.stays
    need = (
        0.5 * stays.final
        + 0.03 * (stays.age - 65)
        + 0.6 * block.patients.alone[stays.subject]
        + 0.6 * stays.long
    )
    need = need + rng.logistic(0, 0.7, len(stays))
    return np.where(stays.died, 4, np.digitize(need, [0.3, 1.4, 2.4]))


def ward_hour(block: Block) -> Floats:
    """Hours after admission at which the patient reaches a bed [S]: half an hour from the emergency room."""
    return np.where(np.isnan(block.stays.ed_hours), 0.0, 0.5)


def _services(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    services = list(block.hospital.services)
    own = np.array([services.index(group.service) for group in block.hospital.groups.values()])[
        block.stays.group
    ]
    count = len(block.stays)
    row = np.arange(count)
    moved = np.flatnonzero((rng.random(count) < 0.05) & (block.stays.hours > 30))
    first = own.copy()
    first[moved] = services.index("MED")
    moved = moved[own[moved] != first[moved]]
    return pl.DataFrame(
        {
            **block.key(np.r_[row, moved]),
            "transfertime": moment(
                np.r_[
                    block.seconds(row, np.full(count, 1 / 60)),
                    block.seconds(moved, np.full(len(moved), 26.0)),
                ]
            ),
            "prev_service": pick(services, np.r_[np.full(count, -1), first[moved]]),
            "curr_service": pick(services, np.r_[first, own[moved]]),
        }
    ).sort("subject_id", "transfertime", maintain_order=True)


def _transfers(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    """Emergency room, ward, intensive care, ward, discharge: the parts a stay has, without gaps."""
    stays, count = block.stays, len(block.stays)
    bed, end, icu = ward_hour(block), stays.hours, ~np.isnan(stays.icu_in)
    wards = [block.hospital.services[group.service] for group in block.hospital.groups.values()]
    units = [block.hospital.intensive_units[group.service] for group in block.hospital.groups.values()]
    names = [*wards, *units, "Emergency Department"]
    ward, unit = stays.group, stays.group + len(wards)
    first_out = np.where(icu, stays.icu_in, end)
    parts = [  # event type, unit, from, to, present
        (0, np.full(count, len(names) - 1), -np.nan_to_num(stays.ed_hours), bed, ~np.isnan(stays.ed_hours)),
        (1, ward, bed, first_out, np.ones(count, bool)),
        (2, unit, stays.icu_in, stays.icu_out, icu),
        (2, ward, stays.icu_out, end, icu & (stays.icu_out < end - 0.02)),
        (3, np.full(count, -1), end, end, np.ones(count, bool)),
    ]
    row = np.concatenate([np.flatnonzero(part[4]) for part in parts])
    place = np.concatenate([part[1][part[4]] for part in parts])
    into = np.concatenate([part[2][part[4]] for part in parts])
    out = np.concatenate([part[3][part[4]] for part in parts])
    kind = np.concatenate([np.full(part[4].sum(), part[0]) for part in parts])
    return pl.DataFrame(
        {
            **block.key(row),
            "transfer_id": block.ids.take("stay", len(row)),
            "eventtype": pick(["ED", "admit", "transfer", "discharge"], kind),
            "careunit": pick(names, place),
            "intime": moment(block.seconds(row, into)),
            "outtime": moment(block.seconds(row, out), kind != 3),
        }
    ).sort("subject_id", "intime", maintain_order=True)


def _icustays(block: Block) -> pl.DataFrame:
    stays = block.stays
    row = np.flatnonzero(~np.isnan(stays.icu_in))
    units = [block.hospital.intensive_units[group.service] for group in block.hospital.groups.values()]
    unit = pick(units, stays.group[row])
    into, out = block.seconds(row, stays.icu_in[row]), block.seconds(row, stays.icu_out[row])
    return pl.DataFrame(
        {
            **block.key(row),
            "stay_id": block.stay_id[row],
            "first_careunit": unit,
            "last_careunit": unit,
            "intime": moment(into),
            "outtime": moment(out),
            "los": np.round((out - into) / HOUR / 24, 6),
        }
    )
