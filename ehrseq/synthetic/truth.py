"""OUT/truth.parquet: for each admission and task, the probability the outcome was drawn with, and the outcome."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.schema import Required, Schema
from ehrseq.synthetic.block import Block, moment
from ehrseq.synthetic.hospital import Floats
from ehrseq.synthetic.risk import LONG_STAY, MORTALITY, READMISSION
from ehrseq.synthetic.stays import DAY


class Truth(Schema):
    """One prediction and its true risk. AUROC of `risk` against `outcome` is what a perfect model attains."""

    subject_id = Required(pl.Int64)
    hadm_id = Required(pl.Int64)
    task = Required(pl.String)
    prediction_time = Required(pl.Datetime("us"))
    risk = Required(pl.Float64)
    outcome = Required(pl.Boolean)


def truth(block: Block) -> pl.DataFrame:
    """The truth of a block, ordered by task, subject and time. Only admissions for which a task is defined."""
    stays = block.stays
    next_day = stays.admit + DAY
    parts = [
        _task(block, MORTALITY, stays.risk_mortality, stays.died, next_day),
        _task(block, READMISSION, stays.risk_readmission, stays.readmitted, stays.end),
        _task(block, LONG_STAY, stays.risk_long, stays.long, next_day),
    ]
    frame = pl.concat(parts)
    Truth.check(frame)
    return frame


def _task(
    block: Block, task: str, risk: Floats, outcome: NDArray[np.bool_], time: NDArray[np.int64]
) -> pl.DataFrame:
    row = np.flatnonzero(~np.isnan(risk))
    return pl.DataFrame(
        {
            **block.key(row),
            "task": [task] * len(row),
            "prediction_time": moment(time[row]),
            "risk": risk[row],
            "outcome": outcome[row],
        }
    )
