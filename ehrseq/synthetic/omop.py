"""The generated hospital in the OMOP common data model: the same patients, the same facts, at the same times.

What OMOP cannot carry is left out: orders that are no drugs, what was not given, the order of a result, the moment it
could first be seen. Concepts are the hospital's own (ids from 2,000,000,000 on), so standard concepts are 0.
Source: OHDSI Common Data Model 5.4, https://ohdsi.github.io/CommonDataModel/cdm54.html.
"""

from collections import Counter

import polars as pl

from ehrseq.synthetic.block import Tables

_LOCAL, _DIAGNOSIS, _PROCEDURE = 2_000_000_000, 2_010_000_000, 2_020_000_000
_INPATIENT, _THROUGH_EMERGENCY, _EHR, _LAB, _EXAM, _ORDERED, _GIVEN = (
    9201,
    262,
    32817,
    32856,
    32836,
    32838,
    32818,
)
_GENDERS = {"M": 8507, "F": 8532}
_DESTINATIONS = {  # the vocabulary's words for where patients go
    "DIED": 4216643, "HOME": 8536, "HOME HEALTH CARE": 8536, "HOSPICE": 8546, "SKILLED NURSING FACILITY": 8863,
    "REHAB": 8920, "PSYCH FACILITY": 8971, "AGAINST ADVICE": 4021968, "ACUTE HOSPITAL": 8717,
}  # fmt: skip

_COLUMNS = {
    "person": "person_id,gender_concept_id,year_of_birth,month_of_birth,day_of_birth,birth_datetime,race_concept_id,"
    "ethnicity_concept_id,location_id,provider_id,care_site_id,person_source_value,gender_source_value,"
    "gender_source_concept_id,race_source_value,race_source_concept_id,ethnicity_source_value,"
    "ethnicity_source_concept_id",
    "death": "person_id,death_date,death_datetime,death_type_concept_id,cause_concept_id,cause_source_value,"
    "cause_source_concept_id",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,"
    "visit_end_date,visit_end_datetime,visit_type_concept_id,provider_id,care_site_id,visit_source_value,"
    "visit_source_concept_id,admitted_from_concept_id,admitted_from_source_value,discharged_to_concept_id,"
    "discharged_to_source_value,preceding_visit_occurrence_id",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,"
    "condition_start_datetime,condition_end_date,condition_end_datetime,condition_type_concept_id,"
    "condition_status_concept_id,stop_reason,provider_id,visit_occurrence_id,visit_detail_id,condition_source_value,"
    "condition_source_concept_id,condition_status_source_value",
    "procedure_occurrence": "procedure_occurrence_id,person_id,procedure_concept_id,procedure_date,"
    "procedure_datetime,procedure_end_date,procedure_end_datetime,procedure_type_concept_id,modifier_concept_id,"
    "quantity,provider_id,visit_occurrence_id,visit_detail_id,procedure_source_value,procedure_source_concept_id,"
    "modifier_source_value",
    "measurement": "measurement_id,person_id,measurement_concept_id,measurement_date,measurement_datetime,"
    "measurement_time,measurement_type_concept_id,operator_concept_id,value_as_number,value_as_concept_id,"
    "unit_concept_id,range_low,range_high,provider_id,visit_occurrence_id,visit_detail_id,measurement_source_value,"
    "measurement_source_concept_id,unit_source_value,unit_source_concept_id,value_source_value,measurement_event_id,"
    "meas_event_field_concept_id",
    "drug_exposure": "drug_exposure_id,person_id,drug_concept_id,drug_exposure_start_date,"
    "drug_exposure_start_datetime,drug_exposure_end_date,drug_exposure_end_datetime,verbatim_end_date,"
    "drug_type_concept_id,stop_reason,refills,quantity,days_supply,sig,route_concept_id,lot_number,provider_id,"
    "visit_occurrence_id,visit_detail_id,drug_source_value,drug_source_concept_id,route_source_value,"
    "dose_unit_source_value",
    "note": "note_id,person_id,note_date,note_datetime,note_type_concept_id,note_class_concept_id,note_title,note_text,"
    "encoding_concept_id,language_concept_id,provider_id,visit_occurrence_id,visit_detail_id,note_source_value,"
    "note_event_id,note_event_field_concept_id",
    "concept": "concept_id,concept_name,domain_id,vocabulary_id,concept_class_id,standard_concept,concept_code,"
    "valid_start_date,valid_end_date,invalid_reason",
}
TABLES: dict[str, tuple[str, ...]] = {table: tuple(text.split(",")) for table, text in _COLUMNS.items()}
"""Table -> its columns, in file order."""


