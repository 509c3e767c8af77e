"""UCI Diabetes 130-US hospitals: an emergency or other stay again within 30 days of discharge.

    python benchmarks/quality/diabetes130.py --train DIR [--test DIR] [--seeds 5] [--json]

DIR holds diabetic_data.csv(.gz). Without --test, two tenths of the patients, by a hash of their number, are judged, the
others train. A prediction is asked at each discharge alive and sees that stay and the patient's earlier ones, how those
ended among it: order is known, the time between stays is not, so no feature counts days between them. Seed s holds out
the s-th fifth of the training patients as its tuning split; the weights of the ensemble come from there.

- gradient_boosting, logistic: the baselines, with the history
- trees_graded, logistic_graded: taught that a return after more than 30 days lies between one within and none
- sequence: the network of this repository (--sequence)
- ensemble: all of them, stacked on the tuning predictions
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from learners import Features, Fold, Learner, learn
from numpy.typing import NDArray
from pipeline import Prepared, prepare
from verdicts import Outcome, report

from ehrseq.core import progress
from ehrseq.models.summaries import Window
from ehrseq.models.trees import TreeConfig
from ehrseq.timeline.meds import scan_events, split_subjects

TASK = "readmission_within_30d"
THIS_STAY = 15 * 24.0  # no stay is longer than 14 days, the next slot begins after 60
WINDOWS = (Window(0, THIS_STAY, ("last",)), Window(0, np.inf, ("mean", "max", "count")))
LATER_SHARE = 0.2  # what a return after more than 30 days counts
LEARNERS = {
    "gradient_boosting": Learner("trees", trees=TreeConfig(rounds=300, leaves=15, least_in_leaf=100)),
    "logistic": Learner("ridge"),
    "trees_graded": Learner(
        "trees",
        graded=True,
        trees=TreeConfig(rounds=500, leaves=15, least_in_leaf=100, columns=0.05),
        seed=100,
    ),
    "logistic_graded": Learner("ridge", graded=True),
}
_FEWEST_TOKENS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sequence", action="store_true")
    parser.add_argument("--work", type=Path, help="keep the stages there (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        train, source = stage(chosen.train, chosen.test, work / "source")
        prepared = prepare("diabetes130", source, work, {"train": train}, [TASK], min_patients=50)
        outcome = judged(prepared, work, chosen)
    report("diabetes130", [outcome], chosen.json, {"train": len(train), "test": len(set(outcome.subjects))})


def judged(prepared: Prepared, work: Path, chosen: argparse.Namespace) -> Outcome:
    """Learn, and predict the test patients' discharges."""
    rows = {split: prepared.rows(TASK, split) for split in ("train", "held_out")}
    labels = {split: prepared.examples.value[which].astype(np.float64) for split, which in rows.items()}
    features = Features.of(prepared, rows, WINDOWS, (THIS_STAY, np.inf), _FEWEST_TOKENS, chosen.workers)
    folds = [Fold.of(prepared, rows["train"], seed) for seed in range(chosen.seeds)]
    later = returned_later(prepared, rows["train"], work / "timeline")
    graded = np.where(labels["train"] == 1, 1.0, np.where(later, LATER_SHARE, 0.0))
    found = learn(
        TASK, prepared, rows, features, labels["train"], folds, LEARNERS,
        graded=graded, work=work, sequence=chosen.sequence, workers=chosen.workers,
    )  # fmt: skip
    return Outcome(TASK, prepared.subjects(rows["held_out"]), labels["held_out"], found)


def returned_later(prepared: Prepared, rows: NDArray[np.int64], timeline: Path) -> NDArray[np.bool_]:
    """Whether each training stay was followed by one after more than 30 days."""
    code = "Observation//diabetes130-column//readmitted//>30"
    events = scan_events(timeline).filter(pl.col("code") == code).select("subject_id", "time").collect()
    asked = pl.Series(prepared.examples.prediction_time[rows]).cast(pl.Datetime("us"))
    mine = pl.DataFrame({"subject_id": prepared.subjects(rows), "asked": asked, "row": np.arange(len(rows))})
    within = pl.col("time").is_between(pl.col("asked"), pl.col("asked") + pl.duration(days=60))
    found = mine.join(events, on="subject_id").filter(within)["row"].to_numpy()
    return np.isin(np.arange(len(rows)), found)


def stage(train: list[Path], test: Path | None, out: Path) -> tuple[list[int], Path]:
    """The training patients, and the folder of the table: that of the only folder, or one made of all."""
    tables = [read(folder) for folder in [*train, *([test] if test else [])]]
    patients = pl.concat([table["patient_nbr"] for table in tables[: len(train)]]).cast(pl.Int64).unique()
    if test is None:
        split = split_subjects(patients, (0.7, 0.1, 0.2))
        patients = split.filter(pl.col("split") != "held_out")["subject_id"]
    if len(tables) == 1:
        return patients.sort().to_list(), train[0]
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pl.concat(tables).write_csv(out / "diabetic_data.csv")
    return patients.sort().to_list(), out


def read(folder: Path) -> pl.DataFrame:
    """The table of a folder, all text."""
    (path,) = sorted(folder.glob("diabetic_data.csv*"))
    return pl.read_csv(path, infer_schema=False)


if __name__ == "__main__":
    sys.exit(main())
