"""Splice junctions of UCI: accuracy in ten folds, once as they come and once with identical sequences in one fold.

    python benchmarks/quality/splice.py ../shared/data/genomics/uci-splice/splice.csv

The network and its training are fixed beforehand (SequenceConfig's defaults, an ensemble of `--networks`); folds are
stratified, by `--seed`. Beside it a support vector machine with a cubic kernel on the same folds, and the sum of both
(softmax of twice the machine's decision values). Prints `results` lines with a 95 % interval over sequences (Wilson).
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.svm import SVC

from ehrseq.adapters.genomics.sequence import SequenceConfig, encode, fit, predict

CLASSES = ("EI", "IE", "N")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--folds", type=int, default=10, help="how many of the ten to run")
    parser.add_argument("--only", choices=["random", "grouped"])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    table = pl.read_csv(chosen.data)
    sequences = table["sequence"].str.strip_chars()
    labels = (
        table["label"].str.strip_chars().replace_strict(CLASSES, range(3), return_dtype=pl.Int32).to_numpy()
    )
    groups = sequences.rank("dense").to_numpy()
    bases = encode(sequences.to_list())
    splits = {
        "random": StratifiedKFold(10, shuffle=True, random_state=chosen.seed).split(bases, labels),
        "grouped": StratifiedGroupKFold(10, shuffle=True, random_state=chosen.seed).split(
            bases, labels, groups
        ),
    }
    for name, folds in splits.items():
        if chosen.only in (None, name):
            measure(name, list(folds)[: chosen.folds], bases, labels, chosen)


def measure(
    name: str, folds: list, bases: np.ndarray, labels: np.ndarray, chosen: argparse.Namespace
) -> None:
    """Train and score on each fold, and print the accuracy over all of them."""
    right: dict[str, list[bool]] = {"network": [], "svm": [], "network and svm": []}
    start = time.process_time()
    for fold, (train, test) in enumerate(folds):
        config = SequenceConfig(outputs=3)
        seeds = [chosen.seed + 100 * fold + number for number in range(chosen.networks)]
        networks = [fit(bases[train], labels[train], config, seed) for seed in seeds]
        predicted = predict(networks, bases[test])
        right["network"] += (predicted.argmax(axis=1) == labels[test]).tolist()
        flat = bases.reshape(len(bases), -1)
        svm = SVC(kernel="poly", degree=3, gamma="scale", coef0=1, C=1).fit(flat[train], labels[train])
        right["svm"] += (svm.predict(flat[test]) == labels[test]).tolist()
        both = predicted + softmax(2 * svm.decision_function(flat[test]), axis=1)
        right["network and svm"] += (both.argmax(axis=1) == labels[test]).tolist()
    for model, hits in right.items():
        print(json.dumps({"results": [{
            "task": f"splice junctions, {name} folds", "model": model, "metric": "accuracy", **interval(np.array(hits)),
            "n": len(hits), "folds": len(folds), "cpu_seconds": round(time.process_time() - start, 1),
        }]}), flush=True)  # fmt: skip


def interval(hits: np.ndarray) -> dict[str, float]:
    """The share of hits with Wilson's 95 % interval."""
    n, share, z = len(hits), hits.mean(), 1.96
    middle, half = share + z**2 / (2 * n), z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4)}


if __name__ == "__main__":
    main()