class Omop:
    """Turns blocks of MIMIC-IV tables into OMOP's, with running ids. `dictionaries` are those of the hospital."""

    def __init__(self, dictionaries: Tables) -> None:
        self.taken: Counter[str] = Counter()
        self.codes = {
            kind: dictionaries[table].select("icd_code", "icd_version", "long_title").with_row_index("n")
            for kind, table in (("condition", "hosp/d_icd_diagnoses"), ("procedure", "hosp/d_icd_procedures"))
        }
        self.items = pl.concat(
            [
                dictionaries["hosp/d_labitems"].select("itemid", "label"),
                dictionaries["icu/d_items"].select("itemid", "label"),
            ]
        )

    def concepts(self) -> Tables:
        """The vocabulary: items measured, diagnoses and procedures."""
        always = {"standard_concept": None, "valid_start_date": "1970-01-01", "valid_end_date": "2099-12-31"}
        items = self.items.select(
            concept_id=_LOCAL + pl.col("itemid"), concept_name="label", domain_id=pl.lit("Measurement"),
            vocabulary_id=pl.lit("Local items"), concept_class_id=pl.lit("Item"),
            concept_code=pl.col("itemid").cast(pl.String),
        )  # fmt: skip
        frames = [items]
        for kind, base in (("condition", _DIAGNOSIS), ("procedure", _PROCEDURE)):
            ten = "ICD10CM" if kind == "condition" else "ICD10PCS"
            nine = "ICD9CM" if kind == "condition" else "ICD9Proc"
            frames.append(
                self.codes[kind].select(
                    concept_id=base + pl.col("n").cast(pl.Int64), concept_name="long_title",
                    domain_id=pl.lit(kind.capitalize()),
                    vocabulary_id=pl.when(pl.col("icd_version") == 10).then(pl.lit(ten)).otherwise(pl.lit(nine)),
                    concept_class_id=pl.lit("Code"), concept_code="icd_code",
                )
            )  # fmt: skip
        return {
            "concept": pl.concat(frames).with_columns(
                **{name: pl.lit(text, pl.String) for name, text in always.items()}
            )
        }

    def tables(self, block: Tables) -> Tables:
        """The OMOP tables of one block."""
        stays = block["hosp/admissions"]
        through = pl.col("edregtime").is_not_null()
        emergency = pl.when(through).then(_THROUGH_EMERGENCY).otherwise(_INPATIENT)
        return {
            "person": self._person(block),
            "death": block["hosp/patients"].drop_nulls("dod").select(
                person_id="subject_id", death_date="dod", death_type_concept_id=_EHR
            ),
            "visit_occurrence": stays.select(
                visit_occurrence_id="hadm_id", person_id="subject_id", visit_concept_id=emergency,
                discharged_to_concept_id=pl.col("discharge_location").replace_strict(_DESTINATIONS, default=0),
                visit_type_concept_id=_EHR, visit_source_value="admission_type",
                admitted_from_source_value="admission_location", discharged_to_source_value="discharge_location",
                **_span("visit_start", "admittime"), **_span("visit_end", "dischtime"),
            ),
            "condition_occurrence": self._conditions(block),
            "procedure_occurrence": self._procedures(block),
            "measurement": self._measurements(block),
            "drug_exposure": self._drugs(block),
            "note": self._notes(block),
        }  # fmt: skip

    def _person(self, block: Tables) -> pl.DataFrame:
        gender = pl.col("gender")
        return block["hosp/patients"].select(
            person_id="subject_id", year_of_birth=pl.col("anchor_year") - pl.col("anchor_age"),
            gender_concept_id=gender.replace_strict(_GENDERS, default=0), gender_source_value=gender,
            race_concept_id=0, ethnicity_concept_id=0, person_source_value=pl.col("subject_id").cast(pl.String),
        )  # fmt: skip

    def _conditions(self, block: Tables) -> pl.DataFrame:
        """Diagnoses of a stay; OMOP wants a start, which is the stay's by convention."""
        rows = block["hosp/diagnoses_icd"].join(
            block["hosp/admissions"].select("hadm_id", "admittime"),
            on="hadm_id",
            how="left",
            maintain_order="left",
        )
        return self._coded(rows, "condition", _DIAGNOSIS).select(
            condition_occurrence_id=self._ids("condition", rows), person_id="subject_id",
            condition_concept_id=0, condition_type_concept_id=_EHR, visit_occurrence_id="hadm_id",
            condition_source_value="icd_code", condition_source_concept_id="concept_id",
            condition_status_source_value=pl.col("seq_num").cast(pl.String), **_span("condition_start", "admittime"),
        )  # fmt: skip

    def _procedures(self, block: Tables) -> pl.DataFrame:
        rows = block["hosp/procedures_icd"]
        return self._coded(rows, "procedure", _PROCEDURE).select(
            procedure_occurrence_id=self._ids("procedure", rows), person_id="subject_id",
            procedure_concept_id=0, procedure_date="chartdate", procedure_type_concept_id=_EHR,
            visit_occurrence_id="hadm_id", procedure_source_value="icd_code", procedure_source_concept_id="concept_id",
        )  # fmt: skip

    def _measurements(self, block: Tables) -> pl.DataFrame:
        """Laboratory results, and what was charted as a number."""
        labs = block["hosp/labevents"].with_columns(kind=pl.lit(_LAB))
        charted = (
            block["icu/chartevents"].filter(pl.col("valuenum").is_not_null()).with_columns(kind=pl.lit(_EXAM))
        )
        both = pl.concat([labs, charted], how="diagonal_relaxed").with_columns(
            number=pl.when(~pl.col("value").str.contains("[<>]").fill_null(False)).then(pl.col("valuenum"))
        )
        named = both.join(self.items, on="itemid", how="left", maintain_order="left")
        return named.select(
            measurement_id=self._ids("measurement", both), person_id="subject_id", measurement_concept_id=0,
            measurement_type_concept_id="kind", value_as_number="number", value_source_value="value",
            unit_source_value="valueuom", range_low="ref_range_lower", range_high="ref_range_upper",
            visit_occurrence_id="hadm_id", measurement_source_value="label",
            measurement_source_concept_id=_LOCAL + pl.col("itemid"),
            **_span("measurement", "charttime"),
        )  # fmt: skip

    def _drugs(self, block: Tables) -> pl.DataFrame:
        """Prescriptions, and doses that were given."""
        ordered = block["hosp/prescriptions"].select(
            "subject_id", "hadm_id", kind=pl.lit(_ORDERED), start="starttime", end="stoptime", drug="drug",
            route="route", sig=pl.concat_str("dose_val_rx", "dose_unit_rx", separator=" ", ignore_nulls=True),
        )  # fmt: skip
        dose = pl.col("dose_given").cast(pl.Float64, strict=False)
        doses = (
            block["hosp/emar_detail"]
            .drop_nulls("dose_given")
            .unique("emar_id", keep="first", maintain_order=True)
        )
        taken = block["hosp/emar"].filter(pl.col("event_txt") == "Administered")
        doses = doses.select("emar_id", "route", "dose_given_unit", dose=dose)
        given = taken.join(doses, on="emar_id", how="left", maintain_order="left").select(
            "subject_id", "hadm_id", "dose", "route", kind=pl.lit(_GIVEN), start="charttime", end="charttime",
            drug="medication", unit="dose_given_unit",
        )  # fmt: skip
        both = pl.concat([ordered, given], how="diagonal_relaxed")
        return both.select(
            drug_exposure_id=self._ids("drug", both), person_id="subject_id", drug_concept_id=0,
            drug_type_concept_id="kind", quantity="dose", sig="sig", visit_occurrence_id="hadm_id",
            drug_source_value="drug", route_source_value="route", dose_unit_source_value="unit",
            **_span("drug_exposure_start", "start"), **_span("drug_exposure_end", "end"),
        )  # fmt: skip

    def _notes(self, block: Tables) -> pl.DataFrame:
        """Notes at the time they were signed."""
        both = pl.concat([block["note/discharge"], block["note/radiology"]], how="diagonal_relaxed")
        return both.select(
            note_id=self._ids("note", both), person_id="subject_id", note_type_concept_id=_EHR,
            note_class_concept_id=0, note_title="note_type", note_text="text", encoding_concept_id=0,
            language_concept_id=0, visit_occurrence_id="hadm_id", note_source_value="note_id",
            **_span("note", "storetime"),
        )  # fmt: skip

    def _coded(self, rows: pl.DataFrame, kind: str, base: int) -> pl.DataFrame:
        """Rows with the `concept_id` of their ICD code."""
        codes = self.codes[kind].select(
            "icd_code", "icd_version", concept_id=base + pl.col("n").cast(pl.Int64)
        )
        return rows.join(codes, on=["icd_code", "icd_version"], how="left", maintain_order="left")

    def _ids(self, kind: str, rows: pl.DataFrame) -> pl.Series:
        """The next ids of a kind, one for each row."""
        start = self.taken[kind]
        self.taken[kind] += rows.height
        return pl.int_range(start + 1, start + rows.height + 1, eager=True)


def _span(stem: str, column: str) -> dict[str, pl.Expr]:
    """OMOP's pair of a date and the same with the time of day."""
    return {f"{stem}_date": pl.col(column).cast(pl.Date), f"{stem}_datetime": pl.col(column)}
