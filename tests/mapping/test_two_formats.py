"""One hospital in two formats: the same patients, the same clinical facts, at the same times.

What OMOP CDM cannot say is named where the facts are compared; everything else is equal, row by row.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest

import ehrseq
from ehrseq.synthetic.generate import generate


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """FHIR stores of the hospital from its MIMIC-IV tables and from its OMOP tables."""
    folder = tmp_path_factory.mktemp("formats")
    for name in ("mimic_iv", "omop"):
        generate(folder / name, patients=60, seed=3, mess=False, format=name)  # type: ignore[arg-type]
        result = ehrseq.map(name, folder / name, folder / f"{name}-fhir")
        assert result.manifest.rows["rejected"] == 0
    return folder / "mimic_iv-fhir", folder / "omop-fhir"


def read(store: Path, resource: str, mappings: Iterable[str]) -> pl.DataFrame:
    """Resources of some mappings, with the number of their patient."""
    frame = pl.read_parquet(sorted((store / resource).glob("*.parquet")))
    chosen = frame.filter(pl.col("_mapping").str.split("/").list.last().is_in(list(mappings)))
    assert chosen.height
    owner = pl.col("id") if resource == "Patient" else pl.col("subject").struct.field("reference")
    return chosen.with_columns(patient=owner.str.extract(r"(\d+)$"))


def same(left: pl.DataFrame, right: pl.DataFrame) -> None:
    """As many rows of each kind on both sides; what one side alone has is shown."""
    counts = Counter(left.rows()), Counter(right.rows())
    assert counts[0] - counts[1] == Counter()
    assert counts[1] - counts[0] == Counter()


def test_patients(stores: tuple[Path, Path]) -> None:
    facts = ["patient", "gender", "birthDate", "deceasedDateTime"]
    mimic, omop = read(stores[0], "Patient", ["patients"]), read(stores[1], "Patient", ["person"])
    assert omop["deceasedDateTime"].is_not_null().any()
    same(mimic.select(facts), omop.select(facts))


def test_hospital_stays(stores: tuple[Path, Path]) -> None:
    start, end = (pl.col("period").struct.field(name).alias(name) for name in ("start", "end"))
    mimic = read(stores[0], "Encounter", ["admissions"])
    omop = read(stores[1], "Encounter", ["visit_occurrence"])
    same(mimic.select("patient", start, end), omop.select("patient", start, end))
    went = pl.col("hospitalization").struct.field("dischargeDisposition").struct.field("coding").list
    died = went.eval(pl.element().struct.field("code") == "exp").list.any().fill_null(False).alias("died")
    same(mimic.select("patient", start, died), omop.select("patient", start, died))
    assert mimic.select(died)["died"].any()


def stay_of(store: Path, frame: pl.DataFrame, mapping: str) -> pl.DataFrame:
    """Resources with the start of their stay: encounters have other ids in the other format."""
    stays = read(store, "Encounter", [mapping]).select(
        stay=pl.lit("Encounter/") + pl.col("id"), started=pl.col("period").struct.field("start")
    )
    place = pl.col("encounter").struct.field("reference").alias("stay")
    return frame.with_columns(place).join(stays, on="stay", how="left", maintain_order="left")


def test_diagnoses(stores: tuple[Path, Path]) -> None:
    """OMOP must give them a start, which is the stay's (`onset`); MIMIC-IV has none. The code is told as text there."""
    mimic = stay_of(stores[0], read(stores[0], "Condition", ["diagnoses_icd"]), "admissions")
    omop = stay_of(stores[1], read(stores[1], "Condition", ["condition_occurrence"]), "visit_occurrence")
    code = pl.col("code").struct.field("coding").list.eval(pl.element().struct.field("code")).list.first()
    text = pl.col("code").struct.field("text")
    same(
        mimic.select("patient", "started", code=code.str.replace_all(".", "", literal=True)),
        omop.select("patient", "started", code=text),
    )
    assert omop.filter(pl.col("onsetDateTime") != pl.col("started")).is_empty()


