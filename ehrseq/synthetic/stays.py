"""What an admission is: the arrays that describe it, and how ill the patient is at any hour of it."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.hospital import Floats

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]

HOUR, DAY = 3600, 86400
ADMISSION_TYPES = (
    "EW EMER.", "DIRECT EMER.", "URGENT", "OBSERVATION ADMIT", "EU OBSERVATION", "ELECTIVE",
    "SURGICAL SAME DAY ADMISSION",
)  # fmt: skip
PLANNED_TYPES = (5, 6)
RISES = 0.04  # severity gained per hour until treatment starts


@dataclass(frozen=True)
class Stays:
    """S admissions, one entry per admission in every array, ordered by (subject, time) once `join` has run.

    `subject` [S] index of the patient; `admit`, `end` [S] seconds since 1970; `hours` [S] length of stay;
    `onset`, `trend`, `treated_hour` shape severity over the first day (`severity_at`), `day_one` is its level
    after 24 h, `final` at the end. `observed` [S]: still there after 24 h. Risks are NaN where not defined.
    `icu_in`, `icu_out` [S] hours after admission, NaN without intensive care.
    """

    subject: Ints
    rank: Ints
    admit: Ints
    end: Ints
    hours: Floats
    kind: Ints
    group: Ints
    conditions: Bools
    age: Ints
    prior: Ints
    ed_hours: Floats
    onset: Floats
    trend: Floats
    treated_hour: Floats
    responds: Bools
    day_one: Floats
    final: Floats
    observed: Bools
    died: Bools
    long: Bools
    icu_in: Floats
    icu_out: Floats
    risk_mortality: Floats
    risk_long: Floats
    risk_readmission: Floats
    readmitted: Bools
    died_later_day: Ints  # days after discharge, -1: not known to have died

    def __len__(self) -> int:
        return len(self.subject)

    def take(self, rows: NDArray[np.generic]) -> "Stays":
        """The admissions at these positions (or where a mask is true)."""
        return Stays(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})

    @property
    def planned(self) -> Bools:
        """Whether the admission was planned (ELECTIVE or SURGICAL SAME DAY ADMISSION)."""
        return np.isin(self.kind, PLANNED_TYPES)


def severity_at(stays: Stays, row: Ints, hour: Floats) -> Floats:
    """Severity of admission `row` [N], `hour` [N] hours after admission -> [N].

    It creeps up until treatment starts, then moves by `trend` until 24 h, and from there to its final level.
    """
    start, treated = stays.onset[row], stays.treated_hour[row]
    first_day = start + RISES * np.clip(hour, 0, treated)
    first_day += stays.trend[row] * np.clip((hour - treated) / (24 - treated), 0, 1)
    after = np.clip((hour - 24) / np.maximum(stays.hours[row] - 24, 1), 0, 1)
    return first_day + np.where(hour > 24, after * (stays.final[row] - stays.day_one[row]), 0)


def join(rounds: list[Stays]) -> Stays:
    """Stack rounds of admissions and order them by subject, then time."""
    joined = {
        item.name: np.concatenate([getattr(part, item.name) for part in rounds]) for item in fields(Stays)
    }
    return Stays(**joined).take(np.lexsort((joined["rank"], joined["subject"])))
