"""Simple features of a prediction from the rows visible at its time: what a plain model could be given."""

from pathlib import Path

import numpy as np
import polars as pl

STATISTICS = ("first", "last", "min", "max", "len")


def load(folder: Path, table: str) -> pl.DataFrame:
    return pl.read_csv(folder / f"{table}.csv.gz", try_parse_dates=True, infer_schema_length=None)


def features(folder: Path, truth: pl.DataFrame) -> pl.DataFrame:
    """One row per row of `truth` (of one task), in its order; numbers only."""
    keys = truth.select("subject_id", "hadm_id", "prediction_time")
    wide = keys.join(_admission(folder, keys), on="hadm_id", how="left", maintain_order="left")
    for frame in (
        _measured(folder, keys, "hosp/labevents"),
        _measured(folder, keys, "icu/chartevents"),
        _counted(folder, keys, "hosp/poe", "ordertime", ["order_type", "order_subtype"]),
        _counted(folder, keys, "hosp/prescriptions", "starttime", ["drug"]),
        _counted(folder, keys, "hosp/services", "transfertime", ["curr_service"]),
        _counted(folder, keys, "hosp/transfers", "intime", ["careunit"]),
        _rates(folder, keys),
        _past(folder, keys),
    ):
        wide = wide.join(frame, on="hadm_id", how="left", maintain_order="left")
    wide = wide.drop("subject_id", "hadm_id", "prediction_time").cast(pl.Float32)
    return wide.select(column for column in wide if column.n_unique() > 2 or column.null_count() == 0)


def _admission(folder: Path, keys: pl.DataFrame) -> pl.DataFrame:
    people = load(folder, "hosp/patients").select("subject_id", "gender", "anchor_age", "anchor_year")
    stays = (
        load(folder, "hosp/admissions")
        .join(people, on="subject_id")
        .join(keys.select("hadm_id", "prediction_time"), on="hadm_id")
    )
    words = ["admission_type", "marital_status", "insurance", "discharge_location"]
    left = pl.col("dischtime") <= pl.col("prediction_time")
    return stays.select(
        "hadm_id",
        age=pl.col("anchor_age") + pl.col("admittime").dt.year() - pl.col("anchor_year"),
        female=pl.col("gender") == "F",
        hours=pl.when(left).then((pl.col("dischtime") - pl.col("admittime")).dt.total_minutes() / 60),
        emergency=pl.col("edregtime").is_not_null(),
        **{
            word: pl.when(left | (pl.lit(word) != "discharge_location")).then(pl.col(word).rank("dense"))
            for word in words
        },
    )


def _measured(folder: Path, keys: pl.DataFrame, table: str) -> pl.DataFrame:
    usual = pl.col("valueuom").mode().first().over("itemid")
    seen = (
        load(folder, table)
        .unique()
        .filter(pl.col("valuenum").is_not_null() & (pl.col("valueuom").is_null() | (pl.col("valueuom") == usual)))
        .join(keys, on="hadm_id")
        .filter(pl.coalesce("storetime", "charttime") <= pl.col("prediction_time"))
        .sort("charttime")
        .group_by("hadm_id", "itemid")
        .agg(
            first=pl.col("valuenum").first(), last=pl.col("valuenum").last(), min=pl.col("valuenum").min(),
            max=pl.col("valuenum").max(), len=pl.len(),
        )
    )  # fmt: skip
    return seen.pivot("itemid", index="hadm_id", values=list(STATISTICS), sort_columns=True)


def _counted(folder: Path, keys: pl.DataFrame, table: str, time: str, names: list[str]) -> pl.DataFrame:
    name = pl.concat_str([pl.lit(table), *names], separator="|", ignore_nulls=True)
    return (
        load(folder, table)
        .join(keys.select("hadm_id", "prediction_time"), on="hadm_id")
        .filter(pl.col(time) <= pl.col("prediction_time"))
        .group_by("hadm_id", name=name)
        .len()
        .pivot("name", index="hadm_id", values="len", sort_columns=True)
    )


def _rates(folder: Path, keys: pl.DataFrame) -> pl.DataFrame:
    return (
        load(folder, "icu/inputevents")
        .filter(pl.col("rateuom") == "mcg/kg/min")
        .join(keys.select("hadm_id", "prediction_time"), on="hadm_id")
        .filter(pl.col("storetime") <= pl.col("prediction_time"))
        .sort("starttime")
        .group_by("hadm_id")
        .agg(rate_first=pl.col("rate").first(), rate_last=pl.col("rate").last())
    )


def _past(folder: Path, keys: pl.DataFrame) -> pl.DataFrame:
    """Billed diagnoses known by then (earlier admissions; this one's at discharge), and how many admissions."""
    stays = load(folder, "hosp/admissions").select("hadm_id", "subject_id", "dischtime")
    coded = load(folder, "hosp/diagnoses_icd").select(
        "hadm_id", name=pl.format("{}:{}", "icd_version", pl.col("icd_code").cast(pl.String))
    )
    known = keys.join(stays.rename({"hadm_id": "past"}), on="subject_id").filter(
        pl.col("dischtime") <= pl.col("prediction_time")
    )
    year = pl.col("dischtime") > pl.col("prediction_time") - pl.duration(days=365)
    how_many = known.group_by("hadm_id").agg(before=pl.len(), in_year=year.sum())
    table = (
        known.join(coded, left_on="past", right_on="hadm_id")
        .group_by("hadm_id", "name")
        .len()
        .pivot("name", index="hadm_id", values="len", sort_columns=True)
    )
    return how_many.join(table, on="hadm_id", how="left")


def held_out(subject_id: np.ndarray) -> np.ndarray:
    """A fixed fifth of the patients."""
    order = np.argsort(np.argsort(np.unique(subject_id) * 2_654_435_761 % 2**32))
    chosen = np.unique(subject_id)[order % 5 == 0]
    return np.isin(subject_id, chosen)
