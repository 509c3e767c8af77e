"""A block: some patients with all their admissions, drawn from one random stream, and the columns they share."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError
from ehrseq.synthetic.hospital import Floats, Hospital
from ehrseq.synthetic.patients import Patients
from ehrseq.synthetic.stays import HOUR, Stays

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]
type Tables = dict[str, pl.DataFrame]

PROVIDERS = 600
CAREGIVERS = 400
_STEP = 6_700_417  # a prime that divides no size below, so that stepping visits every id once
_SPACES = {  # kind of id -> (first, how many), as wide as MIMIC-IV's
    "subject": (10_000_000, 9_999_991),
    "hadm": (20_000_000, 9_999_991),
    "stay": (30_000_000, 9_999_991),  # intensive-care stays and transfers share a space
    "pharmacy": (10_000_000, 89_999_999),
    "specimen": (10_000, 99_989_999),
    "order": (100_000, 99_899_999),
    "labevent": (1, 0),  # size 0: counted up
    "microevent": (1, 0),
}


@dataclass
class Ids:
    """Hands out unique ids, in the same order for the same hospital. Scattered, so that they tell nothing.

    >>> ids = Ids(); first = ids.take("hadm", 2); bool((first != ids.take("hadm", 2)).all())
    True
    """

    used: dict[str, int] = field(default_factory=dict)

    def take(self, kind: str, count: int) -> Ints:
        """The next `count` ids of a kind [count]. Raises: ConfigError when the kind's numbers are used up."""
        first, size = _SPACES[kind]
        start = self.used.get(kind, 0)
        self.used[kind] = start + count
        number = np.arange(start, start + count, dtype=np.int64)
        if not size:
            return first + number
        if start + count > size:
            raise ConfigError(f"The hospital is full: MIMIC-IV has {size:,} numbers of the kind {kind!r}.")
        return first + (number * _STEP + 1_234_567) % size


@dataclass(frozen=True)
class Block:
    """Patients and their admissions. `hadm_id` [S]; `stay_id` [S] is 0 where there was no intensive care."""

    hospital: Hospital
    patients: Patients
    stays: Stays
    hadm_id: Ints
    stay_id: Ints
    ids: Ids

    @property
    def subject_id(self) -> Ints:
        """Subject of each admission [S]."""
        return self.patients.subject_id[self.stays.subject]

    def seconds(self, row: Ints, hour: Floats) -> Ints:
        """Seconds since 1970 of an hour of admission `row`, on the full minute [N]."""
        return self.stays.admit[row] + np.rint(hour * 60).astype(np.int64) * 60

    def key(self, row: Ints) -> dict[str, Ints]:
        """The columns subject_id and hadm_id of rows that belong to admissions `row` [N]."""
        return {"subject_id": self.subject_id[row], "hadm_id": self.hadm_id[row]}

    def stored(self, row: Ints, charted: Ints, delay_minutes: Floats) -> Ints:
        """When something charted was stored: later, but never after a death [N] seconds."""
        late = charted + np.rint(delay_minutes).astype(np.int64) * 60
        limit = np.where(self.stays.died[row], self.stays.end[row], self.stays.end[row] + 6 * HOUR)
        stored: Ints = np.maximum(np.minimum(late, limit), charted)
        return stored


def moment(seconds: Ints, known: Bools | None = None) -> pl.Series:
    """Seconds since 1970 as datetime[us]; null where not `known`."""
    series = pl.Series(seconds * 1_000_000, dtype=pl.Int64).cast(pl.Datetime("us"))
    return series if known is None else keep(series, known)


def keep(series: pl.Series, known: Bools) -> pl.Series:
    """`series`, null where not `known`."""
    return pl.select(pl.when(pl.Series(known)).then(series)).to_series()


def pick(words: list[str | None] | list[str], index: Ints) -> pl.Series:
    """words[index] as strings; a negative index gives null."""
    table = pl.Series([*words, None], dtype=pl.String)
    return table.gather(np.where(index < 0, len(words), index))


def repeat_every(start: Floats, end: Floats, interval: Floats, most: int = 60) -> tuple[Ints, Floats]:
    """Clock hours start, start + interval... before `end`, at most `most` of each -> (row [N], hour [N]).

    >>> repeat_every(np.array([0.0, 5.0]), np.array([5.0, 4.0]), np.array([2.0, 1.0]))
    (array([0, 0, 0]), array([0., 2., 4.]))
    """
    count = np.nan_to_num(np.ceil((end - start) / interval), nan=0.0)
    count = np.clip(count, 0, most).astype(np.int64)
    row = np.repeat(np.arange(len(count)), count)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, start[row] + rank * interval[row]


def provider_names() -> list[str]:
    """The provider ids of the hospital."""
    letters = "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ"
    numbers = [(n * 2_718_281 + 31_337) % 34**4 for n in range(PROVIDERS)]
    return [
        "P" + "".join(letters[number // 34**place % 34] for place in range(4)) + "X" for number in numbers
    ]


def caregiver_numbers() -> Ints:
    """The caregiver ids of the hospital [CAREGIVERS]."""
    return 1_000 + (np.arange(CAREGIVERS) * 7_919) % 98_000


def some_provider(count: int, rng: np.random.Generator) -> pl.Series:
    """A provider for each row."""
    return pick(provider_names(), rng.integers(0, PROVIDERS, count))


def some_caregiver(count: int, rng: np.random.Generator) -> Ints:
    """A caregiver for each row [count]."""
    return caregiver_numbers()[rng.integers(0, CAREGIVERS, count)]
