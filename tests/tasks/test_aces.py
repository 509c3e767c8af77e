"""The same task files and timelines given to es-aces, another program: every candidate kept, and every label."""

import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import polars as pl
import pytest
import yaml
from aces_oracle import CODES, VALUES, random_task
from events_folder import timeline
from stories import all_stories

from ehrseq.tasks.definition import STANDARD_TASKS, load_task, task_document
from ehrseq.tasks.extract import label
from ehrseq.tasks.language import Plain
from ehrseq.tasks.windows import candidates, lay_out

TASKS = 300
ALIKE = (
    *STANDARD_TASKS,
    "icu_transfer_24h",
    "icu_transfer_admission",
    "in_hospital_mortality_before_admission",
    "long_stay_7d_admission",
    "readmission_30d_24h",
    "readmission_30d_admission",
)  # neither asked again and again nor with several labels, as ACES has it


@pytest.fixture
def aces() -> str:
    python = os.environ.get("EHRSEQ_ACES_PYTHON")
    if not python:
        pytest.skip("EHRSEQ_ACES_PYTHON does not name a Python with es-aces 0.7.3")
    return python


def asked_of_aces(python: str, folder: Path) -> dict[str, dict[tuple[int, datetime], bool]]:
    script = Path(__file__).with_name("run_aces.py")
    subprocess.run([python, str(script), str(folder)], check=True, timeout=600)
    return {
        path.parent.name: {
            (subject, trigger): count > 0
            for subject, trigger, count in pl.read_csv(path, try_parse_dates=True)
            .cast({"trigger": pl.Datetime("us")})
            .rows()
        }
        for path in folder.glob("*/aces.csv")
    }


def laid_out(task_file: Path, shard: Path) -> dict[tuple[int, datetime], bool]:
    task, events = load_task(task_file), pl.read_parquet(shard)
    have = events["code"].unique()
    codes = {
        name: have.filter(have.str.contains(one.regex) if one.regex else have.is_in(one.codes)).to_list()
        for name, one in task.predicates.items()
        if isinstance(one, Plain)
    }
    rows, _ = lay_out(task, *candidates(task, events, codes))
    return {
        (subject, trigger): n > 0
        for subject, trigger, n in rows.select("subject_id", "trigger", f"label.{task.label[1][0]}").rows()
    }


@pytest.mark.slow
def test_random_tasks(aces: str, tmp_path: Path):
    for seed in range(TASKS):
        source = Random(seed)
        start, folder = datetime(2020, 1, 1), tmp_path / str(seed)
        rows = [
            (source.randint(1, 15), start + timedelta(hours=source.randint(0, 14)), source.choice(CODES),
             source.choice(VALUES))
            for _ in range(120)
        ]  # fmt: skip
        timeline(folder, [*rows, (1, None, "A", 1.0)])
        (folder / "task.yaml").write_text(yaml.safe_dump(random_task(source.choice), sort_keys=False))
    theirs = asked_of_aces(aces, tmp_path)
    assert len(theirs) == TASKS
    assert sum(map(len, theirs.values())) > 5 * TASKS
    for name, labels in theirs.items():
        folder = tmp_path / name
        assert laid_out(folder / "task.yaml", folder / "data/0000.parquet") == labels, folder / "task.yaml"


@pytest.mark.slow
def test_shipped_tasks(aces: str, tmp_path: Path):
    for task in ALIKE:
        timeline(tmp_path / task, all_stories(), shards=2)
        document = {key: value for key, value in task_document(task).value.items() if key != "extends"}
        (tmp_path / task / "task.yaml").write_text(yaml.safe_dump(document))
    for task, theirs in asked_of_aces(aces, tmp_path).items():
        ours = pl.read_parquet(
            label(task, tmp_path / task, tmp_path / "labels" / task).out / "data/*.parquet"
        )
        hours = {"readmission_30d": 0, "in_hospital_mortality_before_admission": -24}
        day = timedelta(hours=hours.get(task, 0 if task.endswith("_admission") else 24))
        assert len(ours) >= 15, task
        assert theirs == {(subject, time - day): value for subject, time, value in ours.rows()}
