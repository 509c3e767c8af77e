"""The one verb of this package: write a hospital.

    generate(Path("hospital"), admissions=4_000, seed=1)

Patients come in blocks of a fixed size, each from its own random stream, and are written as they are made: a
million admissions need no more memory than a thousand.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from ehrseq.core.errors import ConfigError
from ehrseq.core.files import recover_folder, replace_folder, storage_errors, sync_tree, write_json
from ehrseq.synthetic.bedside import bedside
from ehrseq.synthetic.billing import billing
from ehrseq.synthetic.block import Block, Ids, Tables
from ehrseq.synthetic.careers import make_stays
from ehrseq.synthetic.cultures import cultures
from ehrseq.synthetic.dictionaries import dictionaries
from ehrseq.synthetic.hospital import Hospital, load_hospital
from ehrseq.synthetic.infusions import infusions
from ehrseq.synthetic.laboratory import laboratory
from ehrseq.synthetic.layout import TABLES
from ehrseq.synthetic.medication import medication
from ehrseq.synthetic.mess import spoil
from ehrseq.synthetic.movements import movements
from ehrseq.synthetic.notes import notes
from ehrseq.synthetic.omop import TABLES as OMOP_TABLES
from ehrseq.synthetic.omop import Omop
from ehrseq.synthetic.orders import orders
from ehrseq.synthetic.outpatient import outpatient
from ehrseq.synthetic.patients import make_patients
from ehrseq.synthetic.risk import TASKS
from ehrseq.synthetic.treatment import draw_courses
from ehrseq.synthetic.truth import truth
from ehrseq.synthetic.writing import HospitalWriter

type Format = Literal["mimic_iv", "omop"]
FORMATS = ("mimic_iv", "omop")
BLOCK_PATIENTS = 256
SUMMARY = "synthetic.json"


@dataclass(frozen=True)
class Summary:
    """What was generated. `rows` by table, `labels` and `prevalence` by task."""

    patients: int
    admissions: int
    rows: dict[str, int]
    labels: dict[str, int]
    prevalence: dict[str, float]
    seed: int
    mess: bool
    synthetic: bool = True

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def __rich__(self) -> str:
        """For people."""
        tasks = "; ".join(
            f"{task} {count:,} labels, {100 * self.prevalence[task]:.1f} % true"
            for task, count in self.labels.items()
        )
        people = f"{self.patients:,} patients, {self.admissions:,} admissions"
        return f"{people}, {sum(self.rows.values()):,} rows in {len(self.rows)} tables. {tasks}."


def generate(
    out: Path,
    *,
    patients: int | None = None,
    admissions: int | None = None,
    seed: int = 0,
    mess: bool = True,
    format: Format = "mimic_iv",
) -> Summary:
    """Write a synthetic hospital, and `truth.parquet`, into folder `out`.

    `format`: the layout of MIMIC-IV 2.2, or of OMOP CDM 5.4: the same patients and facts, and never a mess, as who
    fills an OMOP database has cleaned up before. Give the number of `patients`, or the least number of `admissions`
    (whole patients are added until it is reached); by default 1,000 admissions. The same arguments give the same bytes.
    `mess=False` leaves out everything `mess.py` does. The folder appears when it is complete; an older synthetic
    hospital is replaced.

    Raises: ConfigError for numbers below 1 or if `out` holds something else; StorageError if the disk refuses.
    """
    out = Path(out).absolute()
    if patients is not None and admissions is not None:
        raise ConfigError("generate: both patients and admissions were given; give one of them.")
    wanted = 1_000 if patients is None and admissions is None else (patients or admissions or 0)
    if format not in FORMATS:
        raise ConfigError(f"generate: format {format!r}: expected {' or '.join(FORMATS)}.")
    if wanted < 1 or seed < 0:
        raise ConfigError(
            f"generate: {wanted:,} patients or admissions, seed {seed}: the first must be at least 1, the seed 0."
        )
    _check_free(out)
    recover_folder(out)
    aside = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    try:
        with storage_errors(out):
            aside.mkdir(parents=True)
        mess = mess and format == "mimic_iv"
        summary = _write(aside, patients, None if patients else wanted, seed, mess, format)
        write_json(aside / SUMMARY, asdict(summary))
        sync_tree(aside)
        replace_folder(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return summary


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and ((out / SUMMARY).exists() or not any(out.iterdir()))):
        raise ConfigError(
            f"{out}: holds something that is not a synthetic hospital. Choose another folder, or empty it."
        )


def _write(
    folder: Path, patients: int | None, admissions: int | None, seed: int, mess: bool, format: Format
) -> Summary:
    hospital = load_hospital()
    known = dictionaries(hospital)
    omop = Omop(known) if format == "omop" else None
    people = stays = 0
    labels, positives = dict.fromkeys(TASKS, 0), dict.fromkeys(TASKS, 0)
    with HospitalWriter(folder, OMOP_TABLES if omop else TABLES) as writer:
        writer.write(omop.concepts() if omop else known)
        for block, tables in blocks(hospital, patients=patients, admissions=admissions, seed=seed, mess=mess):
            true = truth(block)
            writer.write(omop.tables(tables) if omop else tables, true)
            people, stays = people + len(tables["hosp/patients"]), stays + len(block.stays)
            for task, count, events in (
                true.group_by("task").agg(pl.len(), pl.col("outcome").sum()).iter_rows()
            ):
                labels[task] += count
                positives[task] += events
    prevalence = {task: round(positives[task] / max(labels[task], 1), 6) for task in TASKS}
    return Summary(people, stays, writer.rows, labels, prevalence, seed, mess)


def blocks(
    hospital: Hospital, *, patients: int | None, admissions: int | None, seed: int, mess: bool
) -> Iterator[tuple[Block, Tables]]:
    """Yield blocks with their tables until there are enough patients, or admissions.

    A block that is whole does not depend on how many come after it.
    """
    ids, number = Ids(), 0
    people_left = np.inf if patients is None else patients
    stays_left = np.inf if admissions is None else admissions
    while people_left > 0 and stays_left > 0:
        people_stream, event_stream, mess_stream = np.random.default_rng([seed, number]).spawn(3)
        block = _block(hospital, ids, people_stream, people_left, stays_left)
        tables = _tables(block, event_stream)
        yield block, spoil(tables, block, mess_stream) if mess else tables
        people_left, stays_left = people_left - len(block.patients), stays_left - len(block.stays)
        number += 1


def _block(
    hospital: Hospital, ids: Ids, rng: np.random.Generator, people_left: float, stays_left: float
) -> Block:
    """Patients and admissions of one block, cut after the last patient that is needed."""
    patients = make_patients(ids.take("subject", BLOCK_PATIENTS), hospital, rng)
    stays = make_stays(patients, hospital, rng)
    needed = np.arange(1, len(stays) + 1) >= stays_left
    last = stays.subject[np.argmax(needed)] if needed.any() else len(patients) - 1
    people = int(min(last + 1, people_left))
    stays = stays.take(stays.subject < people)
    icu = ~np.isnan(stays.icu_in)
    stay_id = np.zeros(len(stays), np.int64)
    stay_id[icu] = ids.take("stay", int(icu.sum()))
    return Block(hospital, patients.take(people), stays, ids.take("hadm", len(stays)), stay_id, ids)


def _tables(block: Block, rng: np.random.Generator) -> Tables:
    """Every table but the dictionaries."""
    courses = draw_courses(block, rng)
    ordered, numbered = orders(block, courses, rng)
    visits = outpatient(block, rng)
    tested = laboratory(block, rng)
    both = pl.concat([visits["hosp/labevents"], tested["hosp/labevents"]], how="diagonal_relaxed")
    return {
        **movements(block, rng),
        **ordered,
        **medication(block, courses, numbered, rng),
        **bedside(block, rng),
        **infusions(block, rng),
        **cultures(block, rng),
        **billing(block, rng),
        **notes(block, rng),
        "hosp/omr": visits["hosp/omr"],
        "hosp/labevents": both.sort("subject_id", "charttime", maintain_order=True),
    }
