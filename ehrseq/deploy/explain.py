"""`ehrseq explain`: one patient's prediction, painted on the timeline and traced to FHIR resources and source rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ehrseq.core.errors import ConfigError, EhrseqError
from ehrseq.deploy.patient import name_of
from ehrseq.deploy.trace import check_lineage, readable, subject_index, value_of
from ehrseq.models.attribution import attribute, make_attribution
from ehrseq.models.registry import definition
from ehrseq.timeline.meds import codes as codes_of
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training.model_folder import load_model
from ehrseq.training.predict import prediction_loader, scorer

STEPS = 32  # one patient can afford them: the shares then add up within a hundredth
_BAR = 10  # characters of the longest bar


@dataclass(frozen=True)
class Explanation:
    """A prediction and the events it rests on, in time order; `share` in logits, above 0 = towards the outcome.

    `rest` is the sum of the shares of events not shown; `bare` the probability of a record that says nothing.
    """

    subject: int
    task: str
    prediction_time: str
    probability: float
    bare: float
    rest: float
    events: list[dict[str, Any]]
    names: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "subject_id": self.subject, "task": self.task, "prediction_time": self.prediction_time,
            "probability": self.probability, "bare": self.bare, "rest": self.rest, "events": self.events,
        }  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The prediction, then a line for each event: when, a bar, what, where it came from."""
        yield Text(f"Patient {self.subject}, {self.task} at {self.prediction_time}", style="bold")
        yield Text(
            f"probability {self.probability:.4f} before calibration; {self.bare:.4f} for a record that says nothing. "
            "A bar says how far an event moves the log odds: + towards the outcome, - away from it."
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        for title, options_ in _COLUMNS.items():
            table.add_column(title, **options_)
        longest = max((abs(event["share"]) for event in self.events), default=1.0)
        for event in self.events:
            size = max(1, round(_BAR * abs(event["share"]) / longest))
            bar = ("+" if event["share"] > 0 else "-") * size
            source = f"{event['file']}:{event['row']}" if event["file"] else ""
            table.add_row(
                (event["time"] or "true for life")[:16], f"{event['share']:+.3f}", bar,
                Text(name_of(event["code"], self.names)), Text(event["value"]),
                Text(f"{event['resource_type']}/{event['resource_id']}"), Text(source),
            )  # fmt: skip
        yield table
        yield Text(f"all other events together: {self.rest:+.3f}", style="dim")
        yield Text("What moved the model is not what causes the outcome. Not a medical device.", style="dim")


_COLUMNS: dict[str, dict[str, Any]] = {
    "time": {"no_wrap": True}, "share": {"justify": "right", "no_wrap": True}, "": {"no_wrap": True, "width": _BAR},
    "event": {"overflow": "fold"}, "value": {"no_wrap": True, "overflow": "ellipsis"}, "resource": {"overflow": "fold"},
    "source row": {"overflow": "fold"},
}  # fmt: skip


def explain(
    run: Path, *, subject: int | None = None, task: str | None = None, at: int | None = None, most: int = 20
) -> Explanation:
    """Explain the run's own model on one of its subjects (None: the one with the smallest id that has a label).

    `task`: default, the model's first. `at`: which of the subject's predictions of that task, from 0; default the last.
    `most`: events to show. Raises: ConfigError if there is no such prediction; SchemaError if datasets do not fit.
    """
    run = Path(run)
    model, store, examples = (
        load_model(run / "model"),
        TokenStore.open(run / "tokens"),
        Examples.load(run / "examples"),
    )
    model.check(store)
    tasks = [str(one) for one in examples.tasks[examples.single()]]
    name = task or tasks[0]
    if name not in tasks:
        raise ConfigError(f"--task {name}: the model predicts {', '.join(tasks)}.")
    index = subject_index(store, run / "tokens", subject) if subject is not None else None
    asked = np.flatnonzero(examples.task == list(examples.tasks).index(name))
    rows = asked if index is None else asked[examples.subject[asked] == index]
    if not len(rows):
        who = "nobody" if subject is None else f"subject {subject} never"
        raise ConfigError(f"{run}: {who} was asked about {name}. Another --task, or another --subject.")
    if index is None:
        rows = rows[examples.subject[rows] == examples.subject[rows[0]]]
    chosen = len(rows) - 1 if at is None else at
    if not 0 <= chosen < len(rows):
        raise ConfigError(f"--at {at}: the subject has predictions 0 to {len(rows) - 1} of {name}.")
    row = rows[chosen]
    config = model.config
    bind = definition(config.model, model.inputs)
    shares = attribute(
        make_attribution(bind, STEPS), model.parameters, store, examples, np.asarray([row]), context=config.context,
        row_length=config.context, batch_rows=1, most=None,
    )  # fmt: skip
    loader = prediction_loader(config, store, examples, np.asarray([row]))
    logits = np.atleast_1d(scorer(config, model.inputs).logits(model.parameters, loader)[row])
    logit = float(logits[examples.first_output()[examples.task[row]] if len(logits) > 1 else 0])
    order = np.argsort(-np.abs(shares.share), kind="stable")[:most]
    events, names = _events(run, store, int(examples.subject[row]), shares.token[order], shares.share[order])
    return Explanation(
        subject=int(store.subject_id[examples.subject[row]]),
        task=name,
        prediction_time=str(examples.prediction_time[row].astype("datetime64[us]").astype("datetime64[s]")),
        probability=_expit(logit),
        bare=_expit(logit - float(shares.share.sum())),
        rest=float(shares.share.sum() - shares.share[order].sum()),
        events=events,
        names=names,
    )


def _expit(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def _events(
    run: Path, store: TokenStore, subject: int, tokens: Any, shares: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The tokens' events in time order, with the rows of the source that they were mapped from."""
    place = run / "timeline"
    bucket = f"{int(store.shard[subject]):04d}.parquet"
    wanted = pl.DataFrame(
        {
            "_row": np.asarray(store.event[tokens]).astype(np.uint32),
            "token": np.asarray(tokens) - int(store.offsets[subject]),
            "share": shares,
        }
    )
    with readable(place):
        rows = pl.scan_parquet(place / "data" / bucket, row_index_name="_row")
        found = rows.join(wanted.lazy(), on="_row", how="inner").sort("token").collect()
        table = codes_of(place).filter(
            pl.col("code").is_in(found["code"].implode()), pl.col("description").is_not_null()
        )
    origins = _sources(run, bucket, found)
    events = [
        {
            "token": event["token"], "share": float(event["share"]), "time": event["time"] and str(event["time"]),
            "code": event["code"], "value": value_of(event)[:60], "resource_type": event["resource_type"],
            "resource_id": event["resource_id"],
            "file": origins.get((event["resource_type"], event["resource_id"]), (None, None))[0],
            "row": origins.get((event["resource_type"], event["resource_id"]), (None, None))[1],
        }
        for event in found.to_dicts()
    ]  # fmt: skip
    return events, dict(table.select("code", "description").iter_rows())


def _sources(run: Path, bucket: str, events: pl.DataFrame) -> dict[tuple[str, str], tuple[str, int]]:
    """File and row of each resource, where the run holds its FHIR store."""
    try:
        check_lineage(run)
    except EhrseqError:
        return {}
    found: dict[tuple[str, str], tuple[str, int]] = {}
    for (kind,), rows in events.group_by("resource_type"):
        path = run / "fhir" / str(kind) / bucket
        if path.is_file():
            mine = pl.scan_parquet(path).filter(pl.col("id").is_in(rows["resource_id"].implode()))
            for id_, file, row in mine.select("id", "_file", "_row").collect().iter_rows():
                found[str(kind), id_] = (file, row)
    return found
