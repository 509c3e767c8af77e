"""The tasks that ship: short stories of events beside each definition, and the labels they must give."""

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from events_folder import timeline

from ehrseq.tasks import definition
from ehrseq.tasks.definition import find_task, load_task, shipped_tasks
from ehrseq.tasks.extract import label
from ehrseq.timeline.meds import SUBJECT_SPLITS, split_subjects

CODES = {
    "IN": "Encounter.start//ActCode//IMP",
    "OUT": "Encounter.end//ActCode//IMP//home",
    "DEAD": "Encounter.end//ActCode//IMP//exp",
    "ER": "Encounter.start//ActCode//EMER",
    "ER_END": "Encounter.end//ActCode//EMER",
    "URGENT": "Encounter.priority//ActPriority//EM",
    "ELECTIVE": "Encounter.priority//ActPriority//EL",
    "ICU": "Encounter.part.start//mimic-careunit//Medical Intensive Care Unit (MICU)",
    "CREATININE": "Observation.interpretation//LOINC//2160-0//H",
    "POTASSIUM": "Observation.interpretation//LOINC//2823-3//L",
}
# so that every task has labels of both kinds: not looked at
_SICK = [("2019-01-01 08:00", "IN", None), ("2019-01-12 08:00", "DEAD", 11.0)]
_WELL = [("2019-01-01 08:00", "IN", None), ("2019-01-04 08:00", "OUT", 3.0)]
_WORSE = [("2019-01-01 08:00", "IN", None), ("2019-01-02 18:00", "ICU", None)]
_WORSE += [("2019-01-02 18:00", code, None) for code in ("CREATININE", "POTASSIUM")]
_BILLED = [*_WELL, ("2019-01-04 08:00", "Condition//ICD-10-CM//I10", None)]
_WORSE += [("2019-01-04 08:00", "OUT", 3.0)]
_BACK = [*_WELL, ("2019-01-10 08:00", "IN", None), ("2019-01-10 08:00", "URGENT", None)]


def moment(text: object) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text))


def story(subject: int, events, born: object = "1970-01-01"):
    birth = [] if born is None else [(subject, moment(born), "MEDS_BIRTH", None)]
    return birth + [(subject, moment(time), CODES.get(code, code), value) for time, code, value in events]


def cases():
    for task in shipped_tasks():
        path = find_task(task).with_name(f"{task}.cases.yaml")
        for case in yaml.safe_load(path.read_text()):
            yield pytest.param(task, case, id=f"{task}: {case['case']}")


@pytest.mark.parametrize(("task", "case"), cases())
def test_case(tmp_path: Path, task: str, case: dict):
    events = [(time, code, *([*rest, None][:1])) for time, code, *rest in case["events"]]
    rows = story(1, events, case.get("born", "1970-01-01"))
    for subject, others in enumerate((_SICK, _WELL, _BACK, _WORSE, *[_BILLED] * 10), start=2):
        rows += story(subject, others)
    where = timeline(tmp_path / "timeline", rows)
    split_subjects(pl.Series(range(1, 20)), (1.0, 0.0, 0.0)).write_parquet(where / SUBJECT_SPLITS)
    made = label(task, where, tmp_path / "labels").out
    labels = pl.read_parquet(made / "data/*.parquet").filter(subject_id=1)
    expected = [(moment(time), value) for time, value in case["labels"]]
    assert labels.select("prediction_time", "boolean_value").rows() == expected
    assert load_task(task).several == ("outputs" in case)
    if "outputs" in case:
        true = pl.read_parquet(made / "true/*.parquet").filter(subject_id=1)
        assert set(true.drop("subject_id").rows()) == {
            (moment(time), output) for time, output in case["outputs"]
        }


def test_every_task_has_cases_and_says_what_it_is():
    for task in shipped_tasks():
        assert (Path(definition.__file__).parent / "definitions" / f"{task}.cases.yaml").is_file()
        assert len(load_task(task).description) > 50
