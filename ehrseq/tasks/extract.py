"""`ehrseq label`: find a task's cohort in a timeline, and its labels.

Each moment with a trigger event is a candidate. Windows are laid out from it one endpoint after another; a candidate
leaves when a moment does not exist in its record or a window has too few or too many of something, and is counted by
that reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.executor import run_tasks
from ehrseq.core.manifest import Account, read_manifest
from ehrseq.core.parquet import write_parquet
from ehrseq.core.progress import log
from ehrseq.core.schema import Required, Schema
from ehrseq.tasks.definition import load_task, task_document
from ehrseq.tasks.language import ANY_EVENT, RECORD_END, RECORD_START, TRIGGER, Plain, Task
from ehrseq.tasks.matching import DegenerateTaskError, check_columns, matching_codes
from ehrseq.tasks.several import OUTPUTS, Output, TrueOutput, asked_outputs, count_outputs, true_outputs
from ehrseq.tasks.windows import candidates, lay_out, repeated, visible_outcomes
from ehrseq.timeline.meds import SUBJECT_SPLITS, splits
from ehrseq.timeline.meds import codes as codes_of
from ehrseq.timeline.schema import Event


class Label(Schema):
    """A MEDS 0.4 label. Events at or before `prediction_time` (UTC) may be used for the prediction."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    boolean_value = Required(pl.Boolean)


@dataclass(frozen=True, slots=True)
class _Job:
    task: Task
    shard: Path
    out: Path
    true: Path | None  # of a task with several outputs
    codes: Mapping[str, Sequence[str]]
    train: pl.Series


@dataclass(frozen=True, slots=True)
class _Found:
    triggers: int
    labels: int
    positives: int
    subjects: int
    asked_per_subject: Counter[int]
    years: Counter[int]
    left: Counter[str]
    visible: Mapping[str, tuple[int, int, int]]
    outputs: pl.DataFrame


def label(task: str | Path, timeline: Path, out: Path, *, workers: int = 1, force: bool = False) -> Result:
    """Write the labels of `task` (a shipped task's name or a YAML file) for `timeline` to `out`, in the MEDS schema.

    Labels are sorted by subject and prediction time, one file for each shard of the timeline, in `data/`. Of a task
    with several outputs they say whether any is true, and which are stands beside them (`several`). The manifest
    accounts for every trigger: labelled, or filtered with the reason.

    Raises: TaskError if the file is wrong or looks for codes that this timeline does not have; DegenerateTaskError
    if all labels are the same; SchemaError if `timeline` is no timeline.
    """
    definition, timeline = load_task(task), Path(timeline)
    manifest = read_manifest(timeline, "timeline")
    whole = {key: part for key, part in task_document(task).value.items() if key != "extends"}
    config = {"task": definition.name, "definition": whole}
    with Build(
        Path(out), kind="labels", config=config, inputs=[input_of("timeline", timeline)], force=force
    ) as build:
        if not build.unchanged:
            codes = matching_codes(definition, timeline)
            shards = [Path(s.path) for s in manifest.shards if s.path.startswith("data/")]
            for shard in shards[:1]:
                check_columns(definition, timeline / shard)
            train = _train(timeline)
            jobs = [
                _Job(
                    definition, timeline / path, build.path(path.as_posix()),
                    build.path(_true(path)) if definition.several else None, codes, train,
                )
                for path in shards
            ]  # fmt: skip
            found = run_tasks(_label_shard, jobs, workers=workers, what="shards")
            parts, labels = [part.outputs for part in found], sum(part.labels for part in found)
            several = definition.several
            asked = asked_outputs(definition, codes, codes_of(timeline), parts, labels) if several else None
            _keep_books(build, definition, shards, found, asked)
    return build.result


def _true(shard: Path) -> str:
    return f"true/{shard.name}"


def _train(timeline: Path) -> pl.Series:
    """The training patients; none where nobody has split them."""
    if not (timeline / SUBJECT_SPLITS).is_file():
        return pl.Series(Event.subject_id, [], pl.Int64)
    return splits(timeline).filter(split="train").get_column(Event.subject_id)


def _label_shard(job: _Job) -> _Found:
    task, events = job.task, _read(job)
    moments, rows = candidates(task, events, job.codes)
    triggers = int(moments[task.trigger].sum())
    left: Counter[str] = Counter({f"at the same moment as another {task.trigger}": triggers})
    left[f"at the same moment as another {task.trigger}"] -= int((moments[task.trigger] > 0).sum())
    left["the patient is not one of those asked about"] = int((moments[task.trigger] > 0).sum()) - rows.height
    if task.repeat:
        rows = repeated(rows, moments, task.repeat)
        triggers, left = rows.height, Counter()
    rows, reasons = lay_out(task, moments, rows)
    distinct = rows.unique([Event.subject_id, task.index], keep="first", maintain_order=True)
    left += reasons
    left["another candidate has the same prediction time"] += rows.height - distinct.height
    labels = distinct.sort(Event.subject_id, task.index).select(
        Event.subject_id,
        pl.col(task.index).alias(Label.prediction_time),
        pl.any_horizontal(pl.col(f"label.{name}") > 0 for name in task.label[1]).alias(Label.boolean_value),
    )
    Label.check(labels)
    write_parquet(labels, job.out)
    outputs = Output.empty()
    if job.true is not None:
        true = true_outputs(task, events, job.codes, distinct)
        write_parquet(true, job.true)
        outputs = count_outputs(true, job.train)
    asked = labels.group_by(Event.subject_id).len()["len"]
    return _Found(
        triggers, labels.height, int(labels[Label.boolean_value].sum()), len(asked), Counter(asked.to_list()),
        Counter(labels[Label.prediction_time].dt.year().to_list()), +left,
        visible_outcomes(task, moments, distinct.sort(Event.subject_id, TRIGGER)), outputs,
    )  # fmt: skip


