"""What the quality benchmarks learn with, all of `ehrseq.models`: trees, logistic regression, a network, a stack."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pipeline import Prepared
from threadpoolctl import threadpool_limits

from ehrseq.core.executor import run_tasks
from ehrseq.core.hashing import stable_hash
from ehrseq.models.ensemble import Ensemble, fit_ensemble, mean_of
from ehrseq.models.families import TransformerConfig
from ehrseq.models.prefix_features import ages, log_counts
from ehrseq.models.ridge import fit_ridge
from ehrseq.models.series import code_series, shipped_series
from ehrseq.models.summaries import Window, summaries
from ehrseq.models.trees import TreeConfig, fit_trees
from ehrseq.tokens.packing import Examples
from ehrseq.tokens.store import TokenStore
from ehrseq.training.config import TrainConfig
from ehrseq.training.loop import fit as fit_network
from ehrseq.training.model_folder import load_model
from ehrseq.training.predict import predict

type Rows = NDArray[np.int64]
type Floats = NDArray[np.float64]

FOLDS = 5
_ROWS_OF_A_PART = 1_000
_FEWEST_VALUES = 500  # of a code, over all training subjects
RIDGE_PENALTY = 0.3
SEQUENCE = TrainConfig(
    model=TransformerConfig(dim=64, layers=1, dropout=0.3, pools=8),
    context=1024, row_length=1024, batch_rows=8, epochs=8, patience=2, learning_rate=1e-3,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Some labels whose features a worker makes."""

    store: Path
    work: Path
    rows: Rows
    measured: Rows  # codes
    others: Rows  # codes
    windows: tuple[Window, ...]
    counted_hours: tuple[float, ...]


def summarise(part: Part) -> NDArray[np.float32]:
    """Features [rows, columns] of a part."""
    store, examples = TokenStore.open(part.store), Examples.load(part.work / "examples")
    values = np.load(part.work / "values.npy", mmap_mode="r")
    names = store.vocabulary["codes"]
    series = code_series(names, part.measured) + shipped_series(names)
    columns = np.concatenate([part.others + len(names) * n for n in range(len(part.counted_hours))])
    summary = summaries(store, examples, part.rows, series, part.windows, values)
    counts = log_counts(store, examples, part.rows, part.counted_hours, len(names))[:, columns]
    age = ages(store, examples, part.rows)[:, None].astype(np.float32)
    return np.concatenate([summary, counts.astype(np.float32).toarray(), age], axis=1)


@dataclass(frozen=True)
class Features:
    """Summary features of the labels by split, [rows, columns] each."""

    by_split: dict[str, NDArray[np.float32]]

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        rows: Mapping[str, Rows],
        windows: Sequence[Window],
        counted_hours: tuple[float, ...],
        fewest: int = 1,
        workers: int = 1,
    ) -> Self:
        """Summaries of every measured code and shipped series, counts of all other codes, and the age.

        `counted_hours`: how far the counts look back. Codes that fewer than `fewest` training tokens have are left out.
        """
        store, names = prepared.store, prepared.names
        training = np.repeat(np.asarray(store.split) == 0, np.diff(np.asarray(store.offsets)))
        code = np.asarray(store.code)
        valued = np.bincount(code[training & ~np.isnan(prepared.values)], minlength=len(names))
        measured = valued >= _FEWEST_VALUES
        others = np.flatnonzero(~measured & (np.bincount(code[training], minlength=len(names)) >= fewest))
        parts = [
            Part(store.path, prepared.work, which[start : start + _ROWS_OF_A_PART], np.flatnonzero(measured),
                 others, tuple(windows), counted_hours)
            for which in rows.values()
            for start in range(0, len(which), _ROWS_OF_A_PART)
        ]  # fmt: skip
        whole = np.concatenate(run_tasks(summarise, parts, workers=workers, what="features"))
        ends = np.cumsum([len(which) for which in rows.values()])
        found = dict(zip(rows, np.split(whole, ends[:-1]), strict=True))
        return cls(found)

    def save(self, folder: Path) -> Path:
        """For the workers."""
        folder.mkdir(parents=True, exist_ok=True)
        for split, values in self.by_split.items():
            np.save(folder / f"{split}.npy", values)
        return folder


@dataclass(frozen=True)
class Fold:
    """A seed, the training rows that it holds out for tuning [n], and the examples cut the same way."""

    seed: int
    tuning: NDArray[np.bool_]
    examples: Examples

    @classmethod
    def of(cls, prepared: Prepared, rows: Rows, seed: int) -> Self:
        """Seed s holds out a fifth of the subjects by a hash: another one for each of five seeds in a row."""
        examples = prepared.examples
        everyone = fifth_of(prepared.subjects(np.arange(len(examples))), seed) == seed % FOLDS
        split = np.where((examples.split == 0) & everyone, 1, examples.split).astype(np.int8)
        return cls(seed, everyone[rows], dataclasses.replace(examples, split=split))


