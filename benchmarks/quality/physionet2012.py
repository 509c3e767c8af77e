"""PhysioNet Challenge 2012: death in hospital and long stay after 48 hours in intensive care.

    python benchmarks/quality/physionet2012.py --train SETS/set-a --test SETS/set-b [--seeds 5] [--json]
    python benchmarks/quality/physionet2012.py --train SETS/set-a SETS/set-b --test SETS/set-c

A set is a folder of records (132539.txt ...) with its Outcomes-?.txt inside or beside it, or a folder that holds such
folders. The way is map -> FHIR -> timeline -> tokens -> summary features; SAPS-I and SOFA are left out, as they came
with the outcomes. Seed s holds out the s-th fifth of the training stays (by a hash) as its tuning split and trains on
the rest. The weights of the ensemble, and the threshold of event 1, come from those tuning predictions; the test stays
are predicted once, at the end.

- gradient_boosting, logistic: the baselines, of the outcome alone
- trees_graded, logistic_graded: the same learners, taught by a graded outcome: who survives the stay and dies soon
  after was nearer to death than who lives on; a stay of 6 days is nearer to 7 than one of 2
- sequence: the network of this repository on the tokens, all outcomes at once (--no-sequence leaves it out)
- ensemble: all of them, stacked on the tuning predictions

Every number is the mean log odds over the seeds, baselines included; `seeds` gives each seed alone.
"""

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from learners import Features, Fold, Learner, learn
from numpy.typing import NDArray
from pipeline import HERE, Prepared, prepare
from verdicts import Outcome, report

from ehrseq.core import progress
from ehrseq.core.errors import ConfigError
from ehrseq.evaluation.challenges import (
    best_threshold,
    min_sensitivity_precision,
    range_normalised_hosmer_lemeshow,
)
from ehrseq.models.summaries import Window
from ehrseq.timeline.meds import scan_events

TASKS = ("icu_mortality_48h", "icu_long_stay_48h")
# All choices below: by cross-validation within set A.
WINDOWS = (
    Window(0, np.inf),
    Window(0, 24, ("last", "min", "max", "mean", "count", "std")),
    Window(24, np.inf, ("min", "max", "mean")),
    Window(0, 6, ("mean",)),
    Window(36, np.inf, ("mean",)),
)
LEARNERS = {
    "gradient_boosting": Learner("trees"),
    "logistic": Learner("ridge"),
    "trees_graded": Learner("trees", graded=True, seed=100),
    "logistic_graded": Learner("ridge", graded=True),
}
DEATH_SHARE, DEATH_DAYS = 0.5, 60.0  # what a death right after the stay counts, and how fast that fades
LENGTH = "Observation//physionet2012-variable//Length-of-stay"
_DAY_US = 86_400_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--no-sequence", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the stages there (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        train, test = stage(chosen.train, chosen.test, work / "source")
        tasks = [*TASKS, "icu_death_1y"]
        prepared = prepare(HERE / "physionet2012_inputs", work / "source", work, {"train": train}, tasks)
        outcomes = [
            judged(task, prepared, work, range(chosen.seeds), not chosen.no_sequence, chosen.workers)
            for task in chosen.tasks
        ]
    report("physionet2012", outcomes, chosen.json, {"train": len(train), "test": len(test)})


def judged(task: str, prepared: Prepared, work: Path, seeds: range, sequence: bool, workers: int) -> Outcome:
    """Learn a task and predict the test stays."""
    examples = prepared.examples
    rows = {split: prepared.rows(task, split) for split in ("train", "held_out")}
    labels = {split: examples.value[which].astype(np.float64) for split, which in rows.items()}
    graded = graded_outcome(task, prepared, rows["train"], labels["train"], work / "timeline")
    features = Features.of(prepared, rows, WINDOWS, (24.0, np.inf), workers=workers)
    folds = [Fold.of(prepared, rows["train"], seed) for seed in seeds]
    found = learn(
        task, prepared, rows, features, labels["train"], folds, LEARNERS,
        graded=graded, work=work, sequence=sequence, workers=workers,
    )  # fmt: skip
    extra = {}
    if task == TASKS[0]:
        known, final = ~np.isnan(found.tuning["ensemble"]), found.held_out["ensemble"]
        threshold = best_threshold(labels["train"][known], found.tuning["ensemble"][known])
        extra = {
            ("ensemble", "event1"): min_sensitivity_precision(labels["held_out"], final, threshold),
            ("ensemble", "event2"): range_normalised_hosmer_lemeshow(labels["held_out"], final),
        }
    return Outcome(task, prepared.subjects(rows["held_out"]), labels["held_out"], found, extra)


