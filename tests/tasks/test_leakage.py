"""Leaks are planted, one of each kind, and must be found; without one nothing must be."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
from events_folder import Row, timeline

from ehrseq.core.errors import ExitCode
from ehrseq.tasks.audit import LeakageError, audit
from ehrseq.tasks.extract import label
from ehrseq.timeline.meds import SUBJECT_SPLITS, split_subjects
from ehrseq.tokens.examples import make_examples, save_examples
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.tokenize import tokenize

START, PATIENTS = datetime(2020, 1, 1), 400
TASK = """\
predicates: {admission: {code: IN}, outcome: {code: OUTCOME}}
trigger: admission
windows:
  day: {start: trigger, end: start + 24h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  target: {start: day.end, end: start + 48h, start_inclusive: false, end_inclusive: true, label: outcome}
"""
type More = Callable[[int, bool], list[tuple[float, str, float | None]]]


@dataclass
class Made:
    timeline: Path
    tokens: Path
    labels: Path
    examples: Path

    def audit(self) -> None:
        audit(self.timeline, self.tokens, [self.labels], self.examples, self.examples.parent / "audit")


def made(folder: Path, more: More = lambda n, sick: [], task: str = TASK, train_only: bool = False) -> Made:
    """A ward whose sick third has an outcome on the third day, and `more` (hours after admission, code, value)."""
    rows: list[Row] = []
    for n in range(1, PATIENTS + 1):
        chance, sick = Random(n), n % 3 == 0
        events = [
            (0.0, "IN", None),
            *((chance.uniform(0, 90), f"LAB//{chance.randint(1, 150)}", chance.random()) for _ in range(30)),
        ]
        events += [(60.0, "OUTCOME", None)] if sick else []
        rows += [
            (n, START + timedelta(hours=hour), code, value) for hour, code, value in [*events, *more(n, sick)]
        ]
    where = timeline(folder / "timeline", rows)
    shares = (1.0, 0.0, 0.0) if train_only else (0.6, 0.2, 0.2)
    split_subjects(pl.Series(range(1, PATIENTS + 1)), shares).write_parquet(where / SUBJECT_SPLITS)
    (folder / "task.yaml").write_text(task)
    tokens = tokenize(where, folder / "tokens").out
    labels = label(folder / "task.yaml", where, folder / "labels").out
    return Made(where, tokens, labels, make_examples(tokens, labels, folder / "examples").out)


def found(ward: Made) -> set[str]:
    with pytest.raises(LeakageError) as error:
        ward.audit()
    assert error.value.exit_code == ExitCode.DATA_QUALITY
    assert not (ward.examples.parent / "audit").exists()
    for finding in error.value.findings:
        assert finding.count > 0
        assert str(finding) in str(error.value)
    return {finding.check for finding in error.value.findings}


def test_nothing_is_found_where_nothing_leaks(tmp_path: Path):
    made(tmp_path).audit()
    assert (tmp_path / "audit/audit.json").is_file()


def test_the_outcome_by_another_name(tmp_path: Path):
    assert found(made(tmp_path, lambda n, sick: [(1, "PALLIATIVE", None)] if sick else [])) == {
        "single_feature"
    }


def test_a_code_that_only_some_of_the_sick_have(tmp_path: Path):
    assert found(made(tmp_path, lambda n, sick: [(1, "CODE//X", None)] if sick and n % 2 else [])) == {
        "single_feature"
    }


def test_an_output_among_several_that_is_given_away(tmp_path: Path):
    several = TASK.replace(
        "outcome: {code: OUTCOME}", "outcome: {code: OUTCOME}, lab: {code: {regex: '^LAB//[1-9]$'}}"
    )
    several = several.replace("label: outcome", "label: [outcome, lab]")
    made(tmp_path / "clean", task=several).audit()
    leaking = made(tmp_path / "leaking", lambda n, sick: [(1, "PALLIATIVE", None)] if sick else [], several)
    with pytest.raises(LeakageError) as error:
        leaking.audit()
    assert {(finding.check, finding.where) for finding in error.value.findings} == {
        ("single_feature", "labels.outcome")
    }


def test_a_value_that_is_the_outcome(tmp_path: Path):
    assert found(made(tmp_path, lambda n, sick: [(1, "SCORE", n / 1000 + sick)])) == {"single_feature"}


def test_what_happens_at_the_moment_of_the_prediction(tmp_path: Path):
    def billed(n: int, sick: bool) -> list[tuple[float, str, float | None]]:
        return [(24 if sick else n % 20, "BILLED", None)]  # everybody has it, the sick have it just then

    assert found(made(tmp_path, billed)) == {"same_time"}


def test_an_outcome_that_is_there_already(tmp_path: Path):
    early = TASK.replace("start: day.end, end: start + 48h", "start: trigger, end: start + 72h")
    known = made(tmp_path, lambda n, sick: [(12, "OUTCOME", None)] if sick and n % 2 else [], early)
    assert "outcome_visible" in found(known)


def tampered(ward: Made, change: Callable[[Examples], Examples]) -> Made:
    save_examples(ward.examples / "examples.npz", change(Examples.load(ward.examples)))
    return ward


def test_a_prefix_that_is_too_long(tmp_path: Path):
    ward = tampered(made(tmp_path), lambda examples: replace(examples, position=examples.position + 1))
    assert found(ward) == {"future_shift"}


def test_training_labels_among_the_others(tmp_path: Path):
    def twice(examples: Examples) -> Examples:
        train = examples.rows("train")
        fields = ("subject", "position", "task", "value", "prediction_time")
        more = {name: np.append(getattr(examples, name), getattr(examples, name)[train]) for name in fields}
        return replace(examples, split=np.append(examples.split, np.full(len(train), 2, np.int8)), **more)

    assert found(tampered(made(tmp_path), twice)) == {"shuffled_labels", "patient_overlap"}


def test_one_record_under_two_ids(tmp_path: Path):
    ward = made(tmp_path)
    splits = pl.read_parquet(ward.timeline / SUBJECT_SPLITS)
    one, other = (splits.filter(split=split)["subject_id"][0] for split in ("train", "held_out"))
    (shard,) = (ward.timeline / "data").iterdir()
    events = pl.read_parquet(shard, columns=["subject_id", "time", "code", "numeric_value"])
    copy = events.filter(subject_id=one).with_columns(subject_id=pl.lit(other, pl.Int64))
    timeline(ward.timeline, pl.concat([events.filter(pl.col("subject_id") != other), copy]).rows())
    splits.write_parquet(ward.timeline / SUBJECT_SPLITS)
    ward.tokens = tokenize(ward.timeline, ward.tokens, force=True).out
    ward.examples = make_examples(ward.tokens, ward.labels, ward.examples, force=True).out
    assert found(ward) == {"patient_overlap"}


def test_a_vocabulary_of_all_patients(tmp_path: Path):
    ward = made(tmp_path, lambda n, sick: [(1, f"RARE//{n % 60}", None)], train_only=True)
    split_subjects(pl.Series(range(1, PATIENTS + 1)), (0.6, 0.2, 0.2)).write_parquet(
        ward.timeline / SUBJECT_SPLITS
    )
    assert found(ward) == {"vocabulary"}