def test_procedures(stores: tuple[Path, Path]) -> None:
    mimic = stay_of(stores[0], read(stores[0], "Procedure", ["procedures_icd"]), "admissions")
    omop = stay_of(stores[1], read(stores[1], "Procedure", ["procedure_occurrence"]), "visit_occurrence")
    facts = ["patient", "started", "performedDateTime"]
    same(mimic.select(facts), omop.select(facts))


def moment(time: pl.Expr) -> pl.Expr:
    """A time as OMOP can say it: midnight is how it writes a day without its hour, so it is read as a day."""
    return time.str.strip_suffix("T00:00:00+00:00")


def value(name: str) -> pl.Expr:
    return pl.col("valueQuantity").struct.field(name).alias(name)


def test_results_and_charted_numbers(stores: tuple[Path, Path]) -> None:
    """OMOP does not say when a result could first be seen (`issued`), nor whether it was abnormal."""
    mimic = read(stores[0], "Observation", ["labevents", "chartevents"]).filter(
        (pl.col("_mapping").str.ends_with("labevents")) | value("value").is_not_null()
    )
    omop = read(stores[1], "Observation", ["measurement"])
    facts = [
        pl.col("patient"),
        moment(pl.col("effectiveDateTime")),
        value("value"),
        value("comparator"),
        value("unit"),
    ]
    name = pl.col("code").struct.field("coding").list.first().struct.field("display").alias("name")
    same(mimic.select(*facts, "valueString", name), omop.select(*facts, "valueString", name))
    assert mimic.height > 10_000


def test_drugs(stores: tuple[Path, Path]) -> None:
    """OMOP holds when an order began, not when it was written (`authoredOn` is the beginning there)."""
    text = pl.col("medicationCodeableConcept").struct.field("text").alias("drug")
    begins = pl.col("dosageInstruction").list.first().struct.field("timing").struct.field("repeat")
    began = begins.struct.field("boundsPeriod").struct.field("start")
    mimic = read(stores[0], "MedicationRequest", ["prescriptions"])
    omop = read(stores[1], "MedicationRequest", ["drug_exposure_ordered"])
    same(
        mimic.select("patient", text, moment(began).alias("began")),
        omop.select("patient", text, pl.col("authoredOn").alias("began")),
    )


def test_doses_given(stores: tuple[Path, Path]) -> None:
    """OMOP has no rows for doses that were not given."""
    emar = pl.col("status") == "completed"
    mimic = read(stores[0], "MedicationAdministration", ["emar"]).filter(emar)
    omop = read(stores[1], "MedicationAdministration", ["drug_exposure_given"])
    text = pl.col("medicationCodeableConcept").struct.field("text").alias("drug")
    at = moment(pl.col("effectiveDateTime"))
    same(mimic.select("patient", text, at), omop.select("patient", text, at))


def test_notes(stores: tuple[Path, Path]) -> None:
    mimic = read(stores[0], "DocumentReference", ["discharge", "radiology"])
    omop = read(stores[1], "DocumentReference", ["note"])
    data = pl.col("content").list.first().struct.field("attachment").struct.field("data").alias("text")
    same(mimic.select("patient", "date", data), omop.select("patient", "date", data))


def test_timelines_have_the_same_patients_lives_and_stays(stores: tuple[Path, Path], tmp_path: Path) -> None:
    found = []
    for number, store in enumerate(stores):
        timeline = ehrseq.timeline(store, tmp_path / str(number)).out
        events = pl.read_parquet(sorted(timeline.glob("data/*.parquet")))
        ids = pl.col("resource_id")
        lives = events.filter(
            pl.col("code").is_in(["MEDS_BIRTH", "MEDS_DEATH"])
            | (
                pl.col("code").str.starts_with("Encounter.")
                & ids.str.contains("-(?:admissions|visit-occurrence)[.]")
            )
        )
        kind = pl.col("code").str.split("//").list.first()
        found.append(
            lives.select("subject_id", "time", kind=kind)
            .filter(pl.col("kind").is_in(["MEDS_BIRTH", "Encounter.start", "Encounter.end"]))
            .unique()
        )
    same(*found)
