# ruff: noqa: E501
"""Mapping files are data: they reach nothing outside their folder and run nothing. And what cases and joins may say."""

from pathlib import Path

import pytest

from ehrseq.core.errors import MappingError
from ehrseq.mapping.cases import run_cases
from ehrseq.mapping.check import load_mappings

SOURCE = """source: clinic
timezone: UTC
subject: pid
tables:
  people: {null_values: ["", NONE], columns: {pid: integer, name: string, first: string, last: string}}
  words: {shared: true, columns: {code: string, word: string}}
"""
PEOPLE = """version: 1
resource: Patient
from: people
join:
  words: {on: {first: code}, prefix: f_}
  last words: {table: words, on: {last: code}, prefix: l_}
key: [pid]
ignore: {name: unknown}
template: {name: [{family: l_word, given: [f_word], text: name}]}
"""
CASE = """- case: one table joined twice, and a text that is no value
  rows:
    people: [{pid: 1, name: NONE, first: a, last: b}]
    words: [{code: a, word: Ann}, {code: b, word: Bo}]
  resources: [{resourceType: Patient, id: clinic-people.1, name: [{family: Bo, given: [Ann]}]}]
"""


def clinic(folder: Path, people: str = PEOPLE, source: str = SOURCE) -> Path:
    (folder / "cases").mkdir(parents=True)
    (folder / "source.yaml").write_text(source)
    (folder / "people.yaml").write_text(people)
    (folder / "cases" / "people.yaml").write_text(CASE)
    return folder


def test_a_table_joined_twice_and_null_values_in_cases(tmp_path: Path):
    (outcome,) = run_cases(load_mappings(clinic(tmp_path / "m")))
    assert outcome.difference == ""


@pytest.mark.parametrize(
    "sql",
    [
        "l_word IN (SELECT a FROM read_csv('{secret}'))",
        "read_csv('{secret}')",
        "l_word IN (\"read_csv\"('{secret}'))",
        "(SELECT 1)",
        "EXISTS (FROM people)",
        "SELECT * FROM people",
        "l_word; DROP TABLE people",
        "pg_read_file('{secret}')",
        "l_word ~ '((a{1000}){1000}){1000}'",
    ],
)
def test_expressions_read_no_files(tmp_path: Path, sql: str):
    secret = tmp_path / "secret.csv"
    secret.write_text("hidden\n1\n")
    sql = sql.replace("{secret}", str(secret))
    text = PEOPLE.replace(
        "family: l_word", f"family: {sql!r}" if '"' not in sql else "family: '" + sql.replace("'", "''") + "'"
    )
    with pytest.raises(MappingError, match=r"people.yaml:\d+") as caught:
        load_mappings(clinic(tmp_path / "m", text))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("people", "source", "message"),
    [
        (PEOPLE, SOURCE.replace("source: clinic", "source: clinic\nextends: ../../etc"), r"source.yaml:2  `../../etc` is neither"),
        (PEOPLE, SOURCE.replace("source: clinic", "source: clinic\nextends: /etc"), r"source.yaml:2  `/etc` is neither"),
        (PEOPLE, SOURCE + "  ../people: {shared: true, columns: {a: string}}\n", "is not below the folder"),
        (PEOPLE, SOURCE + "  x: {files: '../*.csv', shared: true, columns: {a: string}}\n", "below the folder of the data"),
        (PEOPLE.replace("version: 1", "version: !!python/object/apply:os.system [id]"), SOURCE, "people.yaml:1 .* not allowed"),
        (PEOPLE.replace("version: 1", "version: !run 1"), SOURCE, "people.yaml:1 .* not allowed"),
        (PEOPLE + "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", SOURCE, "people.yaml:11  uses a YAML alias"),
    ],
)  # fmt: skip
def test_files_reach_nothing_else(tmp_path: Path, people: str, source: str, message: str):
    with pytest.raises(MappingError, match=message):
        load_mappings(clinic(tmp_path / "m", people, source))


@pytest.mark.parametrize("name", ["people.yaml", "source.yaml"])
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path, name: str):
    folder = clinic(tmp_path / "m")
    outside = tmp_path / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(MappingError, match=rf"{name}:1  is a link that leads out of this folder"):
        load_mappings(folder)
