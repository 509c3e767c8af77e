"""From events to tokens: what each field holds, that prefixes stay prefixes, and that runs repeat byte for byte."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ward_events import (
    GLUCOSE,
    HEART_ATTACK,
    NITRITE,
    REPORT,
    SODIUM,
    START,
    STROKE,
    event,
    frame_of,
    patients,
    split_frame,
    splits_of,
    write_timeline,
)

from ehrseq.core.dataset import Build, verify
from ehrseq.core.errors import TokenError
from ehrseq.tokens.events import tokens_of
from ehrseq.tokens.store import TOKEN_FIELDS, UNKNOWN_BIRTH, TokenStore
from ehrseq.tokens.tokenize import tokenize
from ehrseq.tokens.vocabulary import Vocabulary, VocabularyConfig, fit_vocabulary

HOUR = 3_600_000_000
RARE = ["text//", "<unknown>", "text//-c"]  # drc: no two patients have it, or anything with a d or an r
ZERO = int((START - pl.Series(["1970-01-01"]).str.to_datetime()[0]).total_seconds()) * 1_000_000


@pytest.fixture(scope="module")
def timeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_timeline(tmp_path_factory.mktemp("tokenize") / "timeline")


@pytest.fixture(scope="module")
def vocabulary(timeline: Path) -> Vocabulary:
    return fit_vocabulary(timeline, VocabularyConfig(min_patients=2, bins=4))


@pytest.fixture(scope="module")
def made(timeline: Path) -> Any:
    return tokenize(timeline, timeline.parent / "tokens", min_patients=2, bins=4)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "run.json"
    }


def test_one_patient_token_by_token(made: Any, vocabulary: Vocabulary) -> None:
    store = TokenStore.open(made.out)
    rows = store.rows(int(store.index_of([3])[0]))
    words = [f"text//{word}" for word in ("chest", "pain", "bp", "120.5", "seen", "by")]
    names = ["Patient.gender//AdministrativeGender//female", "MEDS_BIRTH", SODIUM, SODIUM, GLUCOSE]
    names += [f"{NITRITE}//TEXT//positive", REPORT, *words, *RARE, HEART_ATTACK]
    assert [vocabulary.codes[code] for code in store.code[rows]] == names
    assert ((store.time[rows] - ZERO) / HOUR).tolist() == [-400_000, -400_000, 1, 2, 2, 3, *[4] * 10, 5]
    units = [vocabulary.units[unit] for unit in store.unit[rows]]
    assert units == ["", "", "mg/dL", "mg/dL", "mmol/L", *[""] * 12]
    assert store.modality[rows].tolist() == [0] * 6 + [1] * 10 + [0]
    assert (store.bin[rows] > 0).tolist() == [name in (SODIUM, GLUCOSE) for name in names]
    assert np.isnan(store.value[rows]).tolist() == (store.bin[rows] == 0).tolist()
    assert store.birth[store.index_of([3])[0]] == ZERO - 400_000 * HOUR


def test_event_and_shard_lead_back_to_the_timeline(made: Any, timeline: Path, vocabulary: Vocabulary) -> None:
    store = TokenStore.open(made.out)
    for subject in range(store.subjects):
        rows = store.rows(subject)
        shard = pl.read_parquet(timeline / "data" / f"{store.shard[subject]:04d}.parquet")
        source = shard[store.event[rows]]
        assert set(source["subject_id"]) == {store.subject_id[subject]}
        first = np.diff(store.event[rows], prepend=-1) > 0
        read = [vocabulary.read(code)[0] for code in source["code"].to_list()]
        plain = first & ~np.char.find([vocabulary.codes[c] for c in store.code[rows]], "//TEXT//").astype(
            bool
        )
        assert (store.code[rows][first & plain] == np.asarray(read)[first & plain]).all()
        assert (
            sorted(set(store.event[rows]))
            == shard.with_row_index()
            .filter(pl.col("subject_id") == store.subject_id[subject])["index"]
            .to_list()
        )


def test_units_are_never_mixed(made: Any) -> None:
    store = TokenStore.open(made.out)
    code = store.vocabulary["codes"].index(SODIUM)
    median = {}
    for unit in set(store.unit[store.code == code]):
        median[unit] = np.median(store.value[(store.code == code) & (store.unit == unit)])
    assert len(median) == 2
    assert all(abs(value) < 1.5 for value in median.values())  # mixed, the rarer unit would be clipped to 5


def test_books(made: Any) -> None:
    manifest, events = made.manifest, len(patients())
    assert manifest.rows == {"in": events, "used": events, "rejected": 0, "filtered": 0}
    read = manifest.notes["read"]
    assert read["exact"] + read["backed_off"] + read["unknown"] == events
    assert read["backed_off"] == 6  # the diagnoses that one patient each has
    assert read["tokens"] == events + read["pieces"] == manifest.made["tokens"]
    assert (read["pieces_unknown"], read["answers"], read["answers_kept"]) == (12, 12, 12)
    assert (read["values"], read["values_without_scale"]) == (36, 0)
    assert manifest.notes["store"]["fields"].keys() >= TOKEN_FIELDS.keys()
    verify(made.out, "tokens")


def test_same_bytes_for_any_number_of_workers(made: Any, timeline: Path, tmp_path: Path) -> None:
    again = tokenize(timeline, tmp_path / "again", min_patients=2, bins=4, workers=2)
    assert files_of(again.out) == files_of(made.out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again"]


def test_nothing_to_do_twice(timeline: Path, tmp_path: Path) -> None:
    first = tokenize(timeline, tmp_path / "tokens", min_patients=2)
    assert tokenize(timeline, tmp_path / "tokens", min_patients=2).status == "unchanged"
    other = tokenize(timeline, tmp_path / "tokens", min_patients=3)
    assert (first.status, other.status) == ("made", "made")


def test_given_vocabulary(made: Any, tmp_path: Path) -> None:
    rows = [
        event(50, None, STROKE),
        event(50, 1, SODIUM, 139, unit="mmol/L"),
        event(50, 2, SODIUM, 2.0, unit="stone"),
    ]
    unseen = write_timeline(tmp_path / "unseen", rows, {})
    laid_out_otherwise = tmp_path / "vocabulary.json"
    laid_out_otherwise.write_text(
        json.dumps(json.loads((made.out / "vocabulary.json").read_text()), indent=1)
    )
    outcome = tokenize(unseen, tmp_path / "tokens", vocabulary=laid_out_otherwise)
    store, trained = TokenStore.open(outcome.out), TokenStore.open(made.out)
    assert store.vocabulary_sha256 == trained.vocabulary_sha256
    assert store.split.tolist() == [2]  # nobody's split is known: held out
    assert store.birth.tolist() == [UNKNOWN_BIRTH]
    assert ((store.time - ZERO) / HOUR).tolist() == [1, 1, 2]
    assert store.unit.tolist()[2] == 0
    assert store.bin.tolist()[1:] == [3, 0]  # quartiles of the training values: 134, 138, 144
    read = outcome.manifest.notes["read"]
    assert (read["backed_off"], read["units_unknown"], read["values_without_scale"]) == (1, 1, 1)


def test_values_that_are_no_numbers(vocabulary: Vocabulary) -> None:
    rows = [
        event(1, hour, GLUCOSE, x, unit="mmol/L")
        for hour, x in enumerate([float("nan"), float("inf"), -1e30, 1e30])
    ]
    token, counts = tokens_of(frame_of(rows), vocabulary, split_frame(splits_of()))
    assert token["bin"].tolist() == [0, 0, 1, 4]
    assert token["value"][2:].tolist() == [-5, 5]
    assert np.isnan(token["value"][:2]).all()
    assert (counts["values"], counts["values_without_scale"]) == (2, 0)


def test_long_notes_are_cut(timeline: Path, tmp_path: Path) -> None:
    outcome = tokenize(timeline, tmp_path / "tokens", min_patients=2, text_pieces=3)
    read = outcome.manifest.notes["read"]
    assert (read["pieces"], read["pieces_cut"]) == (36, 48)


def test_damaged_timelines(tmp_path: Path) -> None:
    timeline = write_timeline(tmp_path / "timeline")
    (timeline / "data" / "0001.parquet").unlink()
    with pytest.raises(TokenError, match=r"0001.parquet: missing"):
        tokenize(timeline, tmp_path / "tokens")
    unsorted = write_timeline(tmp_path / "unsorted", shards=1)
    frame = pl.read_parquet(unsorted / "data" / "0000.parquet")
    backwards = frame.sort("subject_id", "time", descending=True)
    backwards.write_parquet(unsorted / "data" / "0000.parquet")
    with pytest.raises(TokenError, match=r"0000.parquet: sha256 differs"):
        tokenize(unsorted, tmp_path / "tokens")
    with Build(unsorted, kind="timeline", config={}, inputs=[], force=True) as build:
        build.write("data/0000.parquet", backwards)
        build.write("metadata/subject_splits.parquet", split_frame(splits_of()))
    with pytest.raises(TokenError, match="not sorted by subject_id and time"):
        tokenize(unsorted, tmp_path / "tokens")
    strange = write_timeline(tmp_path / "strange", [*patients(), event(1, 1, "x", modality="smell")])
    with pytest.raises(TokenError, match="modality 'smell'"):
        tokenize(strange, tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()


CODES = st.sampled_from(
    [SODIUM, GLUCOSE, NITRITE, HEART_ATTACK, "Condition//ICD-10-CM//I2177", "Claim//a//b"]
)
ROWS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.none() | st.integers(0, 20),
        CODES,
        st.none() | st.floats(-200, 200, width=32),
        st.sampled_from([None, "mmol/L", "mg/dL", "stone"]),
        st.sampled_from([None, "positive", "Chest pain and fever", "<"]),
        st.sampled_from([None, "route//IV", "route//IV\nrate=125 mL/h", "rate=-3\nnote//never seen"]),
        st.booleans(),
    ),
    max_size=25,
)


@given(ROWS, st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_tokens_of_a_prefix_are_a_prefix_of_the_tokens(
    vocabulary: Vocabulary, rows: list[Any], until: int
) -> None:
    birth = [event(subject, -1000, "MEDS_BIRTH") for subject in (1, 2, 3)]
    drawn = [
        event(
            subject,
            hours,
            code,
            value,
            unit=unit,
            text_value=text,
            attributes=more,
            modality="note" if note else "record",
        )
        for subject, hours, code, value, unit, text, more, note in rows
    ]
    everything = frame_of(birth + drawn)
    known = everything.filter(pl.col("time").is_null() | (pl.col("time") <= START + pl.duration(hours=until)))
    whole, _ = tokens_of(everything, vocabulary, split_frame(splits_of()))
    part, _ = tokens_of(known, vocabulary, split_frame(splits_of()))
    visible = whole["time"] <= ZERO + until * HOUR
    for name in TOKEN_FIELDS.keys() - {"event"}:
        assert np.array_equal(whole[name][visible], part[name], equal_nan=name == "value"), name
    for name in ("subject_id", "birth", "split"):
        assert np.array_equal(whole[name], part[name]), name
    beside = visible[whole["bag_token"]]
    assert np.array_equal((np.cumsum(visible) - 1)[whole["bag_token"][beside]], part["bag_token"])
    for name in ("bag_code", "bag_weight"):
        assert np.array_equal(whole[name][beside], part[name]), name
    per_event = np.unique(whole["event"])
    assert np.array_equal(per_event, np.arange(everything.height))  # every event is at least one token


def test_timeline_without_events(made: Any, tmp_path: Path) -> None:
    empty = write_timeline(tmp_path / "empty", [], {})
    with pytest.raises(TokenError, match="no code is shared"):
        tokenize(empty, tmp_path / "tokens")
    store = TokenStore.open(tokenize(empty, tmp_path / "tokens", vocabulary=made.out).out)
    assert (store.subjects, store.tokens) == (0, 0)
