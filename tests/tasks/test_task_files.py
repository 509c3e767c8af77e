"""What is said about a task file that is wrong, or does not fit the timeline."""

from datetime import datetime
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest
from events_folder import Row, timeline

from ehrseq.core.errors import SchemaError, TaskError
from ehrseq.tasks.definition import load_task
from ehrseq.tasks.extract import DegenerateTaskError, label
from ehrseq.timeline.meds import SUBJECT_SPLITS, split_subjects

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
        ("{code: IN}", "{code: IN, vale_min: 3}", 2, 'unknown key `vale_min`. Closest: "value_min"'),
        ("{code: IN}", "{code: IN, static: true}", 6, "`admission` is static"),
        ("start -> left", "start -> _RECORD_START", 10, "nothing comes before `_RECORD_START`"),
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
    rows += [(9, datetime(2020, 1, 1), "DEAD", None)]
    made = timeline(tmp_path / "timeline", rows)
    with pytest.raises(DegenerateTaskError) as error:
        label(written(tmp_path, GOOD), made, tmp_path / "labels")
    assert "3 labels, 0 of them true" in str(error.value)
    assert "gap: has left 1" in str(error.value)
    assert "no left after target.start 1" in str(error.value)
    assert not (tmp_path / "labels").exists()


def grown(folder: Path, extra: str = "", **replaced: str) -> tuple[Path, Path]:
    """GOOD with parts replaced, and a ward: women 1 to 4, men 5 and 6, nobody knows of 7 and 8; odd ones die."""
    rows: list[Row] = []
    for n in range(1, 9):
        rows += [
            (n, datetime(2020, 1, 1), "IN", None),
            (n, datetime(2020, 1, 9), "DEAD" if n % 2 else "OUT", None),
        ]
        rows += [(n, None, "SEX//F" if n < 5 else "SEX//M", None)] if n < 7 else []
    text = GOOD
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    return written(folder, text + extra), timeline(folder / "timeline", rows, shards=2)


def subjects(labels: Path) -> list[int]:
    return sorted(pl.read_parquet(labels / "data/*.parquet")["subject_id"].to_list())


def test_demographics_say_whom_a_task_is_about(tmp_path: Path):
    made = label(*grown(tmp_path, "patient_demographics: {woman: {code: SEX//F}}\n"), tmp_path / "labels")
    assert subjects(made.out) == [1, 2, 3, 4]
    (books,) = made.manifest.sources.values()
    assert books.reasons == {"the patient is not one of those asked about": 4}


def test_other_columns_and_open_bounds(tmp_path: Path):
    task, made = grown(
        tmp_path, **{"{code: IN}": "{code: IN, resource_id: e}", '"(None, 0)"': '"(None, None)"'}
    )
    assert subjects(label(task, made, tmp_path / "labels").out) == list(range(1, 9))
    task.write_text(task.read_text().replace("resource_id: e", "wardd: e"))
    with pytest.raises(TaskError, match="asks for column `wardd`, which the events do not have"):
        label(task, made, tmp_path / "none")
    task.write_text(task.read_text().replace("wardd: e", "resource_id: 3"))
    with pytest.raises(TaskError, match=r"compares column `resource_id` \(String\) with `3`"):
        label(task, made, tmp_path / "none")


def test_a_label_that_nobody_can_have_names_the_nearest_codes(tmp_path: Path):
    task, made = grown(tmp_path, **{"[DEAD, GONE]": "[DAED]"})
    with pytest.raises(DegenerateTaskError, match=r'is a `death` \(DAED\)\. Closest: "DEAD"'):
        label(task, made, tmp_path / "labels")


def test_a_list_of_labels(tmp_path: Path):
    task, made = grown(tmp_path, **{"label: death": "label: [death, discharge, left]"})
    result = label(task, made, tmp_path / "labels")
    asked = pl.read_parquet(result.out / "outputs.parquet")
    assert asked.drop("meaning").rows() == [
        ("death", 4, 0),
        ("discharge", 4, 0),
    ]  # nobody has said who trains
    assert result.manifest.notes["outputs_not_asked"] == ["left"]  # everybody has left
    true = pl.read_parquet(result.out / "true/*.parquet").filter(pl.col("output") != "left")
    assert true.select("subject_id", "output").sort("subject_id").rows() == [
        (n, "death" if n % 2 else "discharge") for n in range(1, 9)
    ]
    meds.LabelSchema.validate(pq.read_table(result.out / "data/0000.parquet"))


