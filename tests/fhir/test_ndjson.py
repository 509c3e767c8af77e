"""NDJSON: nothing is lost on the way out and back, and nothing strange is let in."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from small_resources import PATIENT, observations, patients, stripped

from ehrseq.core.errors import SchemaError, SourceError
from ehrseq.fhir.json_text import json_text
from ehrseq.fhir.ndjson import read_ndjson, write_ndjson

in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def written(frame: pl.DataFrame, resource_type: str = "Patient") -> list[dict[str, Any]]:
    stream = io.BytesIO()
    assert write_ndjson(frame, resource_type, stream) == frame.height
    lines = stream.getvalue().decode().split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def lines_file(folder: Path, *lines: str | bytes | dict[str, Any]) -> Path:
    path = folder / "in.ndjson"
    texts = [
        json.dumps({"resourceType": "Patient", **line}) if isinstance(line, dict) else line for line in lines
    ]
    path.write_bytes(b"\n".join(text.encode() if isinstance(text, str) else text for text in texts))
    return path


@given(patients())
@settings(deadline=None, max_examples=150)
def test_text_is_the_row_without_nulls(frame: pl.DataFrame) -> None:
    assert written(frame) == [{"resourceType": "Patient", **stripped(row)} for row in frame.to_dicts()]


@given(patients())
@settings(deadline=None, max_examples=50)
def test_text_of_a_row_does_not_depend_on_its_neighbours(frame: pl.DataFrame) -> None:
    alone = [json_text(frame[index], "Patient")[0] for index in range(frame.height)]
    assert json_text(frame, "Patient").to_list() == alone


@given(patients())
@in_tmp
def test_out_and_back(tmp_path: Path, frame: pl.DataFrame) -> None:
    path = tmp_path / "p.ndjson"
    write_ndjson(frame, "Patient", path)
    back = read_ndjson(path, "Patient")
    assert [stripped(row) for row in back.to_dicts()] == [stripped(row) for row in frame.to_dicts()]
    again = io.BytesIO()
    write_ndjson(back, "Patient", again)
    assert again.getvalue() == path.read_bytes()


def test_reading_gives_the_pruned_dtypes(tmp_path: Path) -> None:
    frame = observations({}, {"valueQuantity.value": 5.0})
    write_ndjson(frame, "Observation", tmp_path / "o.ndjson")
    back = read_ndjson(tmp_path / "o.ndjson", "Observation")
    assert back.schema == frame.schema
    assert back.equals(frame)


def test_numbers_and_signs() -> None:
    values = [1.1, 5.0, 1e-7, 1e22, 0.1 + 0.2, -0.0, 123456.789]
    frame = pl.DataFrame({"valueQuantity": [{"value": value} for value in values]})
    assert [row["valueQuantity"]["value"] for row in written(frame, "Observation")] == values
    text = 'quote " back \\ line\nreturn\rtab\tbell\x07 é ∞ 😀 \u2028 </script>'
    assert written(pl.DataFrame({"id": [text]}))[0]["id"] == text


def test_provenance_becomes_meta_source() -> None:
    frame = pl.DataFrame(
        {"id": ["a"], "active": [True], "_mapping": ["m"], "_file": ["a b.csv"], "_row": [3]}
    )
    assert json_text(frame.select("id"), "Patient")[0] == '{"resourceType":"Patient","id":"a"}'
    assert list(written(frame)[0]) == ["resourceType", "id", "meta", "active"]
    assert written(frame)[0]["meta"] == {"source": "a%20b.csv#3"}
    meta = pl.Series([{"versionId": "1", "source": None, "profile": ["http://p"]}])
    assert written(frame.with_columns(meta=meta))[0]["meta"] == {
        "versionId": "1", "source": "a%20b.csv#3", "profile": ["http://p"],
    }  # fmt: skip
    given_source = pl.Series([{"source": "http://given"}])
    assert written(frame.with_columns(meta=given_source))[0]["meta"] == {"source": "http://given"}


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"birthdate": ["2000"]}), 'Closest: "birthDate"'),
        (
            pl.DataFrame({"birthDate": [None]}, schema={"birthDate": pl.Date}).fill_null(pl.date(2000, 1, 1)),
            "is Date",
        ),
        (pl.DataFrame({"extension": [[{"valueDecimal": float("nan")}]]}), "extension.valueDecimal"),
    ],
)
def test_what_cannot_be_written(frame: pl.DataFrame, message: str, tmp_path: Path) -> None:
    target = tmp_path / "p.ndjson"
    target.write_text("old\n")
    with pytest.raises(SchemaError, match=message):
        write_ndjson(frame, "Patient", target)
    assert target.read_text() == "old\n"
    assert [path.name for path in tmp_path.iterdir()] == ["p.ndjson"]


def test_compressed_files_are_the_same_every_time(tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": ["a", "b"]})
    one, two = tmp_path / "a.ndjson.gz", tmp_path / "b.ndjson.gz"
    write_ndjson(frame, "Patient", one)
    write_ndjson(frame, "Patient", two)
    assert one.read_bytes() == two.read_bytes()
    assert gzip.decompress(one.read_bytes()).count(b"\n") == 2
    assert read_ndjson(one, "Patient").equals(frame)


def test_several_files_in_order_with_provenance(tmp_path: Path) -> None:
    paths = [tmp_path / "b.ndjson", tmp_path / "a.ndjson.gz"]
    write_ndjson(pl.DataFrame({"id": ["1", "2"]}), "Patient", paths[0])
    write_ndjson(pl.DataFrame({"id": ["3"], "active": [True]}), "Patient", paths[1])
    found = read_ndjson(paths, "Patient", provenance=True)
    assert found.rows() == [
        ("1", None, str(paths[0]), 1),
        ("2", None, str(paths[0]), 2),
        ("3", True, str(paths[1]), 1),
    ]
    assert found.columns == ["id", "active", "_file", "_row"]


def test_empty_and_blank(tmp_path: Path) -> None:
    assert read_ndjson(lines_file(tmp_path, "", "  ", ""), "Patient").schema == pl.Schema({"id": pl.String})
    assert read_ndjson([], "Patient").columns == ["id"]
    assert read_ndjson(lines_file(tmp_path, {"id": "a"}, "", {"id": "b"}), "Patient")["id"].to_list() == [
        "a",
        "b",
    ]
    assert written(PATIENT.to_frame()) == []


def test_shadows_nulls_and_empty_objects_are_absent(tmp_path: Path) -> None:
    path = lines_file(
        tmp_path,
        {"id": "a", "_birthDate": {"extension": [{"url": "x"}]}, "name": [{}], "active": None},
        {"name": [{"family": "x", "_given": [{"id": "y"}]}]},
    )
    found = read_ndjson(path, "Patient")
    assert found.schema == pl.Schema({"id": pl.String, "name": pl.List(pl.Struct({"family": pl.String}))})


def test_contained_resources_of_several_types(tmp_path: Path) -> None:
    contained = [
        {"resourceType": "Organization", "name": "x"},
        {"resourceType": "Practitioner", "gender": "male"},
    ]
    path = lines_file(tmp_path, {"contained": contained}, {"contained": contained[:1]})
    found = read_ndjson(path, "Patient")
    assert [stripped(row) for row in found.to_dicts()] == [
        {"contained": contained},
        {"contained": contained[:1]},
    ]
    assert written(found)[0]["contained"] == contained


FAULTS: list[tuple[str | bytes | dict[str, Any], str]] = [
    ("{broken", "is not valid JSON"),
    (b'{"resourceType":"Patient","id":"\xff"}', "is not valid JSON"),
    ('{"resourceType":"Patient","id":"\\ud800"}', "is not valid JSON"),
    ('{"resourceType":"Patient"} {"resourceType":"Patient"}', "is not valid JSON"),
    ("[1]", "is not a JSON object"),
    ("{}", "has no resourceType Patient"),
    ('{"resourceType":"Observation","status":"final"}', "has no resourceType Patient"),
    ({"birthdate": "2001"}, '`birthdate` is not an element of Patient. Closest: "birthDate"'),
    ({"name": [{"famly": "x"}]}, "`name.famly` is not an element of HumanName"),
    ({"name": {"family": "x"}}, "`name` must be a list"),
    ({"birthDate": ["2001"]}, "`birthDate` must not be a list"),
    ({"birthDate": 2001}, "`birthDate` must be text"),
    ({"active": "true"}, "`active` must be true or false"),
    ({"multipleBirthInteger": 1.5}, "`multipleBirthInteger` must be a whole number"),
    ({"multipleBirthInteger": 2**63}, "`multipleBirthInteger` must be a whole number"),
    ({"extension": [{"url": "x", "valueDecimal": "1"}]}, "`extension.valueDecimal` must be a number"),
    ({"maritalStatus": "M"}, "`maritalStatus` must be an object"),
    ({"contained": [{"name": "x"}]}, "`contained` has no resourceType"),
    ({"contained": [{"resourceType": "Organization", "nam": "x"}]}, "`contained.Organization.nam`"),
]


@pytest.mark.parametrize(("line", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_bad_line_is_named(line: str | bytes | dict[str, Any], message: str, tmp_path: Path) -> None:
    path = lines_file(tmp_path, {"id": "a"}, "", line, {"id": "b", "active": True})
    with pytest.raises(SourceError) as caught:
        read_ndjson(path, "Patient")
    assert f"in.ndjson:3  {message}" in str(caught.value)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read_ndjson(tmp_path / "none.ndjson", "Patient")
    with pytest.raises(SchemaError, match="Bundle holds resources of other types"):
        read_ndjson(lines_file(tmp_path, {}), "Bundle")
    torn = tmp_path / "torn.ndjson.gz"
    torn.write_bytes(gzip.compress(b'{"resourceType":"Patient"}\n' * 100)[:-12])
    with pytest.raises(SourceError, match=r"torn\.ndjson\.gz"):
        read_ndjson(torn, "Patient")
    twice = lines_file(tmp_path, '{"resourceType":"Patient","id":"a","id":"b"}')
    with pytest.raises(SourceError, match="one name twice"):
        read_ndjson(twice, "Patient")
