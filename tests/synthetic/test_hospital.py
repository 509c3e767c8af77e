"""The generated hospital keeps its word: layout, determinism, true risks, and nothing from the future."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from visible import load

from ehrseq.core.errors import ConfigError
from ehrseq.core.files import sha256_file
from ehrseq.synthetic import generate


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "hospital"
    generate(folder, patients=600, seed=5)
    return folder


@pytest.fixture(scope="module")
def truth(hospital: Path) -> pl.DataFrame:
    return pl.read_parquet(hospital / "truth.parquet")


def test_its_tables_are_those_of_mimic_iv(hospital: Path, mimic_demo: Path):
    for real in sorted(mimic_demo.glob("*/*.csv.gz")):
        ours = hospital / real.relative_to(mimic_demo)
        assert pl.read_csv(ours, n_rows=0).columns == pl.read_csv(real, n_rows=0).columns, real.name


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate(tmp_path / name, patients=40, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_more_patients_do_not_change_the_first(tmp_path: Path):
    few, many = (generate(tmp_path / str(n), patients=n, seed=3) and tmp_path / str(n) for n in (256, 300))
    first, both = (load(folder, "hosp/labevents") for folder in (few, many))
    assert both.height > first.height
    assert both.filter(pl.col("subject_id").is_in(first["subject_id"].unique().implode())).equals(first)


def test_mess_changes_tables_and_not_the_world(tmp_path: Path):
    for name, mess in (("clean", False), ("messy", True)):
        generate(tmp_path / name, patients=60, seed=2, mess=mess)
    clean, messy = digests(tmp_path / "clean"), digests(tmp_path / "messy")
    assert clean["truth.parquet"] == messy["truth.parquet"]
    assert clean["hosp/labevents.csv.gz"] != messy["hosp/labevents.csv.gz"]
    assert not load(tmp_path / "clean", "hosp/labevents").is_duplicated().any()
    assert load(tmp_path / "messy", "hosp/labevents").is_duplicated().any()


def test_truth_is_what_the_tables_say(hospital: Path, truth: pl.DataFrame):
    """The outcomes once more, by plain Python over the admissions."""
    stays = load(hospital, "hosp/admissions").sort("subject_id", "admittime").to_dicts()
    expected = {}
    for index, stay in enumerate(stays):
        admit, leave, dead = stay["admittime"], stay["dischtime"], bool(stay["hospital_expire_flag"])
        if leave > admit + timedelta(hours=24):
            when = admit + timedelta(hours=24)
            expected["in_hospital_mortality_24h", stay["hadm_id"]] = (when, dead)
            expected["long_stay_7d", stay["hadm_id"]] = (when, leave - admit >= timedelta(days=7))
        if not dead:
            back = [
                later
                for later in stays[index + 1 :]
                if later["subject_id"] == stay["subject_id"]
                and leave < later["admittime"] <= leave + timedelta(days=30)
                and later["admission_type"] not in ("ELECTIVE", "SURGICAL SAME DAY ADMISSION")
            ]
            expected["readmission_30d", stay["hadm_id"]] = (leave, bool(back))
    said = {
        (row["task"], row["hadm_id"]): (row["prediction_time"], row["outcome"]) for row in truth.to_dicts()
    }
    assert said.keys() <= expected.keys()
    differing = [key for key in said if said[key] != expected[key]]
    assert len(differing) <= 0.002 * len(said)  # a minute's rounding at the very edge of seven days
    assert len(said) >= 0.95 * len(expected)


def test_outcomes_come_true_as_often_as_their_risk_says(truth: pl.DataFrame):
    """In every third of the risks, the count is within 4 standard deviations of what independent coins would give."""
    for (task,), part in truth.group_by("task"):
        for third in np.array_split(part.sort("risk"), 3):
            risk = third[:, part.columns.index("risk")].astype(float)
            happened = third[:, part.columns.index("outcome")].astype(float).sum()
            assert abs(happened - risk.sum()) <= 4 * np.sqrt((risk * (1 - risk)).sum()), task


def test_the_attainable_is_neither_trivial_nor_hopeless(truth: pl.DataFrame):
    bounds = {
        "in_hospital_mortality_24h": (0.84, 0.96),
        "long_stay_7d": (0.79, 0.91),
        "readmission_30d": (0.68, 0.84),
    }
    for (task,), part in truth.group_by("task"):
        low, high = bounds[str(task)]
        assert low <= roc_auc_score(part["outcome"], part["risk"]) <= high, task


def test_nothing_is_charted_after_death_or_stored_before_it_is_charted(hospital: Path):
    dead = load(hospital, "hosp/admissions").filter(hospital_expire_flag=1).select("hadm_id", "deathtime")
    for table, charted in (
        ("hosp/labevents", "charttime"),
        ("icu/chartevents", "charttime"),
        ("hosp/emar", "charttime"),
    ):
        rows = load(hospital, table)
        assert rows.join(dead, on="hadm_id").filter(pl.col(charted) > pl.col("deathtime")).is_empty(), table
        assert rows.filter(pl.col("storetime") < pl.col(charted)).is_empty(), table


def test_what_a_row_points_to_exists(hospital: Path):
    stays = load(hospital, "hosp/admissions").select("subject_id", "hadm_id")
    for table in (
        "hosp/diagnoses_icd",
        "hosp/labevents",
        "hosp/emar",
        "hosp/transfers",
        "icu/icustays",
        "note/discharge",
    ):
        rows = load(hospital, table).select("subject_id", "hadm_id").drop_nulls()
        assert rows.join(stays, on=["subject_id", "hadm_id"], how="anti").is_empty(), table
    codes = load(hospital, "hosp/d_icd_diagnoses").select("icd_code", "icd_version")
    used = load(hospital, "hosp/diagnoses_icd")
    assert used.join(codes, on=["icd_code", "icd_version"], how="anti").is_empty()


@pytest.mark.parametrize(
    "wrong",
    [{"patients": 0}, {"admissions": -1}, {"patients": 3, "admissions": 3}, {"patients": 3, "seed": -1}],
)
def test_bad_arguments(tmp_path: Path, wrong: dict[str, int]):
    with pytest.raises(ConfigError):
        generate(tmp_path / "out", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not a synthetic hospital"):
        generate(tmp_path, patients=2)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
