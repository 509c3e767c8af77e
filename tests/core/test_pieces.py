"""Hashes, YAML with lines, schemas, executor."""

import multiprocessing
import os
import signal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrseq.core.errors import ConfigError, SchemaError, closest
from ehrseq.core.executor import WorkerLostError, run_tasks
from ehrseq.core.hashing import stable_hash
from ehrseq.core.schema import Nullable, Required, Schema
from ehrseq.core.yaml_lines import parse_yaml


def fnv(text: bytes) -> int:
    """FNV-1a and SplitMix64 as their authors wrote them, one value at a time."""
    mask, state = (1 << 64) - 1, 0xCBF29CE484222325
    for letter in text:
        state = ((state ^ letter) * 0x100000001B3) & mask
    state = (state + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


@given(
    st.lists(
        st.text(alphabet=st.characters(blacklist_characters="\x00", blacklist_categories=("Cs",)), max_size=9)
    )
)
def test_stable_hash_is_fnv_1a_whatever_stands_beside_a_value(values):
    assert stable_hash(np.array(values, dtype=np.str_)).tolist() == [fnv(value.encode()) for value in values]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_stable_hash_of_integers_is_injective(values):
    hashes = stable_hash(np.array(values, dtype=np.int64))
    assert len(set(hashes.tolist())) == len(set(values))


def test_buckets_are_even():
    counts = np.bincount((stable_hash(np.arange(80_000)) % 8).astype(int))
    assert counts.min() > 9_500
    assert counts.max() < 10_500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "m.yaml:2  has `a` twice"),
        ("a: &x 1\nb: *x\n", "m.yaml:2  uses a YAML alias"),
        ("a: [1\n", "m.yaml:2  is not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "m.yaml:1  is not valid YAML"),
    ],
)
def test_yaml_that_is_not_plain_data_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "m.yaml")
    assert str(caught.value).startswith(message)


class Person(Schema):
    """One row per person."""

    person_id = Required(pl.Int64)
    name = Nullable(pl.String)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"person_id": [1]}), 'lacks column "name"'),
        (pl.DataFrame({"person_id": [None], "name": ["a"]}, schema=Person.polars_schema()), "null in 1 rows"),
        (pl.DataFrame({"person_id": [1.0], "name": ["a"]}), "Person.person_id is Float64, expected Int64"),
    ],
)
def test_a_schema_says_which_column_is_wrong(frame, message):
    with pytest.raises(SchemaError, match=message):
        Person.check(frame)


def test_closest_helps_with_a_slip_and_keeps_silent_otherwise():
    assert closest("valueQuanttiy", ["valueQuantity", "code"]) == ' Closest: "valueQuantity".'
    assert closest("xyz", ["valueQuantity"]) == ""


def square(number: int) -> int:
    return number * number


def fail(number: int) -> int:
    raise SchemaError(f"task {number} failed")


def die(number: int) -> int:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_workers_give_the_same_results_in_the_same_order():
    assert run_tasks(square, range(5)) == run_tasks(square, range(5), workers=2) == [0, 1, 4, 9, 16]


def test_the_error_of_a_task_comes_through():
    with pytest.raises(SchemaError, match="task 0 failed"):
        run_tasks(fail, [0, 1], workers=2)


def test_a_killed_worker_is_a_temporary_error():
    with pytest.raises(WorkerLostError, match="memory") as caught:
        run_tasks(die, [0, 1], workers=2)
    assert caught.value.exit_code == 75
