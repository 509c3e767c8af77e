"""Who comes to the hospital: demographics, chronic conditions, and what stays the same about a patient."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.hospital import Floats, Hospital

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]

OLDEST = 91  # MIMIC-IV writes 91 for everybody above 89


@dataclass(frozen=True)
class Patients:
    """P patients, one entry per patient in every array.

    `age` [P] years in `anchor_year`; `real_year` [P] the (hidden) calendar year behind `anchor_year`;
    `conditions` [P, C] at the first admission; `frailty` [P] standard normal; `alone` [P] lives alone;
    `lab_offset` [P, L] and `vital_offset` [P, V] what is usual for this patient, in standard deviations.
    Words (`race`...) are indices into the hospital's lists.
    """

    subject_id: Ints
    female: Bools
    age: Ints
    anchor_year: Ints
    real_year: Ints
    conditions: Bools
    frailty: Floats
    alone: Bools
    lab_offset: Floats
    vital_offset: Floats
    height_in: Floats
    weight_lb: Floats
    race: Ints
    language: Ints
    marital: Ints
    insurance: Ints

    def __len__(self) -> int:
        return len(self.subject_id)

    def take(self, count: int) -> "Patients":
        """The first `count` patients."""
        return Patients(**{item.name: getattr(self, item.name)[:count] for item in fields(self)})


def make_patients(subject_id: Ints, hospital: Hospital, rng: np.random.Generator) -> Patients:
    """Draw the patients with these ids. Conditions share a hidden frailty, so they come together."""
    count = len(subject_id)
    age = np.clip(np.rint(rng.normal(63, 17, count)), 18, OLDEST).astype(np.int64)
    frailty = rng.normal(size=count)
    alone = rng.random(count) < 0.35
    female = rng.random(count) < 0.5
    return Patients(
        subject_id=subject_id,
        female=female,
        age=age,
        anchor_year=rng.integers(2112, 2196, count),
        real_year=rng.choice([2009, 2012, 2015, 2018], count, p=[0.1, 0.2, 0.3, 0.4]),
        conditions=_conditions(age, frailty, hospital, rng),
        frailty=frailty,
        alone=alone,
        lab_offset=0.3 * rng.normal(size=(count, len(hospital.labs))),
        vital_offset=0.35 * rng.normal(size=(count, len(hospital.vitals))),
        height_in=np.rint(rng.normal(69, 3, count) - 5 * female),
        weight_lb=np.rint(np.exp(rng.normal(5.15, 0.2, count))),
        race=choose(hospital.races, count, rng),
        language=choose(hospital.languages, count, rng),
        # single or widowed far more often if living alone: the record hints at it without saying so
        marital=np.where(
            alone, rng.choice([1, 2, 3], count, p=[0.6, 0.25, 0.15]), choose(hospital.marital, count, rng)
        ),
        insurance=np.where(
            (age >= 65) & (rng.random(count) < 0.85), 0, choose(hospital.insurance, count, rng)
        ).astype(np.int64),
    )


def choose(shares: dict[str, float], count: int, rng: np.random.Generator) -> Ints:
    """Draw `count` indices into a dictionary of shares that add up to 1."""
    return rng.choice(len(shares), count, p=np.array(list(shares.values())))


def _conditions(age: Ints, frailty: Floats, hospital: Hospital, rng: np.random.Generator) -> Bools:
    prevalence, per_decade = hospital.of_conditions("prevalence"), hospital.of_conditions("per_decade")
    logit = np.log(prevalence / (1 - prevalence)) + np.outer((age - 65) / 10, per_decade)
    logit = logit + 0.7 * frailty[:, None]
    return rng.random(logit.shape) < 1 / (1 + np.exp(-logit))