def test_an_output_for_each_code(tmp_path: Path):
    """Odd subjects die, subject n has code X//n and a code of its group; six of the eight train."""
    task, made = grown(
        tmp_path,
        **{"label: death": "label: billed, each: {group: '^(X//.)', min_patients: 2}"},
        **{"predicates:": "predicates:\n  billed: {code: {regex: '^(X|Y)//'}}"},
    )
    events = pl.read_parquet(made / "data/*.parquet").select("subject_id", "time", "code", "numeric_value")
    late, out = datetime(2020, 1, 8), datetime(2020, 1, 11)
    more = [(n, late, f"X//{n % 3}{n}", None) for n in range(1, 9)] + [(1, late, "Y//1", None)]
    more += [
        (8, late, "X//9", None),
        (2, out, "X//11", None),
        (1, late, "X//1x", None),
    ]  # one patient; too late; again
    timeline(made, [*events.rows(), *more], shards=2)
    split_subjects(pl.Series(range(1, 9)), (0.6, 0.2, 0.2)).write_parquet(made / SUBJECT_SPLITS)
    train = set(pl.read_parquet(made / SUBJECT_SPLITS).filter(split="train")["subject_id"])
    result = label(task, made, tmp_path / "labels")
    wanted = {(n, f"X//{n % 3}") for n in range(1, 9)} | {(8, "X//9")}
    true = pl.read_parquet(result.out / "true/*.parquet")
    assert set(true.select("subject_id", "output").rows()) == wanted
    kept = {f"X//{k}": len({n for n in train if n % 3 == k}) for k in range(3)}
    asked = pl.read_parquet(result.out / "outputs.parquet")
    assert dict(asked.select("output", "train_patients").rows()) == {k: n for k, n in kept.items() if n >= 2}


@pytest.mark.parametrize(
    ("each", "message"),
    [
        ("{group: 'X'}", "expected a regular expression with one group"),
        ("{group: '(X'}", "expected a regular expression with one group"),
        ("{min_patients: 0}", "expected a count of 1 or more"),
        ("{least: 3}", "least"),
    ],
)
def test_a_wrong_each(tmp_path: Path, each: str, message: str):
    task, made = grown(tmp_path, **{"label: death": f"label: discharge, each: {each}"})
    with pytest.raises(TaskError, match=message):
        label(task, made, tmp_path / "labels")


def test_stays_of_no_length_and_a_thousand_events_at_once(tmp_path: Path):
    rows: list[Row] = [(n, datetime(2020, 1, 1), code, None) for n in (1, 2) for code in ("IN", "OUT")]
    rows += [(n, datetime(2020, 1, 1), "IN", None) for n in (3, 4) for _ in range(5_000)]
    rows += [
        (3, datetime(2020, 1, 5), "DEAD", None),
        *((4, datetime(2020, 1, 5), "OUT", None) for _ in range(5_000)),
    ]
    result = label(written(tmp_path, GOOD), timeline(tmp_path / "timeline", rows), tmp_path / "labels")
    assert subjects(result.out) == [3, 4]
    (books,) = result.manifest.sources.values()
    assert books.reasons == {
        "at the same moment as another admission": 9_998,
        "no left after target.start": 2,
    }


def test_a_folder_that_is_no_timeline(tmp_path: Path):
    with pytest.raises(SchemaError, match=str(tmp_path)):
        label(written(tmp_path, GOOD), tmp_path, tmp_path / "labels")


def test_labels_are_meds(tmp_path: Path):
    rows = [(n, datetime(2020, 1, 1), "IN", None) for n in (1, 2)]
    rows += [(1, datetime(2020, 1, 9), "DEAD", None), (2, datetime(2020, 1, 9), "OUT", None)]
    made = label(written(tmp_path, GOOD), timeline(tmp_path / "timeline", rows), tmp_path / "labels").out
    tables = [pq.read_table(path) for path in (made / "data").iterdir()]
    for table in tables:
        meds.LabelSchema.validate(table)  # raises where it is not
    assert sum(table.num_rows for table in tables) == 2


def test_a_trigger_is_not_its_own_outcome(tmp_path: Path):
    """Asked at admission whether another one follows: the admission itself, at that very moment, gives nothing away."""
    text = GOOD.replace("trigger + 24h", "trigger")
    text = text.replace("start: gap.end, end: start -> left", "start: trigger, end: start + 30d")
    rows = [(n, datetime(2020, 1, 1), "IN", None) for n in range(1, 5)]
    rows += [(n, datetime(2020, 1, 5), "DEAD", None) for n in range(1, 5)]
    rows += [(n, datetime(2020, 1, 9), "IN", None) for n in (1, 2)]
    again = label(
        written(tmp_path, text.replace("label: death", "label: admission")),
        timeline(tmp_path / "timeline", rows), tmp_path / "labels",
    )  # fmt: skip
    assert again.manifest.notes["outcome_visible"] == {"admission": [0, 0, 2]}
    rows += [(1, datetime(2020, 1, 1), "GONE", None)]
    dead = label(written(tmp_path, text), timeline(tmp_path / "timeline", rows), tmp_path / "dead")
    assert dead.manifest.notes["outcome_visible"]["death"][1] == 1
