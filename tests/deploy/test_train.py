"""`ehrseq train`: a timeline that is there, judged as a file says."""

from pathlib import Path

import pytest
from tiny_run import TASKS, TINY

import ehrseq
from ehrseq.core.errors import ConfigError, EhrseqError
from ehrseq.deploy.pipeline import Outcome

SETTINGS = f"""
timeline: run/timeline
out: trained
tasks: [{TASKS[1]}]
train:
  context: {TINY.context}
  row_length: {TINY.row_length}
  epochs: 1
  model: {{dim: 8, heads: 2, layers: 0, pools: 1, attention: reference}}
"""


def test_trains_on_the_timeline_of_a_run(whole: Outcome, shared: Path):
    config = shared / "wider.yaml"
    config.write_text(SETTINGS)
    made = ehrseq.train(config)
    assert made.out == shared / "trained"
    assert next(iter(made.stages)) == "tokens"
    assert made.report.is_file()
    assert {result["task"] for result in made.evaluation["results"]} == {TASKS[1]}
    assert ehrseq.train(config).unchanged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("timeline: t\nout: o\ntrains: {}", r"plan\.yaml:3  unknown key `trains`.*train"),
        ("timeline: t\ntasks: [a]", r"plan\.yaml:1  `out` is missing"),
        ("timeline: t\nout: o\ntasks: mortality", r"plan\.yaml:3  `tasks` is 'mortality'"),
        ("timeline: t\nout: o\ntrain: {epoch: 3}", r"plan\.yaml:3  .*epoch.*epochs"),
        ("timeline: t\nout: o\ntrain: {model: {dims: 3}}", r"plan\.yaml:3  .*dims.*dim"),
        ("- timeline", r"plan\.yaml:1  expected a mapping"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text: str, message: str, tmp_path: Path):
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ehrseq.train(tmp_path / "plan.yaml")
    assert not (tmp_path / "o").exists()


def test_a_timeline_that_is_not_there_is_named(tmp_path: Path):
    (tmp_path / "plan.yaml").write_text("timeline: nowhere\nout: o")
    with pytest.raises(EhrseqError, match="nowhere"):
        ehrseq.train(tmp_path / "plan.yaml")
    assert not (tmp_path / "o").exists()
