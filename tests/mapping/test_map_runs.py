"""Runs that are killed, disturbed, doubled or repeated: the store is the old one or the new one, always the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, TABLES, write_mappings, write_tables
from hypothesis import given, settings
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.dataset import verify
from ehrseq.core.errors import BusyError, ConfigError, DataQualityError, MappingError
from ehrseq.mapping.check import load_mappings

LAB = "lab,pid,visit,test,at,filed,number,text,unit\n"
PEOPLE = 40


def hospital(folder: Path) -> tuple[Path, Path]:
    tables = {
        "patients": "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in range(1, PEOPLE + 1)),
        "visits": "visit,pid,began,ended\n"
        + "".join(f"{n},{n},2020-01-01 08:00:00,\n" for n in range(1, PEOPLE + 1)),
        "labs": LAB
        + "".join(
            f"{n},{n % PEOPLE + 1},{n % PEOPLE + 1},7,2020-01-01 09:00:{n % 60:02d},,{n % 17},,mg\n"
            for n in range(400)
        ),
    }
    return write_mappings(folder / "source"), write_tables(folder / "data", **tables)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def without_changes(files: dict[str, bytes]) -> dict[str, bytes]:
    """The store without what it says of the store that stood there before."""
    manifest = json.loads(files["manifest.json"])
    manifest["notes"].pop("changes", None)
    manifest["shards"] = [shard for shard in manifest["shards"] if shard["path"] != "changes/changes.parquet"]
    del manifest["schemas"], manifest["schema_hash"]
    rest = {name: data for name, data in files.items() if name != "changes/changes.parquet"}
    return rest | {"manifest.json": json.dumps(manifest).encode()}


STOP_AT = """
import os, sys
from pathlib import Path
from ehrseq.core import dataset, progress
from ehrseq.mapping import stage
source, data, out, where, number = sys.argv[1:]
progress.set_quiet(True)
left = int(number)
def stopping(module, name):
    plain = getattr(module, name)
    def wrapped(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            print("here", flush=True)
            os.read(0, 1)
        return plain(*arguments, **named)
    setattr(module, name, wrapped)
from ehrseq.mapping import task
writers = {"spill": ("ehrseq.mapping.spill", "write_part"), "write": ("ehrseq.mapping.task", "write_parquet")}
if where in writers:
    module, name = writers[where]
    stopping(sys.modules[module], name)
else:
    stopping(dataset, where)
stage.map(source, Path(data), Path(out))
"""


def killed(source: Path, data: Path, out: Path, where: str, number: int) -> None:
    """Map in a process of its own, and end it with SIGKILL at the `number`-th call `where`."""
    arguments = [sys.executable, "-c", STOP_AT, source, data, out, where, str(number)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("where", "number"), [("spill", 2), ("write", 3), ("sync_tree", 0), ("replace_folder", 0)]
)
@pytest.mark.parametrize("before", ["nothing", "a store"])
def test_a_killed_run_is_made_good_by_the_next(tmp_path: Path, where: str, number: int, before: str):
    source, data = hospital(tmp_path)
    expected = content(ehrseq.map(source, data, tmp_path / "whole").out)
    out = tmp_path / "fhir"
    old = {}
    if before == "a store":
        ehrseq.map(source, write_tables(tmp_path / "older"), out)
        old = content(out)
    killed(source, data, out, where, number)
    assert content(out) == old
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".fhir")] != []
    assert ehrseq.map(source, data, out).status == "made"
    assert without_changes(content(out)) == without_changes(expected)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_of_two_runs_into_one_folder_the_second_is_told_to_wait(tmp_path: Path):
    source, data = hospital(tmp_path)
    arguments = [sys.executable, "-c", STOP_AT, source, data, tmp_path / "fhir", "write", "1"]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == b"here\n"
        with pytest.raises(BusyError, match=rf'another run is writing it .*"pid": {first.pid}') as error:
            ehrseq.map(source, data, tmp_path / "fhir")
        assert error.value.exit_code == 75
        first.stdin.write(b"x" * 1000)
        first.stdin.close()
        assert first.wait(60) == 0
    verify(tmp_path / "fhir", "fhir")
    assert ehrseq.map(source, data, tmp_path / "fhir").status == "unchanged"


def test_workers_of_a_killed_run_do_not_live_on(tmp_path: Path):
    """They would go on writing beside the next run."""
    source, data = hospital(tmp_path)
    main = "import sys, ehrseq\nif __name__ == '__main__':\n    ehrseq.map(*sys.argv[1:3], sys.argv[3], workers=2)\n"
    (tmp_path / "main.py").write_text(main.replace("sys.argv[3]", "__import__('pathlib').Path(sys.argv[3])"))
    arguments = [sys.executable, tmp_path / "main.py", source, data, tmp_path / "fhir"]
    with subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.DEVNULL) as process:
        workers = wait_for(lambda: members(process.pid) - {process.pid})
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    wait_for(lambda: not members(process.pid))
    assert workers
    assert ehrseq.map(source, data, tmp_path / "fhir").status == "made"


def members(session: int) -> set[int]:
    """Living processes of a session."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(owner) == session and state != "Z":
            found.add(int(path.parent.name))
    return found


def wait_for(condition):
    end = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened for 20 seconds"
        time.sleep(0.02)
    return found


def test_two_machines_make_the_same_bytes(tmp_path: Path):
    """Another folder, another process, another seed of Python's own hashes, another number of workers."""
    source, data = hospital(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    other = hospital(tmp_path / "elsewhere")
    expected = content(ehrseq.map(source, data, tmp_path / "fhir").out)
    code = (
        "import sys, ehrseq; from pathlib import Path\nif __name__ == '__main__':\n"
        "    ehrseq.map(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), workers=2)\n"
    )
    (tmp_path / "main.py").write_text(code)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "POLARS_MAX_THREADS": "1"}
    out = tmp_path / "elsewhere/other"
    subprocess.run(
        [sys.executable, tmp_path / "main.py", *other, out], env=environment, check=True, capture_output=True
    )
    assert content(out) == expected


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(5)), st.permutations(range(3)), st.permutations(range(2)))
def test_the_order_of_rows_does_not_matter(tmp_path_factory, labs, patients, visits):
    folder = tmp_path_factory.mktemp("order")

    def made(name: str, **tables: str) -> dict[str, list]:
        ehrseq.map(
            write_mappings(folder / "source"), write_tables(folder / name, **tables), folder / f"{name}.out"
        )
        kinds = [path.parent for path in (folder / f"{name}.out").glob("*/*.parquet")]
        return {
            kind.name: pl.read_parquet(kind / "*.parquet").drop("_row").sort("id").rows()
            for kind in kinds
            if kind.name[0].isupper()
        }

    def shuffled(table: str, order: list[int]) -> str:
        head, *rows = TABLES[table].splitlines()
        return "\n".join([head, *(rows[index] for index in order)]) + "\n"

    orders = {"labs": labs, "patients": patients, "visits": visits}
    assert made("plain") == made(
        "shuffled", **{name: shuffled(name, order) for name, order in orders.items()}
    )


