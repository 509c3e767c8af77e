"""Model versions: whole, hashed, promoted in one step, and refused when a byte is changed."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ehrseq.core.dataset import take_lock
from ehrseq.core.errors import BusyError, ConfigError, ModelError
from ehrseq.deploy.models_page import difference
from ehrseq.deploy.pipeline import Outcome
from ehrseq.deploy.registry import FILE, Registry, add, changing, find_model, promote, registries, rollback

NAME = "tiny"


@pytest.fixture
def models(registered: Path, tmp_path: Path) -> Path:
    """A copy of the registry with one version, to be changed."""
    shutil.copytree(registered, tmp_path / "models")
    return tmp_path / "models"


def second(models: Path) -> str:
    """Register another version, by copying the first: only the registry is looked at."""
    with changing(models / NAME) as registry:
        (first,) = registry.versions
        other = "v0002-0000beef"
        shutil.copytree(models / NAME / first, models / NAME / other)
        registry.versions[other] = registry.versions[first]
    return other


def test_a_version_holds_all_that_a_prediction_needs_and_nothing_of_a_patient(
    registered: Path, whole: Outcome
):
    version = find_model(NAME, registered)
    names = {shard.path for shard in version.manifest.shards}
    assert {"model/weights.npz", "model/weights.safetensors", "model/vocabulary.json", "card.md", "lineage.json",
            "calibration.json", "familiar.json", "metrics.json", "environment.json"} <= names  # fmt: skip
    assert {f"tasks/{task}.yaml" for task in version.tasks} <= names
    assert "views/shipped/observation.yaml" in names
    with np.load(version.folder / "model/weights.npz") as weights:
        other = load_file(version.folder / "model/weights.safetensors")
        assert all(np.array_equal(weights[name], other[name]) for name in weights.files)
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt"))]
    subjects = {
        str(one) for one in json.loads((whole.out / "report/cohort.json").read_text()) and _subjects(whole)
    }
    text = "".join(
        (version.folder / name).read_text() for name in names if name.endswith((".json", ".md", ".yaml"))
    )
    assert not [subject for subject in subjects if f'"{subject}"' in text]


def _subjects(whole: Outcome) -> list[int]:
    import polars as pl

    return pl.read_parquet(whole.out / "timeline/metadata/subject_splits.parquet")["subject_id"].to_list()


def test_the_same_run_again_is_the_same_version(models: Path, whole: Outcome):
    before = (models / NAME / FILE).read_bytes()
    assert add(whole.out, NAME, models=models).version.startswith("v0001-")
    assert (models / NAME / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "name", ["model/weights.npz", "model/vocabulary.json", "calibration.json", "manifest.json"]
)
def test_one_changed_byte_is_refused_with_file_found_and_expected(name: str, models: Path):
    folder = find_model(NAME, models).folder
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(
        ModelError, match=rf"{name}: sha256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}.*rollback"
    ):
        find_model(NAME, models)


def test_a_file_too_few_or_too_many_is_refused(models: Path):
    folder = find_model(NAME, models).folder
    (folder / "extra.txt").write_text("x")
    with pytest.raises(ModelError, match=r"extra\.txt: found, but the manifest does not list it"):
        find_model(NAME, models)
    (folder / "extra.txt").unlink()
    (folder / "familiar.json").unlink()
    with pytest.raises(ModelError, match=r"familiar\.json: missing"):
        find_model(NAME, models)


def test_promote_and_rollback_keep_a_history(models: Path):
    first, other = find_model(NAME, models).version, second(models)
    assert promote(NAME, "v0002", models=models).aliases["champion"] == other
    assert promote(NAME, other, models=models).history[-1]["from"] == first  # once more changes nothing
    assert rollback(NAME, models=models).aliases["champion"] == first
    with pytest.raises(ModelError, match="no version before it"):
        rollback(NAME, models=models)
    told = Registry.read(models / NAME)
    assert [entry["why"] for entry in told.history] == ["added", "promoted", "rolled back"]
    assert [registry.name for registry in registries(models)] == [NAME]


def test_a_damaged_version_is_never_promoted(models: Path):
    other = second(models)
    (models / NAME / other / "card.md").write_text("another")
    with pytest.raises(ModelError, match=r"card\.md: sha256"):
        promote(NAME, other, models=models)
    assert Registry.read(models / NAME).aliases["champion"] != other


def test_a_clock_that_goes_backwards_does_not_turn_the_history_round(models: Path):
    other = second(models)
    promote(NAME, other, models=models, now=datetime(2001, 1, 1, tzinfo=UTC))
    first, last = Registry.read(models / NAME).history
    assert last["at"] >= first["at"]
    assert last["clock"].startswith("2001-01-01")


def test_two_who_change_a_registry_at_once(models: Path):
    lock = take_lock(models / NAME / FILE)
    with pytest.raises(BusyError, match="another run"):
        promote(NAME, "v0001", models=models)
    Path(lock.name).unlink()
    lock.close()


def test_what_is_not_there_is_named_with_the_closest(models: Path):
    with pytest.raises(ModelError, match='Closest: "tiny"'):
        find_model("tinny", models)
    with pytest.raises(ModelError, match=r"has no 'v0009'.*There are: champion, v0001-"):
        find_model(f"{NAME}@v0009", models)
    with pytest.raises(ConfigError, match="small letters"):
        add(models, "Not A Name", models=models)
    (models / NAME / FILE).write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        find_model(NAME, models)


def test_a_version_does_not_differ_from_itself(models: Path):
    version = find_model(NAME, models)
    told = difference(version, version)
    assert not told.changed
    assert told.equal == len(version.manifest.shards)


def test_the_card_says_what_it_is(registered: Path):
    card = (find_model(NAME, registered).folder / "card.md").read_text()
    assert "Not a medical device" in card
    assert "synthetic" in card
    assert "TRIPOD+AI" in card
    assert "None" not in card
    assert "nan" not in card.lower().split()


def test_the_verbs(models: Path):
    def ehrseq(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ehrseq.cli", "models", *words, "--models", str(models)],
            capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "120"},
        )  # fmt: skip

    told = json.loads(ehrseq("show", NAME, "--json").stdout)
    assert told["aliases"] == ["champion"]
    assert "v0001-" in ehrseq("list").stdout
    wrong = ehrseq("promote", NAME, "v0007")
    assert wrong.returncode == 2
    assert "v0007" in wrong.stderr
