"""Values as they come: units, results in words and signs, dates of all kinds, bytes that are no text."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from hospital import LABS, SOURCE, VISITS, write_mappings, write_tables
from hypothesis import given
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.errors import MappingError, SourceError
from ehrseq.fhir import ucum
from ehrseq.mapping.check import check
from ehrseq.mapping.results import Reader
from ehrseq.sources.numbers import plain_number
from ehrseq.timeline.schema import Event
from ehrseq.tokens.counts import _count

LAB = "lab,pid,visit,test,at,filed,number,text,unit\n"
WHEN = "2020-01-01 09:00:00,2020-01-01 09:30:00"
RESULTS = LABS[: LABS.index("  valueQuantity")] + (
    "  valueQuantity: {$quantity: {value: number, text: text, unit: unit, ucum: units}}\n"
    "  valueRange: {$range: {text: text, unit: unit, ucum: units}}\n"
    "  valueRatio: {$ratio: text}\n"
    "  valueString: {$text: text}\n"
)


def observed(tmp_path: Path, *rows: str, **mappings: str) -> tuple[list[dict], dict]:
    """Observations made of `number,text,unit` rows, by id, and the books of the table."""
    labs = LAB + "".join(f"{index},1,5,7,{WHEN},{row}\n" for index, row in enumerate(rows, 1))
    source = write_mappings(tmp_path / "source", **{"labs": RESULTS, **mappings})
    data = write_tables(tmp_path / "data", labs=labs)
    result = ehrseq.map(source, data, tmp_path / "fhir", validate="full", max_reject_fraction=1.0)
    found = sorted((tmp_path / "fhir").glob("Observation/*.parquet"))
    made = pl.concat([pl.read_parquet(path) for path in found]).sort("id").to_dicts() if found else []
    return made, result.manifest.to_json()


def rejects(tmp_path: Path) -> list[tuple]:
    frame = pl.read_parquet(tmp_path / "fhir/rejects/*.parquet").filter(outcome="rejected")
    return frame.sort("table", "row").select("table", "row", "rule", "element").rows()


def test_value_and_unit_stay_as_given_and_the_canonical_pair_stands_beside(tmp_path: Path):
    made, manifest = observed(tmp_path, "5,,K/uL", ",<1.1,mg/dL", "37,,°C", "7,,pH", "2,,cups", "3,,")
    quantities = [item["valueQuantity"] for item in made]
    assert [(q["value"], q["unit"], q["code"]) for q in quantities] == [
        (5.0, "K/uL", "10*3/uL"), (1.1, "mg/dL", "mg/dL"), (37.0, "°C", "Cel"), (7.0, "pH", "[pH]"),
        (2.0, "cups", None), (3.0, None, None),
    ]  # fmt: skip
    assert [q["system"] for q in quantities] == [ucum.SYSTEM] * 4 + [None] * 2
    canonical = [q["extension"][0]["valueQuantity"] if q["extension"] else None for q in quantities]
    assert [(c["value"], c["comparator"], c["code"]) for c in canonical[:3] if c] == [
        (5e12, None, "m-3"), (11.0, "<", "g.m-3"), (310.15, None, "K"),
    ]  # fmt: skip
    assert canonical[3:] == [None] * 3
    assert manifest["notes"]["unmapped"]["units"] == {"values": 1, "rows": 1}


def test_two_units_of_one_code_are_never_mixed(tmp_path: Path):
    """The same glucose, in mg/dL and in mmol/L: two scales of the code, and two canonical units."""
    made, _ = observed(tmp_path, "90,,mg/dL", "5,,mmol/L", "91,,mg/dL")
    assert {item["valueQuantity"]["extension"][0]["valueQuantity"]["unit"] for item in made} == {
        "g.m-3",
        "mol.m-3",
    }
    ehrseq.timeline(tmp_path / "fhir", tmp_path / "timeline")
    events = pl.concat(
        pl.read_parquet(path) for path in sorted((tmp_path / "timeline/data").glob("*.parquet"))
    )
    labs = events.filter(pl.col(Event.resource_type) == "Observation")
    assert labs.select(Event.numeric_value, Event.unit).rows() == [
        (90.0, "mg/dL"),
        (5.0, "mmol/L"),
        (91.0, "mg/dL"),
    ]
    scales = _count(tmp_path / "timeline", labs, 0).scales
    assert sorted(scales["unit"].to_list()) == ["mg/dL", "mmol/L"]
    assert scales["code"].n_unique() == 1


def test_results_are_numbers_ranges_ratios_or_words_and_only_one_of_them(tmp_path: Path):
    texts = [
        "≤ 5",
        ">=1e3",
        "-5",
        "3-5",
        "3 – 5",
        "-5 - -3",
        "5-3",
        "1:160",
        "1:0",
        "NaN",
        "inf",
        "1e999",
        "5.",
    ]
    made, _ = observed(tmp_path, *(f',"{text}",mg/dL' for text in texts))
    assert len(made) == len(texts)
    by_id = {item["id"]: item for item in made}
    found = [by_id[f"tiny-labs.{index}"] for index in range(1, len(texts) + 1)]
    numbers = [(q["comparator"], q["value"]) if (q := item["valueQuantity"]) else None for item in found]
    assert numbers == [("<=", 5.0), (">=", 1000.0), (None, -5.0), *[None] * 9, (None, 5.0)]
    ranges = [
        (r["low"]["value"], r["high"]["value"]) if (r := item["valueRange"]) else None for item in found
    ]
    assert ranges == [*[None] * 3, (3.0, 5.0), (3.0, 5.0), (-5.0, -3.0), *[None] * 7]
    assert found[3]["valueRange"]["high"]["extension"][0]["valueQuantity"]["value"] == 50.0
    assert found[7]["valueRatio"] == {"numerator": {"value": 1.0}, "denominator": {"value": 160.0}}
    assert [item["valueString"] for item in found] == [
        *[None] * 6, "5-3", None, "1:0", "NaN", "inf", "1e999", None,
    ]  # fmt: skip


def test_numbers_with_a_decimal_comma(tmp_path: Path):
    source = SOURCE.replace("timezone: UTC", 'timezone: UTC\ndecimal: ","\nthousands: "."')
    made, _ = observed(tmp_path, '"1.234,5",,', '"-0,5",,', ',"<1,5",', ',"2,5-3,5",', "1.5,,", source=source)
    assert [item["valueQuantity"]["value"] for item in made[:3]] == [1234.5, -0.5, 1.5]
    assert made[3]["valueRange"]["low"]["value"] == 2.5
    assert rejects(tmp_path) == [
        ("labs", 5, "type", "number")
    ]  # 1.5 has no group of three digits: not guessed at


@given(st.floats(-1e9, 1e9).map(lambda x: round(x, 3)))
def test_any_number_comes_back_however_it_is_written(number: float):
    english = f"{number:,.3f}"
    german = english.translate(str.maketrans(",.", ".,"))
    frame = pl.DataFrame({"english": [english], "german": [german]})
    read = frame.select(
        plain_number(pl.col("english"), ".", ",").cast(pl.Float64),
        plain_number(pl.col("german"), ",", ".").cast(pl.Float64),
    )
    assert read.row(0) == (number, number)


@given(st.integers(-99, 99), st.integers(-99, 99), st.sampled_from(["-", " - ", " to "]))
def test_a_range_is_read_as_it_was_written_and_never_a_negative_number(low: int, high: int, between: str):
    frame = pl.DataFrame({"range": [f"{low}{between}{high}"], "number": [str(low)]})
    ends, number = Reader().range(pl.col("range")), Reader().range(pl.col("number"))
    assert frame.select(*ends).row(0) == ((low, high) if low <= high else (None, None))
    assert frame.select(*number).row(0) == (None, None)


@given(
    st.lists(
        st.sampled_from(["mg", "dL", "mmol", "[iU]", "min", "10*3", "kg", "{cells}", "%", "eq"]),
        min_size=1,
        max_size=6,
    )
)
def test_canonical_units_are_ucum_and_their_own_canonical(parts: list[str]):
    found = ucum.canonical("/".join(parts))
    assert found is not None
    assert ucum.canonical(found.unit) == ucum.Canonical(found.unit, found.factor / found.factor)


@pytest.mark.parametrize(
    ("number", "element"),
    [("NaN", "number"), ("Inf", "number"), ("-infinity", "number"), ("1e999", "number")],
)
def test_what_is_no_number_is_a_reject(tmp_path: Path, number: str, element: str):
    observed(tmp_path, f"{number},,mg/dL", "1,,mg/dL")
    assert rejects(tmp_path) == [("labs", 1, "type", element)]


DATES = SOURCE.replace("born: date", "born: string").replace(
    "visits: {columns",
    "visits: {datetime_format: ['%Y-%m-%d %H:%M:%S', '%d.%m.%Y %H:%M'],\n"
    "           null_values: {ended: ['9999-12-31 00:00:00', '?']}, columns",
)
BORN = {
    "patients": "version: 1\nresource: Patient\nfrom: patients\nkey: [pid]\ntemplate: {birthDate: {$datetime: born}}"
}


def mapped(tmp_path: Path, **tables: str) -> Path:
    rule = VISITS.replace(
        "template:", "reject:\n  - {when: ended < began, reason: end before start}\ntemplate:"
    )
    source = write_mappings(tmp_path / "source", source=DATES, visits=rule, **BORN)
    ehrseq.map(source, write_tables(tmp_path / "data", **tables), tmp_path / "fhir", max_reject_fraction=1.0)
    return tmp_path / "fhir"


def test_dates_are_as_precise_as_they_were_written(tmp_path: Path):
    born = [
        "1950",
        "1950-03",
        "195003",
        "19500304",
        "1950-03-04",
        "1950-13",
        "0000",
        "1950-02-30",
        "soon",
        "",
    ]
    patients = "pid,sex,born\n" + "".join(f"{index},F,{text}\n" for index, text in enumerate(born, 1))
    made = pl.read_parquet(mapped(tmp_path, patients=patients) / "Patient/*.parquet").sort("_row")
    assert made["birthDate"].to_list() == ["1950", "1950-03", "1950-03", "1950-03-04", "1950-03-04", None]
    assert [row for row in rejects(tmp_path) if row[0] == "patients"] == [
        ("patients", row, "date", "birthDate") for row in (6, 7, 8, 9)
    ]


def test_formats_in_turn_open_ends_and_ends_before_the_start(tmp_path: Path):
    stays = [
        "5,1,2020-01-01 08:00:00,9999-12-31 00:00:00",
        "6,1,02.01.2020 08:00,?",
        "7,1,2020-01-01 08:00:00,2019-12-31 08:00:00",
        "8,1,9999-12-31 23:59:59,",
        "9,1,2020/01/01,",
    ]
    made = pl.read_parquet(
        mapped(tmp_path, visits="visit,pid,began,ended\n" + "\n".join(stays) + "\n") / "Encounter/*.parquet"
    ).sort("id")
    assert made["period"].to_list() == [
        {"start": "2020-01-01T08:00:00+00:00", "end": None},
        {"start": "2020-01-02T08:00:00+00:00", "end": None},
        {"start": "9999-12-31T23:59:59+00:00", "end": None},
    ]
    assert [row for row in rejects(tmp_path) if row[0] == "visits"] == [
        ("visits", 3, "end before start", None), ("visits", 5, "type", "began"),
    ]  # fmt: skip
    message = pl.read_parquet(tmp_path / "fhir/rejects/*.parquet").filter(rule="end before start")["message"][
        0
    ]
    assert message == "end before start: ended < began"


def test_birth_after_admission_is_a_rule_over_a_join(tmp_path: Path):
    rule = VISITS.replace(
        "key: [visit]",
        "join: {patients: pid}\nkey: [visit]\n"
        "reject: [{when: born > CAST(began AS DATE), reason: birth after admission}]",
    )
    source = write_mappings(tmp_path / "source", visits=rule)
    data = write_tables(
        tmp_path / "data", patients="pid,sex,born\n1,F,2020-01-02\n2,M,2020-02-01\n3,F,1950-01-01\n"
    )
    books = ehrseq.map(source, data, tmp_path / "fhir", max_reject_fraction=1.0).manifest.sources["visits"]
    assert (books.used, books.rejected, books.reasons) == (1, 1, {"birth after admission": 1})


def test_year_zero_is_no_date_of_fhir(tmp_path: Path):
    observed(tmp_path, patients=(SOURCE and "version: 1\nresource: Patient\nfrom: patients\nkey: [pid]\n"
                                 "template: {birthDate: {$datetime: born}}"))  # fmt: skip
    data = write_tables(tmp_path / "data", patients="pid,sex,born\n1,F,0000-01-01\n2,M,0001-01-01\n")
    ehrseq.map(tmp_path / "source", data, tmp_path / "fhir", max_reject_fraction=1.0)
    assert [row[:2] for row in rejects(tmp_path) if row[0] == "patients"] == [("patients", 1)]


def test_a_correction_wins_and_a_retraction_leaves_no_event(tmp_path: Path):
    source = SOURCE.replace("unit: string}", "unit: string, state: string}")
    labs = RESULTS.replace("\"'final'\"", "state")
    text = LAB.replace("unit\n", "unit,state\n") + (
        "1,1,5,7,2020-01-01 09:00:00,2020-01-01 09:30:00,1,,mg/dL,final\n"
        "2,1,5,7,2020-01-01 09:00:00,2020-01-01 12:00:00,9,,mg/dL,entered-in-error\n"
        "1,1,5,7,2020-01-01 09:00:00,2020-01-01 11:00:00,2,,mg/dL,corrected\n"
        "2,1,5,7,2020-01-01 09:00:00,2020-01-01 09:30:00,9,,mg/dL,final\n"
    )
    folder = write_mappings(tmp_path / "source", source=source, labs=labs)
    made = ehrseq.map(folder, write_tables(tmp_path / "data", labs=text), tmp_path / "fhir")
    frame = pl.read_parquet(tmp_path / "fhir/Observation/*.parquet").sort("id")
    assert frame["status"].to_list() == ["corrected", "entered-in-error"]
    assert frame["valueQuantity"].struct.field("value").to_list() == [2.0, 9.0]
    assert made.manifest.sources["labs"].reasons == {"superseded": 2}
    ehrseq.timeline(tmp_path / "fhir", tmp_path / "timeline")
    events = pl.concat(
        pl.read_parquet(path) for path in sorted((tmp_path / "timeline/data").glob("*.parquet"))
    )
    assert events.filter(pl.col(Event.resource_type) == "Observation")[Event.numeric_value].to_list() == [2.0]


@pytest.mark.parametrize("packed", [False, True])
def test_bytes_of_another_encoding_are_placed_and_never_replaced(tmp_path: Path, packed: bool):
    start = (LAB + f"1,1,5,7,{WHEN},,na").encode()
    content = start + b"\xefve,\n"
    source, data = write_mappings(tmp_path / "source"), write_tables(tmp_path / "data")
    (data / "labs.csv").unlink()
    (data / ("labs.csv.gz" if packed else "labs.csv")).write_bytes(
        gzip.compress(content) if packed else content
    )
    with pytest.raises(SourceError, match=f"not UTF-8, the first at byte {len(start)}") as error:
        ehrseq.map(source, data, tmp_path / "fhir")
    assert "ve" not in str(error.value).split("byte")[1].split(".")[0]
    write_mappings(
        tmp_path / "source", source=SOURCE.replace("labs: {columns", "labs: {encoding: latin-1, columns")
    )
    ehrseq.map(source, data, tmp_path / "fhir")
    assert pl.read_parquet(tmp_path / "fhir/Observation/*.parquet")["valueString"].to_list() == ["naïve"]


def test_a_mark_and_quoted_lines_do_not_hide_a_value(tmp_path: Path):
    labs = "\ufeff" + LAB + f'1,1,5,7,{WHEN},,"a ""b""\nc",\n'
    source = write_mappings(tmp_path / "source", labs=RESULTS)
    ehrseq.map(source, write_tables(tmp_path / "data", labs=labs), tmp_path / "fhir")
    assert pl.read_parquet(tmp_path / "fhir/Observation/*.parquet")["valueString"].to_list() == ['a "b"\nc']


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("labs", RESULTS.replace("ucum: units}}\n  valueRange", "ucum: unit}}\n  valueRange"), 'Closest: "units"'),
        ("labs", RESULTS.replace("{$range: {text: text, unit: unit,", "{$range: {text: text,"), "needs a `unit`"),
        ("labs", RESULTS.replace("{$ratio: text}", "{$ratio: number}"), "$ratio value is Float64, expected text"),
        ("labs", RESULTS.replace("valueRange", "valuePeriod"), "$range makes a Range"),
        ("labs", RESULTS.replace("winner", "reject: [{when: number, reason: x}]\nwinner"), "expected a condition"),
        ("source", SOURCE.replace("timezone: UTC", 'timezone: UTC\ndecimal: ";"'), "`decimal` is one of"),
        ("source", SOURCE.replace("timezone: UTC", 'timezone: UTC\nthousands: "."'), "are the same"),
        ("source", SOURCE.replace("visits: {", "visits: {null_values: {endet: [x]}, "), 'Closest: "ended"'),
    ],
)  # fmt: skip
def test_what_check_says(tmp_path: Path, file: str, text: str, message: str):
    try:
        problems = check(write_mappings(tmp_path, **{"labs": RESULTS, file: text}))[1]
    except MappingError as error:
        problems = [error]  # type: ignore[list-item]
    assert message in "\n".join(map(str, problems))
