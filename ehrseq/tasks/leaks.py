"""What a leak looks like in tokens and labels: one function a kind, each returns findings and what it measured.

Everything works on samples of bounded size, so that an audit takes seconds however large the store is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.hashing import stable_hash
from ehrseq.tokens.loader import Loader
from ehrseq.tokens.packing import SPLITS, Examples, Ints, ranges
from ehrseq.tokens.store import BAG_FIELDS, DENSE_FIELDS, SUBJECT_FIELDS, TOKEN_FIELDS, TokenStore

# no single fact predicts as well as this, unless it is the outcome (in the generated hospital: 0.97); at the moment of
# admission much is recorded at once that goes together (there a ward and a chapter of diagnoses: 0.997)
TOO_GOOD = {"single_feature": 0.985, "same_time": 0.999}
PURE, SHARE = 0.98, 0.25  # a code that a quarter of the true labels have, and next to no other
FEW = 10  # patients, or labels, of a kind below which nothing is judged
_SUBJECTS, _LABELS, _CONTROL, _CONTEXT = 256, 4_000, 1_000, 256
_OUTPUTS = 20  # of a task with several, the commonest are looked at
_RECORD = (
    64  # first tokens of a record that are compared; a record of fewer than _SHORT tokens says too little
)
_SHORT = 20
_US_PER_HOUR = 3_600_000_000

type Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """A leak: which check found it, what was found and where, how often, and what to do. Never a patient's data."""

    check: str
    what: str
    where: str
    count: int
    advice: str

    def __str__(self) -> str:
        return f"{self.check}: {self.where}: {self.what} ({self.count:,}). {self.advice}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What n labels see: each code `ever` or `now`, at the prediction time itself [n, codes]; and the last value of
    each code that has one, as arrays (label, code, value)."""

    ever: NDArray[np.bool_]
    now: NDArray[np.bool_]
    last: tuple[Ints, Ints, Floats]


def future_shift(
    store: TokenStore, examples: Examples, seed: int = 0
) -> tuple[list[Finding], dict[str, Any]]:
    """Change everything after the prediction time, and see whether a batch of the loader changes."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    _, first = np.unique(examples.subject[order], return_index=True)
    rows = order[np.sort(first)][:_SUBJECTS]  # one label of a subject: what comes later is nobody's input
    small, asked = _subset(store, examples, rows)
    later = small.time > np.repeat(asked.prediction_time, np.diff(small.offsets))
    changed = SimpleNamespace(**vars(small))
    changed.time = np.where(later, small.time + 24 * _US_PER_HOUR, small.time)
    changed.code = np.where(later, small.code % 7 + 2, small.code)
    changed.value = np.where(later, np.float32(5), small.value)
    changed.bin = np.where(later, 1, small.bin).astype(small.bin.dtype)
    differ = [
        name
        for one, other in zip(_batches(small, asked), _batches(changed, asked), strict=True)
        for name in one
        if not np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")
    ]
    late = int(np.sum(np.minimum(asked.position, np.diff(small.offsets)) > _visible(small, asked)))
    measured = {
        "labels": len(rows),
        "tokens_changed": int(later.sum()),
        "fields_that_changed": sorted(set(differ)),
    }
    if not differ:
        return [], measured
    return [
        Finding(
            "future_shift", f"changing what became known after the prediction changes {', '.join(sorted(set(differ)))}",
            f"batches of {len(rows)} labels", max(late, 1),
            "A label's prefix holds tokens later than its prediction_time: make the examples again from these tokens.",
        )
    ], measured  # fmt: skip


def patient_overlap(store: TokenStore, examples: Examples) -> tuple[list[Finding], dict[str, Any]]:
    """Subjects with labels in two splits, ids that stand twice in the store, and one record under two ids."""
    found = []
    pairs = np.unique(np.stack([examples.subject, examples.split.astype(np.int64)]), axis=1)
    _, splits = np.unique(pairs[0], return_counts=True)
    ids, where = np.unique(np.asarray(store.subject_id), return_inverse=True)
    split = np.asarray(store.split)
    again = _in_two_splits(where, split, len(ids))
    mine = np.asarray(store.split)[examples.subject] != examples.split
    if count := int((splits > 1).sum()) + again + int(np.unique(examples.subject[mine]).size):
        found.append(
            Finding("patient_overlap", "patients have labels in more than one split", "examples", count,
                    "Split by patient: `ehrseq timeline` writes metadata/subject_splits.parquet, one row each.")
        )  # fmt: skip
    prints = _fingerprints(store)
    judged = prints != 0
    _, twin = np.unique(prints[judged], return_inverse=True)
    if count := _in_two_splits(twin, split[judged], int(twin.max(initial=-1)) + 1):
        found.append(
            Finding("patient_overlap", "records are the same, event by event, under two ids in two splits", "tokens",
                    count, "Merge these patients (`merge:` in source.yaml) before splitting.")
        )  # fmt: skip
    return found, {"subjects": store.subjects, "labels": len(examples)}


