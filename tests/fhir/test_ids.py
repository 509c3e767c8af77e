"""Ids: legal, different for different keys, and the same for ever."""

import hashlib
import re

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.core.hashing import stable_hash
from ehrseq.fhir.ids import resource_id, subject_id

LEGAL = re.compile(r"[A-Za-z0-9\-.]{1,64}")
keys = st.text("aB1-._ x/é", max_size=40)


def ids(prefix: str, *columns: list[str | int | None]) -> list[str | None]:
    frame = pl.DataFrame({str(index): values for index, values in enumerate(columns)})
    return frame.select(id=resource_id(prefix, [pl.col(name) for name in frame.columns]))["id"].to_list()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(keys, keys), min_size=1, max_size=20, unique=True))
def test_two_keys_give_legal_and_different_ids(pairs: list[tuple[str, str]]) -> None:
    found = ids("mimic-labevents", [a for a, _ in pairs], [b for _, b in pairs])
    assert len(set(found)) == len(pairs)
    assert all(name is not None and LEGAL.fullmatch(name) for name in found)


@settings(deadline=None, max_examples=40)
@given(st.lists(keys, min_size=1, max_size=20, unique=True))
def test_one_key_gives_legal_and_different_ids(texts: list[str]) -> None:
    found = ids("m", [*texts])
    assert len(set(found)) == len(texts)
    assert all(name is not None and LEGAL.fullmatch(name) for name in found)


def test_plain_keys_stay_readable() -> None:
    assert ids("mimic-labevents", [172]) == ["mimic-labevents.172"]
    assert ids("a", ["x", "b.c"], [1, 2])[0] == "a.x.1"
    assert ids("dicom", ["1.2.840.10008"]) == ["dicom.1.2.840.10008"]


def test_other_keys_are_hashed_by_md5() -> None:
    md5 = hashlib.md5(b"m.3:a b.1:1").hexdigest()
    assert ids("m", ["a b"], ["1"]) == [f"m.x{md5}"]
    long_prefix = "p" * 40
    found = ids(long_prefix, ["a b"])[0]
    assert found is not None
    assert len(found) == 64


def test_a_key_that_looks_like_a_hash_does_not_collide() -> None:
    hashed = ids("m", ["a b"])[0]
    assert hashed is not None
    assert ids("m", [hashed.removeprefix("m.")]) != [hashed]


def test_null_keys_give_null() -> None:
    assert ids("m", [None, 1, None], ["a", None, None]) == [None] * 3
    assert ids("m", ["not plain", None])[1] is None
    assert pl.DataFrame(schema={"k": pl.String}).select(resource_id("m", [pl.col("k")])).height == 0


def test_subjects_keep_the_number_of_the_hospital() -> None:
    refs = [
        "Patient/mimic-iv-patients.10000032",
        "10000032",
        "p.7",
        "Patient/7",
        "http://h.org/fhir/Patient/7",
    ]
    frame = pl.DataFrame({"r": refs})
    assert frame.select(subject_id(pl.col("r")))["r"].to_list() == [10000032, 10000032, 7, 7, 7]


def test_other_subjects_are_hashed_above_all_numbers() -> None:
    names = ["abc", "p.007", "p.1.2", "1234567890123456789", "a7", None]
    found = pl.DataFrame({"r": names}).select(subject_id(pl.col("r")))["r"]
    assert found.dtype == pl.Int64
    assert found[5] is None
    for name, value in zip(names[:5], found[:5], strict=True):
        assert value == (int(stable_hash([name])[0]) & (2**62 - 1)) | 2**62
    assert found[:5].n_unique() == 5


def test_subjects_of_lazy_frames_in_pieces() -> None:
    frame = pl.DataFrame({"r": [f"Patient/{'p' * (n % 3)}{n}" for n in range(1, 50)]})
    whole = frame.select(subject_id(pl.col("r")))["r"]
    parts = [part.select(subject_id(pl.col("r")))["r"] for part in frame.iter_slices(7)]
    assert pl.concat(parts).equals(whole)
    assert frame.lazy().select(subject_id(pl.col("r"))).collect()["r"].equals(whole)
