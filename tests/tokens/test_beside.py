"""What stands beside a code: attributes, text that is no answer, notes in bags, vectors of side arrays."""

from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ward_events import (
    GLUCOSE,
    NITRITE,
    REPORT,
    SODIUM,
    event,
    frame_of,
    patients,
    split_frame,
    splits_of,
    with_attributes,
    write_timeline,
)

from ehrseq.core.dataset import Build
from ehrseq.core.errors import TokenError
from ehrseq.core.spans import SpanWriter
from ehrseq.tokens.events import tokens_of
from ehrseq.tokens.store import TokenStore
from ehrseq.tokens.tokenize import tokenize
from ehrseq.tokens.vocabulary import Vocabulary, VocabularyConfig, fit_vocabulary

XRAY = "ImagingStudy//DICOM//DX"


def bags(token: dict[str, Any], vocabulary: Vocabulary) -> dict[int, dict[str, float]]:
    """Names and weights beside each position."""
    found: dict[int, dict[str, float]] = defaultdict(dict)
    for at, code, weight in zip(token["bag_token"], token["bag_code"], token["bag_weight"], strict=True):
        found[int(at)][vocabulary.codes[code]] = pytest.approx(float(weight))
    return found


def read(rows: list[dict[str, Any]], vocabulary: Vocabulary, **more: Any) -> tuple[dict[str, Any], Any]:
    return tokens_of(frame_of(rows), vocabulary, split_frame(splits_of()), **more)


def test_attributes_are_added_to_their_event(tmp_path: Path) -> None:
    timeline = write_timeline(tmp_path / "timeline", with_attributes(patients()))
    vocabulary = fit_vocabulary(timeline, VocabularyConfig(min_patients=3))
    assert {"attribute//specimen//serum", "attribute//rate", "attribute//rate="} <= set(vocabulary.codes)
    assert not [name for name in vocabulary.codes if "dr " in name]  # a note of one patient each
    numbers = "rate=1e9 mL/h\nrate=3 stone\nnote//B77\nnever//x\nrate=140 mmol/L"
    lines = f"category//laboratory\nspecimen//serum\n{numbers}"
    token, counts = read([event(1, 1, SODIUM, 140, unit="mmol/L", attributes=lines)], vocabulary)
    assert len(token["code"]) == 1  # one event, one position
    names = [vocabulary.codes[code] for code in token["bag_code"]]
    rates = ["attribute//rate=", "attribute//rate"]  # with a scale in its unit, and without
    assert names == ["attribute//specimen//serum", *rates, "attribute//note", "attribute", "attribute//rate="]
    # a number: how far it is from the median, at most 5; in the event's own unit: as far as the event's value
    assert token["bag_weight"].tolist() == [1, 5, 1, 1, 1, token["value"][0]]
    text = "category//laboratory\nnote//chest pain of Ann"
    token, _ = read([event(1, 1, SODIUM, attributes=text)], vocabulary)
    comment = bags(token, vocabulary)[0]
    assert comment["attribute//note"] == 1
    assert comment["text//pain"].expected > 0
    assert not [name for name in comment if "ann" in name]
    assert (counts["attributes"], counts["attributes_unknown"], counts["attributes_implied"]) == (7, 0, 1)


def test_what_all_events_of_a_code_have_says_nothing(tmp_path: Path) -> None:
    rows = with_attributes(patients())
    timeline = write_timeline(tmp_path / "timeline", rows, shards=3)
    vocabulary = fit_vocabulary(timeline, VocabularyConfig(min_patients=3))

    def beside(code: str) -> list[str]:
        lines = "category//laboratory\nspecimen//serum"
        token, _ = read([event(1, 1, code, attributes=lines)], vocabulary)
        return [vocabulary.codes[name] for name in token["bag_code"]]

    assert beside(SODIUM) == ["attribute//specimen//serum"]  # its category is always that of the laboratory
    assert beside(GLUCOSE) == ["attribute//category//laboratory", "attribute//specimen//serum"]
    assert len(beside("Observation//LOINC//9")) == 2  # read as its prefix, of which nothing is known
    once = next(row for row in rows if row["code"] == SODIUM)
    once["attributes"] = "specimen//serum"
    other = fit_vocabulary(write_timeline(tmp_path / "other", rows), VocabularyConfig(min_patients=3))
    assert vocabulary.implied.size == other.implied.size + 1


def test_text_that_is_no_common_answer_is_read_in_pieces(tmp_path: Path) -> None:
    vocabulary = fit_vocabulary(write_timeline(tmp_path / "timeline"), VocabularyConfig(min_patients=3))
    rows = [
        event(1, 1, NITRITE, text_value="positive"),
        event(1, 2, NITRITE, text_value="Pain, PAIN and 120.5 chest"),
        event(1, 3, SODIUM, 140, unit="mmol/L", text_value="pain"),
    ]
    token, counts = read(rows, vocabulary)
    assert len(token["code"]) == 3
    found = bags(token, vocabulary)
    assert 0 not in found  # its answer is its code
    assert found[1]["text//pain"] == 2 * found[1]["text//chest"].expected
    assert sum(weight.expected for weight in found[1].values()) == pytest.approx(1)
    assert found[2] == {"text//pain": 1}
    assert counts["answers_kept"] == 1


