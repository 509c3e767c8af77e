"""A toy language of ward stays whose true risks are known: the best possible AUROC can be computed.

Each subject has a birth, a sex, one to three stays of 30 to 90 events, and after each stay three labels:
`level` depends on the last value of one laboratory code, `trend` on the rise of another one and on age,
`recent` on whether a drug was given within the last 12 hours (earlier ones mean nothing).
The rest is noise that resembles the signal.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.manifest import Manifest
from ehrseq.tokens.packing import Examples, Several, previous_of
from ehrseq.tokens.store import KIND, StoreWriter, TokenStore, save_part

HOUR = 3_600_000_000
TASKS = ("level", "trend", "recent")
LACTATE, CREATININE, DRUG, FIRST_NOISE = 4, 5, 6, 7
CODES, BINS = 60, 6


def ward(folder: Path, subjects: int, seed: int = 0) -> tuple[TokenStore, Examples, NDArray[np.float64]]:
    """Write a store and its `examples.npz` into `folder`; return both opened, and the true risk of each label."""
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
            for task, logit in enumerate(_logits(stay, age, int(stay["time"][-1]) + HOUR)):
                labels.append((subject, length, task, logit, int(stay["time"][-1]) + HOUR))
        parts += stays
        births.append(birth)
        lengths.append(length)
    subject, position, task, logit, time = (np.asarray(column) for column in zip(*labels, strict=True))
    risk = 1 / (1 + np.exp(-logit))
    split = random.choice(3, subjects, p=[0.7, 0.15, 0.15]).astype(np.int8)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    tokens = len(arrays["code"])
    arrays |= {
        "unit": (arrays["bin"] > 0).astype(np.int16),
        "modality": np.zeros(tokens, np.int8),
        "zone": np.zeros(tokens, np.int8),
        "previous": previous_of(arrays["code"], np.asarray(lengths)),
        "event": np.arange(tokens),
        "subject_id": np.arange(subjects) + 1000,
        "birth": np.asarray(births),
        "split": split,
        "shard": np.zeros(subjects, np.int16),
        "length": np.asarray(lengths),
    }
    store = write_store(folder, arrays)
    examples = Examples(
        subject=subject,
        position=position,
        task=task.astype(np.int32),
        value=(random.random(len(risk)) < risk).astype(np.float32),
        split=split[subject],
        prediction_time=time,
        tasks=np.asarray(TASKS),
    )
    save_examples(folder, examples)
    return store, examples, risk


def of_several(examples: Examples) -> Examples:
    """The toy ward's three labels of a moment as one label with the outputs `billed.level`, … beside the task `level`
    alone."""
    first = np.flatnonzero(examples.task == 0)
    moments = examples.take(first)
    values = (
        np.stack([examples.value[first + task] for task in range(3)], axis=1) > 0.5
    )  # labels of one stay together
    alone, label, task = len(first), *np.nonzero(values)
    several = Several(
        outputs=np.asarray([f"billed.{name}" for name in TASKS] + ["level"]), first=np.asarray([0, 3, 4]),
        offsets=np.concatenate([[0], np.cumsum(values.sum(1)), values.sum() + np.cumsum(values[:, 0])]),
        true=np.concatenate([task, np.full(int(values[:, 0].sum()), 3)]).astype(np.int32),
    )  # fmt: skip
    twice = np.concatenate([np.arange(alone), np.arange(alone)])
    both = replace(
        moments.take(twice), task=np.repeat([0, 1], alone).astype(np.int32), tasks=np.asarray(["billed", "level"]),
        value=np.concatenate([values.any(1), values[:, 0]]).astype(np.float32), several=several,
    )  # fmt: skip
    assert label.max() < alone
    return both


def write_store(folder: Path, arrays: dict[str, NDArray[Any]], codes: int = CODES) -> TokenStore:
    """A token store in `folder` from the arrays of one part."""
    vocabulary = {
        "codes": ["<pad>", "<unknown>", *(f"C{number}" for number in range(2, codes))],
        "bins": BINS,
        "units": ["", "u"],
        "modalities": ["record", "note"],
    }
    save_part(folder / "part", arrays)
    with StoreWriter(folder) as writer:
        writer.append(folder / "part")
        entry = writer.finish(json.dumps(vocabulary).encode())
    manifest = Manifest(KIND, fingerprint="toy", code_version="0", config_hash="0", notes={"store": entry})
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return TokenStore.open(folder)


def save_examples(folder: Path, examples: Examples) -> None:
    """Write `examples.npz`."""
    np.savez(folder / "examples.npz", **examples.arrays())


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
    code[random.permutation(events)[:12]] = [LACTATE] * 5 + [CREATININE] * 5 + [DRUG] * 2
    time = clock + np.sort(random.integers(0, 72, events)) * HOUR
    value = np.where(code < FIRST_NOISE + 20, random.normal(size=events), np.nan)
    value[code == DRUG] = np.nan
    rising = code == CREATININE
    value[rising] = 0.5 * random.normal(size=5) + random.normal() * np.linspace(-1, 1, 5)
    edges = np.linspace(-1.5, 1.5, BINS - 1)
    return {
        "code": code.astype(np.int32),
        "time": time,
        "value": np.clip(value, -5, 5).astype(np.float32),
        "bin": np.where(np.isnan(value), 0, np.searchsorted(edges, value) + 1).astype(np.int16),
    }


def _logits(stay: dict[str, NDArray[Any]], age: float, asked: int) -> tuple[float, float, float]:
    code, value, time = stay["code"], stay["value"], stay["time"]
    creatinine = value[code == CREATININE]
    level = 2.5 * float(value[code == LACTATE][-1]) - 1
    trend = 1.5 * float(creatinine[-1] - creatinine[0]) + (age - 60) / 20 - 1
    recent = 3.0 * float(np.any(time[code == DRUG] > asked - 12 * HOUR)) - 2
    return level, trend, recent
