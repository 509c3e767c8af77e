"""`ehrseq label`: find a task's cohort in a timeline, and its labels.

Each moment with a trigger event is a candidate. Windows are laid out from it one endpoint after another; a candidate
leaves when a moment does not exist in its record or a window has too few or too many of something, and is counted by
that reason.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.executor import run_tasks
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Account, read_manifest
from ehrseq.core.parquet import write_parquet
from ehrseq.core.progress import log
from ehrseq.core.schema import Required, Schema
from ehrseq.tasks.definition import load_task, task_document
from ehrseq.tasks.language import ANY_EVENT, RECORD_END, RECORD_START, TRIGGER, Plain, Task
from ehrseq.tasks.matching import DegenerateTaskError, check_columns, matching_codes
from ehrseq.tasks.windows import candidates, lay_out, repeated, visible_outcomes
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
    outs: Mapping[str, Path]  # one for each label
    codes: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Found:
    triggers: int
    labels: int
    positives: Mapping[str, int]
    subjects: int
    asked_per_subject: Counter[int]
    left: Counter[str]
    visible: Mapping[str, tuple[int, int]]


def label(task: str | Path, timeline: Path, out: Path, *, workers: int = 1, force: bool = False) -> Result:
    """Write the labels of `task` (a shipped task's name or a YAML file) for `timeline` to `out`, in the MEDS schema.

    Labels are sorted by subject and prediction time, one file for each shard of the timeline, in `data/`; those of a
    task with several labels in `<task>.<label>/data/` each. The manifest accounts for every trigger: labelled, or
    filtered with the reason.

    Raises: TaskError if the file is wrong or looks for codes that this timeline does not have; DegenerateTaskError
    if all labels are the same; SchemaError if `timeline` is no timeline.
    """
    definition, timeline = load_task(task), Path(timeline)
    manifest = read_manifest(timeline, "timeline")
    config = {"task": definition.name, "definition": content_hash(task_document(task).value)}
    with Build(
        Path(out), kind="labels", config=config, inputs=[input_of("timeline", timeline)], force=force
    ) as build:
        if not build.unchanged:
            codes = matching_codes(definition, timeline)
            shards = [Path(s.path) for s in manifest.shards if s.path.startswith("data/")]
            for shard in shards[:1]:
                check_columns(definition, timeline / shard)
            places = _places(definition)
            jobs = [_Job(definition, timeline / path, _files(build, places, path), codes) for path in shards]
            found = run_tasks(_label_shard, jobs, workers=workers, what="shards")
            _keep_books(build, definition, places, shards, found)
    return build.result


def label_folders(labels: Path) -> list[Path]:
    """Folders of one label each: `labels` itself, or for a task with several labels those in it."""
    if (labels / "data").is_dir():
        return [labels]
    return sorted(folder.parent for folder in labels.glob("[!.]*/data"))


def _places(task: Task) -> dict[str, Path]:
    """Where below the dataset each label goes."""
    names = task.label[1]
    return {name: Path() if len(names) == 1 else Path(f"{task.name}.{name}") for name in names}


def _files(build: Build, places: Mapping[str, Path], shard: Path) -> dict[str, Path]:
    return {name: build.path((at / shard).as_posix()) for name, at in places.items()}


def _label_shard(job: _Job) -> _Found:
    task = job.task
    moments, rows = candidates(task, _read(job), job.codes)
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
    distinct = distinct.sort(Event.subject_id, task.index)
    positives = {}
    for name, out in job.outs.items():
        labels = distinct.select(
            Event.subject_id,
            pl.col(task.index).alias(Label.prediction_time),
            (pl.col(f"label.{name}") > 0).alias(Label.boolean_value),
        )
        Label.check(labels)
        write_parquet(labels, out)
        positives[name] = int(labels[Label.boolean_value].sum())
    asked = distinct.group_by(Event.subject_id).len()["len"]
    return _Found(
        triggers, distinct.height, positives, len(asked), Counter(asked.to_list()), +left,
        visible_outcomes(task, moments, distinct.sort(Event.subject_id, TRIGGER)),
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
    build: Build, task: Task, places: Mapping[str, Path], shards: Sequence[Path], found: Sequence[_Found]
) -> None:
    labels, positives = sum(part.labels for part in found), _summed(part.positives for part in found)
    flow = sum((part.left for part in found), Counter[str]())
    kept = [name for name in places if positives.get(name, 0) not in (0, labels)]
    if not kept:
        raise DegenerateTaskError(
            f"{task.name}: {labels:,} labels, {sum(positives.values()):,} of them true. A task needs labels of both "
            f"kinds. {sum(part.triggers for part in found):,} `{task.trigger}` events; left out: "
            + ("; ".join(f"{reason} {count:,}" for reason, count in flow.most_common(4)) or "none")
            + "."
        )
    for name in places.keys() - kept:
        shutil.rmtree(build.folder / places[name])
    for path, part in zip(shards, found, strict=True):
        for name in kept:
            build.enter(
                (places[name] / path).as_posix(), rows=part.labels, schema=Label.polars_schema(),
                sorted_by=["subject_id", "prediction_time"],
            )  # fmt: skip
    triggers = sum(part.triggers for part in found)
    books = Account(triggers, labels, 0, triggers - labels, {"label": labels}, dict(sorted(flow.items())))
    build.account(f"{task.trigger} {'repeated' if task.repeat else 'events'}", books)
    build.made("labels", labels)
    build.made("positive", sum(positives[name] for name in kept))
    build.notes["subjects"] = sum(part.subjects for part in found)
    build.notes["description"] = task.description
    build.notes["flow"] = [[reason, count] for reason, count in flow.items()]
    build.notes["positives"] = {name: positives[name] for name in kept}
    asked = sum((part.asked_per_subject for part in found), Counter[int]())
    build.notes["predictions_per_subject"] = {str(times): asked[times] for times in sorted(asked)}
    build.notes["outcome_visible"] = {
        name: [sum(part.visible[name][side] for part in found) for side in (0, 1)] for name in kept
    }
    if one_kind := sorted(places.keys() - kept):
        build.notes["one_kind_only"] = one_kind
        log("label", task=task.name, note="labels of one kind only are left out", labels=", ".join(one_kind))


def _summed(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return total