def fifth_of(subjects: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Number 0..4 of each subject; cut anew every five seeds."""
    return (stable_hash(subjects ^ np.int64(seed // FOLDS)) % np.uint64(FOLDS)).astype(np.int64)


@dataclass(frozen=True)
class Learned:
    """Probabilities by model: of the training rows by whoever did not train on them (NaN: nobody), of the held out."""

    tuning: dict[str, Floats] = field(default_factory=dict)
    held_out: dict[str, Floats] = field(default_factory=dict)
    of_seed: dict[str, list[Floats]] = field(default_factory=dict)
    ensemble: Ensemble | None = None


@dataclass(frozen=True)
class Learner:
    """A learner on summary features; `graded` says which label it is taught."""

    kind: str  # trees or ridge
    graded: bool = False
    trees: TreeConfig | None = None
    seed: int = 0  # added to the fold's


@dataclass(frozen=True)
class Job:
    """One learner on one fold: what a worker is given. Features are read from `folder`."""

    learner: Learner
    folder: Path
    labels: Floats  # [n] that it is taught
    tuning: NDArray[np.bool_]  # [n] that it is not taught
    seed: int


def learn(
    task: str,
    prepared: Prepared,
    rows: Mapping[str, Rows],
    features: Features,
    labels: Floats,
    folds: Sequence[Fold],
    learners: Mapping[str, Learner],
    *,
    graded: Floats,
    work: Path,
    sequence: bool = True,
    workers: int = 1,
) -> Learned:
    """Fit every learner on every fold, stack them on the tuning predictions, and average the folds."""
    folder = features.save(work / f"features-{task}")
    asked = [(name, learner, fold) for name, learner in learners.items() for fold in folds]
    jobs = [
        Job(learner, folder, graded if learner.graded else labels, fold.tuning, fold.seed + learner.seed)
        for _, learner, fold in asked
    ]
    found = run_tasks(fit_job, jobs, workers=workers, what="learners")
    tuning: dict[str, Floats] = {}
    of_seed: dict[str, list[Floats]] = {}
    done = [(name, fold, given) for (name, _, fold), given in zip(asked, found, strict=True)]
    if sequence:
        done += [
            ("sequence", fold, network(task, prepared, rows, fold, work / f"sequence/seed-{fold.seed}"))
            for fold in folds
        ]
    for name, fold, (known, held_out) in done:
        tuning.setdefault(name, np.full(len(labels), np.nan))[fold.tuning] = known
        of_seed.setdefault(name, []).append(held_out)
    return stacked(tuning, of_seed, labels)


def stacked(tuning: dict[str, Floats], of_seed: dict[str, list[Floats]], labels: Floats) -> Learned:
    """Add the ensemble: its weights are fitted on the tuning predictions alone."""
    seen = ~np.isnan(next(iter(tuning.values())))
    stack = fit_ensemble("stacked", {name: p[seen] for name, p in tuning.items()}, labels[seen])
    tuning["ensemble"] = np.full(len(labels), np.nan)
    tuning["ensemble"][seen] = stack.predict({name: tuning[name][seen] for name in stack.models})
    seeds = range(len(of_seed[stack.models[0]]))
    of_seed["ensemble"] = [
        stack.predict({name: of_seed[name][seed] for name in stack.models}) for seed in seeds
    ]
    return Learned(tuning, {name: together(each) for name, each in of_seed.items()}, of_seed, stack)


def fit_job(job: Job) -> tuple[Floats, Floats]:
    """A learner's probabilities of the tuning rows and of the held-out rows."""
    with threadpool_limits(1):
        train, held_out = (np.load(job.folder / f"{name}.npy") for name in ("train", "held_out"))
        x, y = train[~job.tuning], job.labels[~job.tuning]
        if job.learner.kind == "trees":
            trees = fit_trees(x, y, job.learner.trees, seed=job.seed)
            return trees.predict(train[job.tuning]), trees.predict(held_out)
        ridge = fit_ridge(x, y, RIDGE_PENALTY)
        return ridge.predict(train[job.tuning]), ridge.predict(held_out)


def network(
    task: str, prepared: Prepared, rows: Mapping[str, Rows], fold: Fold, out: Path
) -> tuple[Floats, Floats]:
    """The network's probabilities of the tuning and the held-out rows; trained once for all tasks of a seed."""
    config = dataclasses.replace(SEQUENCE, seed=fold.seed)
    trained = load_model(fit_network(config, prepared.store, fold.examples, out).model)
    tuning, held_out = rows["train"][fold.tuning], rows["held_out"]
    split = np.zeros(len(fold.examples), np.int8)
    split[tuning], split[held_out] = 1, 2
    asked = dataclasses.replace(fold.examples, split=split)
    known, later = (predict(trained, prepared.store, asked, split=name) for name in ("tuning", "held_out"))
    return known["probability"].astype(np.float64), later["probability"].astype(np.float64)


def together(probabilities: Sequence[Floats]) -> Floats:
    """The mean log odds of several."""
    names = [str(number) for number in range(len(probabilities))]
    return mean_of(names).predict(dict(zip(names, probabilities, strict=True)))
