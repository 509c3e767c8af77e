"""One admission each for many patients: reason, illness, response to treatment, outcome, length.

What happens later is drawn from what is known earlier; outcomes are drawn from the risks (`risk.py`) alone, so
that nothing in the record before the prediction knows more than the risk does.
"""

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.hospital import Floats, Hospital
from ehrseq.synthetic.patients import Patients
from ehrseq.synthetic.risk import long_stay_risk, mortality_risk, sigmoid
from ehrseq.synthetic.stays import DAY, HOUR, RISES, Stays

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]


def draw_round(
    patients: Patients,
    hospital: Hospital,
    rng: np.random.Generator,
    *,
    who: Ints,
    rank: int,
    admit: Ints,
    planned: Bools,
    conditions: Bools,
    prior: Ints,
    last_group: Ints,
) -> Stays:
    """One admission for each patient in `who`: reason, illness, outcomes after 24 h, and length."""
    count = len(who)
    group = _reason(hospital, rng, planned, conditions, last_group)
    year = admit.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    age = np.minimum(patients.age[who] + year - patients.anchor_year[who], 91)
    burden = conditions @ hospital.of_conditions("mortality")
    onset = hospital.of_groups("severity")[group] + 0.25 * (burden - 0.6) + rng.normal(0, 0.75, count)
    responds = rng.random(count) < 0.68
    trend = np.where(responds, rng.normal(-0.45, 0.35, count), rng.normal(0.65, 0.45, count))
    treated_hour = rng.uniform(1, 6, count)
    day_one = onset + RISES * treated_hour + trend
    kind = _kind(hospital, rng, group, planned)
    icu = rng.random(count) < sigmoid(-1.35 + 0.7 * hospital.of_groups("icu")[group] + 1.0 * onset)
    icu_in = np.where(icu, rng.uniform(0.6, 3, count), np.nan)

    died_early = rng.random(count) < sigmoid(-7.0 + 1.5 * onset)
    left_early = ~died_early & (
        rng.random(count) < sigmoid(np.where(np.isin(kind, (3, 4)), 0.3, -3.8) - onset)
    )
    observed = ~died_early & ~left_early
    common = {
        "group": group,
        "conditions": conditions,
        "age": age.astype(float),
        "severity": day_one,
        "trend": trend,
    }
    risk_mortality = mortality_risk(hospital, **common)
    risk_long = long_stay_risk(hospital, **common, alone=patients.alone[who], icu=icu)
    died = np.where(observed, rng.random(count) < risk_mortality, died_early)
    long = observed & (rng.random(count) < risk_long)
    hours = _length(rng, admit, observed, died, long, day_one)
    final = np.where(
        died,
        np.maximum(day_one, 1.2) + rng.uniform(0.6, 1.6, count),
        0.3 * day_one + rng.normal(-0.6, 0.6, count),
    )
    end = admit + np.rint(hours * 60).astype(np.int64) * 60
    missing = np.full(count, np.nan)
    return Stays(
        subject=who,
        rank=np.full(count, rank),
        admit=admit,
        end=end,
        hours=(end - admit) / HOUR,
        kind=kind,
        group=group,
        conditions=conditions,
        age=age,
        prior=prior,
        ed_hours=np.where(np.isin(kind, (0, 3, 4)), np.round(rng.uniform(2, 8, count), 2), np.nan),
        onset=onset,
        trend=trend,
        treated_hour=treated_hour,
        responds=responds,
        day_one=day_one,
        final=np.where(observed, final, day_one),
        observed=observed,
        died=died,
        long=long,
        icu_in=icu_in,
        icu_out=np.minimum(
            icu_in + 10 + rng.exponential(40, count) * np.exp(0.4 * day_one), (end - admit) / HOUR
        ),
        risk_mortality=np.where(observed, risk_mortality, np.nan),
        risk_long=np.where(observed, risk_long, np.nan),
        risk_readmission=missing,
        readmitted=np.zeros(count, bool),
        died_later_day=np.full(count, -1),
    )


def _reason(
    hospital: Hospital, rng: np.random.Generator, planned: Bools, conditions: Bools, last_group: Ints
) -> Ints:
    """Draw the group: planned or not, by conditions, and rather what it was last time."""
    weights = np.where(planned[:, None], hospital.of_groups("planned"), hospital.of_groups("unplanned"))
    weights = weights * np.exp(conditions @ hospital.affinity())
    again = np.flatnonzero(last_group >= 0)
    weights[again, last_group[again]] *= 2.5
    chances = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    drawn: Ints = np.minimum((rng.random(len(planned))[:, None] > chances).sum(axis=1), chances.shape[1] - 1)
    return drawn


def _kind(hospital: Hospital, rng: np.random.Generator, group: Ints, planned: Bools) -> Ints:
    """Index into ADMISSION_TYPES."""
    count = len(group)
    emergency = rng.choice([0, 1, 2, 3], count, p=[0.66, 0.06, 0.16, 0.12])
    observation = rng.random(count) < hospital.of_groups("observation")[group]
    surgical = np.array([entry.procedure is not None for entry in hospital.groups.values()])[group]
    return np.where(
        planned, np.where(surgical & (rng.random(count) < 0.7), 6, 5), np.where(observation, 4, emergency)
    )


def _length(
    rng: np.random.Generator, admit: Ints, observed: Bools, died: Bools, long: Bools, severity: Floats
) -> Floats:
    """Hours in hospital: on the right side of 24 h and of 7 days; discharges move to the afternoon if that fits."""
    count = len(admit)
    early = rng.uniform(4, 23, count)
    short = 24.5 + (167 - 24.5) * rng.beta(1.3, 1.9, count)
    extended = 168.5 + np.minimum(
        rng.exponential(100, count) * np.exp(0.15 * np.clip(severity, -1, 3)), 40 * 24
    )
    hours = np.where(long, extended, np.where(observed, short, early))
    midnight = admit % DAY / HOUR
    afternoon = np.floor((hours + midnight) / 24) * 24 + rng.uniform(11, 18, count) - midnight
    same = (afternoon > 24.2) & ((afternoon >= 168) == long) & observed & ~died
    return np.where(same, afternoon, hours)
