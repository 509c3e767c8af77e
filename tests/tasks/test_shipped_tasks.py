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
_WORSE += [("2019-01-04 08:00", f"Condition//ICD-10-CM//{code}", None) for code in ("I10", "J18", "L89")]
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
    for subject, others in ((2, _SICK), (3, _WELL), (4, _BACK), (5, _WORSE)):
        rows += story(subject, others)
    made = label(task, timeline(tmp_path / "timeline", rows), tmp_path / "labels").out
    several = case["labels"] if isinstance(case["labels"], dict) else {None: case["labels"]}
    for name, wanted in several.items():
        folder = made / f"{task}.{name}" if name else made
        labels = pl.read_parquet(folder / "data/*.parquet").filter(subject_id=1)
        expected = [(moment(time), value) for time, value in wanted]
        assert labels.select("prediction_time", "boolean_value").rows() == expected, name


def test_every_task_has_cases_and_says_what_it_is():
    for task in shipped_tasks():
        assert (Path(definition.__file__).parent / "definitions" / f"{task}.cases.yaml").is_file()
        assert len(load_task(task).description) > 50
