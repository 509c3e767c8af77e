"""Labels of several outputs: which outputs a task has, and which are true of each label.

`true/<bucket>.parquet` holds a row for each true output, `outputs.parquet` the outputs that are asked: those of a
list of labels, or with `each` those that enough training patients have. What a model predicts follows from the
training split alone.
"""

from collections.abc import Mapping, Sequence

import polars as pl

from ehrseq.core.schema import Nullable, Required, Schema
from ehrseq.tasks.language import Plain, Task, Window
from ehrseq.tasks.windows import holds
from ehrseq.timeline.schema import Event


class TrueOutput(Schema):
    """An output that is true of the label (subject_id, prediction_time)."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    output = Required(pl.String)


class Output(Schema):
    """An output of a task: `labels` it is true of, the training patients among them; what its commonest code is called
    (null = nobody has said)."""

    output = Required(pl.String)
    labels = Required(pl.Int64)
    train_patients = Required(pl.Int64)
    meaning = Nullable(pl.String)


OUTPUTS = "outputs.parquet"
_CLOSED = {(True, True): "both", (True, False): "left", (False, True): "right", (False, False): "none"}


def outputs_by_code(task: Task, codes: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    """`code` and its `output`, of a task with `each`; codes in which `group` finds nothing have none."""
    code = pl.Series(Event.code, codes[task.label[1][0]], dtype=pl.String)
    group = task.each.group if task.each else None
    output = code if group is None else code.str.extract(group, 1)
    return pl.DataFrame({Event.code: code, TrueOutput.output: output}).drop_nulls().sort(Event.code)


def true_outputs(
    task: Task, events: pl.DataFrame, codes: Mapping[str, Sequence[str]], rows: pl.DataFrame
) -> pl.DataFrame:
    """What is true of each label of `rows` (as `windows.lay_out` gives them), schema `TrueOutput`, sorted."""
    asked = [pl.col(Event.subject_id), pl.col(task.index).alias(TrueOutput.prediction_time)]
    window, names = task.windows[task.label[0]], task.label[1]
    if task.each:
        found = _in_window(task, events, codes, rows.select(*asked, *_ends(window)), window)
    else:
        counts = rows.select(*asked, *(pl.col(f"label.{name}").alias(name) for name in names))
        found = counts.unpivot(
            names, index=TrueOutput.polars_schema().names()[:2], variable_name=TrueOutput.output
        )
        found = found.filter(pl.col("value") > 0)
    found = found.select(TrueOutput.polars_schema().names()).unique()
    return found.sort(TrueOutput.polars_schema().names())


def _ends(window: Window) -> tuple[str, str]:
    return f"{window.name}.start", f"{window.name}.end"


def _in_window(
    task: Task, events: pl.DataFrame, codes: Mapping[str, Sequence[str]], asked: pl.DataFrame, window: Window
) -> pl.DataFrame:
    name = task.label[1][0]
    predicate = task.predicates[name]
    assert isinstance(predicate, Plain)
    start, end = _ends(window)
    closed = _CLOSED[window.start_inclusive, window.end_inclusive]
    return (
        events.lazy()
        .filter(holds(predicate, codes[name]) & pl.col(Event.time).is_not_null())
        .select(Event.subject_id, Event.time, Event.code)
        .join(outputs_by_code(task, codes).lazy(), on=Event.code)
        .join(asked.lazy(), on=Event.subject_id)
        .filter(pl.col(Event.time).is_between(pl.col(start), pl.col(end), closed=closed))  # type: ignore[arg-type]
        .collect()
    )


def count_outputs(true: pl.DataFrame, train: pl.Series) -> pl.DataFrame:
    """`output`, `labels` and `train_patients` of one shard, unsorted; `train`: the training patients."""
    mine = pl.col(TrueOutput.subject_id).is_in(train.implode())
    return true.group_by(TrueOutput.output).agg(
        pl.len().cast(pl.Int64).alias(Output.labels),
        pl.col(TrueOutput.subject_id).filter(mine).n_unique().cast(pl.Int64).alias(Output.train_patients),
    )


def asked_outputs(
    task: Task,
    codes: Mapping[str, Sequence[str]],
    table: pl.DataFrame,
    counted: Sequence[pl.DataFrame],
    labels: int,
) -> pl.DataFrame:
    """The outputs with labels of both kinds and, with `each`, enough training patients; by name. `table`: the
    timeline's codes."""
    whole = pl.concat([Output.empty().drop(Output.meaning), *counted]).group_by(Output.output).sum()
    both = pl.col(Output.labels) < labels
    enough = pl.col(Output.train_patients) >= (task.each.min_patients if task.each else 0)
    named = (
        outputs_by_code(task, codes)
        if task.each
        else pl.DataFrame(schema={"code": pl.String, "output": pl.String})
    )
    meanings = (
        named.join(table, on=Event.code).drop_nulls("description").sort("events", Event.code, descending=[True, False])
        .group_by(Output.output, maintain_order=True).agg(pl.col("description").first().alias(Output.meaning))
    )  # fmt: skip
    return whole.filter(both & enough).join(meanings, on=Output.output, how="left").sort(Output.output)
