"""The tables evaluation reads: predictions (one schema everywhere, DESIGN section 12) and the known truth."""

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema


class Prediction(Schema):
    """One model's probability for one patient at one moment.

    (subject_id, prediction_time, task, model) is unique.
    `label` is null while the outcome is unknown; such rows are counted and left out of an evaluation.
    """

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    task = Required(pl.String)
    probability = Required(pl.Float64)
    label = Nullable(pl.Boolean)
    model = Required(pl.String)


class Truth(Schema):
    """The true risk at a prediction, known for synthetic patients only (`truth.parquet`)."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    task = Required(pl.String)
    risk = Required(pl.Float64)
