"""The mapping language beyond one row, one resource: each piece of grammar as a source with its cases."""

from pathlib import Path

import pytest

from ehrseq.mapping.cases import run_cases
from ehrseq.mapping.check import check, load_mappings

SOURCE = """
source: clinic
timezone: UTC
subject: pid
constants: {systems: {vital: "http://clinic.test/vital", ward: "http://clinic.test/ward"}}
tables:
  people: {columns: {pid: integer}}
  sheet: {columns: {pid: integer, at: datetime, hr: number, temp: number, note: string}}
  moves: {columns: {pid: integer, since: datetime, ward: string}}
  pressure: {columns: {pid: integer, at: datetime, kind: string, mmhg: number}}
"""
PEOPLE = """
version: 1
resource: Patient
from: people
key: [pid]
template: {active: true}
"""
PERSON = "{people: [{pid: 1}], "
VITALS = """
version: 1
resource: Observation
from: sheet
explode: {columns: {hr: {loinc: 8867-4, unit: /min}, temp: {loinc: 8310-5, unit: Cel}}, name: sign, value: reading}
join: {moves: {on: {pid: pid}, asof: {at: since}}}
let: {hot: "sign = 'temp' AND reading >= 38", base: $systems.vital}
key: [pid, "STRFTIME(at, '%H%M')", sign]
ignore: {note: "free text, mapped elsewhere"}
template:
  status: "'final'"
  code: {coding: [{system: base, code: sign}, {system: "'http://loinc.org'", code: loinc}]}
  subject: {$reference: {people: pid}}
  effectiveDateTime: {$datetime: at}
  valueQuantity: {$quantity: {value: reading, unit: unit}}
  interpretation: [{text: "CASE WHEN hot THEN 'fever' END"}]
  bodySite: {text: ward}
"""
VITALS_CASES = """
- case: forty columns would be forty observations; the ward is that of the moment
  rows:
    people: [{pid: 1}]
    sheet: [{pid: 1, at: "2020-01-01 10:00:00", hr: 80, temp: 38.5, note: x}]
    moves: [{pid: 1, since: "2020-01-01 09:00:00", ward: A}, {pid: 1, since: "2020-01-01 10:30:00", ward: B},
            {pid: 1, since: "2020-01-01 08:00:00", ward: C}]
  resources:
    - {resourceType: Observation, id: clinic-vitals.1.1000.hr, status: final,
       subject: {reference: Patient/clinic-people.1},
       code: {coding: [{system: "http://clinic.test/vital", code: hr}, {system: "http://loinc.org", code: 8867-4}]},
       effectiveDateTime: "2020-01-01T10:00:00+00:00", valueQuantity: {value: 80.0, unit: /min}, bodySite: {text: A}}
    - {resourceType: Observation, id: clinic-vitals.1.1000.temp, status: final,
       subject: {reference: Patient/clinic-people.1},
       code: {coding: [{system: "http://clinic.test/vital", code: temp}, {system: "http://loinc.org", code: 8310-5}]},
       effectiveDateTime: "2020-01-01T10:00:00+00:00", valueQuantity: {value: 38.5, unit: Cel}, bodySite: {text: A},
       interpretation: [{text: fever}]}
- case: a row without a value is counted, and no ward is known yet
  rows:
    people: [{pid: 1}]
    sheet: [{pid: 1, at: "2020-01-01 10:00:00"}, {pid: 1, at: "2020-01-01 07:00:00", hr: 80}]
    moves: [{pid: 1, since: "2020-01-01 08:00:00", ward: C}]
  filtered: [no value]
  resources:
    - {resourceType: Observation, id: clinic-vitals.1.0700.hr, status: final,
       subject: {reference: Patient/clinic-people.1},
       code: {coding: [{system: "http://clinic.test/vital", code: hr}, {system: "http://loinc.org", code: 8867-4}]},
       effectiveDateTime: "2020-01-01T07:00:00+00:00", valueQuantity: {value: 80.0, unit: /min}}
"""
NOTES = """
version: 1
resource: Observation
from: sheet
explode: {split: note, by: ";", as: remark}
key: [pid, "STRFTIME(at, '%H%M')", remark]
template: {status: "'final'", code: {text: remark}, subject: {$reference: {people: pid}}}
"""
NOTES_CASES = """
- case: a list in one column
  rows: {people: [{pid: 1}], sheet: [{pid: 1, at: "2020-01-01 10:00:00", note: "cough; fever;"}]}
  resources:
    - {resourceType: Observation, id: clinic-notes.1.1000.cough, status: final,
       code: {text: cough},
       subject: {reference: Patient/clinic-people.1}}
    - {resourceType: Observation, id: clinic-notes.1.1000.fever, status: final,
       code: {text: fever},
       subject: {reference: Patient/clinic-people.1}}
"""
PANEL = """
version: 1
resource: Observation
from: pressure
key: [pid, "STRFTIME(at, '%H%M')"]
gather: [component]
template:
  status: "'final'"
  code: {text: "'blood pressure'"}
  subject: {$reference: {people: pid}}
  component: [{code: {text: kind}, valueQuantity: {$quantity: {value: mmhg}}}]
"""
PANEL_CASES = """
- case: two rows, one panel
  rows:
    people: [{pid: 1}]
    pressure:
      - {pid: 1, at: "2020-01-01 10:00:00", kind: systolic, mmhg: 120}
      - {pid: 1, at: "2020-01-01 11:00:00", kind: systolic, mmhg: 130}
      - {pid: 1, at: "2020-01-01 10:00:00", kind: diastolic, mmhg: 80}
  resources:
    - {resourceType: Observation, id: clinic-panel.1.1000, status: final, code: {text: blood pressure},
       subject: {reference: Patient/clinic-people.1},
       component: [{code: {text: systolic}, valueQuantity: {value: 120.0}},
                   {code: {text: diastolic}, valueQuantity: {value: 80.0}}]}
    - {resourceType: Observation, id: clinic-panel.1.1100, status: final, code: {text: blood pressure},
       subject: {reference: Patient/clinic-people.1},
       component: [{code: {text: systolic}, valueQuantity: {value: 130.0}}]}
"""