def single_features(
    store: TokenStore, examples: Examples, seed: int = 0
) -> tuple[list[Finding], dict[str, Any]]:
    """Is one code, one value, or what happens at the very moment of the prediction as good as the outcome itself?"""
    names, found = store.vocabulary["codes"], []
    best: dict[str, Any] = {}
    for number, task in enumerate(map(str, examples.tasks)):
        rows = _sample(examples, number, (0,), _LABELS, seed)
        truths = {
            name: truth
            for name, truth in _truths(examples, rows, number).items()
            if min(len(np.unique(examples.subject[rows][side])) for side in (truth, ~truth)) >= FEW
        }
        if not truths:
            continue
        seen = _seen(store, examples, rows, len(names))
        for name, truth in truths.items():
            more, best[name] = _of_output(
                name, names, truth, examples.subject[rows], seen, _own(task, name, names)
            )
            found += more
    return found, best


def _truths(examples: Examples, rows: Ints, task: int) -> dict[str, NDArray[np.bool_]]:
    """What is to be known of the labels `rows` [n]: the task's yes or no, or its commonest outputs'."""
    name = str(examples.tasks[task])
    if examples.several is None or examples.single()[task]:
        return {name: examples.value[rows] > 0.5}
    dense = examples.several.dense(rows, task)
    outputs = examples.several.outputs[examples.several.first[task] :]
    common: Ints = np.argsort(-dense.sum(0), kind="stable")[:_OUTPUTS]
    return {str(outputs[column]): dense[:, column] for column in common}


def _own(task: str, output: str, names: Sequence[str]) -> NDArray[np.bool_]:
    """Codes [codes] that are an output itself, of an earlier stay: a chronic disease is billed again, which is no
    leak. That they come too early is for `outcome_visible` to see."""
    part = output.removeprefix(task).removeprefix(".")
    return np.asarray([bool(part) and part in name for name in names], np.bool_)


