"""A mapping may say when its facts become known, and its source says in which zone a date without a clock is meant."""

from pathlib import Path

import pytest
from hospital import LABS, SOURCE, write_mappings, write_tables

import ehrseq
from ehrseq.core.errors import MappingError, TimelineError
from ehrseq.timeline import read_timeline

AT_ONCE = LABS + "knowable:\n  observation: [{from: effective, guarantee: stated}]\n"


def timeline_of(tmp_path: Path, **files: str) -> ehrseq.core.dataset.Result:
    source, data = write_mappings(tmp_path / "tiny", **files), write_tables(tmp_path / "data")
    fhir = ehrseq.map(source, data, tmp_path / "fhir", validate="none", max_reject_fraction=1).out
    return ehrseq.timeline(fhir, tmp_path / "timeline", max_reject_fraction=1)


def test_a_mappings_rule_replaces_the_tables(tmp_path: Path) -> None:
    made = timeline_of(tmp_path, labs=AT_ONCE)
    events = read_timeline(made.out)
    first = events.filter(events["resource_id"] == "tiny-labs.1")
    assert str(first["time"][0]) == "2020-01-01 09:00:00"
    rules = made.manifest.notes["knowable"]["observation"]
    assert [(rule["time"], rule["guarantee"]) for rule in rules] == [("effective (tiny/labs)", "stated")]


def test_a_rule_that_the_timeline_does_not_know_stops_it(tmp_path: Path) -> None:
    with pytest.raises(TimelineError, match=r'tiny/labs:1  kind `observatoin`.*Closest: "observation"'):
        timeline_of(tmp_path, labs=AT_ONCE.replace("observation:", "observatoin:"))


def test_rules_of_another_shape_are_a_problem_of_the_mapping(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"labs.yaml:\d+  `knowable` is \{KIND"):
        timeline_of(tmp_path, labs=LABS + "knowable: {observation: effective}\n")


def test_the_source_says_in_which_zone_its_dates_are_meant(tmp_path: Path) -> None:
    made = timeline_of(tmp_path, source=SOURCE.replace("timezone: UTC", "timezone: America/New_York"))
    assert made.manifest.notes["timezone"] == "America/New_York"
    births = read_timeline(made.out).filter(read_timeline(made.out)["code"] == "MEDS_BIRTH")
    assert str(births["time"].sort()[0]) == "1950-02-03 05:00:00"