def clinic(folder: Path, **mappings: str) -> Path:
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    (folder / "source.yaml").write_text(SOURCE)
    (folder / "people.yaml").write_text(PEOPLE)
    for name, text in mappings.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "mapping", "cases"),
    [("vitals", VITALS, VITALS_CASES), ("notes", NOTES, NOTES_CASES), ("panel", PANEL, PANEL_CASES)],
)
def test_cases(tmp_path: Path, name: str, mapping: str, cases: str):
    every = {"vitals": VITALS, "notes": NOTES, "panel": PANEL}
    folder = clinic(tmp_path, **every)
    (folder / "cases" / f"{name}.yaml").write_text(cases)
    outcomes = run_cases(load_mappings(folder), [name])
    assert len(outcomes) == cases.count("- case:")
    assert [f"{one.case}\n{one.difference}" for one in outcomes if not one.passed] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (VITALS.replace("{hr: {", "{rh: {"), "sheet has no column `rh`. Closest: "),
        (VITALS.replace("value: reading}", "value: note}"), "column `note` is there already."),
        (VITALS.replace("asof: {at: since}", "asof: {at: ward}"), "expected two datetimes or dates"),
        (VITALS.replace("asof: {at: since}", "asof: {when: since}"), "no column `when`."),
        (VITALS.replace("hot: ", "reading: "), "column `reading` is there already."),
        (VITALS.replace("reading >= 38", "raeding >= 38"), 'unknown column `raeding`. Closest: "reading"'),
        (VITALS.replace("ignore: {note", "ignore: {mote"), 'no column `mote` to ignore. Closest: "note"'),
        (PANEL.replace("gather: [component]", "gather: [status]"), "`status` is not a list of the template."),
        (NOTES.replace("split: note", "split: hr"), "`hr` is number; only text can be split."),
        (NOTES.replace('by: ";", ', ""), "a split is {split: column, by: text between, as: new column}."),
    ],
)
def test_what_check_says(tmp_path: Path, wrong: str, message: str):
    _, problems = check(clinic(tmp_path, wrong=wrong, vitals=VITALS, notes=NOTES, panel=PANEL))
    assert len(problems) == 1
    assert "wrong.yaml:" in problems[0].place
    assert message in problems[0].message