def graded_outcome(
    task: str, prepared: Prepared, rows: NDArray[np.int64], labels: NDArray[np.float64], timeline: Path
) -> NDArray[np.float64]:
    """Between 0 and 1, of training stays: how near the outcome was. From what the timeline holds after the stay."""
    subject = prepared.subjects(rows)
    length, death = (latest(timeline, code, subject) for code in (LENGTH, "MEDS_DEATH"))
    if task == TASKS[1]:
        return 1 / (1 + np.exp(-(length["numeric_value"].cast(pl.Float64).to_numpy() - 6.5) / 2))
    ended = length["time"].cast(pl.Float64).fill_null(pl.Series(prepared.examples.prediction_time[rows]))
    days = ((death["time"] - ended) / _DAY_US).to_numpy()
    near = DEATH_SHARE * np.exp(-np.maximum(days, 0) / DEATH_DAYS)
    return np.where(labels == 1, 1.0, np.nan_to_num(near))


def latest(timeline: Path, code: str, subjects: NDArray[np.int64]) -> pl.DataFrame:
    """Time (microseconds) and value of each subject's last event with a code, null where there is none."""
    events = scan_events(timeline).filter(pl.col("code") == code).group_by("subject_id").last()
    return pl.DataFrame({"subject_id": subjects}).join(
        events.select("subject_id", pl.col("time").to_physical(), "numeric_value").collect(),
        on="subject_id", how="left", maintain_order="left",
    )  # fmt: skip


def stage(train: list[Path], test: Path, out: Path) -> tuple[list[int], list[int]]:
    """Put all sets below one folder, as the mapping reads them. Returns the records of train and of test."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    records: dict[bool, list[int]] = {True: [], False: []}
    sets = [(folder, True) for one in train for folder in sets_in(one)]
    sets += [(folder, False) for folder in sets_in(test)]
    for number, (folder, training) in enumerate(sets):
        (out / f"set-{number}").mkdir()
        shutil.copy(outcomes_of(folder), out / f"Outcomes-{number}.txt")
        for path in folder.glob("*.txt"):
            if path.stem.isdigit():
                (out / f"set-{number}" / path.name).symlink_to(path.resolve())
                records[training].append(int(path.stem))
    if both := set(records[True]) & set(records[False]):
        raise ConfigError(f"{len(both)} records are in --train and in --test. Give other folders.")
    return sorted(records[True]), sorted(records[False])


def sets_in(folder: Path) -> list[Path]:
    """The folders of records at or below `folder`."""
    found = sorted({path.parent for path in folder.rglob("*.txt") if path.stem.isdigit()})
    if not found:
        raise ConfigError(f"{folder}: no records (NUMBER.txt) there.")
    return found


def outcomes_of(folder: Path) -> Path:
    """Outcomes-x.txt of the records in `folder` (set-x): inside, or beside it."""
    letter = re.sub(r"^set-?", "", folder.name)
    inside = sorted(folder.glob("Outcomes*.txt"))
    beside = [
        path
        for path in folder.parent.glob("Outcomes*.txt")
        if path.stem.lower() == f"outcomes-{letter}".lower()
    ]
    alone = sorted(folder.parent.glob("Outcomes*.txt"))
    for options in (inside, beside, alone if len(alone) == 1 else []):
        if options:
            return options[0]
    raise ConfigError(f"{folder}: no Outcomes-{letter}.txt inside or beside it.")


if __name__ == "__main__":
    sys.exit(main())
