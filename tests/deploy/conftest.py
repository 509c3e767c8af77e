"""One small hospital, taken the whole way once for all tests of this folder."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from months import PATIENTS, deliver, settings
from tiny_run import NOBODY_DIES_TWICE, TASKS, TINY

from ehrseq.deploy.generated import hospital
from ehrseq.deploy.pipeline import Outcome, run
from ehrseq.deploy.registry import add
from ehrseq.deploy.retrain import retrain


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that the workers of one test run have in common; its fixtures are made by one of them at a time."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "whole-way"
    folder.mkdir(exist_ok=True)
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    before = {name: os.environ.get(name) for name in compiled}
    os.environ.update(compiled)
    yield folder
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(scope="session")
def whole(shared: Path) -> Outcome:
    """The outcome of a whole run on 150 generated patients, in `shared`/run; the hospital is in `shared`/hospital."""
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # what another worker has made is found unchanged
        never = shared / "second_death.yaml"
        never.write_text(NOBODY_DIES_TWICE)
        data = hospital(shared / "hospital", patients=150, seed=0)
        return run("mimic_iv", data, shared / "run", tasks=[*TASKS, str(never)], config=TINY)


@pytest.fixture(scope="session")
def registered(whole: Outcome, shared: Path) -> Path:
    """A folder of models in which the whole run's model is the champion of `tiny`. Not to be changed."""
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        add(whole.out, "tiny", models=shared / "models")
        return shared / "models"


@pytest.fixture(scope="session")
def retrained(shared: Path) -> Path:
    """A folder in which two generated months were trained on and promoted, as run "first". Not to be changed."""
    folder = shared / "retrained"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "delivery").exists():
            deliver(folder / "delivery", 2, patients=PATIENTS)
        decided = retrain(settings(folder, epochs=2), run_id="first")
        assert decided.status == "promoted", [check for check in decided.checks if not check["passed"]]
    return folder
