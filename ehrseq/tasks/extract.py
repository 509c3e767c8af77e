"""`ehrseq label`: find a task's cohort in a timeline, and its labels.

Each moment with a trigger event is a candidate. Windows are laid out from it one endpoint after another; a candidate
leaves when a
moment does not exist in its record or a window has too few or too many of something, and is counted by that reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of, write_parquet
from ehrseq.core.errors import TaskError, closest
from ehrseq.core.executor import run_tasks
from ehrseq.core.files import sha256_file
from ehrseq.core.manifest import Account, read_manifest
from ehrseq.core.progress import log
from ehrseq.core.schema import Required, Schema
from ehrseq.tasks.definition import find_task, load_task
from ehrseq.tasks.language import ANY_EVENT, RECORD_END, RECORD_START, Plain, Task
from ehrseq.tasks.windows import candidates, lay_out
from ehrseq.timeline.meds import CODES
from ehrseq.timeline.schema import Event


class Label(Schema):
    """A MEDS 0.4 label. Events at or before `prediction_time` (UTC) may be used for the prediction."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    boolean_value = Required(pl.Boolean)


class DegenerateTaskError(TaskError):
    """The labels are all the same, or there are none: nothing can be learned or measured."""

    degenerate = True


@dataclass(frozen=True, slots=True)
class _Job:
    task: Task
    shard: Path
    out: Path
    codes: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Found:
    triggers: int
    labels: int
    positives: int
    subjects: int
    left: Counter[str]


def label(task: str | Path, timeline: Path, out: Path, *, workers: int = 1, force: bool = False) -> Result:
    """Write the labels of `task` (a shipped task's name or a YAML file) for `timeline` to `out`, in the MEDS schema.

    Labels are sorted by subject and prediction time, one file for each shard of the timeline. The manifest accounts
    for every trigger: labelled, or filtered with the reason.

    Raises: TaskError if the file is wrong or looks for codes that this timeline does not have; DegenerateTaskError
    if all labels are the same; SchemaError if `timeline` is no timeline.
    """
    definition, timeline = load_task(task), Path(timeline)
    manifest = read_manifest(timeline, "timeline")
    config = {"task": definition.name, "definition": sha256_file(find_task(task))}
    with Build(
        Path(out), kind="labels", config=config, inputs=[input_of("timeline", timeline)], force=force
    ) as build:
        if not build.unchanged:
            codes = _codes(definition, timeline)
            shards = [Path(s.path) for s in manifest.shards if s.path.startswith("data/")]
            jobs = [_Job(definition, timeline / path, build.path(path.as_posix()), codes) for path in shards]
            found = run_tasks(_label_shard, jobs, workers=workers, what="shards")
            _keep_books(build, definition, shards, found)
    return build.result


def _codes(task: Task, timeline: Path) -> dict[str, list[str]]:
    """The timeline's codes that each plain predicate means. Raises: TaskError if the trigger's are not there."""
    have = pl.read_parquet(timeline / CODES, columns=["code"])["code"].sort()
    codes = {name: _matching(one, have) for name, one in task.predicates.items() if isinstance(one, Plain)}
    missing = sorted(name for name, found in codes.items() if not found)
    if missing:
        log(
            "label",
            task=task.name,
            note="predicates without a code in this timeline",
            predicates=", ".join(missing),
        )
    if task.trigger in missing:
        wanted = task.predicates[task.trigger]
        assert isinstance(wanted, Plain)
        pattern = wanted.regex or wanted.codes[0]
        raise TaskError(
            f"{task.name}: no event of {timeline} is a `{task.trigger}` ({pattern}).{closest(pattern, have.to_list())} "
            "See the timeline's metadata/codes.parquet."
        )
    return codes


def _matching(predicate: Plain, have: pl.Series) -> list[str]:
    if predicate.regex is not None:
        return have.filter(have.str.contains(predicate.regex)).to_list()
    return have.filter(have.is_in(list(predicate.codes))).to_list()


def _label_shard(job: _Job) -> _Found:
    task = job.task
    wanted = sorted({code for codes in job.codes.values() for code in codes})
    events = pl.scan_parquet(job.shard).select(Event.subject_id, Event.time, Event.code, Event.numeric_value)
    events = events.filter(pl.col(Event.time).is_not_null())
    if ANY_EVENT not in task.names:
        events = events.filter(_needed(task, wanted))
    moments, rows = candidates(task, events.collect(), job.codes)
    triggers = int(moments[task.trigger].sum())
    at_once = triggers - rows.height
    rows, left = lay_out(task, moments, rows)
    labels = (
        rows.select(
            Event.subject_id,
            pl.col(task.index).alias(Label.prediction_time),
            (pl.col("label") > 0).alias(Label.boolean_value),
        )
        .unique([Label.subject_id, Label.prediction_time], keep="first", maintain_order=True)
        .sort(Label.subject_id, Label.prediction_time)
    )
    left[f"at the same moment as another {task.trigger}"] += at_once
    left["another candidate has the same prediction time"] += rows.height - labels.height
    Label.check(labels)
    write_parquet(labels, job.out)
    positives = int(labels[Label.boolean_value].sum())
    return _Found(triggers, labels.height, positives, labels[Label.subject_id].n_unique(), +left)


def _needed(task: Task, codes: Sequence[str]) -> pl.Expr:
    """Events of `codes`, and where a record's own ends matter, its first and last event."""
    time, needed = pl.col(Event.time), pl.col(Event.code).is_in(codes)
    if RECORD_START in task.names:
        needed |= time == time.min().over(Event.subject_id)
    if RECORD_END in task.names:
        needed |= time == time.max().over(Event.subject_id)
    return needed


def _keep_books(build: Build, task: Task, shards: Sequence[Path], found: Sequence[_Found]) -> None:
    for path, part in zip(shards, found, strict=True):
        build.enter(
            path.as_posix(),
            rows=part.labels,
            schema=Label.polars_schema(),
            sorted_by=["subject_id", "prediction_time"],
        )
        filtered = sum(part.left.values())
        books = Account(
            part.triggers, part.labels, 0, filtered, {"label": part.labels}, dict(sorted(part.left.items()))
        )
        build.account(f"{task.trigger} events", books)
    labels, positives = sum(part.labels for part in found), sum(part.positives for part in found)
    build.made("labels", labels)
    build.made("positive", positives)
    build.notes["subjects"] = sum(part.subjects for part in found)
    build.notes["description"] = task.description
    if positives in (0, labels):
        flow = sum((part.left for part in found), Counter[str]())
        raise DegenerateTaskError(
            f"{task.name}: {labels:,} labels, {positives:,} of them true. A task needs labels of both kinds. "
            f"{sum(part.triggers for part in found):,} `{task.trigger}` events; left out: "
            + ("; ".join(f"{reason} {count:,}" for reason, count in flow.most_common(4)) or "none")
            + "."
        )
