"""The three true risks. An outcome is a coin thrown with exactly this probability, and nothing else decides it."""

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.hospital import Floats, Hospital

MORTALITY, READMISSION, LONG_STAY = "in_hospital_mortality_24h", "readmission_30d", "long_stay_7d"
TASKS = (MORTALITY, READMISSION, LONG_STAY)

type Bools = NDArray[np.bool_]
type Ints = NDArray[np.int64]


def sigmoid(logit: Floats) -> Floats:
    """Probability of log-odds."""
    return 1 / (1 + np.exp(-logit))


def mortality_risk(
    hospital: Hospital, *, group: Ints, conditions: Bools, age: Floats, severity: Floats, trend: Floats
) -> Floats:
    """P(dies in hospital | alive and in hospital after 24 h) [S].

    `severity`: level after 24 h; `trend`: how treatment is working (positive: getting worse).
    """
    weight = hospital.risk["mortality"]
    return sigmoid(
        weight["intercept"]
        + hospital.of_groups("mortality")[group]
        + weight["conditions"] * (conditions @ hospital.of_conditions("mortality"))
        + weight["age"] * (age - 65) / 12
        + weight["severity"] * severity
        + weight["trend"] * trend
    )


def long_stay_risk(
    hospital: Hospital,
    *,
    group: Ints,
    conditions: Bools,
    age: Floats,
    severity: Floats,
    trend: Floats,
    alone: Bools,
    icu: Bools,
) -> Floats:
    """P(stays 7 days or more | in hospital after 24 h) [S]. `icu`: went straight to intensive care."""
    weight = hospital.risk["long_stay"]
    return sigmoid(
        weight["intercept"]
        + weight["groups"] * hospital.of_groups("long_stay")[group]
        + weight["conditions"] * (conditions @ hospital.of_conditions("long_stay"))
        + weight["age"] * (age - 65) / 12
        + weight["severity"] * severity
        + weight["trend"] * trend
        + weight["alone"] * alone
        + weight["icu"] * icu
    )


def readmission_risk(
    hospital: Hospital,
    *,
    group: Ints,
    conditions: Bools,
    prior: Ints,
    unresolved: Floats,
    alone: Bools,
    long: Bools,
) -> Floats:
    """P(unplanned readmission within 30 days | discharged alive) [S].

    `prior`: admissions in the year before; `unresolved`: severity at discharge; `long`: stayed 7 days or more.
    """
    weight = hospital.risk["readmission"]
    return sigmoid(
        weight["intercept"]
        + weight["groups"] * hospital.of_groups("readmission")[group]
        + weight["conditions"] * (conditions @ hospital.of_conditions("readmission"))
        + weight["prior"] * np.minimum(prior, 4)
        + weight["unresolved"] * unresolved
        + weight["alone"] * alone
        + weight["long"] * long
    )
