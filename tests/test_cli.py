"""The command line: exit codes, messages, what goes to stdout and what to stderr."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import ehrseq
from ehrseq import cli
from ehrseq.core import progress
from ehrseq.core.dataset import Build
from ehrseq.deploy.generated import hospital

VERBS = ("demo", "run", "map", "timeline", "tokenize", "label", "show", "doctor", "mappings")


@dataclass(frozen=True)
class Said:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return found


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Run a command in this process and return what it said."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("EHRSEQ_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["ehrseq", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Said(int(ended.value.code or 0), out, err)

    yield run
    signal.signal(signal.SIGTERM, handler)
    progress.set_quiet(True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated hospital."""
    return hospital(tmp_path_factory.mktemp("cli") / "hospital", patients=40, seed=5)


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """The folder of a run up to its labels."""
    folder = data.parent / "run"
    ehrseq.map("mimic_iv", data, folder / "fhir", validate="none")
    ehrseq.timeline(folder / "fhir", folder / "timeline")
    ehrseq.tokenize(folder / "timeline", folder / "tokens")
    ehrseq.label("long_stay_7d", folder / "timeline", folder / "labels/long_stay_7d")
    return folder


@pytest.fixture(scope="module")
def subject(run: Path) -> int:
    return int(pl.read_parquet(run / "timeline/data/*.parquet")["subject_id"].max())  # type: ignore[arg-type]


def failed(said: Said, code: int) -> str:
    """The message of a failed command with --json: the same on stderr and in the one object on stdout."""
    assert said.code == code, said
    assert len(said.out.splitlines()) == 1, said.out
    assert (said.json["status"], said.json["exit_code"]) == ("failed", code)
    assert said.err.splitlines()[-1] == f"error: {said.json['error']}"
    assert "Traceback" not in said.err
    return str(said.json["error"])


# ---- the words of the command


def test_help_names_every_verb_and_needs_no_library():
    asked = (
        "import sys; sys.argv = ['ehrseq', '--help']\nimport ehrseq.cli as cli\ntry: cli.main()\nfinally: "
    )
    asked += "print([name for name in ('jax', 'polars', 'duckdb', 'fhir') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in VERBS:
        assert f" {verb} " in done.stdout


def test_without_a_verb_the_help_is_shown_and_the_code_is_2(say):
    said = say()
    assert said.code == 2
    assert "Usage: ehrseq" in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "verb", "words"),
    [
        (["timelime", "x"], "", "Did you mean 'timeline'"),
        (["map", "mimic_iv", "x", "-o", "y", "--valdate", "none"], "map", "--validate"),
        (["map", "mimic_iv", "x"], "map", "--out"),
        (["tokenize", "x", "-o", "y", "--workers", "two"], "tokenize", "--workers"),
        (["mappings", "chek", "mimic_iv"], "mappings", "Did you mean 'check'"),
        (["label"], "label", "task"),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest_right_one(say, arguments, verb, words):
    message = failed(say(*arguments, "--json"), 2)
    assert words in message
    assert f"`{' '.join(['ehrseq', verb]).strip()} --help`" in message


def test_unknown_source_task_mapping_and_setting(say, data, run, tmp_path):
    assert '"mimic_iv"' in failed(say("map", "mimic4", data, "-o", tmp_path / "x", "--json"), 2)
    message = failed(say("label", "long_stay", run / "timeline", "-o", tmp_path / "x", "--json"), 2)
    assert 'Closest: "long_stay_7d"' in message
    message = failed(say("mappings", "test", "mimic_iv", "labevnts", "--json"), 2)
    assert 'Closest: "labevents"' in message
    message = failed(say("map", "mimic_iv", data, "-o", tmp_path / "x", "--validate", "some", "--json"), 2)
    assert "sample, full or none" in message
    message = failed(say("tokenize", run / "timeline", "-o", tmp_path / "x", "--workers", 0, "--json"), 2)
    assert "--workers is 0" in message
    message = failed(say("show", run, "--subject", 1, "--json"), 2)
    assert "has no subject 1" in message
    assert list(tmp_path.iterdir()) == []


# ---- folders


@pytest.mark.parametrize(
    ("verb", "before"),
    [("map", ["mimic_iv"]), ("timeline", []), ("tokenize", []), ("label", ["long_stay_7d"]), ("show", [])],
)
def test_a_folder_that_is_not_what_the_verb_reads(say, verb, before, tmp_path):
    out = [] if verb == "show" else ["-o", tmp_path / "out"]
    code = 3 if verb == "map" else 2  # for `map` it is the data that are missing
    for folder in (tmp_path / "nowhere", tmp_path):
        message = failed(say(verb, *before, folder, *out, "--json"), code)
        assert str(folder) in message
    assert [path for path in tmp_path.iterdir() if path.name != "out"] == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("verb", "stage"), [("timeline", "tokens"), ("tokenize", "fhir")])
