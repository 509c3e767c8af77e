"""C-CDA: documents per second through `ehrseq map ccda`, and agreement with given FHIR Bundles.

    python benchmarks/ccda.py DOCUMENTS --copies 20      copies of the documents (each a patient's own), on one worker
    python benchmarks/ccda.py GOLDEN --agreement         pairs NAME.ccda + NAME.json; add --verbose for every difference

Agreement is F1 over (resource type, code, value, time) of clinical resources, in two figures. `strict`: all four are
equal, and everything only one side has counts against it. `explained`: the differences that
fhir_mappings/ccda/README.md names (A1-A3) are taken out first.
"""

import argparse
import collections
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from ehrseq.mapping.stage import map as map_source

TYPES = ["Condition", "AllergyIntolerance", "MedicationStatement", "MedicationRequest", "MedicationAdministration",
         "Immunization", "Observation", "DiagnosticReport", "Procedure", "Encounter", "FamilyMemberHistory",
         "ServiceRequest"]  # fmt: skip
DATES = ["onsetDateTime", "effectiveDateTime", "performedDateTime", "occurrenceDateTime"]
PERIODS = ["effectivePeriod", "performedPeriod", "period"]
Fact = tuple[str, frozenset[str], Any, str | None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--copies", type=int, default=20)
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.agreement:
            agreement(options.data, Path(folder), options.verbose)
        else:
            speed(options.data, Path(folder), options.copies)


def speed(data: Path, folder: Path, copies: int) -> None:
    files = [p for p in data.rglob("*") if p.suffix in (".ccda", ".xml")]
    (folder / "in").mkdir()
    for number, path in enumerate(files):
        text = path.read_bytes()
        for copy in range(copies):
            changed = text.replace(
                b"<patientRole>", b'<patientRole><id root="1.2.3" extension="%d"/>' % copy, 1
            )
            (folder / "in" / f"{number}-{copy}.xml").write_bytes(changed)
    start, cpu = time.perf_counter(), time.process_time()
    map_source("ccda", folder / "in", folder / "out", max_reject_fraction=1.0)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    count = len(files) * copies
    print(
        f"{count} documents: {wall:.1f} s, {count / wall:.0f} documents/s; {cpu:.1f} CPU-s, {count / cpu:.0f} per CPU-s"
    )


def agreement(data: Path, folder: Path, verbose: bool) -> None:
    map_source("ccda", data, folder / "out", max_reject_fraction=1.0)
    ours = made(folder / "out")
    totals: collections.Counter[tuple[str, str]] = collections.Counter()
    for path in sorted(data.glob("*.json")):
        golden, mine = given(path), ours[path.stem]
        for name, left, right, explained in (
            ("strict", golden, mine, False),
            ("explained", golden, [f for f in mine if f[0] in {g[0] for g in golden}], True),
        ):
            lost, extra = differences(left, right, explained=explained)
            same = len(left) - len(lost)
            total = len(left) + len(right)
            totals.update({(name, "same"): 2 * same, (name, "total"): total})
            score = f"{2 * same / total:.3f}" if total else "  -  "
            print(
                f"{path.stem[:44]:45} {name:10} given {len(left):3} made {len(right):3} same {same:3} F1 {score}"
            )
            if verbose and explained:
                for mark, facts in (("-", lost), ("+", extra)):
                    print(*(f"    {mark} {f[0]} {sorted(f[1])} {f[2]} {f[3]}" for f in facts), sep="\n")
    for name in ("strict", "explained"):
        print(f"all {name}: F1 {totals[name, 'same'] / totals[name, 'total']:.3f}")


def differences(left: list[Fact], right: list[Fact], *, explained: bool) -> tuple[list[Fact], list[Fact]]:
    rest, lost = list(right), []
    for fact in left:
        found = next((other for other in rest if alike(fact, other, explained)), None)
        if found is None:
            lost.append(fact)
        else:
            rest.remove(found)
    return lost, rest


def alike(given: Fact, made: Fact, explained: bool) -> bool:
    if given[0] != made[0] or given[2] != made[2]:
        return False
    code = bool(given[1] & made[1]) or given[1] == made[1] or (explained and not given[1])
    return code and (given[3] == made[3] or (explained and given[3] is None))


def given(path: Path) -> list[Fact]:
    resources = [entry["resource"] for entry in json.loads(path.read_text())["entry"]]
    drugs = {r["id"]: r.get("code") for r in resources if r["resourceType"] == "Medication"}
    for resource in resources:
        if "medicationReference" in resource:
            drug = resource["medicationReference"]["reference"].split("/")[-1]
            resource["medicationCodeableConcept"] = drugs.get(drug)
    return [fact(r["resourceType"], r) for r in resources if r["resourceType"] in TYPES]


def made(store: Path) -> dict[str, list[Fact]]:
    found = collections.defaultdict(list)
    for kind in TYPES:
        for path in sorted((store / kind).glob("*.parquet")):
            for row in pl.read_parquet(path).to_dicts():
                found[Path(row["_file"]).stem].append(fact(kind, row))
    return found


def fact(kind: str, resource: dict[str, Any]) -> Fact:
    concepts = [
        resource.get(key) for key in ("code", "vaccineCode", "medicationCodeableConcept", "relationship")
    ]
    codes = {c.get("code") for concept in concepts if concept for c in concept.get("coding") or [] if c}
    if kind == "Encounter":
        kinds = [c for one in resource.get("type") or [] for c in one.get("coding") or [] if c]
        codes = {c.get("code") for c in (resource.get("class") or {}, *kinds)} - {"UNK"}
    number = (resource.get("valueQuantity") or {}).get("value")
    value = float(number) if number is not None else None
    if value is None and resource.get("valueCodeableConcept"):
        value = next((c["code"] for c in resource["valueCodeableConcept"].get("coding") or [] if c), None)
    text = resource.get("valueString")
    when = next((resource[key] for key in DATES if resource.get(key)), None)
    when = when or next((resource[key].get("start") for key in PERIODS if resource.get(key)), None)
    return (
        kind,
        frozenset(codes - {None}),
        value or (" ".join(text.split()) if text else None),
        when and when[:16],
    )


if __name__ == "__main__":
    main()