def _of_output(
    output: str,
    names: Sequence[str],
    truth: NDArray[np.bool_],
    subject: Ints,
    seen: Seen,
    own: NDArray[np.bool_],
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings on one yes or no, and the best single code of each check."""
    found, best = [], {}
    for check, has in (("single_feature", seen.ever), ("same_time", seen.now)):
        score = np.where(own, 0.5, 0.5 + 0.5 * (has[truth].mean(0) - has[~truth].mean(0)))
        worst = int(np.argmax(np.abs(score - 0.5)))
        best[check] = {"code": names[worst], "auroc": round(float(score[worst]), 3)}
        found += [
            Finding(check, f"whether `{names[code]}` {_WHEN[check]} has AUROC {score[code]:.3f}", output,
                    int(has[truth, code].sum()), _ADVICE[check])
            for code in np.flatnonzero(~own & _alarming(has, truth, subject, score, TOO_GOOD[check]))[:5]
        ]  # fmt: skip
    for code, auroc, count in _values(seen, truth):
        if max(auroc, 1 - auroc) >= TOO_GOOD["single_feature"] and not own[code]:
            found.append(
                Finding("single_feature", f"the last value of `{names[code]}` has AUROC {auroc:.3f}", output, count,
                        _ADVICE["single_feature"])
            )  # fmt: skip
    return found, best


_WHEN = {
    "single_feature": "is in the record",
    "same_time": "is recorded at the very moment of the prediction",
}
_ADVICE = {
    "single_feature": "It is the outcome by another name, or known too early: correct its knowable time "
    "(knowable.yaml), or let the prediction come before it.",
    "same_time": "Events at the prediction time are visible. Move the task's index_timestamp before them.",
}


def shuffled_labels(
    store: TokenStore, examples: Examples, seed: int = 0
) -> tuple[list[Finding], dict[str, Any]]:
    """With labels dealt out anew by chance, a model fitted on train must know nothing of the others."""
    found, measured = [], {}
    moment = examples.subject * np.int64(1_000_003) ^ examples.prediction_time
    for number, task in enumerate(map(str, examples.tasks)):
        train = _sample(examples, number, (0,), _CONTROL, seed)
        test = _sample(examples, number, (1, 2), 2 * _CONTROL, seed)
        both = np.concatenate([train, test])
        _, same = np.unique(
            moment[both], return_inverse=True
        )  # a label that is there twice stays the same label
        rate = float(np.clip(np.mean(examples.value[both]), 0.0, 0.5)) if len(both) else 0.0
        dealt = (np.random.default_rng([seed, number]).random(int(same.max(initial=-1)) + 1) < rate)[same]
        truth = dealt[len(train) :]
        if min(truth.sum(), (~truth).sum(), dealt[: len(train)].sum()) < FEW:
            continue
        has = _seen(store, examples, both, len(store.vocabulary["codes"])).ever
        auroc = _auroc(_kernel_ridge(has[: len(train)], dealt[: len(train)], has[len(train) :]), truth)
        spread = np.sqrt((len(truth) + 1) / (12.0 * truth.sum() * (~truth).sum()))
        measured[task] = {"auroc": round(auroc, 3), "within": round(4.5 * float(spread), 3)}
        if abs(auroc - 0.5) > 4.5 * spread:
            found.append(
                Finding("shuffled_labels", f"a model of shuffled labels has AUROC {auroc:.3f} on others, not 0.5", task,
                        len(truth), "The same labels or records are in train and test: look at patient_overlap.")
            )  # fmt: skip
    return found, measured


def _batches(store: Any, examples: Examples) -> Iterator[dict[str, NDArray[Any]]]:
    rows = np.arange(len(examples))
    return Loader(
        cast(TokenStore, store), examples, rows, context=_CONTEXT, row_length=512, shuffle=False
    ).epoch()


def _subset(store: TokenStore, examples: Examples, rows: Ints) -> tuple[Any, Examples]:
    """The subjects of `rows` alone, in memory; label i is that of subject i."""
    subject = examples.subject[rows]
    lengths = np.asarray(store.offsets)[subject + 1] - np.asarray(store.offsets)[subject]
    tokens = ranges(np.asarray(store.offsets)[subject], lengths)
    small = SimpleNamespace(
        **{name: np.asarray(getattr(store, name))[tokens] for name in TOKEN_FIELDS},
        **{name: np.asarray(getattr(store, name))[subject] for name in SUBJECT_FIELDS},
        offsets=np.append(0, np.cumsum(lengths)), subjects=len(rows), tokens=len(tokens),
        vocabulary=store.vocabulary, timezone=store.timezone, **_beside(store, subject, lengths),
    )  # fmt: skip
    return small, replace(examples.take(rows), subject=np.arange(len(rows)))


def _beside(store: TokenStore, subject: Ints, lengths: Ints) -> dict[str, Any]:
    """Bags and vectors of those subjects' tokens, and where the vectors are."""
    start = np.asarray(store.offsets)[subject]
    moved = np.cumsum(lengths) - lengths - start
    found: dict[str, Any] = {"spans": store.spans}
    for position, *others in (tuple(BAG_FIELDS), tuple(DENSE_FIELDS)):
        token = np.asarray(getattr(store, position))
        first = np.searchsorted(token, start)
        count = np.searchsorted(token, start + lengths) - first
        entry = ranges(first, count)
        found[position] = token[entry] + np.repeat(moved, count)
        found |= {name: np.asarray(getattr(store, name))[entry] for name in others}
    return found


def _visible(small: Any, asked: Examples) -> Ints:
    seen = small.time <= np.repeat(asked.prediction_time, np.diff(small.offsets))
    return np.add.reduceat(seen, small.offsets[:-1]) if len(seen) else np.zeros(len(asked), np.int64)


def _in_two_splits(group: Ints, split: NDArray[np.int8], groups: int) -> int:
    has = np.zeros((groups, len(SPLITS)), bool)
    has[group, split] = True
    return int((has.sum(1) > 1).sum())


def _fingerprints(store: TokenStore) -> NDArray[np.uint64]:
    """A hash of each subject's first codes and times; 0 = too short to say anything."""
    offsets = np.asarray(store.offsets)
    lengths = np.minimum(np.diff(offsets), _RECORD)
    tokens = ranges(offsets[:-1], lengths)
    mixed = stable_hash(np.asarray(store.time)[tokens] * np.int64(31) + np.asarray(store.code)[tokens])
    prints = np.zeros(store.subjects, np.uint64)
    np.add.at(prints, np.repeat(np.arange(store.subjects), lengths), mixed)
    return np.where(lengths >= _SHORT, prints, np.uint64(0))


def _sample(examples: Examples, task: int, splits: tuple[int, ...], most: int, seed: int) -> Ints:
    rows = np.flatnonzero(
        (examples.task == task) & np.isin(examples.split, splits) & ~np.isnan(examples.value)
    )
    return np.sort(np.random.default_rng([seed, task, *splits]).permutation(rows)[:most])


def _seen(store: TokenStore, examples: Examples, rows: Ints, codes: int) -> Seen:
    seen, now = np.zeros((len(rows), codes), bool), np.zeros((len(rows), codes), bool)
    last: list[tuple[Ints, Ints, Floats]] = []
    for start in range(0, len(rows), 500):
        part = rows[start : start + 500]
        visible = examples.position[part]
        token = ranges(np.asarray(store.offsets)[examples.subject[part]], visible)
        label = np.repeat(np.arange(start, start + len(part)), visible)
        code, value = np.asarray(store.code)[token], np.asarray(store.value)[token]
        seen[label, code] = True
        at_once = np.asarray(store.time)[token] == np.repeat(examples.prediction_time[part], visible)
        now[label[at_once], code[at_once]] = True
        valued = ~np.isnan(value)
        key = label[valued] * codes + code[valued]
        keys, place = np.unique(key[::-1], return_index=True)  # of equals the last one counts
        last.append((keys // codes, keys % codes, value[valued][::-1][place].astype(np.float64)))
    labels, valued_codes, values = (np.concatenate(part) for part in zip(*last, strict=True))
    last_values = (labels.astype(np.int64), valued_codes.astype(np.int64), values.astype(np.float64))
    return Seen(seen, now, last_values)


def _alarming(
    has: NDArray[np.bool_], truth: NDArray[np.bool_], subject: Ints, score: Floats, too_good: float
) -> NDArray[np.bool_]:
    """Codes [codes] that know too much. Labels of one patient are alike, so patients are counted; and of many codes
    some are pure by chance, so a pure one must have so many that by chance one in a million audits would see it."""
    hits, others = has[truth].sum(0), has[~truth].sum(0)
    _, number = np.unique(subject[truth], return_inverse=True)
    patients = np.zeros((int(number.max()) + 1, has.shape[1]), bool)
    np.logical_or.at(patients, number, has[truth])
    chance = patients.sum(0) * np.log(truth.mean()) + np.log(has.shape[1])
    pure = (
        (truth.mean() < 0.5)
        & (patients.sum(0) >= FEW)
        & (chance <= np.log(1e-6))
        & (hits >= PURE * (hits + others))
    )
    alarming = np.maximum(score, 1 - score) >= too_good
    return cast(NDArray[np.bool_], alarming | (pure & (hits >= SHARE * truth.sum())))


def _values(seen: Seen, truth: NDArray[np.bool_]) -> Iterator[tuple[int, float, int]]:
    """(code, AUROC of its last value, labels that have one) where both kinds of labels have enough of them."""
    label, code, value = seen.last
    order = np.argsort(code, kind="stable")
    label, code, value = label[order], code[order], value[order]
    starts = np.flatnonzero(np.append(True, code[1:] != code[:-1])) if len(code) else np.zeros(0, np.int64)
    for start, stop in zip(starts, np.append(starts[1:], len(code)), strict=True):
        mine = truth[label[start:stop]]
        if min(mine.sum(), (~mine).sum()) >= 2 * FEW and mine.sum() >= SHARE * truth.sum():
            yield int(code[start]), _auroc(value[start:stop], mine), int(stop - start)


def _auroc(score: Floats, truth: NDArray[np.bool_]) -> float:
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[group]
    positives = int(truth.sum())
    return float(
        (rank[truth].sum() - positives * (positives + 1) / 2) / (positives * (len(truth) - positives))
    )


def _kernel_ridge(train: NDArray[np.bool_], labels: NDArray[np.bool_], test: NDArray[np.bool_]) -> Floats:
    """Scores of `test` by a linear model that all but memorises `train`: what is in both is found again."""
    used = train.any(0)
    a, b = train[:, used].astype(np.float32), test[:, used].astype(np.float32)
    middle = a.mean(0)
    a, b = a - middle, b - middle
    kernel = (a @ a.T).astype(np.float64)
    kernel[np.diag_indices(len(kernel))] += 0.01 * float(np.trace(kernel)) / len(kernel) + 1e-6
    weights = np.linalg.solve(kernel, labels - labels.mean())
    return cast(Floats, b @ (a.T @ weights))