def test_a_dataset_of_another_kind_says_which_is_wanted(say, run, verb, stage, tmp_path):
    message = failed(say(verb, run / stage, "-o", tmp_path / "out", "--json"), 2)
    wanted = "fhir" if verb == "timeline" else "timeline"
    assert wanted in message.lower()
    assert f"'{stage}'" in message


@pytest.mark.parametrize("verb", ["map", "timeline", "tokenize", "label", "demo"])
def test_a_folder_of_someone_else_is_refused_and_untouched(say, data, run, verb, tmp_path):
    theirs = tmp_path / "thesis"
    target = theirs if verb != "demo" else theirs / "hospital"
    target.mkdir(parents=True)
    (target / "chapter.docx").write_text("years of work")
    inputs: dict[str, list[Any]] = {
        "map": ["mimic_iv", data],
        "timeline": [run / "fhir"],
        "tokenize": [run / "timeline"],
        "label": ["long_stay_7d", run / "timeline"],
        "demo": ["--patients", 5],
    }
    message = failed(say(verb, *inputs[verb], "-o", theirs, "--json"), 2)
    assert "not a dataset" in message
    assert "Choose another --out" in message
    assert [path.name for path in target.iterdir()] == ["chapter.docx"]
    assert (target / "chapter.docx").read_text() == "years of work"


def test_two_runs_into_one_folder_at_once(say, run, tmp_path):
    with Build(tmp_path / "out", kind="tokens", config={}, inputs=[]):
        message = failed(say("tokenize", run / "timeline", "-o", tmp_path / "out", "--json"), 75)
        assert "another run is writing it" in message
    assert say("tokenize", run / "timeline", "-o", tmp_path / "out", "-q").code == 0


def test_a_folder_that_may_not_be_written(say, run, tmp_path):
    (tmp_path / "file").write_text("")
    said = say("tokenize", run / "timeline", "-o", tmp_path / "file", "--json")
    assert "is a file" in failed(said, 2)


# ---- what is said where


def test_json_is_one_object_on_the_last_line_and_progress_goes_to_stderr(say, run, tmp_path):
    said = say("timeline", run / "fhir", "-o", tmp_path / "timeline", "--json")
    assert said.code == 0
    assert len(said.out.splitlines()) == 1
    assert said.json.keys() >= {
        "verb", "status", "exit_code", "out", "rows", "made", "seconds", "cpu_seconds", "peak_rss_bytes",
    }  # fmt: skip
    assert said.json["rows"].keys() == {"in", "used", "rejected", "filtered"}
    assert (said.json["verb"], said.json["status"]) == ("timeline", "made")
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert lines
    assert all("event" in line for line in lines)
    again = say("timeline", run / "fhir", "-o", tmp_path / "timeline", "--json")
    assert (again.code, again.json["status"]) == (0, "unchanged")


def test_quiet_silences_progress_but_not_errors(say, run, tmp_path):
    said = say("timeline", run / "fhir", "-o", tmp_path / "timeline", "--quiet")
    assert (said.code, said.err) == (0, "")
    assert "timeline" in said.out
    said = say("timeline", tmp_path / "nowhere", "-o", tmp_path / "x", "--quiet")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: ")


def test_map_prints_the_books(say, data, tmp_path):
    said = say("map", "mimic_iv", data, "-o", tmp_path / "fhir", "--validate", "none", "-q")
    assert said.code == 0
    header, *lines = said.out.splitlines()
    assert header.split()[:6] == ["table", "rows", "in", "used", "rejected", "filtered"]
    admissions = next(line.split() for line in lines if line.startswith("hosp/admissions"))
    with gzip.open(data / "hosp/admissions.csv.gz", "rt") as stream:
        assert int(admissions[1].replace(",", "")) == sum(1 for _ in stream) - 1


