"""The stories beside each shipped task (`definitions/*.cases.yaml`) as events."""

from collections.abc import Iterator
from datetime import datetime

import yaml
from events_folder import Row

from ehrseq.tasks.definition import find_task, shipped_tasks

SHORT = {
    "IN": "Encounter.start//ActCode//IMP",
    "OUT": "Encounter.end//ActCode//IMP//home",
    "OUT_UNKNOWN": "Encounter.end//ActCode//IMP",
    "DEAD": "Encounter.end//ActCode//IMP//exp",
    "OBS": "Encounter.start//ActCode//OBSENC",
    "OBS_OUT": "Encounter.end//ActCode//OBSENC//home",
    "ER": "Encounter.start//ActCode//EMER",
    "ER_END": "Encounter.end//ActCode//EMER",
    "PART": "Encounter.part.start//text//Medicine",
    "URGENT": "Encounter.priority//ActPriority//EM",
    "ELECTIVE": "Encounter.priority//ActPriority//EL",
    "ICU": "Encounter.part.start//mimic-careunit//Medical Intensive Care Unit (MICU)",
}


def moment(text: object) -> datetime | None:
    """`2020-01-01 08:00`; null is never."""
    return None if text is None else datetime.fromisoformat(str(text))


def story(subject: int, case: dict) -> list[Row]:
    """A case's events, the birth first."""
    born = moment(case.get("born", "1970-01-01"))
    birth = [] if born is None else [(subject, born, "MEDS_BIRTH", None)]
    events = [(time, code, value[0] if value else None) for time, code, *value in case["events"]]
    return birth + [(subject, moment(time), SHORT.get(code, code), value) for time, code, value in events]


def cases() -> Iterator[tuple[str, dict]]:
    """(task, case) for every case."""
    for task in shipped_tasks():
        for case in yaml.safe_load(find_task(task).with_name(f"{task}.cases.yaml").read_text()):
            yield task, case


def all_stories() -> list[Row]:
    """One subject for each case of every task."""
    return [row for subject, (_, case) in enumerate(cases(), start=1) for row in story(subject, case)]
