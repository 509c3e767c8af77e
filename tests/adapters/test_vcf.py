"""VCF -> FHIR -> timeline: what is reported, what is counted, what is refused."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

import ehrseq
from ehrseq.adapters.genomics.regions import common, merged
from ehrseq.core.errors import DataQualityError, SourceError

HEAD = """##fileformat=VCFv4.2
##fileDate=20200102
##contig=<ID=chr1,length=248956422>
##contig=<ID=chrM,length=16569>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tone\ttwo
"""
ANN = "ANN=T|stop_gained|HIGH|BRCA2|G1|transcript|NM_1.1|x|1/2|c.7A>T|p.Lys3Ter"
ROWS = f"""chr1\t100\trs1\tA\tT\t.\tPASS\t{ANN}\tGT:AD:DP\t0/1:9,8:17\t1|1:0,9:9
chr1\t110\t.\tCAA\tCA,C\t.\t.\t.\tGT:PS\t1|2:110\t0|0:.
chr1\t120\t.\tG\tC,*\t.\tq10\t.\tGT\t0/1\t2/.
chr1\t130\t.\tG\t<DEL>\t.\tPASS\tSVTYPE=DEL;END=180\tGT\t0/1\t./.
chr1\t140\t.\tG\tG[chr1:900[\t.\tPASS\tSVTYPE=BND\tGT\t0/1\t0/0
chr1\t150\t.\tG\tA\t.\tPASS\tAN=5000;AF=0.3\tGT\t0/1\t0/0
chr1\t160\t.\tG\tA\t.\tPASS\tAN=5000;AF=0.001\tGT\t.\t1
chr1\t170\t.\tG\tA,<NON_REF>\t.\tPASS\t.\tGT\t0/1\t0/0
chrM\t150\t.\tT\tC\t.\tPASS\t.\tGT:AD:DP\t1:1,99:100\t0:9,0:9
chr1\t180\t.\tG\tA
"""
LINKS = "sample,patient,reported,sex\none,7,2021-05-01 10:00:00,female\ntwo,8,,male\n"


@pytest.fixture
def vcf(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.vcf").write_text(HEAD + ROWS)
    (folder / "samples.csv").write_text(LINKS)
    return folder


def mapped(folder: Path, **options) -> tuple[Path, dict]:
    out = folder.parent / "fhir"
    ehrseq.map("vcf", folder, out, validate="full", **{"max_reject_fraction": 0.5, **options})
    return out, json.loads((out / "manifest.json").read_text())


def resources(store: Path, kind: str) -> list[dict]:
    return [
        row for path in sorted((store / kind).glob("*.parquet")) for row in pl.read_parquet(path).to_dicts()
    ]


def components(variant: dict) -> dict[str, object]:
    found = {}
    for part in variant["component"]:
        concept, amount = part["valueCodeableConcept"] or {}, part["valueQuantity"] or {}
        coding = (concept.get("coding") or [{}])[0]
        value = coding.get("display") or coding.get("code") or concept.get("text") or part["valueString"]
        found[part["code"]["coding"][0]["code"]] = value or amount.get("value") or part["valueRange"]
    return found


def test_every_allele_is_reported_counted_or_refused(vcf):
    store, manifest = mapped(vcf)
    accounts = manifest["sources"]
    assert accounts["records"]["rows_in"] == 10
    assert accounts["records"]["rejected"] == 1  # the line that is cut off
    assert accounts["common"]["rows_in"] == 1
    reasons = accounts["variants"]["reasons"]
    for reason in ("failed a filter of the caller", "breakend: one side of a rearrangement"):
        assert reasons[reason] == 1 + (reason[0] == "f")
    variants = [
        row for row in resources(store, "Observation") if row["code"]["coding"][0]["code"] == "69548-6"
    ]
    found = {components(row)["48004-6"]: components(row) for row in variants}
    assert "NC_000001.11:149:G:A" not in found  # common, of no consequence
    assert found["NC_000001.11:169:G:A"]["53034-5"] == "heterozygous"
    assert found["NC_000001.11:159:G:A"]["53034-5"] == "hemizygous"
    assert found["NC_000001.11:129:G:<DEL>"]["48019-4"] == "deletion"
    assert found["NC_012920.1:149:T:C"]["53034-5"] == "heteroplasmic"
    assert {found[f"NC_000001.11:109:CAA:{alt}"]["81252-9"] for alt in ("CA", "C")} == {
        "NC_000001.11:110:A:", "NC_000001.11:110:AA:",
    }  # fmt: skip
    assert found["NM_1.1:c.7A>T"]["48018-6"] == "BRCA2"


def test_events_are_known_from_the_report_on(vcf, tmp_path):
    (vcf / "pharmacogenes.csv").write_text("sample,gene,diplotype,phenotype\none,CYP2D6,*1/*4,intermediate\n")
    store, _ = mapped(vcf)
    ehrseq.timeline(store, tmp_path / "timeline")
    events = pl.concat(pl.read_parquet(path) for path in (tmp_path / "timeline" / "data").rglob("*.parquet"))
    genome = events.filter(pl.col("modality") == "genome")
    stop = genome.filter(pl.col("code").str.starts_with("VAR//BRCA2//stop_gained//"))
    assert dict(stop.select("subject_id", "code").iter_rows()) == {
        7: "VAR//BRCA2//stop_gained//heterozygous", 8: "VAR//BRCA2//stop_gained//homozygous",
    }  # fmt: skip
    assert [str(time) for time in stop.sort("subject_id")["time"]] == [
        "2021-05-01 10:00:00",
        "2020-01-02 23:59:59",
    ]
    assert genome.filter(code="PGX//CYP2D6//intermediate")["text_value"].to_list() == ["*1/*4"]
    assert not events["code"].str.contains("69548-6|53034-5").any()  # said once, not in parts again


def test_regions_ask_for_what_is_common_and_leave_out_the_rest(vcf):
    (vcf / "regions.bed").write_text("chr1\t145\t155\n")
    (vcf / "studied.bed").write_text("1 0 150\n")
    store, manifest = mapped(vcf)
    observations = resources(store, "Observation")
    codes = [components(row).get("48004-6") for row in observations if row["component"]]
    assert "NC_000001.11:149:G:A" in codes
    assert manifest["sources"]["variants"]["reasons"]["outside regions.bed"] > 3
    studied = [row for row in observations if row["code"]["coding"][0]["code"] == "53041-0"]
    assert components(studied[0])["51959-5"]["low"]["value"] == 146


def test_the_same_text_packed_and_with_windows_line_ends_gives_the_same(vcf):
    _, first = mapped(vcf)
    (vcf / "a.vcf").unlink()
    (vcf / "a.vcf.gz").write_bytes(gzip.compress((HEAD + ROWS).replace("\n", "\r\n").encode()))
    _, second = mapped(vcf)
    assert first["made"] == second["made"]


def test_without_links_nothing_is_read(vcf):
    (vcf / "samples.csv").unlink()
    with pytest.raises(SourceError, match=r"has no samples\.csv"):
        mapped(vcf)


def test_a_sample_that_is_not_linked_is_refused(vcf):
    (vcf / "samples.csv").write_text("sample,patient,reported\none,7,2021-05-01\n")
    store, manifest = mapped(vcf)
    assert manifest["sources"]["samples"]["reasons"] == {"unlinked": 1}
    assert len(resources(store, "Patient")) == 1


def test_mixed_assemblies_are_refused(vcf):
    (vcf / "b.vcf").write_text((HEAD + ROWS).replace("248956422", "249250621"))
    with pytest.raises(SourceError, match="different assemblies"):
        mapped(vcf)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (HEAD.replace("##contig=<ID=chr1,length=248956422>\n", "") + ROWS, "assembly"),
        (HEAD.replace("248956422", "5000") + ROWS, "assembly"),
        ("no VCF at all\n", "header"),
        (HEAD.replace("\tone\ttwo", "\tone\tone") + ROWS, "header"),
    ],
    ids=["no contigs", "another genome", "no heading", "a sample twice"],
)
def test_a_bad_file_is_one_reject_and_the_others_go_on(vcf, text, rule):
    (vcf / "bad.vcf").write_text(text)
    _, manifest = mapped(vcf)
    assert manifest["sources"]["records"]["reasons"][rule] == 1
    assert manifest["made"]["DiagnosticReport"] == 2
    (vcf / "a.vcf").unlink()
    with pytest.raises(DataQualityError):
        mapped(vcf)


def test_ground_that_two_beds_share():
    regions = lambda *rows: merged(pl.DataFrame(rows, schema=["chromosome", "start", "end"], orient="row"))  # noqa: E731
    left, right = (
        regions(("1", 0, 10), ("1", 5, 20), ("X", 3, 9)),
        regions(("1", 15, 30), ("X", 0, 4), ("2", 0, 9)),
    )
    assert common(left, right).rows() == [("1", 15, 20), ("X", 3, 4)]


def test_real_files_open_or_are_typed_rejects(data_dir, tmp_path):
    from ehrseq.adapters.genomics.tables import FILES, _file_tables

    broken = {}
    for path in sorted((data_dir / "genomics" / "cyvcf2-tests").iterdir()):
        if not path.name.endswith(FILES):
            continue
        folder = tmp_path / path.name.replace(".", "_")
        folder.mkdir()
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / "samples.csv").write_text("sample,assembly,reported\nnobody,,\n")
        found = _file_tables(folder / path.name, path.name, 0)
        rules = {rule for frame in found.rejects.get("records", []) for rule in frame.filter(row=0)["rule"]}
        if rules:
            broken[path.name] = rules.pop()
        else:
            assert sum(frame.height for frame in found.rows["records"]) > 0
    assert {broken.pop("empty.vcf"), broken.pop("test-invalid-header.vcf")} == {"header"}
    assert set(broken.values()) <= {"assembly"}  # neither contigs nor a declaration, or no human genome


def test_polygenic_scores_count_the_effect_allele_wherever_it_stands(vcf, tmp_path):
    (vcf / "scores").mkdir()
    (vcf / "scores" / "PGS1.txt").write_text(
        "#pgs_id=PGS000001\n#genome_build=GRCh38\n"
        "chr_name\tchr_position\teffect_allele\tother_allele\teffect_weight\tallelefrequency_effect\n"
        "1\t100\tT\tA\t1.0\t0.5\n"  # the alternate: one has 1, two has 2
        "1\t150\tG\tA\t10\t0.5\n"  # the reference: one has 1, two has 2
        "1\t170\tT\tC\t100\t0.5\n"  # the other strand's alternate: one has 1, two has 0
        "1\t999\tT\tC\t100\t0.5\n"  # not in the file
    )
    (vcf / "a.vcf").write_text((HEAD + ROWS).replace("A,<NON_REF>", "A"))
    store, _ = mapped(vcf)
    found = {}
    for row in resources(store, "Observation"):
        if row["code"]["coding"][0]["code"] == "PGS000001":
            found[row["subject"]["reference"][-1]] = components(row)
    assert found["7"]["sum"] == 1 + 10 + 100
    assert found["8"]["sum"] == 2 + 20
    assert found["8"]["found"] == 75
    (vcf / "scores" / "PGS1.txt").write_text("#genome_build=GRCh37\nchr_name\n")
    with pytest.raises(DataQualityError):
        mapped(vcf)
