"""When a task asks: where `ehrseq label` found labels, and never because of what came later."""

import polars as pl
import pytest

from ehrseq.deploy.pipeline import Outcome
from ehrseq.tasks.asking import ask

TASKS = ("in_hospital_mortality_24h", "long_stay_7d", "readmission_30d", "in_hospital_mortality_12h_steps")


@pytest.mark.parametrize("task", TASKS[:2])
def test_every_label_is_asked_for(task: str, whole: Outcome):
    labels = pl.read_parquet(whole.out / f"labels/{task}/data/*.parquet")
    asked = ask(task, whole.out / "timeline")
    assert labels.join(asked, on=["subject_id", "prediction_time"], how="anti").is_empty()
    assert asked.is_unique().all()


@pytest.mark.parametrize("task", TASKS)
def test_what_comes_later_changes_nothing(task: str, whole: Outcome):
    asked = ask(task, whole.out / "timeline")
    assert asked.height
    middle = asked["prediction_time"].sort()[asked.height // 2]
    then = ask(task, whole.out / "timeline", now=middle)
    assert then.equals(asked.filter(pl.col("prediction_time") <= middle))