def test_too_many_rejected_rows_are_exit_3_and_no_patient_is_quoted(say, data, tmp_path):
    copy = tmp_path / "hospital"
    shutil.copytree(data, copy)
    path = copy / "hosp/patients.csv.gz"
    patients = pl.read_csv(path, infer_schema=False)
    secret = "Wilhelmina-Oldenburg"
    spoilt = patients.with_columns(anchor_age=pl.lit(secret), anchor_year=pl.lit(secret))
    path.write_bytes(gzip.compress(spoilt.write_csv().encode()))
    said = say("map", "mimic_iv", copy, "-o", tmp_path / "fhir", "--validate", "none", "--json")
    assert said.code == 3
    failed(said, 3)
    assert secret not in said.out + said.err
    assert not any(str(number) in said.err + said.out for number in patients["subject_id"])
    assert not (tmp_path / "fhir").exists()


def test_a_fault_of_ours_names_the_place_and_no_value(say, monkeypatch, run, tmp_path):
    def faulty(*_: Any, **__: Any) -> None:
        raise ValueError("Wilhelmina Oldenburg, 10000032")

    monkeypatch.setattr(ehrseq, "tokenize", faulty, raising=False)
    said = say("tokenize", run / "timeline", "-o", tmp_path / "x", "--json")
    message = failed(said, 1)
    assert "ValueError at test_cli.py" in message
    assert "EHRSEQ_DEBUG=1" in message
    assert "Wilhelmina" not in said.out + said.err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 75)])
def test_interrupts_and_memory(say, monkeypatch, run, tmp_path, error, code):
    def stopped(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ehrseq, "tokenize", stopped, raising=False)
    failed(say("tokenize", run / "timeline", "-o", tmp_path / "x", "--json"), code)


def test_sigterm_is_exit_75(say, monkeypatch, run, tmp_path):
    def slow(*_: Any, **__: Any) -> None:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        signal.pause()

    monkeypatch.setattr(ehrseq, "tokenize", slow, raising=False)
    message = failed(say("tokenize", run / "timeline", "-o", tmp_path / "x", "--json"), 75)
    assert "SIGTERM" in message


def test_a_reader_that_has_seen_enough_is_no_error(run):
    command = f"{sys.executable} -m ehrseq.cli show {run} --rows 100000 | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("Patient ")


# ---- show


def test_show_a_patient_day_by_day_with_ages_names_units_and_token_numbers(say, run, subject):
    said = say("show", run, "--subject", subject, "--rows", 100_000)
    assert said.code == 0
    lines = said.out.splitlines()
    events = pl.read_parquet(run / "timeline/data/*.parquet").filter(pl.col("subject_id") == subject)
    assert lines[0].startswith(f"Patient {subject}, {events.height:,} events, ")
    birth = events.filter(pl.col("code") == "MEDS_BIRTH")["time"][0]
    for day in events["time"].drop_nulls().dt.date().unique():
        heading = next(line for line in lines if line.startswith(str(day)))
        if day.year - birth.year > 5:
            assert any(f"{day.year - birth.year - late} years" in heading for late in (0, 1)), heading
    assert any("day 1 of inpatient encounter mimic-iv-admissions." in line for line in lines)
    creatinine = events.filter(pl.col("code").str.ends_with("//50912")).row(0, named=True)
    assert any("Creatinine" in line and f"{creatinine['numeric_value']:.6g} mg/dL" in line for line in lines)
    assert any("// " not in line and f"ehrseq show {run}" in line for line in lines[-2:])


def test_show_stops_after_rows_and_says_what_is_left(say, run, subject):
    said = say("show", run / "timeline", "--subject", subject, "--rows", 5)
    assert "more events (--rows" in said.out
    assert len(said.out.splitlines()) < 25
    assert len(say("show", run).out.splitlines()) < 120


def test_show_each_kind_of_dataset(say, data, run):
    assert "fhir, " in say("show", run / "fhir").out
    assert "hosp/labevents" in say("show", run / "fhir").out
    assert "hospital, " in say("show", data).out
    assert "positive" in say("show", run / "labels/long_stay_7d").out
    tokens = say("show", run / "tokens", "--rows", 3).out
    assert "Patient.gender//AdministrativeGender//" in tokens
    assert "more tokens" in tokens
    for folder in (run, run / "fhir", run / "timeline", run / "tokens", run / "labels/long_stay_7d", data):
        said = say("show", folder, "--json", "--rows", 2)
        assert (said.code, said.json["verb"], said.json["exit_code"]) == (0, "show", 0), folder


