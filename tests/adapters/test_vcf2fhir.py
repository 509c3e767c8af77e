"""How far our reports agree with those that vcf2fhir is tested to give.

What differs, and why, stands in fhir_mappings/vcf/README.md.
"""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

import ehrseq

# VCF, assembly of its contigs, source, regions to report, studied, not callable, expected report, facts that differ
CASES = {
    "example1": ("vcf_example1.vcf", "GRCh37", "somatic", None, None, None, "example1_wo_patient", 14),
    "example3": ("vcf_example3.vcf", "GRCh37", "somatic", "RegionsToConvert_example3", "RegionsStudied_example3",
                 "NoncallableRegions_example3", "example3", 5),
    "example4": ("vcf_example4.vcf", "GRCh38", "somatic", "RegionsToConvert_example4", "RegionsStudied_example4",
                 "NoncallableRegions_example4", "example4", 26),
    "annotation": ("NB6TK328_filtered.vcf", "GRCh38", "germline", "NB6TK328_conversion_region",
                   "NB6TK328_region_studied", None, "annotation", 20),
}  # fmt: skip
NOTES = "chromosome position reference alternate gene transcript hgvs_c hgvs_p significance phenotype"


def codes(observation):
    """(code, value) of each component; accessions without their version."""
    for part in observation.get("component", []):
        concept = (part.get("valueCodeableConcept", {}).get("coding") or [{}])[0]
        value = concept.get("code") or part.get("valueString") or part.get("valueQuantity", {}).get("value")
        if "valueRange" in part:
            value = tuple(part["valueRange"].get(end, {}).get("value") for end in ("low", "high"))
        if isinstance(value, str) and value.startswith("NC_"):
            value = value[:9] + value[value.find(":") if ":" in value else len(value) :]
        yield part["code"]["coding"][0].get("code"), value


def facts(resources):
    found = Counter()
    for each in resources:
        if each["resourceType"] != "Observation" or "meta" not in each:
            continue
        kind, parts = each["meta"]["profile"][0].rpartition("/")[2], list(codes(each))
        named = dict(parts)
        place = tuple(named.get(code) for code in ("48013-7", "81254-5", "81302-2", "69547-8", "69551-0"))
        if kind == "sequence-phase-relationship":
            found[kind, each["valueCodeableConcept"]["coding"][0]["code"]] += 1
        elif kind != "diagnostic-implication":
            found.update((kind, place, part) for part in parts)
    return found


@pytest.mark.parametrize("name", CASES)
def test_reports_agree_with_those_of_vcf2fhir(name, data_dir, tmp_path):
    given = data_dir / "genomics" / "vcf2fhir"
    vcf, assembly, source, asked, studied, not_called, expected, differ = CASES[name]
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copyfile(given / vcf, folder / vcf)
    for bed, to in ((asked, "regions.bed"), (studied, "studied.bed"), (not_called, "nocall.bed")):
        if bed:
            shutil.copyfile(given / f"{bed}.bed", folder / to)
    sample = next(line for line in (given / vcf).open() if line.startswith("#CHROM")).split()[9]
    (folder / "samples.csv").write_text(
        f"sample,patient,reported,assembly,source\n{sample},P,2020-01-01 00:00:00,{assembly},{source}\n"
    )
    if name == "annotation":
        rows = [line.rstrip("\n").split("\t") for line in (given / "NB6TK328_annotations.txt").open()]
        kept = [
            [*row[:4], row[4].split("^")[1], row[5], row[6], row[8], row[9], row[10].split("^")[1]]
            for row in rows
        ]
        text = "\n".join("\t".join(row) for row in [NOTES.split(), *kept])
        (folder / "annotations.tsv").write_text(text + "\n")
    ehrseq.map("vcf", folder, tmp_path / "fhir", max_reject_fraction=1)
    ehrseq.export_fhir(tmp_path / "fhir", tmp_path / "ndjson")
    ours = facts(
        json.loads(line) for path in Path(tmp_path / "ndjson").rglob("*.ndjson*") for line in _lines(path)
    )
    theirs = facts(json.loads((given / f"expected_{expected}.json").read_text())["contained"])
    print(f"{name}: {theirs.total()} facts expected, {(ours & theirs).total()} the same, {ours.total()} made")
    assert (theirs - ours).total() <= differ


def _lines(path):
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
        return file.readlines()
