"""What is coded after discharge: diagnoses_icd, procedures_icd, drgcodes and hcpcsevents. None has a time of day."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, pick
from ehrseq.synthetic.hospital import Code
from ehrseq.synthetic.stays import DAY
from ehrseq.synthetic.treatment import vasopressor_hours, ventilator_hours

type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]

_ICD10_FROM = 2016  # first full calendar year of ICD-10-CM billing in the United States


def billing(block: Block, rng: np.random.Generator) -> Tables:
    """The four tables of coders. Codes are ICD-9 before 2016 (in hidden calendar years), ICD-10 after."""
    return {
        "hosp/diagnoses_icd": _diagnoses(block, rng),
        "hosp/procedures_icd": _procedures(block, rng),
        "hosp/drgcodes": _drg(block, rng),
        "hosp/hcpcsevents": _hcpcs(block),
    }


def _version(block: Block) -> Ints:
    stays, patients = block.stays, block.patients
    year = stays.admit.astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970
    real = patients.real_year[stays.subject] + year - patients.anchor_year[stays.subject]
    return np.where(real >= _ICD10_FROM, 10, 9)


def _coded(block: Block, parts: list[tuple[Bools, Code, Code]]) -> pl.DataFrame:
    """Rows (row, rank, code, version) where a mask over admissions says so; a code once per admission."""
    version = _version(block)
    rows, codes, ranks = [], [], []
    words: list[str] = []
    for rank, (present, icd10, icd9) in enumerate(parts):
        row = np.flatnonzero(present)
        words += [icd9[0], icd10[0]]
        rows.append(row)
        codes.append(2 * rank + (version[row] == 10))
        ranks.append(np.full(len(row), rank))
    row = np.concatenate(rows)
    frame = pl.DataFrame({"row": row, "rank": np.concatenate(ranks), "icd_version": version[row]})
    frame = frame.with_columns(icd_code=pick(words, np.concatenate(codes)))
    frame = frame.sort("row", "rank").unique(["row", "icd_code"], keep="first", maintain_order=True)
    frame = frame.with_columns(seq_num=pl.int_range(1, pl.len() + 1).over("row"))
    return frame.with_columns(
        **{name: pl.Series(ids) for name, ids in block.key(frame["row"].to_numpy()).items()}
    )


def _diagnoses(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    hospital, stays, count = block.hospital, block.stays, len(block.stays)
    happened = {
        "respiratory_failure": ~np.isnan(ventilator_hours(block)),
        "shock": ~np.isnan(vasopressor_hours(block)),
        "acidosis": stays.day_one > 1.4,
        "kidney_injury": (stays.day_one > 1.0) & (rng.random(count) < 0.6),
        "tobacco": rng.random(count) < 0.2,
        "alone": block.patients.alone[stays.subject] & (rng.random(count) < 0.6),
    }
    parts = [(stays.group == n, group.icd10, group.icd9) for n, group in enumerate(hospital.groups.values())]
    parts += [
        (seen, hospital.complications[name]["icd10"], hospital.complications[name]["icd9"])
        for name, seen in happened.items()
    ]
    for number, condition in enumerate(hospital.conditions.values()):
        coded = stays.conditions[:, number] & (rng.random(count) < 0.93)
        parts.append((coded, condition.icd10, condition.icd9))
    return _coded(block, parts).select("subject_id", "hadm_id", "seq_num", "icd_code", "icd_version")


def _procedures(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    hospital, stays, count = block.hospital, block.stays, len(block.stays)
    own = [group.procedure for group in hospital.groups.values()]
    parts = []
    for name, codes in hospital.procedures.items():
        done = np.array([procedure == name for procedure in own])[stays.group] & (rng.random(count) < 0.9)
        if name == "ventilation":
            done = ~np.isnan(ventilator_hours(block))
        elif name == "central_line":
            done = ~np.isnan(vasopressor_hours(block))
        parts.append((done & (stays.hours > 12), codes["icd10"], codes["icd9"]))
    frame = _coded(block, parts)
    day = stays.admit[frame["row"].to_numpy()] // DAY
    return frame.select(
        "subject_id", "hadm_id", "seq_num", "icd_code", "icd_version",
        chartdate=pl.Series(day.astype(np.int32)).cast(pl.Date),
    )  # fmt: skip


def _drg(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    """Two groupers for each inpatient stay: HCFA, and APR with severity and mortality classes 1-4."""
    stays, groups = block.stays, list(block.hospital.groups.values())
    row = np.flatnonzero((rng.random(len(stays)) < 0.95) & ~np.isin(stays.kind, (3, 4)))
    burden = 0.5 * (stays.day_one + stays.conditions.sum(axis=1) / 2)[row]
    class_ = np.clip(np.rint(1 + burden), 1, 4)
    key = {**block.key(row), "drg_code": pick([group.drg[0] for group in groups], stays.group[row])}
    key["description"] = pick([group.drg[1] for group in groups], stays.group[row])
    hcfa = pl.DataFrame(key).with_columns(drg_type=pl.lit("HCFA"))
    apr = pl.DataFrame(key).with_columns(
        drg_type=pl.lit("APR"),
        drg_severity=pl.Series(class_.astype(np.int64)),
        drg_mortality=pl.Series(np.clip(class_ - (rng.random(len(row)) < 0.4), 1, 4).astype(np.int64)),
    )
    return pl.concat([hcfa, apr], how="diagonal").sort("subject_id", "hadm_id", maintain_order=True)


def _hcpcs(block: Block) -> pl.DataFrame:
    codes = block.hospital.hcpcs
    stay = np.flatnonzero(np.isin(block.stays.kind, (3, 4)))
    row, number = np.repeat(stay, len(codes)), np.tile(np.arange(len(codes)), len(stay))
    day = (block.stays.admit[row] // DAY).astype(np.int32)
    return pl.DataFrame(
        {
            **block.key(row),
            "chartdate": pl.Series(day).cast(pl.Date),
            "hcpcs_cd": pick([entry["code"] for entry in codes], number),
            "seq_num": number + 1,
            "short_description": pick([entry["short"] for entry in codes], number),
        }
    )
