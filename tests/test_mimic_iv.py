"""The MIMIC-IV demo taken to a timeline by the shipped mappings, accounted for row by row."""

import json
from pathlib import Path

import meds
import polars as pl
import pyarrow.parquet as pq
import pytest

import ehrseq
from ehrseq.core.manifest import read_manifest
from ehrseq.fhir import validate
from ehrseq.fhir.references import missing_references


@pytest.fixture(scope="module")
def fhir(mimic_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ehrseq.map("mimic_iv", mimic_demo, tmp_path_factory.mktemp("demo") / "fhir").out


@pytest.fixture(scope="module")
def timeline(fhir: Path) -> Path:
    return ehrseq.timeline(fhir, fhir.with_name("timeline")).out


def resources(fhir: Path) -> dict[str, pl.DataFrame]:
    kinds = sorted({Path(shard.path).parts[0] for shard in read_manifest(fhir).shards})
    return {
        kind: pl.concat(map(pl.read_parquet, (fhir / kind).glob("*.parquet")), how="diagonal_relaxed")
        for kind in kinds
        if kind[0].isupper()
    }


def test_every_row_of_every_table_is_accounted_for(fhir: Path, mimic_demo: Path):
    books = read_manifest(fhir).sources
    tables = {
        path.relative_to(mimic_demo).as_posix().split(".")[0]: path for path in mimic_demo.rglob("*.csv.gz")
    }
    assert books.keys() == tables.keys() - {"demo_subject_id"}
    for name, account in books.items():
        rows = pl.scan_csv(tables[name], infer_schema=False).select(pl.len()).collect().item()
        assert account.rows_in == rows, name
        assert account.balanced, name
        assert sum(account.reasons.values()) == account.rejected + account.filtered, name
    assert sum(account.rejected for account in books.values()) == 0


def test_resources_are_valid_and_their_references_resolve(fhir: Path):
    every = resources(fhir)
    known = {kind: frame["id"] for kind, frame in every.items()}
    for kind, frame in every.items():
        assert frame["id"].n_unique() == len(frame), kind
        assert missing_references(frame, kind, known).is_empty(), kind
        assert validate.violations(frame, kind).is_empty(), kind


def test_every_element_reaches_the_timeline_or_has_a_reason(fhir: Path):
    assert ehrseq.coverage(fhir).unexplained.rows() == []


def test_the_timeline_is_meds(timeline: Path):
    for path in (timeline / "data").glob("*.parquet"):
        table = pq.read_table(path)
        meds.DataSchema.validate(table)
        frame = pl.from_arrow(table)
        assert frame.equals(frame.sort("subject_id", "time", nulls_last=False, maintain_order=True))
    meds.CodeMetadataSchema.validate(pq.read_table(timeline / meds.code_metadata_filepath))
    meds.SubjectSplitSchema.validate(pq.read_table(timeline / meds.subject_splits_filepath))
    meds.DatasetMetadataSchema.validate(json.loads((timeline / meds.dataset_metadata_filepath).read_text()))
    assert all(account.balanced for account in read_manifest(timeline).sources.values())


def test_no_laboratory_result_before_it_was_filed(timeline: Path, mimic_demo: Path):
    """Against the source itself: `storetime` of the row, not what the mapping made of it."""
    labs = pl.read_csv(
        mimic_demo / "hosp/labevents.csv.gz", columns=["labevent_id", "storetime"], try_parse_dates=True
    )
    seen = (
        pl.scan_parquet(timeline / "data/*.parquet")
        .filter(pl.col("resource_id").str.contains(r"labevents\.\d+$"))
        .select("time", labevent_id=pl.col("resource_id").str.extract(r"(\d+)$").cast(pl.Int64))
        .collect()
        .join(labs, on="labevent_id")
    )
    assert seen.height >= 100_000
    assert seen.filter(pl.col("time") < pl.col("storetime")).is_empty()


def test_no_discharge_diagnosis_before_discharge(timeline: Path, mimic_demo: Path):
    stays = pl.read_csv(
        mimic_demo / "hosp/admissions.csv.gz", columns=["hadm_id", "dischtime"], try_parse_dates=True
    )
    seen = (
        pl.scan_parquet(timeline / "data/*.parquet")
        .filter(pl.col("code").str.starts_with("Condition//ICD"))
        .select("time", hadm_id=pl.col("encounter_id").str.extract(r"(\d+)$").cast(pl.Int64))
        .collect()
        .join(stays, on="hadm_id")
    )
    assert seen.height == 4_506
    assert seen.filter(pl.col("time") < pl.col("dischtime")).is_empty()
