"""`ehrseq retrain`: promoted when it passes, refused with its cause when the data are damaged, once for a run-id."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from months import CREATININE, PATIENTS, SODIUM, TASK, deliver

import ehrseq
from ehrseq.core.errors import BusyError, ConfigError
from ehrseq.deploy import retrain as retrain_module
from ehrseq.deploy.lease import lease
from ehrseq.deploy.registry import Registry, find_model
from ehrseq.deploy.retrain import DECISION


@pytest.fixture
def place(retrained: Path, tmp_path: Path) -> Path:
    shutil.copytree(retrained, tmp_path / "place")
    return tmp_path / "place"


def promotions(place: Path) -> list[str]:
    history = Registry.read(place / "models/months").history
    return [entry["run_id"] for entry in history if entry["alias"] == "champion"]


def test_the_same_run_id_again_promotes_nothing(place: Path):
    before = (place / "models/months/registry.json").read_bytes()
    again = ehrseq.retrain(place / "retrain.yaml", run_id="first")
    assert not again.fresh
    assert again.exit_code == 0
    assert (place / "models/months/registry.json").read_bytes() == before
    assert promotions(place) == ["first"]


def test_damaged_data_are_refused_by_their_causes_and_the_champion_stays(place: Path):
    champion = find_model("months", place / "models").version
    deliver(place / "delivery", 3, patients=PATIENTS, damaged=(3,), policy=(3,))
    refused = ehrseq.retrain(place / "retrain.yaml", run_id="damaged")
    assert refused.exit_code == 4
    causes = {
        (check["sentence"].split(":")[0], check["what"]) for check in refused.checks if not check["passed"]
    }
    assert {("unit", CREATININE), ("renamed", SODIUM), ("admission", "Encounter.type")} <= causes
    registry = Registry.read(place / "models/months")
    assert registry.aliases["champion"] == champion
    assert registry.aliases["challenger"] == refused.version != champion
    assert ehrseq.retrain(place / "retrain.yaml", run_id="damaged").exit_code == 4
    assert promotions(place) == ["first"]


def test_killed_between_promotion_and_decision_it_promotes_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    deliver(place / "delivery", 3, patients=PATIENTS)
    write_json = retrain_module.write_json

    def killed(path: Path, value: Any) -> None:
        if path.name == DECISION:
            raise KeyboardInterrupt
        write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(retrain_module, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            ehrseq.retrain(place / "retrain.yaml", run_id="second")
    assert not (place / "work/retrain.lease").exists()
    decided = ehrseq.retrain(place / "retrain.yaml", run_id="second")
    assert decided.champion == json.loads((place / "work/runs/second/start.json").read_text())["champion"]
    assert promotions(place).count("second") == int(decided.status == "promoted")
    words = json.loads((place / "work/runs/second/tokens/manifest.json").read_text())["inputs"]
    assert any(one["name"] == "extended" for one in words)


def test_two_schedulers_at_once(place: Path):
    with lease(place / "work/retrain.lease", owner="run other", hours=1):
        with pytest.raises(BusyError, match="run other"):
            ehrseq.retrain(place / "retrain.yaml", run_id="second")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsource: meds\ndata: d", r"retrain\.yaml:1  `work` is missing"),
        ("name: a\nsource: meds\ndata: d\nwork: w\ngates: {}", r"retrain\.yaml:5  unknown key `gates`.*gate"),
        (
            "name: a\nsource: meds\ndata: d\nwork: w\ngate: {min_event: 3}",
            r"retrain\.yaml:5  .*min_event.*min_events",
        ),
        (
            "name: a\nsource: meds\ndata: d\nwork: w\ngate: {drift: {units: 1}}",
            r"retrain\.yaml:5  .*units.*unit",
        ),
        (
            "name: a\nsource: meds\ndata: d\nwork: w\nstart: cold",
            r"retrain\.yaml:5  `start` is 'cold'.*warm or scratch",
        ),
        ("name: a\nsource: meds\ndata: d\nwork: w\nnewest_days: -1", r"retrain\.yaml:5  `newest_days` is -1"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text: str, message: str, tmp_path: Path):
    (tmp_path / "retrain.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ehrseq.retrain(tmp_path / "retrain.yaml", run_id="x")
    with pytest.raises(ConfigError):
        ehrseq.retrain(tmp_path / "retrain.yaml", run_id="../x")


def command(place: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ehrseq.cli",
        "retrain",
        str(place / "retrain.yaml"),
        "--run-id",
        "killed",
        "--quiet",
    ]


def weights(place: Path) -> dict[str, bytes]:
    """The files of the run's model and of its version."""
    version = Registry.read(place / "models/months").aliases["challenger"]
    folder = place / "models/months" / version
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


@pytest.mark.slow
@pytest.mark.parametrize("kills", [20])
def test_kill_9_at_random_instants_of_a_retrain(kills: int, place: Path, tmp_path: Path):
    """Always one loadable champion; the resumed run ends bit-identical to one that nobody interrupted."""
    deliver(place / "delivery", 3, patients=PATIENTS)
    shutil.copytree(place, tmp_path / "uninterrupted")
    began = time.monotonic()
    subprocess.run(command(tmp_path / "uninterrupted"), check=False, capture_output=True)
    seconds = time.monotonic() - began
    chance = random.Random(7)
    for _ in range(kills):
        child = subprocess.Popen(command(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(chance.uniform(0.05, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert find_model("months", place / "models").trained.parameters
    subprocess.run(command(place), check=False, capture_output=True)
    assert weights(place) == weights(tmp_path / "uninterrupted")
    ours, theirs = (
        json.loads((one / "work/runs/killed" / DECISION).read_text())
        for one in (place, tmp_path / "uninterrupted")
    )
    for told in (ours, theirs):
        told.pop("cost")
    assert ours == theirs
    assert promotions(place).count("killed") == promotions(tmp_path / "uninterrupted").count("killed")


def test_sigterm_exits_75_and_the_same_command_goes_on(place: Path):
    deliver(place / "delivery", 3, patients=PATIENTS)
    child = subprocess.Popen(command(place), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not (place / "work/runs/killed/start.json").exists() and child.poll() is None:
        time.sleep(0.05)
    child.terminate()
    _, said = child.communicate()
    assert child.returncode == 75, said
    assert find_model("months", place / "models").label.startswith("months/v0001")
    assert not (place / "work/runs/killed" / DECISION).exists()
    assert ehrseq.retrain(place / "retrain.yaml", run_id="killed").fresh
    assert TASK in find_model("months", place / "models").tasks
