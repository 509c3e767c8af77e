"""`ehrseq explain`: the run's own prediction, its shares summed, each event traced to its resource and source row."""

import json
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import ehrseq
from ehrseq.core.errors import ConfigError
from ehrseq.deploy.explain import Explanation
from ehrseq.deploy.fitting import MODEL
from ehrseq.deploy.pipeline import Outcome


@pytest.fixture(scope="module")
def explained(whole: Outcome) -> Explanation:
    held_out = pl.read_parquet(whole.out / "predictions/held_out.parquet").filter(
        model=MODEL, task="long_stay_7d"
    )
    return ehrseq.explain(whole.out, subject=held_out["subject_id"][0], task="long_stay_7d", most=15)


def test_it_explains_what_the_run_predicted(explained: Explanation, whole: Outcome):
    predictions = pl.read_parquet(whole.out / "predictions/held_out.parquet").filter(
        model=MODEL, task="long_stay_7d", subject_id=explained.subject
    )
    assert explained.probability == pytest.approx(
        predictions.sort("prediction_time")["probability"][-1], abs=1e-5
    )


def test_shares_add_up_from_the_bare_record_to_the_prediction(explained: Explanation):
    moved = sum(event["share"] for event in explained.events) + explained.rest
    odds = np.log(explained.probability / (1 - explained.probability)) - np.log(
        explained.bare / (1 - explained.bare)
    )
    assert moved == pytest.approx(odds, abs=1e-6)


def test_each_event_leads_to_its_resource_and_row(explained: Explanation, whole: Outcome):
    assert len(explained.events) == 15
    tokens = [event["token"] for event in explained.events]
    assert tokens == sorted(tokens)
    for event in explained.events[:3]:
        origin = ehrseq.show(whole.out, subject=explained.subject, token=event["token"])
        assert origin.event["resource_id"] == event["resource_id"]
        assert (origin.file, origin.row) == (event["file"], event["row"])


def test_what_cannot_be_explained_is_said(whole: Outcome):
    with pytest.raises(ConfigError, match="--task sepsis: the model predicts in_hospital"):
        ehrseq.explain(whole.out, task="sepsis")
    with pytest.raises(ConfigError, match="has no subject 3"):
        ehrseq.explain(whole.out, subject=3)
    with pytest.raises(ConfigError, match="--at 99: the subject has predictions 0 to"):
        ehrseq.explain(whole.out, at=99)


def test_the_verb_prints_a_line_for_each_event(whole: Outcome):
    done = subprocess.run(
        [sys.executable, "-m", "ehrseq.cli", "explain", str(whole.out), "--most", "5", "--json"],
        capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "140"},
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert len(told["events"]) == 5
    assert {"share", "resource_id", "file", "row"} <= told["events"][0].keys()
