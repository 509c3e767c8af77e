"""The tables that explain codes and people: d_labitems, d_items, d_icd_*, d_hcpcs, provider and caregiver."""

import polars as pl

from ehrseq.synthetic.block import Tables, caregiver_numbers, provider_names
from ehrseq.synthetic.hospital import Code, Hospital


def dictionaries(hospital: Hospital) -> Tables:
    """Every code, item and person the other tables mention, and no more."""
    diagnoses = [(entry.icd9, entry.icd10) for entry in hospital.groups.values()]
    diagnoses += [(entry.icd9, entry.icd10) for entry in hospital.conditions.values()]
    diagnoses += [(entry["icd9"], entry["icd10"]) for entry in hospital.complications.values()]
    procedures = [(entry["icd9"], entry["icd10"]) for entry in hospital.procedures.values()]
    return {
        "hosp/d_icd_diagnoses": _codes(diagnoses),
        "hosp/d_icd_procedures": _codes(procedures),
        "hosp/d_hcpcs": pl.DataFrame(
            {
                "code": [entry["code"] for entry in hospital.hcpcs],
                "category": pl.Series([entry["category"] for entry in hospital.hcpcs], dtype=pl.Int64),
                "long_description": [entry["long"] for entry in hospital.hcpcs],
                "short_description": [entry["short"] for entry in hospital.hcpcs],
            }
        ),
        "hosp/d_labitems": _labitems(hospital),
        "icu/d_items": _items(hospital),
        "hosp/provider": pl.DataFrame({"provider_id": sorted(provider_names())}),
        "icu/caregiver": pl.DataFrame({"caregiver_id": sorted(caregiver_numbers().tolist())}),
    }


def _codes(pairs: list[tuple[Code, Code]]) -> pl.DataFrame:
    rows = [
        (code, version, title) for pair in pairs for (code, title), version in zip(pair, (9, 10), strict=True)
    ]
    frame = pl.DataFrame(rows, schema=["icd_code", "icd_version", "long_title"], orient="row")
    return frame.unique(["icd_code", "icd_version"], keep="first", maintain_order=True).sort(
        "icd_version", "icd_code"
    )


def _labitems(hospital: Hospital) -> pl.DataFrame:
    hematology = ("blood count", "coagulation")
    rows = [
        (lab.id, lab.label, "Blood", "Hematology" if lab.panel in hematology else lab.category)
        for lab in hospital.labs
    ]
    rows += [(lab.id, lab.label, "Urine", "Hematology") for lab in hospital.text_labs]
    return pl.DataFrame(rows, schema=["itemid", "label", "fluid", "category"], orient="row").sort("itemid")


def _items(hospital: Hospital) -> pl.DataFrame:
    rows = [
        (
            vital.id,
            vital.label,
            vital.short,
            "chartevents",
            vital.category,
            vital.unit,
            "Text" if vital.words else "Numeric",
        )
        for vital in hospital.vitals
    ]
    rows += [
        (item.id, item.label, item.short, item.linksto, item.category, item.unit, item.type)
        for item in hospital.icu_items.values()
    ]
    columns = ["itemid", "label", "abbreviation", "linksto", "category", "unitname", "param_type"]
    return pl.DataFrame(rows, schema=columns, orient="row").sort("itemid")
