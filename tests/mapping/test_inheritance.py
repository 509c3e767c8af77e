"""A hospital that takes a source over and changes two lines of it."""

from pathlib import Path

import pytest

from ehrseq.core.errors import MappingError
from ehrseq.mapping.cases import run_cases
from ehrseq.mapping.check import check, load_mappings
from ehrseq.mapping.specification import Constant

BASE = """
source: base
timezone: UTC
subject: pid
constants: {systems: {lab: "http://base.test/lab", sex: "http://base.test/sex"}}
tables:
  people: {columns: {pid: integer}}
  labs: {columns: {pid: integer, n: integer, test: string, number: number}}
"""
PEOPLE = "version: 1\nresource: Patient\nfrom: people\nkey: [pid]\ntemplate: {active: true}\n"
LABS = """version: 1
resource: Observation
from: labs
key: [n]
template:
  status: "'final'"
  code: {coding: [{system: $systems.lab, code: test}]}
  subject: {$reference: {people: pid}}
  valueQuantity: {$quantity: {value: number}}
"""


def folders(tmp_path: Path, **ours: str) -> Path:
    base, own = tmp_path / "base", tmp_path / "own"
    base.mkdir()
    own.mkdir()
    for name, text in {"source": BASE, "people": PEOPLE, "labs": LABS}.items():
        (base / f"{name}.yaml").write_text(text)
    (own / "source.yaml").write_text(
        "extends: base\nsource: own\ntimezone: Europe/Berlin\n" + ours.pop("source", "")
    )
    for name, text in ours.items():
        (own / f"{name}.yaml").write_text(text)
    return own


def test_what_is_not_said_is_inherited(tmp_path: Path):
    mappings = load_mappings(folders(tmp_path, source='constants: {systems: {lab: "http://own.test/lab"}}\n'))
    assert (mappings.source.name, mappings.source.timezone) == ("own", "Europe/Berlin")
    assert [mapping.id_prefix for mapping in mappings.mappings] == ["own-people", "own-labs"]
    coding = mappings["labs"].template.children["code"].children["coding"].items[0].children["system"]
    assert isinstance(coding, Constant)
    assert coding.value == "http://own.test/lab"
    assert mappings.source.constants["systems"]["sex"] == "http://base.test/sex"


def test_two_lines_are_changed_and_a_column_added(tmp_path: Path):
    own = folders(
        tmp_path,
        source="tables: {labs: {columns: {flag: string}}}\n",
        labs="extends: labs\nversion: 2\n"
        "template: {status: \"'preliminary'\", valueQuantity: null, valueString: flag}\n",
    )
    (own / "cases").mkdir()
    (own / "cases/labs.yaml").write_text("""
- case: ours
  rows: {people: [{pid: 1}], labs: [{pid: 1, n: 7, test: K, number: 4.1, flag: high}]}
  resources:
    - {resourceType: Observation, id: own-labs.7, status: preliminary, subject: {reference: Patient/own-people.1},
       code: {coding: [{system: "http://base.test/lab", code: K}]}, valueString: high}
""")
    outcomes = run_cases(load_mappings(own))
    assert [(one.mapping, one.difference) for one in outcomes] == [("labs", "")]


def test_an_inherited_mapping_is_taken_away(tmp_path: Path):
    own = folders(
        tmp_path, source="tables: {labs: {skip: we have no laboratory}}\n", labs="remove: no laboratory\n"
    )
    assert [mapping.name for mapping in load_mappings(own).mappings] == ["people"]


def test_a_change_of_the_base_is_noticed(tmp_path: Path):
    own = folders(tmp_path)
    assert load_mappings(own)["labs"].version == 1
    (tmp_path / "base/labs.yaml").write_text(LABS.replace("version: 1", "version: 5"))
    assert load_mappings(own)["labs"].version == 5


def test_errors_name_the_file_that_says_it(tmp_path: Path):
    own = folders(tmp_path, labs="extends: labs\ntemplate:\n  valueQantity: {value: number}\n")
    _, problems = check(own)
    assert [Path(problem.place).parts[-2:] for problem in problems] == [("own", "labs.yaml:3")]
    (tmp_path / "base/labs.yaml").write_text(LABS.replace("$systems.lab", "$systems.bal"))
    (own / "labs.yaml").unlink()
    _, problems = check(own)
    assert [Path(problem.place).parts[-2:] for problem in problems] == [("base", "labs.yaml:7")]


@pytest.mark.parametrize(
    ("source", "mappings", "message"),
    [
        (
            "extends: bsae",
            {},
            "`bsae` is neither a source that ships with ehrseq nor a folder beside this one",
        ),
        ("extends: ../base", {}, "`../base` is neither a source"),
        ("extends: own", {}, "extends this source: a circle"),
        ("extends: base", {"labs": "extends: lab\n"}, 'there is no inherited mapping `lab`. Closest: "labs"'),
        ("extends: base", {"lab": "remove: gone\n"}, "there is no inherited mapping `lab` to remove"),
    ],
)
def test_bad_inheritance(tmp_path: Path, source: str, mappings: dict[str, str], message: str):
    own = folders(tmp_path, **mappings)
    (own / "source.yaml").write_text(f"{source}\nsource: own\n")
    with pytest.raises(MappingError) as error:
        load_mappings(own)
    assert message in str(error.value)