def _read(job: _Job) -> pl.DataFrame:
    """The events that the task looks at, with those without a time only if they matter."""
    task, time = job.task, pl.col(Event.time)
    plain = [one for one in task.predicates.values() if isinstance(one, Plain)]
    extra = sorted({column for one in plain for column, _ in one.columns})
    columns = dict.fromkeys([Event.subject_id, Event.time, Event.code, *extra])
    if any(one.at_least is not None or one.at_most is not None for one in plain):
        columns |= {Event.numeric_value: None}
    events = pl.scan_parquet(job.shard)
    if not task.static:
        events = events.filter(time.is_not_null())
    if ANY_EVENT not in task.names:
        events = events.filter(
            _needed(task, sorted({code for codes in job.codes.values() for code in codes}))
        )
    return events.select(*columns).collect()


def _needed(task: Task, codes: Sequence[str]) -> pl.Expr:
    """Events of `codes`, and where a record's own ends matter, its first and last event."""
    time, needed = pl.col(Event.time), pl.col(Event.code).is_in(codes)
    if RECORD_START in task.names:
        needed |= time == time.min().over(Event.subject_id)
    if RECORD_END in task.names:
        needed |= time == time.max().over(Event.subject_id)
    return needed


def _keep_books(
    build: Build, task: Task, shards: Sequence[Path], found: Sequence[_Found], asked: pl.DataFrame | None
) -> None:
    """Account for every trigger; `asked`: the outputs of a task with several. Raises: DegenerateTaskError."""
    labels, positives = sum(part.labels for part in found), sum(part.positives for part in found)
    triggers = sum(part.triggers for part in found)
    flow = sum((part.left for part in found), Counter[str]())
    if asked.is_empty() if asked is not None else positives in (0, labels):
        raise DegenerateTaskError(_degenerate(task, labels, positives, triggers, flow))
    for path, part in zip(shards, found, strict=True):
        build.enter(
            path.as_posix(), rows=part.labels, schema=Label.polars_schema(),
            sorted_by=["subject_id", "prediction_time"],
        )  # fmt: skip
        if asked is not None:
            build.enter(
                _true(path), rows=int(part.outputs[Output.labels].sum()), schema=TrueOutput.polars_schema()
            )
    books = Account(triggers, labels, 0, triggers - labels, {"label": labels}, dict(sorted(flow.items())))
    build.account(f"{task.trigger} {'repeated' if task.repeat else 'events'}", books)
    build.made("labels", labels)
    if asked is None:
        build.made("positive", positives)
    counted = {task.label[1][0]: positives}
    if asked is not None:
        build.write(OUTPUTS, asked)
        build.made("outputs", asked.height)
        counted = dict(asked.select(Output.output, Output.labels).iter_rows())
        _note_unasked(build, task, found, asked)
    years = sum((part.years for part in found), Counter[int]())
    times = sum((part.asked_per_subject for part in found), Counter[int]())
    build.notes |= {
        "subjects": sum(part.subjects for part in found),
        "description": task.description,
        "flow": [[reason, count] for reason, count in flow.items()],
        "positives": counted,
        "predictions_per_subject": {str(number): times[number] for number in sorted(times)},
        "predictions_per_year": {str(year): years[year] for year in sorted(years)},
        "outcome_visible": {
            name: [sum(part.visible[name][side] for part in found) for side in (0, 1, 2)]
            for name in task.label[1]
        },
    }


def _degenerate(task: Task, labels: int, positives: int, triggers: int, flow: Counter[str]) -> str:
    """What is wrong with labels that are all the same, and where everybody went."""
    kinds = "A task needs labels of both kinds."
    if task.several:
        least = f" and {task.each.min_patients} training patients with the outcome" if task.each else ""
        kinds = f"No output has labels of both kinds{least}."
    return (
        f"{task.name}: {labels:,} labels, {positives:,} of them true. {kinds} {triggers:,} `{task.trigger}` events; "
        "left out: "
        + ("; ".join(f"{reason} {count:,}" for reason, count in flow.most_common(4)) or "none")
        + "."
    )


def _note_unasked(build: Build, task: Task, found: Sequence[_Found], asked: pl.DataFrame) -> None:
    """Say which labels of a list, and how many outputs of `each`, are not asked."""
    seen = {name for part in found for name in part.outputs[Output.output]} | (
        set() if task.each else set(task.label[1])
    )
    unasked = sorted(seen - set(asked[Output.output]))
    if unasked:
        build.notes["outputs_not_asked"] = len(unasked) if task.each else unasked
        log("label", task=task.name, note="outputs with too few labels are not asked", outputs=len(unasked))
