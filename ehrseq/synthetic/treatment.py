"""Which drugs an admission gets, from when until when: home drugs, treatment, comfort, and what failure calls for."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import severity_at

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Courses:
    """N courses: admission `row`, index of the `drug`, `start` and `stop` in hours, [N] each.

    `main` marks treatment of the reason for admission; `stopped` means ended by a doctor before discharge.
    """

    row: Ints
    drug: Ints
    start: Floats
    stop: Floats
    main: Bools
    stopped: Bools

    def __len__(self) -> int:
        return len(self.row)

    def take(self, rows: NDArray[np.generic]) -> "Courses":
        """The courses at these positions (or where a mask is true)."""
        return Courses(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


def vasopressor_hours(block: Block) -> Floats:
    """Hour at which blood pressure needs norepinephrine [S]; NaN where it does not."""
    stays = block.stays
    start = stays.icu_in + 1.5
    severity = severity_at(stays, np.arange(len(stays)), np.nan_to_num(start))
    return np.where((severity > 1.3) & (start < stays.icu_out), start, np.nan)


def ventilator_hours(block: Block) -> Floats:
    """Hour at which the lungs need a ventilator [S]; NaN where they do not."""
    stays = block.stays
    start = stays.icu_in + 1.0
    severity = severity_at(stays, np.arange(len(stays)), np.nan_to_num(start))
    lungs = np.array([group.icu > 2 or "pO2" in group.labs for group in block.hospital.groups.values()])[
        stays.group
    ]
    return np.where((severity + 0.5 * lungs > 1.5) & (start + 2 < stays.icu_out), start, np.nan)


def draw_courses(block: Block, rng: np.random.Generator) -> Courses:
    """All drug courses of the block, ordered by admission, then start."""
    parts = [*_home(block, rng), *_therapy(block, rng), *_supportive(block, rng), _pressure(block)]
    joined = Courses(
        *(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Courses))
    )
    in_time = joined.take(joined.start < block.stays.hours[joined.row] - 0.5)
    return in_time.take(np.lexsort((in_time.start, in_time.row)))


def _course(
    block: Block, row: Ints, drug: str, start: Floats, stop: Floats | None = None, *, main: bool
) -> Courses:
    end = block.stays.hours[row]
    until = end if stop is None else np.minimum(stop, end)
    index = np.full(len(row), block.hospital.drug_index(drug))
    return Courses(row, index, start, until, np.full(len(row), main), until < end)


def _home(block: Block, rng: np.random.Generator) -> list[Courses]:
    """Drugs taken at home, mostly continued: they tell of chronic conditions before any diagnosis is billed."""
    courses = []
    for number, condition in enumerate(block.hospital.conditions.values()):
        for drug in condition.home:
            row = np.flatnonzero(block.stays.conditions[:, number])
            row = row[rng.random(len(row)) < 0.75]
            courses.append(_course(block, row, drug, rng.uniform(1.5, 8, len(row)), main=False))
    return courses


def _therapy(block: Block, rng: np.random.Generator) -> list[Courses]:
    """Treatment of the reason, from the hour it begins to work on severity; infections that resist change drugs."""
    stays, courses = block.stays, []
    resists = ~stays.responds & (block.hospital.of_groups("infection")[stays.group] > 0.5)
    change = np.where(resists & (rng.random(len(stays)) < 0.7), rng.uniform(14, 36, len(stays)), np.inf)
    for number, group in enumerate(block.hospital.groups.values()):
        for drug in group.therapy:
            row = np.flatnonzero((stays.group == number) & (rng.random(len(stays)) < 0.92))
            start = stays.treated_hour[row] + rng.uniform(0, 0.3, len(row))
            courses.append(_course(block, row, drug, start, change[row], main=True))
    for drug in block.hospital.escalation:
        row = np.flatnonzero(np.isfinite(change))
        courses.append(_course(block, row, drug, change[row] + rng.uniform(0, 1, len(row)), main=True))
    return courses


def _supportive(block: Block, rng: np.random.Generator) -> list[Courses]:
    courses = []
    for drug, share in block.hospital.supportive.items():
        row = np.flatnonzero(rng.random(len(block.stays)) < share)
        courses.append(_course(block, row, drug, rng.uniform(0.5, 12, len(row)), main=False))
    return courses


def _pressure(block: Block) -> Courses:
    start = vasopressor_hours(block)
    row = np.flatnonzero(~np.isnan(start))
    return _course(block, row, "Norepinephrine", start[row], block.stays.icu_out[row], main=True)