def test_a_note_is_positions_or_a_bag(tmp_path: Path) -> None:
    timeline = write_timeline(tmp_path / "timeline")
    apart = tokenize(timeline, tmp_path / "apart", min_patients=3)
    together = tokenize(timeline, tmp_path / "together", min_patients=3, notes="bag")
    one, other = TokenStore.open(apart.out), TokenStore.open(together.out)
    vocabulary = Vocabulary.load(together.out)
    assert other.tokens == len(patients())
    assert one.tokens == other.tokens + apart.manifest.notes["read"]["pieces"]
    note = other.code == vocabulary.code_ids[REPORT]
    weights = np.bincount(other.bag_token, other.bag_weight, other.tokens)
    assert weights[note] == pytest.approx(1)
    assert not weights[~note].any()
    at = int(np.flatnonzero(one.code == Vocabulary.load(apart.out).code_ids[REPORT])[0])
    pieces = one.code[at + 1 : at + 10]
    assert {Vocabulary.load(apart.out).codes[code] for code in pieces} - {"<unknown>"} == set(
        bags({name: getattr(other, name) for name in ("bag_token", "bag_code", "bag_weight")}, vocabulary)[
            int(np.flatnonzero(note)[0])
        ]
    )


@pytest.mark.parametrize("workers", [2])
def test_same_bytes_for_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    timeline = imaged(tmp_path / "timeline", with_attributes(patients()))
    one = tokenize(timeline, tmp_path / "one", min_patients=2, timezone="Europe/Berlin")
    more = tokenize(timeline, tmp_path / "more", min_patients=2, timezone="Europe/Berlin", workers=workers)
    assert [shard.sha256 for shard in one.manifest.shards] == [shard.sha256 for shard in more.manifest.shards]


def imaged(out: Path, rows: list[dict[str, Any]], encoder: str = "toy 1") -> Path:
    """A timeline where each patient has an image of two vectors, those of patient n being [n, 0] and [0, n]."""
    rows = [*rows, *(event(n, 6, XRAY, modality="image", span_array="xray", span_start=2 * (n - 1), span_length=2)
                     for n in range(1, 13))]  # fmt: skip
    with Build(out, kind="timeline", config={"encoder": encoder}, inputs=[], force=True) as build:
        build.write("data/0000.parquet", frame_of(rows))
        build.write("metadata/subject_splits.parquet", split_frame(splits_of()))
        with SpanWriter(build.folder, "xray", dim=2, encoder=encoder) as spans:
            spans.append(np.stack([[[n, 0], [0, n]] for n in range(1, 13)]).reshape(24, 2))
        build.enter("spans/xray.bin", rows=24)
        build.enter("spans/xray.json", rows=1)
    return out


def test_an_image_takes_as_many_positions_as_it_has_vectors(tmp_path: Path) -> None:
    made = tokenize(imaged(tmp_path / "timeline", patients()), tmp_path / "tokens", min_patients=3)
    store, vocabulary = TokenStore.open(made.out), Vocabulary.load(made.out)
    assert vocabulary.modalities == ("record", "note", "image")
    scale = vocabulary.spans[0]
    assert scale.rms == pytest.approx(np.sqrt(np.mean([n * n / 2 for n in range(1, 9)])))  # training patients
    rows = store.rows(int(store.index_of([11])[0]))
    at = np.flatnonzero((store.dense_token >= rows.start) & (store.dense_token < rows.stop))
    assert [vocabulary.codes[store.code[token]] for token in store.dense_token[at]] == [XRAY, XRAY]
    assert set(store.modality[store.dense_token[at]]) == {2}
    assert store.spans("xray").read(store.dense_row[at]).tolist() == [[11, 0], [0, 11]]
    assert made.manifest.notes["read"]["vectors"] == 24


def test_vectors_of_another_encoder_or_outside_their_array_are_refused(tmp_path: Path) -> None:
    first = tokenize(imaged(tmp_path / "timeline", patients()), tmp_path / "tokens", min_patients=3)
    other = imaged(tmp_path / "other", patients(), encoder="toy 2")
    with pytest.raises(TokenError, match=r"encoder 'toy 2', dim 2; the vocabulary was fitted on 'toy 1'"):
        tokenize(other, tmp_path / "others", vocabulary=first.out)
    beyond = event(1, 7, XRAY, modality="image", span_array="xray", span_start=23, span_length=2)
    with pytest.raises(TokenError, match="has 24 rows, events refer to rows outside it"):
        tokenize(imaged(tmp_path / "beyond", [*patients(), beyond]), tmp_path / "beyonds", min_patients=3)
    file = tmp_path / "timeline/spans/xray.bin"
    file.write_bytes(bytes([1]) + file.read_bytes()[1:])
    with pytest.raises(TokenError, match="sha256 differs"):
        tokenize(tmp_path / "timeline", tmp_path / "again", min_patients=3)


def test_a_vocabulary_without_images_reads_them_as_events(tmp_path: Path) -> None:
    made = tokenize(write_timeline(tmp_path / "plain"), tmp_path / "tokens", min_patients=3)
    rows = [event(1, 6, XRAY, span_array="xray", span_start=0, span_length=2)]
    token, counts = read(rows, Vocabulary.load(made.out), timeline=imaged(tmp_path / "timeline", patients()))
    assert len(token["code"]) == 1
    assert counts["vectors"] == 0


def test_local_clocks(tmp_path: Path) -> None:
    vocabulary = fit_vocabulary(write_timeline(tmp_path / "timeline"), VocabularyConfig(min_patients=3))
    rows = [event(1, 0, SODIUM, 140, time=datetime(2020, month, 1)) for month in (1, 6)]
    assert read(rows, vocabulary, timezone="Europe/Berlin")[0]["zone"].tolist() == [4, 8]
    assert read(rows, vocabulary, timezone="Asia/Kathmandu")[0]["zone"].tolist() == [23, 23]
    assert read(rows, vocabulary)[0]["zone"].tolist() == [0, 0]
