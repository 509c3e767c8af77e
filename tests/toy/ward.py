"""A toy language of ward stays whose true risks are known: the best possible AUROC can be computed.

Each subject has a birth, a sex, one to three stays of 30 to 90 events, and after each stay three labels:
`level` depends on the last value of one laboratory code, `trend` on the rise of another one and on age,
`order` on whether a drug came after an alarm (the same codes in the other order mean nothing).
The rest is noise that resembles the signal.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.tokens.packing import Examples

HOUR = 3_600_000_000
TASKS = ("level", "trend", "order")
LACTATE, CREATININE, ALARM, DRUG, FIRST_NOISE = 4, 5, 6, 7, 8
CODES, BINS = 60, 6


@dataclass
class ToyStore:
    """The attributes of a token store, in memory."""

    code: NDArray[np.int32]
    time: NDArray[np.int64]
    value: NDArray[np.float32]
    bin: NDArray[np.int16]
    unit: NDArray[np.int16]
    modality: NDArray[np.int8]
    offsets: NDArray[np.int64]
    subject_id: NDArray[np.int64]
    birth: NDArray[np.int64]
    split: NDArray[np.int8]
    vocabulary_sha256: str = "toy"
    vocabulary: dict[str, Any] = field(default_factory=dict)


def ward(subjects: int, seed: int = 0) -> tuple[ToyStore, Examples, NDArray[np.float64]]:
    """A store, its examples and the true risk of each label."""
    random = np.random.default_rng(seed)
    parts: list[dict[str, NDArray[Any]]] = []
    labels: list[tuple[int, int, int, float, int]] = []
    births, lengths = [], []
    for subject in range(subjects):
        birth = int(random.integers(-60, 0)) * 8766 * HOUR
        age = (30 * 8766 * HOUR - birth) / (8766 * HOUR)
        stays = [_static(birth, random)]
        clock, length = 30 * 8766 * HOUR, 2
        for _ in range(random.integers(1, 4)):
            stay = _stay(clock, random)
            stays.append(stay)
            clock = int(stay["time"][-1]) + int(random.integers(24 * 30, 24 * 300)) * HOUR
            length += len(stay["code"])
            for task, logit in enumerate(_logits(stay, age)):
                labels.append((subject, length, task, logit, int(stay["time"][-1]) + HOUR))
        parts += stays
        births.append(birth)
        lengths.append(length)
    subject, position, task, logit, time = (np.asarray(column) for column in zip(*labels, strict=True))
    risk = 1 / (1 + np.exp(-logit))
    split = random.choice(3, subjects, p=[0.7, 0.15, 0.15]).astype(np.int8)
    fields = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    store = ToyStore(
        **fields,
        unit=(fields["bin"] > 0).astype(np.int16),
        modality=np.zeros(len(fields["code"]), np.int8),
        offsets=np.append(0, np.cumsum(lengths)),
        subject_id=np.arange(subjects) + 1000,
        birth=np.asarray(births),
        split=split,
        vocabulary={
            "codes": ["<pad>", "<unknown>", *(f"C{i}" for i in range(2, CODES))],
            "bins": BINS,
            "units": ["", "u"],
            "modalities": ["record", "note"],
        },
    )
    examples = Examples(
        subject=subject,
        position=position,
        task=task.astype(np.int32),
        value=(random.random(len(risk)) < risk).astype(np.float32),
        split=split[subject],
        prediction_time=time,
        tasks=np.asarray(TASKS),
    )
    return store, examples, risk


def _static(birth: int, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {
        "code": np.asarray([2, 3 if random.random() < 0.5 else FIRST_NOISE], np.int32),
        "time": np.asarray([birth, birth]),
        "value": np.full(2, np.nan, np.float32),
        "bin": np.zeros(2, np.int16),
    }


def _stay(clock: int, random: np.random.Generator) -> dict[str, NDArray[Any]]:
    events = int(random.integers(30, 90))
    code = random.integers(FIRST_NOISE, CODES, events)
    special = random.permutation(events)[:14]
    code[special] = [LACTATE] * 5 + [CREATININE] * 5 + [ALARM, DRUG, ALARM, DRUG][: 4]
    time = clock + np.sort(random.integers(0, 72, events)) * HOUR
    value = np.where(code < FIRST_NOISE + 20, random.normal(size=events), np.nan)
    value[np.isin(code, (ALARM, DRUG))] = np.nan
    rising = code == CREATININE
    value[rising] = 0.5 * random.normal(size=5) + random.normal() * np.linspace(-1, 1, 5)
    edges = np.linspace(-1.5, 1.5, BINS - 1)
    return {
        "code": code.astype(np.int32),
        "time": time,
        "value": np.clip(value, -5, 5).astype(np.float32),
        "bin": np.where(np.isnan(value), 0, np.searchsorted(edges, value) + 1).astype(np.int16),
    }


def _logits(stay: dict[str, NDArray[Any]], age: float) -> tuple[float, float, float]:
    code, value = stay["code"], stay["value"]
    creatinine = value[code == CREATININE]
    alarm, drug = np.flatnonzero(code == ALARM), np.flatnonzero(code == DRUG)
    level = 2.5 * float(value[code == LACTATE][-1]) - 1
    trend = 1.5 * float(creatinine[-1] - creatinine[0]) + (age - 60) / 20 - 1
    order = 3.0 * float(drug[-1] > alarm[-1]) - 2
    return level, trend, order
