"""What is said about a task file that is wrong, or does not fit the timeline."""

from datetime import datetime
from pathlib import Path

import meds
import pyarrow.parquet as pq
import pytest
from events_folder import timeline

from ehrseq.core.errors import SchemaError, TaskError
from ehrseq.tasks.definition import load_task
from ehrseq.tasks.extract import DegenerateTaskError, label

GOOD = """\
predicates:
  admission: {code: IN}
  discharge: {code: {regex: "^OUT"}}
  death: {code: {any: [DEAD, GONE]}}
  left: {expr: "or(discharge, death)"}
trigger: admission
windows:
  input: {start: null, end: trigger + 24h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  gap: {start: trigger, end: start + 24h, start_inclusive: false, end_inclusive: true, has: {left: "(None, 0)"}}
  target: {start: gap.end, end: start -> left, start_inclusive: false, end_inclusive: true, label: death}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "task.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("trigger: admission", "trigger: admision", 6,
         '`admision` is not a predicate of this task. Closest: "admission"'),
        ("predicates:", "predicats:", 1, 'unknown key `predicats`. Closest: "predicates"'),
        ("admission: {code: IN}", "admission: {cod: IN}", 2, 'unknown key `cod`. Closest: "code"'),
        ("admission: {code: IN}", "admission: {}", 2, "needs `code`"),
        ('"^OUT"', '"(OUT"', 3, "is not a regular expression"),
        ("or(discharge, death)", "not(death)", 5, "must stand alone and be like or(discharge, death)"),
        ("or(discharge, death)", "or(discharge, left)", 1, "left are defined by each other"),
        ("or(discharge, death)", "or(dischrge, death)", 5,
         '`dischrge` is not a predicate of this task. Closest: "discharge"'),
        ("trigger + 24h", "trigger + 24 bananas", 8, "`24 bananas` is not a duration"),
        ("trigger + 24h", "triger + 24h", 8, '`triger` is not a moment of this task. Closest: "trigger"'),
        ("start -> left", "start -> gone", 10, "`gone` is not a predicate"),
        ("start: trigger, end: start + 24h", "start: target.start, end: start + 24h", 7, "wait for each other"),
        ("start: trigger, end: start", "start: end, end: start", 9, "is tied to nothing outside itself"),
        ('"(None, 0)"', "none", 9, 'expected "(least, most)"'),
        (", label: death", "", 7, "0 windows have `label`"),
        ("index_timestamp: end", "index_timestamp: middle", 8, "is `middle`, expected start or end"),
        (", start_inclusive: false, end_inclusive: true, label", ", start_inclusive: false, label", 10,
         "lacks `end_inclusive`"),
    ],
)  # fmt: skip
def test_a_wrong_task_file(tmp_path: Path, old: str, new: str, line: int, message: str):
    assert GOOD.count(old) == 1
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(TaskError) as error:
        load_task(path)
    assert str(error.value).startswith(f"{path}:{line}  ")
    assert message in str(error.value)
    assert error.value.exit_code == 2


def test_an_unknown_task_names_the_nearest(tmp_path: Path):
    with pytest.raises(TaskError, match=r'`readmision_30d` is not a task\. Closest: "readmission_30d"'):
        load_task("readmision_30d")
    with pytest.raises(TaskError, match="there is no such task file"):
        load_task(tmp_path / "absent.yaml")


def test_codes_that_the_timeline_does_not_have(tmp_path: Path):
    made = timeline(tmp_path / "timeline", [(1, datetime(2020, 1, 1), "INN", None)])
    with pytest.raises(TaskError, match=r'no event of .* is a `admission` \(IN\)\. Closest: "INN"'):
        label(written(tmp_path, GOOD), made, tmp_path / "labels")


def test_labels_of_one_kind_are_an_error_that_tells_the_flow(tmp_path: Path):
    rows = [(n, datetime(2020, 1, 1), "IN", None) for n in range(5)]
    rows += [(n, datetime(2020, 1, 1 + n), "OUT", None) for n in range(1, 5)]
    made = timeline(tmp_path / "timeline", rows)
    with pytest.raises(DegenerateTaskError) as error:
        label(written(tmp_path, GOOD), made, tmp_path / "labels")
    assert "3 labels, 0 of them true" in str(error.value)
    assert "gap: has left 1" in str(error.value)
    assert "no left after target.start 1" in str(error.value)
    assert not (tmp_path / "labels").exists()


def test_a_folder_that_is_no_timeline(tmp_path: Path):
    with pytest.raises(SchemaError, match=str(tmp_path)):
        label(written(tmp_path, GOOD), tmp_path, tmp_path / "labels")


def test_labels_are_meds(tmp_path: Path):
    rows = [(n, datetime(2020, 1, 1), "IN", None) for n in (1, 2)]
    rows += [(1, datetime(2020, 1, 9), "DEAD", None), (2, datetime(2020, 1, 9), "OUT", None)]
    made = label(written(tmp_path, GOOD), timeline(tmp_path / "timeline", rows), tmp_path / "labels").out
    for path in (made / "data").iterdir():
        meds.LabelSchema.validate(pq.read_table(path))
