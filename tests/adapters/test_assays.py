"""Cell-free DNA, matrices and wearables: a few events out of many numbers."""

from datetime import datetime

import polars as pl
import pytest

import ehrseq
from ehrseq.core.errors import SourceError

LINKS = "sample,patient,reported\na,7,2020-03-01 10:00:00\nb,8,2020-03-01 10:00:00\nc,9,2020-03-01 10:00:00\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "samples.csv").write_text(LINKS)
    return tmp_path / "in"


def events(source, folder):
    store, timeline = folder.parent / "fhir", folder.parent / "timeline"
    ehrseq.map(source, folder, store, validate="full", max_reject_fraction=0.9)
    ehrseq.timeline(store, timeline)
    found = pl.concat(pl.read_parquet(path) for path in (timeline / "data").rglob("*.parquet"))
    return found.filter(pl.col("code").str.starts_with("Observation//"))


def values(found):
    return dict(found.select(pl.col("code").str.extract("([^/]*)$"), "numeric_value").iter_rows())


def test_minutes_become_days_that_are_known_when_they_are_over(folder):
    rows = [f"a,2020-01-01 00:0{n}:00,{60 + n},{n}" for n in range(4)] + ["a,2020-01-02 00:00:00,70,"]
    (folder / "w.minutes.csv").write_text("sample,time,heart,steps\n" + "\n".join(rows) + "\n")
    found = events("wearable", folder)
    first = values(found.filter(pl.col("time") == datetime(2020, 1, 2)))
    assert first["wearable-heart-mean"] == 61.5
    assert first["wearable-steps-sum"] == 6
    assert first["wearable-heart-minutes"] == 4
    assert found["time"].max() == datetime(2020, 1, 3)


def test_fragments_become_lengths_and_motifs(folder):
    given = [(120, "CCCA"), (166, "CCCA"), (170, "AAAA")]
    rows = [f"a\t{length}\t{end}\tchr1\t{n}" for n, (length, end) in enumerate(given)]
    (folder / "x.fragments.tsv").write_text(
        "sample\tlength\tend\tchromosome\tstart\n" + "\n".join(rows) + "\n"
    )
    found = values(events("cfdna", folder))
    assert found["cfdna-length_median"] == 166
    assert found["cfdna-short_to_long"] == 0.5
    assert 0.11 < found["cfdna-motif_diversity"] < 0.12


def test_a_matrix_keeps_what_is_extreme(folder):
    (folder / "expression.matrix.tsv").write_text("gene\ta\tb\tc\nG1\t1\t2\t9\nG2\t5\t5\t5\n")
    found = events("cfdna", folder)
    assert found["code"].str.contains("G1").all()  # G2 does not vary
    assert found.filter(pl.col("subject_id") == 9)["numeric_value"][0] == pytest.approx(2.5 / 3)


def test_a_column_that_is_missing_is_named(folder):
    (folder / "w.minutes.csv").write_text("sample,tim\n")
    with pytest.raises(SourceError, match="no column `time`"):
        ehrseq.map("wearable", folder, folder.parent / "out")
