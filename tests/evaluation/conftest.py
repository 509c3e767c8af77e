"""Invented predictions whose true risks are known: small, seeded, the same for every test."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from ehrseq.evaluation.calibration import expit

TASKS = {"in_hospital_mortality_24h": -3.0, "readmission_30d": -1.5}
MODELS = {"transformer": 0.4, "gradient_boosting": 0.9, "logistic": 2.0}


@dataclass(frozen=True)
class Hospital:
    """`predictions` and `truth` as `ehrseq.evaluation.schema` says."""

    predictions: pl.DataFrame
    truth: pl.DataFrame


def hospital(rows: int = 1200, seed: int = 0, few: int | None = None) -> Hospital:
    """Two tasks and three models of falling quality; the first task has only `few` rows if given."""
    source = np.random.default_rng(seed)
    predictions, truths = [], []
    for number, (task, level) in enumerate(TASKS.items()):
        n = few if few and number == 0 else rows
        logit = level + 1.3 * source.normal(size=n)
        happened = source.random(n) < expit(logit)
        minutes = source.permutation(1_000_000)[:n]
        keys = pl.DataFrame(
            {
                "subject_id": 10_000_000 + source.integers(0, int(0.7 * n), n),
                "prediction_time": [datetime(2150, 1, 1) + timedelta(minutes=int(m)) for m in minutes],
                "task": [task] * n,
            }
        )
        truths.append(keys.with_columns(risk=expit(logit), outcome=pl.Series(happened)))
        for model, noise in MODELS.items():
            seen = expit(logit + noise * source.normal(size=n))
            predictions.append(
                keys.with_columns(probability=pl.Series(seen), label=pl.Series(happened), model=pl.lit(model))
            )
    return Hospital(pl.concat(predictions), pl.concat(truths))


@pytest.fixture(scope="session")
def invented() -> Hospital:
    """Enough rows for a conclusion."""
    return hospital()


@pytest.fixture(scope="session")
def tiny() -> Hospital:
    """A first task with too few outcomes: 150 rows."""
    return hospital(few=150)
