"""Labels become examples: arrays that say how many tokens of which subject a prediction may see.

A label is (subject, prediction time). Its tokens are those whose time is not after the prediction, a prefix of the
subject's tokens; `position` is the prefix's length. Tokens are never copied per label, and a label with hundreds of
outputs (all discharge diagnoses) holds the numbers of those that are true.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from ehrseq.core.dataset import Build, Result, input_of
from ehrseq.core.errors import TokenError
from ehrseq.core.files import sha256_file, storage_errors
from ehrseq.core.hashing import content_hash
from ehrseq.core.manifest import Account, Input
from ehrseq.core.schema import Nullable, Required, Schema
from ehrseq.tokens.packing import Examples, Ints, Several, count_until
from ehrseq.tokens.store import TokenStore


class Label(Schema):
    """What is read of a MEDS label, `<task>/data/*.parquet`. Times are UTC wall clock."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    boolean_value = Nullable(pl.Boolean)  # null = no label is known; for prediction only


class TrueOutput(Schema):
    """What is read of the true outputs of a task with several, `<task>/true/*.parquet`."""

    subject_id = Required(pl.Int64)
    prediction_time = Required(pl.Datetime("us"))
    output = Required(pl.String)


OUTPUTS = "outputs.parquet"  # its column `output` names what a task with several outputs asks
_OTHER_VALUES = ("integer_value", "float_value", "categorical_value")


@dataclass(frozen=True, slots=True)
class _Task:
    name: str
    folder: Path
    files: list[Path]
    outputs: list[str] | None  # None = the task is a single yes or no


def make_examples(tokens: Path, labels: Path | Sequence[Path], out: Path, *, force: bool = False) -> Result:
    """Write `out/examples.npz` (read it with `packing.Examples.load`) for all labels.

    `labels`: folders of one task each, or folders of such folders; a task has `data/*.parquet` and is named by its
    folder. Labels of subjects that the store does not have, without a visible token, or of another type than boolean
    are rejected and counted, task by task. Examples are sorted by subject, prediction time and task.

    Raises: TokenError if there is no task, or two have one name; SchemaError for a wrong column.
    """
    tasks = _find_tasks([labels] if isinstance(labels, str | Path) else labels)
    store = TokenStore.open(tokens)
    inputs = [input_of("tokens", Path(tokens)), *(_input(task) for task in tasks)]
    with Build(Path(out), kind="examples", config={}, inputs=inputs, force=force) as build:
        if not build.unchanged:
            parts = []
            for number, task in enumerate(tasks):
                kept, account = place_labels(store, _read(task))
                build.account(task.name, account)
                parts.append(kept.with_columns(task=pl.lit(number, pl.Int32)))
            examples = _examples(store, pl.concat(parts), tasks)
            with storage_errors(build.out):
                save_examples(build.path("examples.npz"), examples)
            build.enter("examples.npz", rows=len(examples), sorted_by=["subject", "prediction_time", "task"])
            build.made("examples", len(examples))
    return build.result


def place_labels(store: TokenStore, labels: pl.DataFrame) -> tuple[pl.DataFrame, Account]:
    """Find subject and prefix of the labels of one task (schema `Label`).

    Returns `subject` Int64 (index), `position` Int64 (>= 1), `prediction_time` Int64 (microseconds) and `value`
    Float32 (0, 1, NaN) of the labels that can be used, and the books of all.
    """
    time = labels[Label.prediction_time].to_physical()
    subject = store.index_of(labels[Label.subject_id].to_numpy())
    asked = (subject >= 0) & time.is_not_null().to_numpy()
    position = np.zeros(len(labels), np.int64)
    position[asked] = visible_tokens(store, subject[asked], time.fill_null(0).to_numpy()[asked])
    others = [pl.col(name).is_not_null() for name in _OTHER_VALUES if name in labels.columns]
    another_type = labels.select(
        pl.col(Label.boolean_value).is_null() & pl.any_horizontal(pl.lit(False), *others)
    ).to_series()
    placed = pl.DataFrame(
        {
            "subject": subject,
            "position": position,
            "prediction_time": time,
            "value": labels[Label.boolean_value].cast(pl.Float32).fill_null(np.nan),
        }
    )
    reason = (
        pl.when(another_type)
        .then(pl.lit("not a boolean label"))
        .when(pl.col("subject") < 0)
        .then(pl.lit("subject not in the token store"))
        .when(pl.col("prediction_time").is_null())
        .then(pl.lit("no prediction time"))
        .when(pl.col("position") == 0)
        .then(pl.lit("no token is visible"))
    )
    placed = placed.with_columns(reason=reason)
    kept = placed.filter(pl.col("reason").is_null()).drop("reason")
    rejected = dict(placed["reason"].drop_nulls().value_counts().sort("reason").iter_rows())
    account = Account(
        rows_in=placed.height,
        used=kept.height,
        rejected=placed.height - kept.height,
        made={"examples": kept.height},
        reasons=rejected,
    )
    return kept, account


def visible_tokens(store: TokenStore, subject: Ints, time: ArrayLike) -> Ints:
    """Number of tokens of subjects [n] (indices) with time <= `time` [n] (microseconds): [n] int64.

    Static tokens carry the subject's first time, so they are visible once anything is.
    """
    first = np.asarray(store.offsets[subject], np.int64)
    return count_until(store.time, first, store.offsets[subject + 1], np.asarray(time, np.int64))


