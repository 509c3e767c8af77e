"""PhysioNet Challenge 2019: hourly alarms for sepsis, six hours ahead.

    python benchmarks/quality/physionet2019.py --train DIR [--test DIR] [--patients 2000] [--json]

DIR has the .psv files in it or below it. Without --test, patients are cut into five folds by a hash and each hour is
judged by whoever was not taught its patient; with it, the five models judge the test patients together. The way is map
-> FHIR -> timeline -> tokens -> summary features of every hour; SepsisLabel is moved ten years ahead, so that no model
can see it. Where to alarm is chosen on the other folds' hours, for the Challenge's normalised utility.

- gradient_boosting: the baseline, of the label alone
- trees_utility: the same learner, taught whether an alarm or silence is worth more in that hour, and by how much
- ensemble: their mean log odds
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from learners import FOLDS, Features, Learned, fifth_of, together
from numpy.typing import NDArray
from pipeline import HERE, Prepared, prepare
from verdicts import Outcome, report

from ehrseq.core import progress
from ehrseq.core.errors import ConfigError
from ehrseq.core.executor import run_tasks
from ehrseq.evaluation.challenges import sepsis_utility, utility_table
from ehrseq.models.summaries import Window
from ehrseq.models.trees import TreeConfig, fit_trees

TASK = "sepsis_6h"
WINDOWS = (
    Window(0, np.inf, ("last", "min", "max", "mean", "count", "hours_since")),
    Window(0, 6.5, ("mean", "min", "max")),
    Window(0, 12.5, ("std", "trend")),
)
TREES = TreeConfig(rounds=400, learning_rate=0.04, leaves=24, least_in_leaf=200, columns=0.15)
MODELS = ("gradient_boosting", "trees_utility")

type Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--patients", type=int, help="only the first so many of --train, for a trial")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path, help="keep the stages there (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        train = stage(chosen.train, chosen.test, chosen.patients, work / "source")
        prepared = prepare(HERE / "physionet2019_inputs", work / "source", work, {"train": train}, [TASK])
        outcome = judged(prepared, work, chosen.test is not None, chosen.workers)
    report(
        "physionet2019", [outcome], chosen.json, {"train": len(train), "judged": len(set(outcome.subjects))}
    )


def judged(prepared: Prepared, work: Path, apart: bool, workers: int) -> Outcome:
    """Teach every fold; judge the held-out patients, or each fold by the others."""
    rows = {"train": prepared.rows(TASK, "train"), "held_out": prepared.rows(TASK, "held_out")}
    rows = {split: which for split, which in rows.items() if len(which)}
    folder = Features.of(prepared, rows, WINDOWS, (np.inf,), workers=workers).save(work / "features")
    subjects = {split: prepared.subjects(which) for split, which in rows.items()}
    labels = {split: prepared.examples.value[which].astype(np.float64) for split, which in rows.items()}
    number = fifth_of(subjects["train"], 0)
    jobs = [
        (folder, labels["train"], subjects["train"], number == fold, model, apart)
        for model in MODELS
        for fold in range(FOLDS)
    ]
    found = iter(run_tasks(fit_hours, jobs, workers=workers, what="learners"))
    tuning: dict[str, Floats] = {}
    later: dict[str, list[Floats]] = {}
    for model in MODELS:
        tuning[model], later[model] = np.zeros(len(number)), []
        for fold in range(FOLDS):
            tuning[model][number == fold], beyond = next(found)
            later[model].append(beyond)
    tuning["ensemble"] = together([tuning[model] for model in MODELS])
    later["ensemble"] = [together([later[model][fold] for model in MODELS]) for fold in range(FOLDS)]
    judged_split = "held_out" if apart else "train"
    predicted = {model: together(each) for model, each in later.items()} if apart else tuning
    extra = {}
    for model in predicted:
        alarms = alarms_of(
            tuning[model], predicted[model], labels["train"], subjects["train"], None if apart else number
        )
        extra[model, "utility"] = sepsis_utility(labels[judged_split], alarms, subjects[judged_split])
    learned = Learned(tuning, predicted, {model: [p] for model, p in predicted.items()})
    return Outcome(TASK, subjects[judged_split], labels[judged_split], learned, extra)


def fit_hours(
    job: tuple[Path, Floats, NDArray[np.int64], NDArray[np.bool_], str, bool],
) -> tuple[Floats, Floats]:
    """One model on four folds: probabilities of the fifth, and of the held-out hours if there are any."""
    folder, labels, subjects, tuning, model, apart = job
    features = np.load(folder / "train.npy", mmap_mode="r")
    target, weights = labels, None
    if model == "trees_utility":
        alarm, silence = utility_table(labels, subjects)
        target, weights = (alarm > silence).astype(np.float64), np.abs(alarm - silence)
        weights = weights / weights.mean()
    fit = ~tuning
    trees = fit_trees(
        np.asarray(features[fit]), target[fit], TREES, weights=None if weights is None else weights[fit]
    )
    beyond = trees.predict(np.load(folder / "held_out.npy")) if apart else np.zeros(0)
    return trees.predict(np.asarray(features[tuning])), beyond


def alarms_of(
    tuning: Floats, asked: Floats, labels: Floats, subjects: NDArray[np.int64], fold: NDArray[np.int64] | None
) -> Floats:
    """0 or 1 for each asked hour, at the best threshold of the tuning hours (of other folds, if given)."""
    if fold is None:
        return (asked >= best_threshold(tuning, labels, subjects)).astype(np.float64)
    alarms = np.zeros(len(asked))
    for one in range(FOLDS):
        others = fold != one
        threshold = best_threshold(tuning[others], labels[others], subjects[others])
        alarms[fold == one] = asked[fold == one] >= threshold
    return alarms


def best_threshold(probabilities: Floats, labels: Floats, subjects: NDArray[np.int64]) -> float:
    """The threshold with the greatest utility."""
    alarm, silence = utility_table(labels, subjects)
    order = np.argsort(-probabilities, kind="stable")
    gained = np.cumsum((alarm - silence)[order])
    return float(probabilities[order][int(np.argmax(gained))])


def stage(train: Path, test: Path | None, patients: int | None, out: Path) -> list[int]:
    """All files below one folder, as links. Returns the training patients."""
    import shutil

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    files = {
        split: sorted(folder.rglob("p*.psv"))
        for split, folder in (("train", train), ("test", test))
        if folder
    }
    files["train"] = files["train"][:patients]
    for paths in files.values():
        for path in paths:
            (out / path.name).symlink_to(path.resolve())
    mine = {split: {int(path.stem[1:]) for path in paths} for split, paths in files.items()}
    if not mine["train"]:
        raise ConfigError(f"{train}: no p*.psv there.")
    if both := mine["train"] & mine.get("test", set()):
        raise ConfigError(f"{len(both)} patients are in --train and in --test. Give other folders.")
    return sorted(mine["train"])


if __name__ == "__main__":
    sys.exit(main())