@pytest.mark.parametrize("name", ["labs", "source", "sex", "new"])
def test_a_change_of_any_file_of_the_mappings_is_noticed(tmp_path: Path, name: str):
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    before = load_mappings(source)
    assert load_mappings(source) is before  # read once
    ehrseq.map(source, data, tmp_path / "fhir")
    path = {"sex": source / "conceptmaps/sex.json", "new": source / "results.yaml"}.get(
        name, source / f"{name}.yaml"
    )
    path.write_text((source / "labs.yaml").read_text() if name == "new" else path.read_text() + "\n")
    assert load_mappings(source) is not before
    assert ehrseq.map(source, data, tmp_path / "fhir").status == "made"
    assert ehrseq.map(source, data, tmp_path / "fhir").status == "unchanged"


def test_mappings_that_change_while_they_run_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The manifest would name mappings that did not make the store."""
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    from ehrseq.mapping import stage

    plain = stage.spill_tasks

    def meanwhile(*arguments):
        (source / "labs.yaml").write_text(LABS.replace("'final'", "'amended'"))
        return plain(*arguments)

    monkeypatch.setattr(stage, "spill_tasks", meanwhile)
    with pytest.raises(MappingError, match="the mappings were changed while they ran"):
        ehrseq.map(source, data, tmp_path / "fhir")
    assert not (tmp_path / "fhir").exists()


@pytest.mark.parametrize("fraction", [-0.1, 1.5, 5, float("nan")])
def test_a_limit_that_is_no_fraction_is_refused(tmp_path: Path, fraction: float):
    """5 is not 5 %: it would let everything pass."""
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        ehrseq.map(source, data, tmp_path / "fhir", max_reject_fraction=fraction)


def test_the_gate_is_exact_and_what_it_left_goes_with_the_next_good_run(tmp_path: Path):
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    write_tables(data, labs=TABLES["labs"] + "6,1,5,7,soon,,1,,\n")  # 1 of 14 rows
    with pytest.raises(DataQualityError, match=r"1 of 14 rows were rejected.*labs type 1"):
        ehrseq.map(source, data, tmp_path / "fhir", max_reject_fraction=0.0714)
    kept = pl.read_parquet(tmp_path / "fhir.rejects.parquet")
    assert kept.select("table", "file", "row", "outcome").rows() == [("labs", "labs.csv", 6, "rejected")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "fhir.rejects.parquet", "source"]
    assert ehrseq.map(source, data, tmp_path / "fhir", max_reject_fraction=1 / 14).status == "made"
    assert not (tmp_path / "fhir.rejects.parquet").exists()


def test_a_cast_that_fails_on_the_data_names_its_line_and_no_value(tmp_path: Path):
    wrong = LABS.replace("{$quantity: {value: number,", "{$quantity: {value: CAST(text AS DOUBLE),")
    source, data = write_mappings(tmp_path / "source", labs=wrong), write_tables(tmp_path / "data")
    with pytest.raises(MappingError) as error:
        ehrseq.map(source, data, tmp_path / "fhir")
    line = wrong[: wrong.index("CAST(")].count("\n") + 1
    assert f"labs.yaml:{line}  `CAST(text AS DOUBLE)` fails on the data" in str(error.value)
    assert "Use TRY_CAST" in str(error.value)
    assert "NEGATIVE" not in str(error.value)


COMMAND = [sys.executable, "-m", "ehrseq.cli"]


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (lambda source, data: None, 0, ""),
        (
            lambda source, data: (source / "labs.yaml").write_text(LABS.replace("unit: unit", "unit: units")),
            2,
            'Closest: "unit"',
        ),
        (lambda source, data: (data / "visits.csv").unlink(), 3, "table visits is missing"),
        (lambda source, data: write_tables(data, labs=LAB + "1,1,5,7,soon,,1,,\n" * 9), 3, "--max-reject-fraction"),
    ],
)  # fmt: skip
def test_exit_codes_of_the_command(tmp_path: Path, damage, code: int, words: str):
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    damage(source, data)
    done = subprocess.run(
        [*COMMAND, "map", source, data, "-o", tmp_path / "fhir", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    if code:
        assert (answer["status"], answer["exit_code"]) == ("failed", code)
        assert words in answer["error"]
        assert "Traceback" not in done.stderr
    else:
        verify(tmp_path / "fhir", "fhir")
    assert (tmp_path / "fhir").exists() == (code == 0)