def save_examples(path: Path, examples: Examples) -> None:
    """Write `examples.npz`: equal bytes for equal examples, as no clock gets into the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in examples.arrays().items():
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, the oldest a zip archive can hold
            with archive.open(info, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)


def _examples(store: TokenStore, placed: pl.DataFrame, tasks: list[_Task]) -> Examples:
    placed = placed.sort("subject", "prediction_time", "task", maintain_order=True)
    subject = placed["subject"].to_numpy()
    return Examples(
        subject=subject.astype("<i8"),
        position=placed["position"].to_numpy().astype("<i8"),
        task=placed["task"].to_numpy().astype("<i4"),
        value=placed["value"].to_numpy().astype("<f4"),
        split=np.asarray(store.split[subject], "<i1"),
        prediction_time=placed["prediction_time"].to_numpy().astype("<i8"),
        tasks=np.asarray([task.name for task in tasks], dtype=np.str_),
        several=_several(store, placed, tasks) if any(task.outputs is not None for task in tasks) else None,
    )


def _several(store: TokenStore, placed: pl.DataFrame, tasks: list[_Task]) -> Several:
    """The outputs of all tasks, and which are true of each label of `placed`."""
    names = [[t.name] if t.outputs is None else [f"{t.name}.{one}" for one in t.outputs] for t in tasks]
    first = np.append(0, np.cumsum([len(mine) for mine in names]))
    numbered = (
        placed.lazy().with_row_index("label").select("label", "subject", "prediction_time", "task", "value")
    )
    single = [number for number, task in enumerate(tasks) if task.outputs is None]
    parts = [
        numbered.filter(pl.col("task").is_in(single) & (pl.col("value") == 1)).select(
            "label", pl.col("task").replace_strict(dict(enumerate(first.tolist()[:-1]))).alias("output")
        )
    ]
    for number, task in enumerate(tasks):
        if task.outputs is not None:
            known = pl.DataFrame({"output": task.outputs}).lazy()
            known = known.with_columns(number=pl.int_range(pl.len(), dtype=pl.Int64) + int(first[number]))
            true = _true(store, task).join(known, on="output")
            mine = numbered.filter(pl.col("task") == number)
            parts.append(
                mine.join(true, on=["subject", "prediction_time"]).select(
                    "label", pl.col("number").alias("output")
                )
            )
    true = pl.concat([part.cast({"label": pl.Int64, "output": pl.Int64}) for part in parts]).sort(
        "label", "output"
    )
    found = true.collect()
    counts = np.bincount(found["label"].to_numpy(), minlength=placed.height)
    return Several(
        outputs=np.asarray([one for mine in names for one in mine], np.str_),
        first=first.astype("<i8"),
        offsets=np.append(0, np.cumsum(counts)).astype("<i8"),
        true=found["output"].to_numpy().astype("<i4"),
    )


def _true(store: TokenStore, task: _Task) -> pl.LazyFrame:
    """`subject` (index), `prediction_time` (microseconds) and `output` of each true output."""
    files = sorted((task.folder / "true").rglob("*.parquet"))
    table = pl.concat([TrueOutput.empty(), *(pl.read_parquet(file) for file in files)])
    TrueOutput.check(table)
    return table.lazy().select(
        pl.Series("subject", store.index_of(table[TrueOutput.subject_id].to_numpy())),
        pl.col(TrueOutput.prediction_time).to_physical(),
        TrueOutput.output,
    )


def _find_tasks(places: Sequence[Path]) -> list[_Task]:
    found: dict[str, _Task] = {}
    for place in map(Path, places):
        folders = [place] if (place / "data").is_dir() else sorted(place.glob("[!.]*/data"))
        if not folders:
            raise TokenError(
                f"{place}: no labels here. Expected <task>/data/*.parquet, as `ehrseq label` writes."
            )
        for folder in [folder.parent if folder.name == "data" else folder for folder in folders]:
            if folder.name in found:
                raise TokenError(
                    f"{folder} and {found[folder.name].folder}: two tasks with one name. Rename one."
                )
            files = sorted((folder / "data").rglob("*.parquet"))
            found[folder.name] = _Task(folder.name, folder, files, _outputs(folder))
    return [found[name] for name in sorted(found)]


def _outputs(folder: Path) -> list[str] | None:
    file = folder / OUTPUTS
    if not file.is_file():
        return None
    names: list[str] = pl.read_parquet(file)["output"].to_list()
    return names


def _input(task: _Task) -> Input:
    """A dataset's manifest names its labels; without one the files do, by path and content."""
    name = f"labels/{task.name}"
    if (task.folder / "manifest.json").is_file():
        return input_of(name, task.folder)
    return Input(
        name, content_hash([[str(file.relative_to(task.folder)), sha256_file(file)] for file in task.files])
    )


def _read(task: _Task) -> pl.DataFrame:
    tables = []
    for file in task.files:
        table = pl.read_parquet(file)
        Label.check(table.lazy())
        tables.append(table)
    return pl.concat(tables, how="diagonal") if tables else Label.empty()
