"""`ehrseq run` on FHIR and on MEDS: the same patients, the same labels, the same report."""

from pathlib import Path

import polars as pl
import pytest
from tiny_run import TINY

import ehrseq
from ehrseq.core.errors import EhrseqError
from ehrseq.deploy.pipeline import Outcome, run

TASK = "long_stay_7d"


def labels(out: Path) -> list[tuple[object, ...]]:
    table = pl.read_parquet(out / f"labels/{TASK}/data/*.parquet")
    return sorted(table.select("subject_id", "prediction_time", "boolean_value").rows())


def test_fhir_gives_what_its_tables_give(whole: Outcome, tmp_path: Path):
    ehrseq.export_fhir(whole.out / "fhir", tmp_path / "ndjson")
    made = run("fhir", tmp_path / "ndjson", tmp_path / "run", tasks=[TASK], config=TINY)
    assert tuple(made.stages)[:2] == ("fhir", "timeline")
    assert labels(made.out) == labels(whole.out)
    assert made.report.is_file()
    assert "fhir" in made.summary()


def test_meds_goes_as_far(whole: Outcome, tmp_path: Path):
    made = run("meds", whole.out / "timeline", tmp_path / "run", tasks=[TASK], config=TINY)
    assert tuple(made.stages)[:2] == ("timeline", "tokens")
    assert labels(made.out) == labels(whole.out)
    assert made.report.is_file()
    assert "fhir" not in made.summary()
    assert made.summary()["rows"]["in"] == made.stages["timeline"].manifest.rows["in"]


@pytest.mark.parametrize("source", ["fhir", "meds"])
def test_a_folder_without_any_is_refused(source: str, tmp_path: Path):
    with pytest.raises(EhrseqError, match=r"no FHIR|MEDS"):
        run(source, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
