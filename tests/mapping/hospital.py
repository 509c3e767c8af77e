"""A very small hospital of our own making: four tables, three mappings, written below a folder."""

from pathlib import Path

SOURCE = """\
source: tiny
version: "1"
title: A tiny hospital
timezone: UTC
subject: pid
constants:
  systems: {lab: "http://tiny.example/lab"}
tables:
  patients: {columns: {pid: integer, sex: string, born: date}}
  visits: {columns: {visit: integer, pid: integer, began: datetime, ended: datetime}}
  labs: {columns: {lab: integer, pid: integer, visit: integer, test: integer, at: datetime, filed: datetime,
                   number: number, text: string, unit: string}}
  tests: {shared: true, columns: {test: integer, name: string}}
  notes: {optional: true, skip: free text is not mapped here, columns: {pid: integer, note: string}}
"""
PATIENTS = """\
version: 1
resource: Patient
from: patients
key: [pid]
template:
  gender: {$concept: {map: sex, value: sex}}
  birthDate: {$datetime: born}
"""
VISITS = """\
version: 1
resource: Encounter
from: visits
key: [visit]
template:
  status: "'finished'"
  class: {system: "'http://terminology.hl7.org/CodeSystem/v3-ActCode'", code: "'IMP'"}
  subject: {$reference: {patients: pid}}
  period: {start: {$datetime: began}, end: {$datetime: ended}}
"""
LABS = """\
version: 3
resource: Observation
from: labs
join: {tests: test}
key: [lab]
skip:
  - {when: "number IS NULL AND text IS NULL", reason: no result}
winner: [filed]
template:
  status: "'final'"
  code:
    coding: [{system: $systems.lab, code: test, display: name}]
  subject: {$reference: {patients: pid}}
  encounter: {$reference: {visits: visit}}
  effectiveDateTime: {$datetime: at}
  issued: {$datetime: filed}
  valueQuantity: {$quantity: {value: number, unit: unit, text: text}}
  valueString: "CASE WHEN number IS NULL AND NOT REGEXP_LIKE(text, '^ *[<>]?=? *-?[0-9.]+ *$') THEN text END"
"""
SEX = """\
{"resourceType": "ConceptMap", "status": "active", "group": [{"source": "http://tiny.example/sex",
 "target": "http://hl7.org/fhir/administrative-gender", "element": [
  {"code": "F", "target": [{"code": "female", "equivalence": "equal"}]},
  {"code": "M", "target": [{"code": "male", "equivalence": "equal"}]}]}]}
"""
CASES = {
    "patients": """\
- case: a woman
  rows: {patients: [{pid: 1, sex: F, born: "1950-02-03"}]}
  resources: [{resourceType: Patient, id: tiny-patients.1, gender: female, birthDate: "1950-02-03"}]
""",
    "visits": """\
- case: a stay that has not ended
  rows: {visits: [{visit: 5, pid: 1, began: "2020-01-01 08:00:00"}]}
  resources:
    - resourceType: Encounter
      id: tiny-visits.5
      status: finished
      class: {system: "http://terminology.hl7.org/CodeSystem/v3-ActCode", code: IMP}
      subject: {reference: Patient/tiny-patients.1}
      period: {start: "2020-01-01T08:00:00+00:00"}
""",
    "labs": """\
- case: below the limit of detection
  rows:
    labs: [{lab: 9, pid: 1, visit: 5, test: 7, at: "2020-01-01 09:00:00", text: "<5", unit: ng/L}]
    tests: [{test: 7, name: Troponin}]
  resources:
    - resourceType: Observation
      id: tiny-labs.9
      status: final
      code: {coding: [{system: "http://tiny.example/lab", code: "7", display: Troponin}]}
      subject: {reference: Patient/tiny-patients.1}
      encounter: {reference: Encounter/tiny-visits.5}
      effectiveDateTime: "2020-01-01T09:00:00+00:00"
      valueQuantity: {value: 5.0, comparator: "<", unit: ng/L}
- case: no result, and a number that is none
  rows: {labs: [{lab: 9, pid: 1, test: 7}, {lab: 8, pid: 1, test: 7, number: high}]}
  filtered: [no result]
  rejected: [type]
""",
}
TABLES = {
    "patients": "pid,sex,born\n1,F,1950-02-03\n2,M,1960-05-06\n3,U,1970-01-01\n",
    "visits": "visit,pid,began,ended\n5,1,2020-01-01 08:00:00,2020-01-09 08:00:00\n6,2,2020-02-01 08:00:00,\n",
    "labs": (
        "lab,pid,visit,test,at,filed,number,text,unit\n"
        "1,1,5,7,2020-01-01 09:00:00,2020-01-01 09:30:00,1.5,,mg/dL\n"
        "2,1,5,7,2020-01-02 09:00:00,2020-01-02 09:30:00,,<5,mg/dL\n"
        "3,2,6,8,2020-02-01 09:00:00,2020-02-01 09:30:00,,NEGATIVE,\n"
        "4,2,,8,2020-02-02 09:00:00,,,,\n"
        "5,3,,7,2020-03-01 09:00:00,2020-03-01 09:30:00,2.5,,mg/dL\n"
    ),
    "tests": "test,name\n7,Creatinine\n8,Culture\n9,Never used\n",
}


def write_mappings(folder: Path, **changed: str) -> Path:
    """Write the source's mappings; keyword arguments replace a file's text."""
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    (folder / "conceptmaps").mkdir(exist_ok=True)
    files = {"source": SOURCE, "patients": PATIENTS, "visits": VISITS, "labs": LABS, **changed}
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    for name, text in CASES.items():
        (folder / "cases" / f"{name}.yaml").write_text(text)
    (folder / "conceptmaps/sex.json").write_text(SEX)
    return folder


def write_tables(folder: Path, **changed: str) -> Path:
    """Write the source's tables; keyword arguments replace a table's text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {**TABLES, **changed}.items():
        (folder / f"{name}.csv").write_text(text)
    return folder
