"""Every source that ships: well formed, proven by its cases, and no column of it forgotten."""

from pathlib import Path

import pytest

from ehrseq.mapping.cases import run_cases
from ehrseq.mapping.check import check, load_mappings, shipped_sources
from ehrseq.mapping.coverage import coverage

SOURCES = shipped_sources()


@pytest.mark.parametrize("name", SOURCES)
def test_it_is_well_formed(name: str):
    assert check(SOURCES[name])[1] == []


@pytest.mark.parametrize("name", SOURCES)
def test_every_mapping_makes_what_its_cases_say(name: str):
    mappings = load_mappings(SOURCES[name])
    outcomes = run_cases(mappings)
    assert {outcome.mapping for outcome in outcomes} == {mapping.name for mapping in mappings.mappings}
    assert [f"{one.place} {one.case}\n{one.difference}" for one in outcomes if not one.passed] == []


@pytest.mark.parametrize("name", SOURCES)
def test_no_column_is_forgotten(name: str):
    assert [f"{item.table}.{item.column}" for item in coverage(SOURCES[name]).forgotten] == []
    assert (SOURCES[name] / "README.md").is_file()


def test_coverage_says_what_becomes_of_a_column(tmp_path: Path):
    (tmp_path / "source.yaml").write_text(
        "source: s\nsubject: pid\ntables:\n"
        "  a: {columns: {pid: integer, wide1: number, wide2: number, spare: string, lost: string, used: string}}\n"
        "  b: {shared: true, columns: {code: string, name: string, other: string}}\n"
        "  c: {skip: billing only, columns: {pid: integer, fee: number}}\n"
    )
    (tmp_path / "m.yaml").write_text(
        "version: 1\nresource: Observation\nfrom: a\nexplode: {columns: [wide1, wide2], name: n, value: v}\n"
        "join: {b: {on: {n: code}, prefix: b_}}\nlet: {text: UPPER(used)}\nkey: [pid, n]\nignore: {spare: not needed}\n"
        "template: {status: \"'final'\", code: {text: b_name}, valueQuantity: {value: v}, method: {text: text}}\n"
    )
    found = {(item.table, item.column): (item.use, item.reason) for item in coverage(tmp_path).columns}
    assert found == {
        ("a", "pid"): ("key", ""), ("a", "wide1"): ("mapped", ""), ("a", "wide2"): ("mapped", ""),
        ("a", "spare"): ("ignored", "not needed"), ("a", "lost"): ("forgotten", ""), ("a", "used"): ("mapped", ""),
        ("b", "code"): ("key", ""), ("b", "name"): ("mapped", ""), ("b", "other"): ("forgotten", ""),
        ("c", "pid"): ("ignored", "billing only"), ("c", "fee"): ("ignored", "billing only"),
    }  # fmt: skip
