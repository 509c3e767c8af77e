"""`kill -9` at any moment: the final folder never holds half a dataset, and the same command goes on to equal bytes.

A child runs one stage and kills itself at the n-th time that Python touches a matching path; python's audit
events (open, rename, mkdir, …) say when. The parent then runs the stage to its end and compares every file with a
run that nobody interrupted.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from tiny_run import TASKS, TINY

import ehrseq
from ehrseq.core.dataset import Build, verify
from ehrseq.core.manifest import read_manifest
from ehrseq.deploy.fitting import predict_held_out, train_model
from ehrseq.deploy.generated import hospital
from ehrseq.deploy.pipeline import Outcome, run
from ehrseq.deploy.reporting import write_evaluation
from ehrseq.tokens.examples import make_examples

HERE = Path(__file__).parent
TINY_PATIENTS = 30


@dataclass(frozen=True)
class Made:
    """A small hospital's datasets that nobody interrupted, and the whole run's."""

    small: Path
    whole: Path


@pytest.fixture(scope="session")
def made(whole: Outcome, shared: Path) -> Made:
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = Made(shared / "small", whole.out)
        for stage in ("hospital", "map", "timeline", "tokenize", "label"):
            work(stage, found, found.small / stage)
        return found


def work(stage: str, made: Made, out: Path, workers: int = 1) -> object:
    """Run one stage into `out`. Those up to `label` run on the small hospital, the others on the whole run."""
    small, whole = made.small, made.whole
    tasks = [whole / "labels" / name for name in ("in_hospital_mortality_24h", "long_stay_7d")]
    match stage:
        case "hospital":
            return hospital(out, patients=TINY_PATIENTS, seed=3)
        case "map":
            return ehrseq.map("mimic_iv", small / "hospital", out, validate="none", workers=workers)
        case "timeline":
            return ehrseq.timeline(small / "map", out, workers=workers)
        case "tokenize":
            return ehrseq.tokenize(small / "timeline", out, workers=workers)
        case "label":
            return ehrseq.label("long_stay_7d", small / "timeline", out)
        case "examples":
            return make_examples(whole / "tokens", tasks, out)
        case "model":
            return train_model(whole / "tokens", whole / "examples", out, TINY)
        case "predictions":
            return predict_held_out(whole / "tokens", whole / "examples", whole / "model", out)
        case "report":
            return write_evaluation(
                out, title="t", predictions=whole / "predictions", fhir=whole / "fhir", timeline=whole / "timeline",
                tokens=whole / "tokens", labels=tasks, model=whole / "model", config=TINY,
            )  # fmt: skip
    raise ValueError(stage)


CHILD = """
import json, os, re, signal, sys
from pathlib import Path
asked = json.loads(sys.argv[1])
wanted, left = re.compile(asked["path"]), [asked["times"]]
def touched(event, arguments):
    if event.partition(".")[0] not in ("open", "os", "shutil"):
        return
    if any(isinstance(item, (str, bytes, os.PathLike)) and wanted.search(os.fsdecode(item)) for item in arguments):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
from ehrseq.core.progress import set_quiet
set_quiet(True)
sys.path.insert(0, asked["here"])
from test_killed import Made, work
sys.addaudithook(touched)
if __name__ == "__main__":
    work(asked["stage"], Made(Path(asked["small"]), Path(asked["whole"])), Path(asked["out"]), asked["workers"])