def test_show_traces_a_token_to_its_row(say, run, subject):
    for token in (0, 1, 40):
        said = say("show", run, "--subject", subject, "--token", token)
        assert said.code == 0
        stations = [line.split("  ")[0] for line in said.out.splitlines()[:8]]
        for station in ("token", "event", "resource", "mapping", "source row"):
            assert station in stations
        assert "data row " in said.out
        found = say("show", run, "--subject", subject, "--token", token, "--json").json
        assert (found["subject_id"], found["token"]) == (subject, token)
        assert found["row"] >= 1
        assert found["resource"]["resourceType"]


def test_show_says_what_it_needs(say, run, subject):
    message = failed(say("show", run / "timeline", "--token", 3, "--json"), 2)
    assert "--token needs the folder of a whole run" in message
    assert "--subject needs" in failed(say("show", run / "fhir", "--subject", subject, "--json"), 2)
    assert "--rows" in failed(say("show", run, "--rows", 0, "--json"), 2)
    assert "tokens 0 to" in failed(say("show", run, "--subject", subject, "--token", 10**6, "--json"), 2)


def test_show_notices_tokens_of_another_timeline(say, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "timeline")
    ehrseq.timeline(copy / "fhir", copy / "timeline", split=(0.5, 0.25, 0.25))
    message = failed(say("show", copy, "--token", 3, "--json"), 2)
    assert "was not made from" in message
    assert "A token's source row" not in say("show", copy).out


# ---- doctor and mappings


def test_doctor_finds_everything_here(say):
    said = say("doctor")
    for word in (
        "python",
        "polars",
        "jax",
        "devices",
        "memory",
        "disk",
        "permissions",
        "mappings of mimic_iv",
    ):
        assert word in said.out
    findings = {item["what"]: item for item in say("doctor", "--json").json["findings"]}
    assert findings["mappings of mimic_iv"]["grade"] == "ok"
    missing = [item for item in findings.values() if item["grade"] == "missing"]
    assert all(item["remedy"] for item in missing)
    assert said.code == (2 if missing else 0)


def test_doctor_in_a_folder_that_cannot_be_written(say, monkeypatch, tmp_path):
    def refused(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refused)
    findings = {item["what"]: item for item in say("doctor", "--json").json["findings"]}
    assert findings["permissions"]["grade"] == "note"
    assert "--out" in findings["permissions"]["remedy"]


def test_mappings_list(say):
    said = say("mappings", "list", "--json")
    rows = said.json["mappings"]
    assert {"source", "mapping", "table", "resource", "title"} == rows[0].keys()
    assert ("mimic_iv", "labevents", "Observation") in {
        (row["source"], row["mapping"], row["resource"]) for row in rows
    }
    assert "hosp/labevents" in say("mappings", "list").out


def test_mappings_check_good_and_bad(say, tmp_path):
    assert say("mappings", "check", "mimic_iv").code == 0
    copy = tmp_path / "mimic_iv"
    shutil.copytree(Path(ehrseq.__file__).parents[1] / "fhir_mappings/mimic_iv", copy)
    bad = copy / "labevents.yaml"
    bad.write_text(bad.read_text().replace("valuenum\n", "valuenumb\n", 1))
    said = say("mappings", "check", copy, "--json")
    assert (said.code, said.json["status"], said.json["exit_code"]) == (2, "failed", 2)
    place, message = (said.json["problems"][0][key] for key in ("place", "message"))
    assert "labevents.yaml:" in place
    assert "valuenum" in message
    assert "labevents.yaml" in say("mappings", "check", copy).out


def test_mappings_test(say):
    said = say("mappings", "test", "mimic_iv", "patients", "omr", "--json")
    assert said.code == 0
    assert said.json["cases"] > 0
    assert said.json["failed"] == []


def test_mappings_preview(say, data):
    said = say("mappings", "preview", "mimic_iv", data, "labevents", "--rows", 2)
    assert said.code == 0
    assert "labevent_id" in said.out
    assert '"resourceType": "Observation"' in said.out
    rows = say("mappings", "preview", "mimic_iv", data, "labevents", "--rows", 2, "--json").json["rows"]
    assert len(rows) == 2
    assert str(rows[0]["row"]["labevent_id"]) in rows[0]["resource"]["id"]


def test_every_verb_is_a_function_of_the_same_name_and_in_the_readme():
    readme = (Path(ehrseq.__file__).parents[1] / "README.md").read_text()
    for verb in VERBS:
        assert f"ehrseq {verb}" in readme, verb
        if verb != "mappings":
            assert callable(getattr(ehrseq, verb)), verb
