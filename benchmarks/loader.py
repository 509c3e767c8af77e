"""Time an epoch of `ehrseq.tokens.loader` against copying the bytes of its batches with numpy.

    python benchmarks/loader.py --subjects 2000 --seed 0

The store is invented: subjects of 50 to 2,000 tokens, 1,000 codes, three labels a subject at random prefixes. Floor:
all arrays of an epoch, kept in memory, are copied into arrays of the same shapes (`np.copyto`, one memcpy each);
nothing is planned or gathered. One epoch warms up, then the median of `--runs` epochs; CPU seconds, as wall time
depends on who else is at work.
"""

import argparse
import json
import platform
import statistics
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from ehrseq.core.dataset import versions
from ehrseq.core.measure import peak_rss_bytes
from ehrseq.tokens.loader import Batch, Loader
from ehrseq.tokens.packing import Examples

HOUR = 3_600_000_000
CODES, BINS = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--batch-rows", type=int, default=16)
    chosen = parser.parse_args()

    store, examples = invented(chosen.subjects, chosen.seed)
    sizes = {"context": chosen.context, "row_length": chosen.context, "batch_rows": chosen.batch_rows}
    loader = Loader(store, examples, np.arange(len(examples)), **sizes, seed=chosen.seed)
    spent, floors = [], []
    for _ in range(chosen.runs + 1):
        begun = time.process_time()
        batches = list(loader.epoch())
        spent.append(time.process_time() - begun)
        floors.append(copies(batches))
    seconds, floor = statistics.median(spent[1:]), statistics.median(floors[1:])
    record = {
        "name": "loader",
        **sizes,
        "batches": loader.batches,
        "tokens": loader.tokens,
        "bytes": sum(array.nbytes for batch in batches for array in batch.values()),
        "cpu_seconds": round(seconds, 4),
        "range": [round(min(spent[1:]), 4), round(max(spent[1:]), 4)],
        "tokens_per_cpu_second": round(loader.tokens / seconds),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": "memcpy of the batches", "cpu_seconds": round(floor, 4)},
        "ratio_to_floor": round(seconds / floor, 2),
        "versions": versions(),
        "device": platform.machine(),
    }
    print(json.dumps(record), flush=True)


def copies(batches: list[Batch]) -> float:
    """The floor: CPU seconds to copy every array of the batches once."""
    targets = {name: np.zeros_like(array) for name, array in batches[0].items()}
    begun = time.process_time()
    for batch in batches:
        for name, array in batch.items():
            np.copyto(targets[name], array)
    return time.process_time() - begun


def invented(subjects: int, seed: int) -> tuple[Any, Examples]:
    """A store's arrays and three labels for each subject."""
    source = np.random.default_rng(seed)
    lengths = source.integers(50, 2000, subjects)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = int(offsets[-1])
    value = np.where(source.random(tokens) < 0.4, source.normal(size=tokens), np.nan).astype(np.float32)
    clock = np.cumsum(source.integers(0, HOUR, tokens))
    store = SimpleNamespace(
        code=source.integers(2, CODES, tokens).astype(np.int32),
        time=clock - np.repeat(clock[offsets[:-1]], lengths),
        value=value,
        bin=np.where(np.isnan(value), 0, source.integers(1, BINS + 1, tokens)).astype(np.int16),
        unit=np.zeros(tokens, np.int16),
        modality=np.zeros(tokens, np.int8),
        birth=np.full(subjects, -60 * 8766 * HOUR),
        offsets=offsets,
        vocabulary={
            "codes": [str(number) for number in range(CODES)],
            "bins": BINS,
            "units": [""],
            "modalities": ["record"],
        },
    )
    subject = np.repeat(np.arange(subjects), 3)
    position = np.sort(source.integers(1, lengths[:, None] + 1, (subjects, 3)), axis=1).reshape(-1)
    examples = Examples(
        subject=subject,
        position=position,
        task=np.tile(np.arange(3, dtype=np.int32), subjects),
        value=source.integers(0, 2, 3 * subjects).astype(np.float32),
        split=np.zeros(3 * subjects, np.int8),
        prediction_time=store.time[offsets[subject] + position - 1] + HOUR,
        tasks=np.asarray(["a", "b", "c"]),
    )
    return store, examples


if __name__ == "__main__":
    main()
