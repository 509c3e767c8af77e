"""The stage contract: atomic, accounted for, repeatable, one run at a time."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.dataset import Build, input_of, verify
from ehrseq.core.errors import BusyError, ConfigError, DataQualityError, SchemaError, StorageError
from ehrseq.core.manifest import Account, read_manifest, total

FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "z"]})


def build(out: Path, *, config: dict | None = None, rows: int = 3, force: bool = False) -> Build:
    with Build(out, kind="toy", config=config or {}, inputs=[], force=force) as made:
        if not made.unchanged:
            made.write("data/0000.parquet", FRAME.head(rows), sorted_by=["a"])
            made.account("t", Account(rows, rows))
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_a_dataset_has_a_manifest_that_lists_its_shards_and_books(tmp_path):
    made = build(tmp_path / "d").result
    assert made.status == "made"
    manifest = verify(tmp_path / "d", "toy")
    assert manifest.rows == {"in": 3, "used": 3, "rejected": 0, "filtered": 0}
    assert [(shard.path, shard.rows, shard.sorted_by) for shard in manifest.shards] == [
        ("data/0000.parquet", 3, ["a"])
    ]
    assert manifest.schemas == {"data": {"a": "Int64", "b": "String"}}


def test_the_same_work_again_is_a_no_op(tmp_path):
    build(tmp_path / "d")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}
    assert build(tmp_path / "d").result.status == "unchanged"
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "d").rglob("*")}


@pytest.mark.parametrize("change", ["config", "force", "shard"])
def test_changed_work_is_done_again(tmp_path, change):
    build(tmp_path / "d")
    if change == "shard":
        (tmp_path / "d/data/0000.parquet").unlink()
    again = build(tmp_path / "d", config={"x": 1} if change == "config" else {}, force=change == "force")
    assert again.result.status == "made"
    verify(tmp_path / "d")


def test_two_builds_give_the_same_bytes(tmp_path):
    build(tmp_path / "one")
    build(tmp_path / "two")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_an_exception_leaves_the_old_dataset_and_nothing_else(tmp_path):
    build(tmp_path / "d")
    before = content(tmp_path / "d")
    with pytest.raises(RuntimeError), Build(tmp_path / "d", kind="toy", config={"new": 1}, inputs=[]) as made:
        made.write("data/0000.parquet", FRAME.head(1))
        raise RuntimeError
    assert content(tmp_path / "d") == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_books_that_do_not_balance_are_refused(tmp_path):
    with pytest.raises(DataQualityError, match=r"used \+ rejected \+ filtered"):
        with Build(tmp_path / "d", kind="toy", config={}, inputs=[]) as made:
            made.account("t", Account(rows_in=3, used=2))
    assert not (tmp_path / "d").exists()


def test_a_folder_that_is_not_a_dataset_is_left_alone(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/thesis.docx").write_text("years of work")
    with pytest.raises(ConfigError, match="not a dataset"):
        build(tmp_path / "d")
    assert (tmp_path / "d/thesis.docx").read_text() == "years of work"


def test_reading_something_else_names_what_is_missing(tmp_path):
    with pytest.raises(SchemaError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(SchemaError, match=r"manifest\.json"):
        input_of("fhir", tmp_path)
    build(tmp_path / "d")
    with pytest.raises(SchemaError, match=r"'toy'.*expected a dataset of kind 'fhir'"):
        read_manifest(tmp_path / "d", "fhir")
    (tmp_path / "d/manifest.json").write_text("{")
    with pytest.raises(SchemaError, match="damaged"):
        read_manifest(tmp_path / "d")


def test_a_damaged_shard_is_found(tmp_path):
    build(tmp_path / "d")
    path = tmp_path / "d/data/0000.parquet"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(SchemaError, match=r"0000\.parquet.*sha256"):
        verify(tmp_path / "d")


def test_two_runs_into_one_folder_at_once(tmp_path):
    with Build(tmp_path / "d", kind="toy", config={}, inputs=[]) as first:
        first.write("data/0000.parquet", FRAME)
        with pytest.raises(BusyError, match="another run is writing it"):
            build(tmp_path / "d")
    verify(tmp_path / "d")


def test_a_full_disk_is_a_temporary_error_and_loses_nothing(tmp_path):
    build(tmp_path / "d")
    before = content(tmp_path / "d")
    with pytest.raises(StorageError, match=r"no space left") as caught:
        with Build(tmp_path / "d", kind="toy", config={"big": 1}, inputs=[]):
            raise OSError(28, "No space left on device")
    assert caught.value.exit_code == 75
    assert content(tmp_path / "d") == before


KILLED = """
import os, sys, time, polars as pl
from pathlib import Path
from ehrseq.core import dataset, files
from ehrseq.core.manifest import Account
out, where = Path(sys.argv[1]), sys.argv[2]
def wait(*_):
    print("here", flush=True); time.sleep(60)
if where == "sync": dataset.sync_tree = wait
if where == "replace": dataset.replace_folder = wait
if where == "exchanged":
    rmtree = files.shutil.rmtree
    files.shutil.rmtree = wait
with dataset.Build(out, kind="toy", config={"new": 1}, inputs=[]) as made:
    made.write("data/0000.parquet", pl.DataFrame({"a": [9]}))
    made.account("t", Account(1, 1))
    if where == "write": wait()
"""


@pytest.mark.parametrize("where", ["write", "sync", "replace", "exchanged"])
def test_kill_minus_nine_leaves_the_old_or_the_new_one(tmp_path, where):
    build(tmp_path / "d")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "d"), where], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert verify(tmp_path / "d").config == ({"new": 1} if where == "exchanged" else {})
    assert build(tmp_path / "d", config={"after": 1}).result.status == "made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d"]


accounts = st.builds(
    lambda used, rejected, filtered: Account(used + rejected + filtered, used, rejected, filtered),
    *[st.integers(0, 10**6)] * 3,
)


@given(st.lists(accounts, max_size=8))
@settings(max_examples=50, deadline=None)
def test_balanced_books_stay_balanced_in_sum(items):
    together = total(items)
    assert together.balanced
    assert together.rows_in == sum(item.rows_in for item in items)


def hold(out: str, started, finish) -> None:
    with Build(Path(out), kind="toy", config={"other": os.getpid()}, inputs=[]) as made:
        made.write("data/0000.parquet", FRAME)
        made.account("t", Account(3, 3))
        started.set()
        finish.wait(30)


def test_the_lock_holds_between_processes_and_dies_with_its_owner(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, finish = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path / "d"), started, finish))
    other.start()
    assert started.wait(60)
    with pytest.raises(BusyError):
        build(tmp_path / "d")
    other.kill()
    other.join()
    time.sleep(0.05)
    assert build(tmp_path / "d").result.status == "made"
