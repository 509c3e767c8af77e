"""note/radiology and note/discharge: short texts that say in words what the numbers say, with the noise of words."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.synthetic.block import Block, Tables, moment, pick
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.stays import DAY, severity_at

type Ints = NDArray[np.int64]

_EXTENT = [
    "No other abnormality.",
    "Mild bibasilar atelectasis.",
    "Small bilateral pleural effusions.",
    "Extensive bilateral opacities with large effusions.",
]
_CHANGE = [
    "Interval improvement compared with the prior study.",
    "No significant interval change.",
    "Interval worsening compared with the prior study.",
]
_COURSE = [
    "The patient improved promptly with treatment.",
    "The patient improved slowly.",
    "The course was complicated and recovery incomplete.",
]


def notes(block: Block, rng: np.random.Generator) -> Tables:
    """Radiology reports of the first day (a second one in intensive care) and a summary per admission."""
    return {"note/radiology": _radiology(block, rng), "note/discharge": _discharge(block, rng)}


def _person(block: Block, row: Ints) -> pl.Series:
    return pick(["man", "woman"], block.patients.female[block.stays.subject[row]].astype(np.int64))


def _reason(block: Block, row: Ints) -> pl.Series:
    return pick([name.replace("_", " ") for name in block.hospital.groups], block.stays.group[row])


def _numbered(frame: pl.DataFrame, kind: str) -> pl.DataFrame:
    return (
        frame.sort("subject_id", "charttime", maintain_order=True)
        .with_columns(note_seq=pl.int_range(1, pl.len() + 1).over("subject_id"), note_type=pl.lit(kind))
        .with_columns(note_id=pl.format("{}-{}-{}", "subject_id", "note_type", "note_seq"))
    )


def _radiology(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays = block.stays
    first = np.flatnonzero((rng.random(len(stays)) < 0.6) & (stays.hours > 8))
    second = first[~np.isnan(stays.icu_in[first]) & (stays.hours[first] > 21)]
    row = np.r_[first, second]
    again = np.r_[np.zeros(len(first), np.int64), np.ones(len(second), np.int64)]
    hour = np.where(again == 1, rng.uniform(15, 20, len(row)), rng.uniform(0.5, 6, len(row)))
    charted = block.seconds(row, hour)
    severity = severity_at(stays, row, hour) + rng.normal(0, 0.4, len(row))
    change = np.digitize(stays.trend[row] + rng.normal(0, 0.4, len(row)), [-0.3, 0.3])
    words = pl.DataFrame(
        {
            "person": _person(block, row),
            "reason": _reason(block, row),
            "finding": pick([group.finding for group in block.hospital.groups.values()], stays.group[row]),
            "extent": pick(_EXTENT, np.digitize(severity, [-0.3, 0.6, 1.5])),
            "change": pick(_CHANGE, np.where(again == 1, change, 1)),
        }
    )
    text = pl.format(
        "EXAMINATION:  CHEST (PORTABLE AP)\n\nINDICATION:  ___ year old {} with {}.\n\n"
        "FINDINGS:  There is {}. {}\n\nIMPRESSION:  {}\n",
        "person", "reason", "finding", "extent", "change",
    )  # fmt: skip
    frame = pl.DataFrame(
        {
            **block.key(row),
            "charttime": moment(charted),
            "storetime": moment(block.stored(row, charted, rng.uniform(30, 180, len(row)))),
            "text": words.select(text).to_series(),
        }
    )
    return _numbered(frame, "RR")


def _discharge(block: Block, rng: np.random.Generator) -> pl.DataFrame:
    stays, count = block.stays, len(block.stays)
    row = np.arange(count)
    services = [group.service for group in block.hospital.groups.values()]
    words = pl.DataFrame(
        {
            "service": pick(services, stays.group),
            "reason": _reason(block, row),
            "person": _person(block, row),
            "history": _history(block),
            "course": pick(_COURSE, _felt(stays.final, rng)),
            "outcome": pick(["Home", "Expired"], stays.died.astype(np.int64)),
        }
    )
    text = pl.format(
        "Name:  ___                     Unit No:   ___\n\nService: {}\n\nChief Complaint:\n{}\n\n"
        "History of Present Illness:\n___ year old {} admitted with {}.\n\nPast Medical History:\n{}\n\n"
        "Brief Hospital Course:\n{}\n\nDischarge Disposition:\n{}\n",
        "service", "reason", "person", "reason", "history", "course", "outcome",
    )  # fmt: skip
    frame = pl.DataFrame(
        {
            **block.key(row),
            "charttime": moment(stays.end // DAY * DAY),
            # dictated after the fact: with the death notes of the same evening, the only later row there is
            "storetime": moment(stays.end + rng.integers(20, 300, count) * 60),
            "text": words.select(text).to_series(),
        }
    )
    return _numbered(frame, "DS")


def _felt(final: Floats, rng: np.random.Generator) -> Ints:
    return np.digitize(final + rng.normal(0, 0.4, len(final)), [-0.8, 0.2])


def _history(block: Block) -> pl.Series:
    """The chronic conditions of each admission, joined by commas [S]; "none" without any."""
    row, condition = np.nonzero(block.stays.conditions)
    names = [name.replace("_", " ") for name in block.hospital.conditions]
    listed = pl.DataFrame({"row": row, "name": pick(names, condition)})
    joined = listed.group_by("row", maintain_order=True).agg(pl.col("name").str.join(", "))
    every = pl.DataFrame({"row": np.arange(len(block.stays))})
    return every.join(joined, on="row", how="left", maintain_order="left")["name"].fill_null("none")
