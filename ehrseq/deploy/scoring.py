"""A model version at work: questions in, probabilities with intervals and reasons out, or an abstention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.errors import ModelError
from ehrseq.core.manifest import Account
from ehrseq.core.schema import Nullable, Required, Schema
from ehrseq.deploy.familiar import IN_WORDS, REASONS
from ehrseq.deploy.measured import calibrated
from ehrseq.deploy.version import ModelVersion
from ehrseq.models.attribution import STEPS, Shares, attribute, make_attribution
from ehrseq.models.registry import definition
from ehrseq.tokens.examples import place_labels
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import Examples
from ehrseq.training.predict import scorer

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

MOST_REASONS = 10


class Scored(Schema):
    """One prediction. The schema of `evaluation.schema.Prediction`, with the interval and the uncalibrated score."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    task = Required(pl.String)
    probability = Required(pl.Float64)  # calibrated
    low = Required(pl.Float64)  # 95 % interval of the calibration
    high = Required(pl.Float64)
    score = Required(pl.Float64)  # as the model says, before calibration
    label = Nullable(pl.Boolean)  # null: not known yet
    model = Required(pl.String)  # name/version


class Abstained(Schema):
    """A prediction that was asked for and not made. `measure` is above `limit` (see `familiar`)."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    task = Required(pl.String)
    reason = Required(pl.String)
    measure = Nullable(pl.Float64)  # null: the reason has none
    limit = Nullable(pl.Float64)
    message = Required(pl.String)
    model = Required(pl.String)


@dataclass(frozen=True)
class Answer:
    """`scored` (schema `Scored`), `abstained` (schema `Abstained`), the books by task, and what moved the predictions:
    `shares` by row of `examples`; `rows[i]` is the row of `scored[i]`."""

    scored: pl.DataFrame
    abstained: pl.DataFrame
    books: dict[str, Account]
    examples: Examples
    rows: NDArray[np.int64]
    shares: Shares | None


class Predictor:
    """Compiled functions of one version. Make it once and use it for every batch, or every patient."""

    def __init__(self, version: ModelVersion, *, steps: int = STEPS) -> None:
        self.version = version
        trained = version.trained
        bind = definition(trained.config.model, trained.inputs)
        self._scorer = scorer(trained.config, trained.inputs)
        self._shares = make_attribution(bind, steps)

    def answer(
        self, store: "TokenStore", asked: pl.DataFrame, *, reasons: int = MOST_REASONS, alone: bool = False
    ) -> Answer:
        """Answer `asked` (subject_id, prediction_time, task) from a store that has the model's own vocabulary.

        `reasons`: shares of how many events for each prediction; 0 = none. `alone`: shapes for one patient instead of
        packed batches. Raises: ModelError for another vocabulary or an unknown task.
        """
        self.version.trained.check(store)
        examples, books = self._examples(store, asked)
        rows = np.arange(len(examples))
        config = self.version.trained.config
        why, value = self.version.familiar.judge(store, examples, rows, config.context)
        abstained = self._abstained(store, examples, rows[why > 0], why, value)
        rows = rows[why == 0]
        for task, account in books.items():
            number = int((examples.tasks[examples.task[why > 0]] == task).sum())
            account.used -= number
            account.filtered += number
            reason = {"abstained": number} if number else {}
            account.reasons |= reason
            account.made = {"predictions": account.used}
        if not len(rows):
            return Answer(Scored.empty(), abstained, books, examples, rows, None)
        logits, shares = self.compute(store, examples, rows, reasons=reasons, alone=alone)
        return Answer(self._scored(store, examples, rows, logits), abstained, books, examples, rows, shares)

    def compute(
        self, store: "TokenStore", examples: Examples, rows: NDArray[Any], *, reasons: int, alone: bool
    ) -> tuple[NDArray[np.float64], Shares | None]:
        """Logits [n] of the labels `rows` [n] and the largest shares of each; nothing is refused here."""
        config, parameters = self.version.trained.config, self.version.trained.parameters
        shape = {
            "context": config.context,
            "row_length": config.context if alone else config.row_length,
            "batch_rows": 1 if alone else config.batch_rows,
        }
        logits = self._scorer.logits(parameters, Loader(store, examples, rows, **shape, shuffle=False))[rows]
        if not reasons:
            return logits, None
        return logits, attribute(self._shares, parameters, store, examples, rows, **shape, most=reasons)

    def _examples(self, store: "TokenStore", asked: pl.DataFrame) -> tuple[Examples, dict[str, Account]]:
        known, tasks = self.version.tasks, list(self.version.trained.inputs.tasks)
        if strange := sorted(set(asked["task"].unique()) - set(known)):
            raise ModelError(
                f"{self.version.label} does not know task {strange[0]!r}; it knows {', '.join(known)}."
            )
        parts, books = [], {}
        for number, task in enumerate(tasks):
            mine = asked.filter(task=task).select(
                "subject_id", "prediction_time", boolean_value=pl.lit(None, pl.Boolean)
            )
            if mine.height:
                kept, books[task] = place_labels(store, mine)
                parts.append(kept.with_columns(task=pl.lit(number, pl.Int32)))
        empty = pl.DataFrame(schema={"subject": pl.Int64, "position": pl.Int64, "prediction_time": pl.Int64,
                                     "value": pl.Float32, "task": pl.Int32})  # fmt: skip
        placed = pl.concat([empty, *parts], how="diagonal_relaxed").sort("subject", "prediction_time", "task")
        subject = placed["subject"].to_numpy()
        return Examples(
            subject=subject, position=placed["position"].to_numpy(), task=placed["task"].to_numpy(),
            value=np.full(len(subject), np.nan, np.float32), split=np.full(len(subject), 2, np.int8),
            prediction_time=placed["prediction_time"].to_numpy(), tasks=np.asarray(tasks),
        ), books  # fmt: skip

    def _key(self, store: "TokenStore", examples: Examples, rows: NDArray[Any]) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "subject_id": np.asarray(store.subject_id)[examples.subject[rows]],
                "prediction_time": examples.prediction_time[rows].astype("datetime64[us]"),
                "task": examples.tasks[examples.task[rows]],
            },
            schema={"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "task": pl.String},
        )

    def _scored(
        self, store: "TokenStore", examples: Examples, rows: NDArray[Any], logits: NDArray[np.float64]
    ) -> pl.DataFrame:
        key = self._key(store, examples, rows).with_row_index("_row")
        found = calibrated(key.with_columns(probability=1 / (1 + np.exp(-logits))), self.version.calibration)
        return found.sort("_row").select(
            "subject_id", "prediction_time", "task", "probability", "low", "high", "score",
            label=pl.lit(None, pl.Boolean), model=pl.lit(self.version.label),
        )  # fmt: skip

    def _abstained(
        self,
        store: "TokenStore",
        examples: Examples,
        rows: NDArray[Any],
        why: NDArray[Any],
        value: NDArray[Any],
    ) -> pl.DataFrame:
        names = [REASONS[number] for number in why[rows]]
        limits = [self.version.familiar.limits.get(name) for name in names]
        measure = [
            float(x) if limit is not None else None for x, limit in zip(value[rows], limits, strict=True)
        ]
        words = [IN_WORDS[name] for name in names]
        found = self._key(store, examples, rows).with_columns(
            pl.Series("reason", names, pl.String), pl.Series("measure", measure, pl.Float64),
            pl.Series("limit", limits, pl.Float64), pl.Series("message", words, pl.String),
            model=pl.lit(self.version.label),
        )  # fmt: skip
        return found.select(*Abstained.polars_schema())
