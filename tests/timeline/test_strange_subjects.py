"""Records as they should not be: no birth, facts outside of life, stays of no length, a thousand at one moment."""

import random
from pathlib import Path

import polars as pl
from fhir_store import Resource, about, coded, encounter, patient, write_store

import ehrseq
from ehrseq.timeline import Event, read_timeline, timeline
from ehrseq.tokens.store import UNKNOWN_BIRTH, TokenStore

LABS = "http://h.org/labs"


def result(name: str, issued: str, number: int = 1, code: str = "a", **more: object) -> Resource:
    return about(number, "Observation", name, status="final", code=coded(LABS, code), issued=issued, **more)


def test_a_subject_without_a_birth_date_has_a_timeline_and_tokens(tmp_path: Path) -> None:
    born = [patient(1), *(result(f"o{n}", f"2020-01-0{n}T08:00:00Z") for n in range(1, 6))]
    unborn = [
        {"resourceType": "Patient", "id": "p.2", "gender": "male"},
        result("u1", "2020-01-01T08:00:00Z", 2),
    ]
    nowhere = [result("n1", "2020-01-01T08:00:00Z", 3)]  # not even a Patient resource
    made = timeline(
        write_store(tmp_path / "fhir", [*born, *unborn, *nowhere]), tmp_path / "timeline", split=(1, 0, 0)
    )
    assert made.manifest.notes["subjects"] == 3
    store = TokenStore.open(ehrseq.tokenize(made.out, tmp_path / "tokens", min_patients=1).out)
    assert sorted(store.birth == UNKNOWN_BIRTH) == [False, True, True]


def test_facts_before_birth_and_after_death_stay_and_are_counted(tmp_path: Path) -> None:
    dead = patient(1, birthDate="2019-06-01", deceasedDateTime="2020-01-05T10:00:00Z")
    early, late = result("early", "2019-05-31T10:00:00Z"), result("late", "2020-01-05T10:00:01Z")
    inside = [result("first", "2019-06-01T00:00:00Z"), result("last", "2020-01-05T10:00:00Z")]
    made = timeline(write_store(tmp_path / "fhir", [dead, early, late, *inside]), tmp_path / "timeline")
    assert (made.manifest.notes["events_before_birth"], made.manifest.notes["events_after_death"]) == (1, 1)
    assert read_timeline(made.out)["resource_id"].to_list()[-1] == "late"


def test_a_stay_of_no_length_begins_before_it_ends(tmp_path: Path) -> None:
    stay = encounter("e1", 1, "2020-01-01T08:00:00Z", "2020-01-01T08:00:00Z")
    made = timeline(write_store(tmp_path / "fhir", [patient(1), stay]), tmp_path / "timeline")
    events = read_timeline(made.out).filter(pl.col("resource_id") == "e1")
    assert [code.split("//")[0] for code in events["code"]] == ["Encounter.start", "Encounter.end"]
    assert events["numeric_value"].to_list() == [None, 0.0]


def test_a_thousand_facts_at_one_moment_have_one_order(tmp_path: Path) -> None:
    moment = "2020-01-01T08:00:00Z"
    facts = [
        result(f"o{n:04d}", moment, code=str(n % 7), valueQuantity={"value": float(n)}) for n in range(1500)
    ]
    shuffled = random.Random(0).sample(facts, len(facts))
    first, second = (
        read_timeline(
            timeline(write_store(tmp_path / name, [patient(1), *given]), tmp_path / f"{name}-out").out
        )
        for name, given in (("one", facts), ("two", shuffled))
    )
    assert first.equals(second)
    assert first.filter(pl.col(Event.code).str.starts_with("Observation"))["resource_id"].is_sorted()
