"""Any MEDS dataset becomes a timeline: whatever its files, columns and order, and what cannot be read says so."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.errors import DataQualityError, TimelineError
from ehrseq.deploy.fitting import train_model
from ehrseq.timeline.meds import codes, read_timeline, splits
from ehrseq.tokens.examples import make_examples
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training.config import TrainConfig
from ehrseq.training.predict import predict

START = datetime(2150, 1, 1)
DIES = """
predicates:
  admission: {code: ADMISSION//EMERGENCY}
  discharge: {code: {regex: '^DISCHARGE//'}}
  died: {code: DISCHARGE//DIED}
trigger: admission
windows:
  first: {start: trigger, end: start + 24h, start_inclusive: true, end_inclusive: true, index_timestamp: end}
  target: {start: first.end, end: start -> discharge, start_inclusive: false, end_inclusive: true, label: died}
"""


def events(subjects: int = 4) -> pl.DataFrame:
    """Each subject: static sex, birth, an admission, a value, a discharge; every third dies."""
    rows = []
    for subject in range(1, subjects + 1):
        dies = subject % 3 == 0
        times = [None, -400_000, 0, 1 + subject / 100, 48]
        names = ["SEX//F", "MEDS_BIRTH", "ADMISSION//EMERGENCY", "LAB//lactate//mmol/L"]
        names.append("DISCHARGE//DIED" if dies else "DISCHARGE//HOME")
        for hours, name in zip(times, names, strict=True):
            time = None if hours is None else START + timedelta(hours=hours)
            rows.append(
                (subject, time, name, 9.0 if dies else 1.0) if "LAB" in name else (subject, time, name, None)
            )
    schema = {
        "subject_id": pl.Int64,
        "time": pl.Datetime("us"),
        "code": pl.String,
        "numeric_value": pl.Float32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def put(
    folder: Path, *files: pl.DataFrame, names: tuple[str, ...] = ("train/0", "train/1", "tuning/0")
) -> Path:
    for frame, name in zip(files, names, strict=False):
        path = folder / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(path)
    return folder


def facts(timeline: Path) -> list[tuple[object, ...]]:
    return read_timeline(timeline).drop("resource_id").sort("subject_id", maintain_order=True).rows()


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(20)), cut=st.integers(0, 20))
def test_files_and_order_do_not_matter(
    order: list[int], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, whole = tmp_path_factory.mktemp("meds"), events()
    shuffled = whole[order]
    ehrseq.import_meds(put(folder / "a", whole), folder / "sorted")
    found = ehrseq.import_meds(put(folder / "b", shuffled[:cut], shuffled[cut:]), folder / "shuffled")
    assert facts(folder / "shuffled") == facts(folder / "sorted")
    apart = [set(part["subject_id"]) for part in (shuffled[:cut], shuffled[cut:])]
    assert found.manifest.notes["subjects_in_several_files"] == len(apart[0] & apart[1])


def test_other_names_types_and_columns(tmp_path: Path) -> None:
    old = events().rename({"subject_id": "patient_id", "numeric_value": "value"}).with_columns(
        pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ms"),
        pl.col("patient_id").cast(pl.Int32), table=pl.lit("labs"), text_value=pl.lit("word " * 20),
    )  # fmt: skip
    result = ehrseq.import_meds(put(tmp_path / "old", old), tmp_path / "timeline")
    assert result.manifest.notes["columns_not_read"] == ["table"]
    assert "when it became known is not recorded" in result.manifest.notes["knowable"]
    plain = ehrseq.import_meds(put(tmp_path / "new", events()), tmp_path / "plain").out
    columns = ["subject_id", "time", "code", "numeric_value"]
    assert read_timeline(tmp_path / "timeline").select(columns).equals(read_timeline(plain).select(columns))
    modality = read_timeline(tmp_path / "timeline").select(
        "modality", has=pl.col("numeric_value").is_not_null()
    )
    assert set(modality.rows()) == {("note", False), ("record", True)}
    first = read_timeline(plain).row(0, named=True)
    assert (first["resource_type"], first["resource_id"]) == ("MEDS", "data/train/0.parquet#1")


def test_metadata_is_kept_and_completed(tmp_path: Path) -> None:
    data = put(tmp_path / "meds", events())
    (data / "metadata").mkdir()
    pl.DataFrame({"code": ["SEX//F", "NEVER"], "description": ["woman", "x"], "parent_codes": [["SEX"], None]}
                 ).write_parquet(data / "metadata/codes.parquet")  # fmt: skip
    pl.DataFrame({"subject_id": [1, 2], "split": ["held_out", "tuning"]}).write_parquet(
        data / "metadata/subject_splits.parquet"
    )
    ehrseq.import_meds(data, tmp_path / "timeline", split=(1, 0, 0))
    assert splits(tmp_path / "timeline")["split"].to_list() == ["held_out", "tuning", "train", "train"]
    known = codes(tmp_path / "timeline").filter(code="SEX//F").row(0, named=True)
    assert known == {"code": "SEX//F", "description": "woman", "parent_codes": ["SEX"], "events": 4}
    pl.DataFrame({"subject_id": [1], "split": ["test"]}).write_parquet(
        data / "metadata/subject_splits.parquet"
    )
    with pytest.raises(TimelineError, match="split 'test'"):
        ehrseq.import_meds(data, tmp_path / "timeline")


def test_what_cannot_be_read_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(TimelineError, match="no such file"):
        ehrseq.import_meds(tmp_path / "nothing", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TimelineError, match="no Parquet"):
        ehrseq.import_meds(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(TimelineError, match=r"0.parquet: has no column `time`.*timestamp"):
        ehrseq.import_meds(put(tmp_path / "a", events().rename({"time": "timestamp"})), tmp_path / "out")
    texts = events().with_columns(pl.col("time").cast(pl.String))
    with pytest.raises(TimelineError, match="`time` is String"):
        ehrseq.import_meds(put(tmp_path / "b", texts), tmp_path / "out")
    torn = put(tmp_path / "c", events()) / "data/train/0.parquet"
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(TimelineError, match=r"0.parquet: not Parquet, or damaged"):
        ehrseq.import_meds(tmp_path / "c", tmp_path / "out")
    nobody = events().with_columns(subject_id=pl.when(pl.col("code") == "SEX//F").then("subject_id"))
    with pytest.raises(DataQualityError, match="no subject 16"):
        ehrseq.import_meds(put(tmp_path / "d", nobody), tmp_path / "out")
    kept = ehrseq.import_meds(tmp_path / "d", tmp_path / "out", max_reject_fraction=1).manifest
    assert kept.rows == {"in": 20, "used": 4, "rejected": 16, "filtered": 0}


def test_from_meds_to_predictions(tmp_path: Path) -> None:
    timeline = ehrseq.import_meds(put(tmp_path / "meds", events(90)), tmp_path / "timeline").out
    tokens = ehrseq.tokenize(timeline, tmp_path / "tokens").out
    (tmp_path / "dies.yaml").write_text(DIES)
    labels = ehrseq.label(tmp_path / "dies.yaml", timeline, tmp_path / "dies").out
    examples = make_examples(tokens, labels, tmp_path / "examples").out
    tiny = TrainConfig(context=32, row_length=32, batch_rows=16, epochs=2)
    tiny = replace(tiny, model=replace(tiny.model, dim=8, heads=2, layers=0, pools=1, attention="reference"))
    model = train_model(tokens, examples, tmp_path / "model", tiny).out
    found = predict(model / "model", TokenStore.open(tokens), Examples.load(examples), split="held_out")
    asked = splits(timeline).filter(split="held_out").height
    assert asked == len(found["probability"]) > 0
    assert 0 < found["label"].sum() < asked
