"""A patient's admissions over the years: who comes back, when, why planned, and who dies at home.

All admissions of a rank (everybody's first, then everybody's second...) are drawn together.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.admission import draw_round
from ehrseq.synthetic.hospital import Floats, Hospital
from ehrseq.synthetic.patients import Patients
from ehrseq.synthetic.risk import readmission_risk, sigmoid
from ehrseq.synthetic.stays import DAY, Stays, join

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]

_HORIZON_DAYS = 8 * 365  # nobody is followed for longer, save for a readmission that the risk decided
_WITHIN_DAYS = 30.0


@dataclass(frozen=True)
class _Return:
    """What follows an admission [S]: whether anything does, after how many days, and whether it is planned."""

    follows: Bools
    gap_days: Floats
    planned: Bools


def make_stays(patients: Patients, hospital: Hospital, rng: np.random.Generator) -> Stays:
    """Draw all admissions of these patients, ordered by (subject, time)."""
    count = len(patients)
    who = np.arange(count)
    admit = _new_year(patients) + rng.integers(0, 364 * 24 * 60, count) * 60
    first = admit.copy()
    planned = rng.random(count) < 0.22
    conditions = patients.conditions.copy()
    last_group = np.full(count, -1)
    since_days = np.full(count, np.inf)  # between the discharge before and this admission
    ends: list[Ints] = []
    rounds: list[Stays] = []
    while len(who):
        stays = draw_round(
            patients, hospital, rng, who=who, rank=len(rounds), admit=admit[who], planned=planned[who],
            conditions=conditions[who], prior=_prior(admit[who], [end[who] for end in ends]),
            last_group=last_group[who],
        )  # fmt: skip
        stays = _throw_readmission(stays, patients, hospital, rng)
        after = _what_follows(stays, hospital, rng, since_days[who])
        admit[who] = stays.end + np.rint(after.gap_days * 24 * 60).astype(np.int64) * 60
        follows = after.follows & (stays.readmitted | (admit[who] - first[who] < _HORIZON_DAYS * DAY))
        rounds.append(_die_later(stays, follows, hospital, rng))
        ends.append(np.zeros(count, np.int64))
        ends[-1][who] = stays.end
        last_group[who], planned[who], since_days[who] = stays.group, after.planned, after.gap_days
        conditions[who] = _acquire(stays, hospital, rng)
        who = who[follows]
    return join(rounds)


def _new_year(patients: Patients) -> Ints:
    return (patients.anchor_year - 1970).astype("datetime64[Y]").astype("datetime64[s]").astype(np.int64)


def _prior(admit: Ints, ends: list[Ints]) -> Ints:
    """How many earlier admissions ended in the year before."""
    counts = [(admit - end < 365 * DAY).astype(np.int64) for end in ends]
    return np.sum(counts, axis=0) if counts else np.zeros(len(admit), np.int64)


def _throw_readmission(
    stays: Stays, patients: Patients, hospital: Hospital, rng: np.random.Generator
) -> Stays:
    risk = readmission_risk(
        hospital, group=stays.group, conditions=stays.conditions, prior=stays.prior, unresolved=stays.final,
        alone=patients.alone[stays.subject], long=stays.long,
    )  # fmt: skip
    return replace(
        stays,
        risk_readmission=np.where(stays.died, np.nan, risk),
        readmitted=~stays.died & (rng.random(len(stays)) < risk),
    )


def _what_follows(stays: Stays, hospital: Hospital, rng: np.random.Generator, since_days: Floats) -> _Return:
    """Place the next admission so that it is an unplanned one within 30 days if, and only if, the coin said so."""
    count = len(stays)
    burden = stays.conditions @ hospital.of_conditions("readmission")
    later = ~stays.died & (rng.random(count) < sigmoid(-0.9 + 0.6 * burden))
    planned = ~stays.readmitted & (rng.random(count) < 0.3)
    soon = planned & (rng.random(count) < 0.25)
    # after a planned return within 30 days, an unplanned one must not fall into the 30 days of the stay before it
    floor = np.where(stays.planned, _WITHIN_DAYS + 0.1 - since_days - stays.hours / 24, 0.5)
    floor = np.maximum(floor, 0.5)
    gap = np.where(soon, rng.uniform(20, 29, count), _WITHIN_DAYS + 1 + rng.exponential(330, count))
    quick = floor + (_WITHIN_DAYS - 0.2 - floor) * rng.beta(1.0, 1.7, count)
    return _Return(later | stays.readmitted, np.where(stays.readmitted, quick, gap), planned)


def _acquire(stays: Stays, hospital: Hospital, rng: np.random.Generator) -> Bools:
    """Conditions at the next admission: those of now, and what this one may have left behind."""
    linked = (hospital.affinity().T[stays.group] >= 1.3) & ~stays.planned[:, None]
    return stays.conditions | (rng.random(linked.shape) < 0.01 + 0.3 * linked)


def _die_later(stays: Stays, follows: Bools, hospital: Hospital, rng: np.random.Generator) -> Stays:
    """Deaths outside the hospital within a year of the last discharge, as MIMIC-IV knows them."""
    count = len(stays)
    burden = stays.conditions @ hospital.of_conditions("mortality")
    dies = (
        ~stays.died & ~follows & (rng.random(count) < sigmoid(-2.8 + 0.8 * burden + 0.04 * (stays.age - 65)))
    )
    days = np.minimum(3 + rng.exponential(120, count), 360).astype(np.int64)
    return replace(stays, died_later_day=np.where(dies, days, -1))
