from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrseq.mapping.stage import map as map_source
from ehrseq.sources.ccda.values import fhir_time
from ehrseq.sources.ccda.xml import DocumentError, parse

NAMESPACES = 'xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
PATIENT = "<recordTarget><patientRole><id root='1.2.3' extension='7'/><patient/></patientRole></recordTarget>"
RESULT = """
<observation classCode="OBS" moodCode="EVN"><templateId root="2.16.840.1.113883.10.20.22.4.2"{extension}/>
 <code code="2160-0" codeSystem="2.16.840.1.113883.6.1" displayName="Creatinine"/><statusCode code="completed"/>
 <effectiveTime value="202001020304-0500"/><value xsi:type="PQ" value="1.5" unit="mg/dL"/></observation>"""
PROBLEM = """
<observation negationInd="{negated}"><templateId root="2.16.840.1.113883.10.20.22.4.4"/>
 <text><reference value="#p1"/></text>
 <effectiveTime><low value="2019"/>{high}</effectiveTime><value xsi:type="CD" {code}/></observation>"""
SNOMED = 'code="233604007" codeSystem="2.16.840.1.113883.6.96"'


def document(*entries, namespaces=NAMESPACES, patient=PATIENT):
    section = "<section><code code='30954-2'/><title>Facts</title><text><content ID='p1'>Lung trouble</content></text>"
    inside = "".join(f"<entry>{entry}</entry>" for entry in entries)
    body = f"<component><structuredBody><component>{section}{inside}</section></component></structuredBody></component>"
    return (
        f"<ClinicalDocument {namespaces}>{patient}<effectiveTime value='20200102'/>{body}</ClinicalDocument>"
    )


def mapped(tmp_path, *documents):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, text in enumerate(documents):
        (folder / f"{number}.xml").write_text(text)
    map_source("ccda", folder, out, max_reject_fraction=1.0)
    return out


def resources(out: Path, kind: str) -> list[dict]:
    return [
        row for path in sorted((out / kind).glob("*.parquet")) for row in pl.read_parquet(path).to_dicts()
    ]


def rejected(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in (out / "rejects").glob("*.parquet")])


@pytest.mark.parametrize("extension", ["", ' extension="2015-08-01"'])
@pytest.mark.parametrize("namespaces", [NAMESPACES, ""])
def test_a_result_however_template_and_namespace_are_written(tmp_path, extension, namespaces):
    out = mapped(tmp_path, document(RESULT.format(extension=extension), namespaces=namespaces))
    (made,) = resources(out, "Observation")
    assert made["code"]["coding"][0]["system"] == "http://loinc.org"
    assert made["valueQuantity"]["value"] == 1.5
    assert made["effectiveDateTime"] == "2020-01-02T03:04:00-05:00"


def test_negation_interval_and_narrative_of_a_problem(tmp_path):
    refuted = PROBLEM.format(negated="true", high="", code=SNOMED)
    over = PROBLEM.format(negated="false", high='<high value="201903"/>', code='nullFlavor="OTH"')
    first, second = sorted(
        resources(mapped(tmp_path, document(refuted, over)), "Condition"), key=lambda r: r["_row"]
    )
    assert first["verificationStatus"]["coding"][0]["code"] == "refuted"
    assert first["code"]["coding"][0]["code"] == "233604007"
    assert second["code"]["text"] == "Lung trouble"
    assert (second["onsetDateTime"], second["abatementDateTime"]) == ("2019", "2019-03")


def test_an_entry_of_an_unknown_template_is_counted(tmp_path):
    out = mapped(tmp_path, document("<act><templateId root='9.9.9'/><code code='x'/></act>"))
    assert '"other"' in (out / "manifest.json").read_text()
    assert not resources(out, "Condition")


def test_a_document_that_cannot_be_read_is_one_reject_and_the_others_are_mapped(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><ClinicalDocument>&b;</ClinicalDocument>'
    deep = "<ClinicalDocument>" + "<a>" * 100_000 + "</a>" * 100_000 + "</ClinicalDocument>"
    good = document(RESULT.format(extension=""))
    out = mapped(tmp_path, bomb, deep, "<ClinicalDocument>", "<html/>", document(patient=""), good)
    found = rejected(out).filter(pl.col("outcome") == "rejected").sort("file")
    assert found["rule"].to_list() == ["dtd", "depth", "xml", "document", "no patient"]
    assert len(resources(out, "Observation")) == 1


def test_a_time_that_is_none_is_a_reject_of_its_table(tmp_path):
    out = mapped(tmp_path, document(RESULT.format(extension="").replace("202001020304-0500", "20209999")))
    assert rejected(out).filter(pl.col("outcome") == "rejected").select("table", "rule").rows() == [
        ("results", "dateTime")
    ]


def test_a_dtd_in_another_encoding_is_refused():
    with pytest.raises(DocumentError, match="DTD"):
        parse('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE x><ClinicalDocument/>'.encode("utf-16"))


@given(st.datetimes())
def test_times_keep_their_digits(time):
    text = time.strftime("%Y").zfill(4) + time.strftime("%m%d%H%M%S")
    assert "".join(filter(str.isdigit, fhir_time(text + "+0000", "UTC"))) == text + "0000"


def test_every_given_document_is_mapped_or_rejected(tmp_path, data_dir):
    data = data_dir / "ccda"
    if not data.is_dir():
        pytest.skip("no documents")
    map_source("ccda", data, tmp_path / "out", max_reject_fraction=1.0)
    files = {p.relative_to(data).as_posix() for p in data.rglob("*") if p.suffix in (".xml", ".ccda")}
    refused = rejected(tmp_path / "out").filter(pl.col("table") == "documents")
    shards = (tmp_path / "out").glob("[A-Z]*/*.parquet")
    made = pl.concat(pl.read_parquet(path, columns=["_file"]) for path in shards)
    assert {*made["_file"], *refused["file"]} == files
    given = {(data / name).read_bytes() for name in made["_file"].unique()}
    copies = refused.filter(rule="duplicate row")["file"]
    assert all((data / name).read_bytes() in given for name in copies)