"""


def start(
    stage: str, made: Made, out: Path, path: str, times: int, workers: int = 1
) -> subprocess.Popen[bytes]:
    """A child that works and kills itself the `times`-th time that it touches a `path` (a pattern)."""
    asked = {
        "stage": stage, "small": str(made.small), "whole": str(made.whole), "out": str(out), "path": path,
        "times": times, "workers": workers, "here": str(HERE),
    }  # fmt: skip
    script = out.parent / "child.py"
    script.write_text(CHILD)
    return subprocess.Popen(
        [sys.executable, str(script), json.dumps(asked)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill(stage: str, made: Made, out: Path, path: str, times: int = 1) -> None:
    returned = start(stage, made, out, path, times).wait()
    assert returned == -signal.SIGKILL, (
        f"{stage} ended with {returned} before it touched {path} {times} times"
    )


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def leftovers(out: Path) -> set[str]:
    """What stands beside `out`: locks, temporary and working folders."""
    return {path.name for path in out.parent.iterdir()} - {out.name, "child.py"}


# Where each stage is killed, as (pattern, times touched): while it writes its temporary sibling, and in the moment
# when all is there but the name.
BEGUN, NAMELESS = (r"/\.{out}\.tmp-\d+", 2), (r"/\.{out}\.tmp-\d+/manifest\.json$", 1)
POINTS = {
    "hospital": [(r"/\.{out}\.tmp-.*hosp/l\w+\.csv", 1), NAMELESS],
    "map": [(r"/\.{out}\.tmp-.*Observation/000\d\.parquet", 1)],
    "timeline": [(r"/\.{out}\.tmp-.*data/0001\.parquet", 1), NAMELESS],
    "tokenize": [(r"/\.{out}\.tmp-.*arrays/value\.bin", 1), NAMELESS],
    "label": [(r"/\.{out}\.tmp-.*data/", 1), NAMELESS],
    "examples": [(r"/\.{out}\.tmp-.*examples\.npz", 1)],
    "predictions": [BEGUN],
    "report": [(r"/\.{out}\.tmp-.*results\.json", 1)],
}


SLOW = {"predictions"}


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=pytest.mark.slow) if stage in SLOW else stage for stage in POINTS]
)
def test_kill_minus_nine_then_the_same_command_again(stage: str, made: Made, tmp_path: Path):
    out = tmp_path / stage
    reference = made.small / stage
    if stage in ("examples", "predictions"):
        reference = made.whole / stage
    if stage == "report":
        reference = work(stage, made, tmp_path / "reference" / stage).out  # type: ignore[attr-defined]
    before = leftovers(out)
    kind = read_manifest(reference).kind
    with Build(out, kind=kind, config={"older": True}, inputs=[]) as older:
        older.write("old.parquet", pl.DataFrame({"old": [1]}))
    for path, times in POINTS[stage]:
        kill(stage, made, out, path.replace("{out}", stage), times)
        assert verify(out).config == {"older": True}, "the old dataset is not touched"
        assert leftovers(out) - before, "the kill came too early to have left something"
    work(stage, made, out)
    verify(out)
    assert content(out) == content(reference)
    assert leftovers(out) == before


def killed_training(made: Made, out: Path, path: str, times: int) -> None:
    kill("model", made, out, path, times)
    assert not out.exists()
    assert any(name.startswith(f".{out.name}.training-") for name in leftovers(out))


def test_training_goes_on_bit_for_bit_after_a_kill(made: Made, tmp_path: Path):
    out = tmp_path / "model"
    killed_training(made, out, r"/checkpoints/", 60)
    work("model", made, out)
    assert content(out) == content(made.whole / "model")
    assert leftovers(out) == set()


def test_training_goes_on_after_a_kill_between_the_model_and_its_history(made: Made, tmp_path: Path):
    out = tmp_path / "model"
    killed_training(made, out, r"history\.json", 1)
    work("model", made, out)
    assert content(out) == content(made.whole / "model")


def children_of(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_workers_do_not_outlive_a_killed_run_nor_disturb_the_next(made: Made, tmp_path: Path):
    out = tmp_path / "map"
    running = start("map", made, out, r"nothing-has-this-name", 1, workers=2)
    temporary = tmp_path / f".map.tmp-{running.pid}"
    deadline = time.monotonic() + 60
    while not list(temporary.rglob("*.parquet")) and time.monotonic() < deadline:
        assert running.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    workers = children_of(running.pid)
    running.kill()
    running.wait()
    work("map", made, out)
    assert content(out) == content(made.small / "map")
    deadline = time.monotonic() + 5
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    outlived = [pid for pid in workers if alive(pid)]
    for pid in outlived:
        os.kill(pid, signal.SIGKILL)
    assert outlived == [], "a worker outlived its killed parent"
    assert leftovers(out) == set()


SIGTERM = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from tiny_run import TASKS, TINY
import ehrseq.cli, ehrseq.deploy.pipeline, ehrseq.training.loop as loop
track = loop.track
def stopped(items, total, what):
    for number, item in enumerate(track(items, total, what)):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        yield item
loop.track = stopped
ehrseq.deploy.pipeline.TrainConfig = lambda seed: TINY
arguments = ["run", "mimic_iv", sys.argv[2] + "/hospital", "-o", sys.argv[3], "--json"]
for task in TASKS:
    arguments += ["--task", task]
sys.argv = ["ehrseq", *arguments]
ehrseq.cli.main()
"""


def test_sigterm_in_training_gives_75_and_the_same_command_goes_on(
    whole: Outcome, shared: Path, tmp_path: Path
):
    out = tmp_path / "run"
    for name in ("fhir", "timeline", "tokens", "labels", "examples"):
        shutil.copytree(whole.out / name, out / name)
    done = subprocess.run(
        [sys.executable, "-c", SIGTERM, str(HERE), str(shared), str(out)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["status"], last["exit_code"]) == ("failed", 75)
    assert re.search(r"SIGTERM in epoch 0, batch [34] of \d+", last["error"])
    assert "Traceback" not in done.stderr
    assert not (out / "model").exists()
    assert list(out.glob(".model.training-*"))
    again = run("mimic_iv", shared / "hospital", out, tasks=TASKS, config=TINY)
    statuses = {name: stage.status for name, stage in again.stages.items()}
    assert {name for name, status in statuses.items() if status == "made"} == {
        "model",
        "predictions",
        "report",
    }
    assert content(out / "model") == content(whole.out / "model")
    assert content(out / "predictions") == content(whole.out / "predictions")
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()
