"""Time an epoch of `ehrseq.tokens.loader` against copying the bytes of its batches with numpy.

    python benchmarks/loader.py --subjects 20000 --seed 0

The store is invented and on disk, read through its memory maps: subjects of 50 to 2,000 tokens, 1,000 codes, three
labels a subject at random prefixes. `--beside` also gives it what most stores have: local clocks, and at every second
token the code of an attribute. `fill` is the share of positions that are tokens. Floor: all arrays of an epoch's
batches are copied into arrays of the same shapes (`np.copyto`, one memcpy each); nothing is planned or gathered. One
epoch warms up, then the median of `--runs` epochs; CPU seconds of one thread, as wall time depends on who else is at
work. Planning an epoch counts; making the loader (once a run) is `plan_cpu_seconds`.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path

import numpy as np

from ehrseq.core.dataset import versions
from ehrseq.core.measure import peak_rss_bytes
from ehrseq.tokens.loader import Batch, Loader
from ehrseq.tokens.packing import Examples, previous_of
from ehrseq.tokens.store import StoreWriter, TokenStore, save_part

HOUR = 3_600_000_000
CODES, BINS = 1000, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--beside", action="store_true")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), chosen)


def measure(folder: Path, chosen: argparse.Namespace) -> None:
    """Print one JSON line."""
    store, examples = invented(folder, chosen.subjects, chosen.seed, chosen.beside)
    sizes = {"context": chosen.context, "row_length": chosen.context, "batch_rows": chosen.batch_rows}
    begun = time.process_time()
    loader = Loader(store, examples, np.arange(len(examples)), **sizes, seed=chosen.seed)
    plan = time.process_time() - begun
    spent, floors, size, filled, places = [], [], 0, 0, 0
    for _ in range(chosen.runs + 1):
        begun = time.process_time()
        last = deque(loader.epoch(), maxlen=1)[0]
        spent.append(time.process_time() - begun)
        floors.append(copies(last, loader.batches))
    for batch in loader.epoch():
        size += sum(array.nbytes for array in batch.values())
        filled, places = filled + int((batch["segment"] > 0).sum()), places + batch["segment"].size
    seconds, floor = statistics.median(spent[1:]), statistics.median(floors[1:])
    record = {
        "name": "loader, clocks and attributes" if chosen.beside else "loader",
        **sizes,
        "batches": loader.batches,
        "tokens": loader.tokens,
        "fill": round(filled / places, 4),
        "bytes": size,
        "plan_cpu_seconds": round(plan, 4),
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


def copies(batch: Batch, times: int) -> float:
    """The floor: CPU seconds to copy every array of a batch as often as there are batches."""
    targets = {name: np.zeros_like(array) for name, array in batch.items()}
    begun = time.process_time()
    for _ in range(times):
        for name, array in batch.items():
            np.copyto(targets[name], array)
    return time.process_time() - begun


def invented(folder: Path, subjects: int, seed: int, beside: bool = False) -> tuple[TokenStore, Examples]:
    """A store in `folder` and three labels for each subject."""
    source = np.random.default_rng(seed)
    lengths = source.integers(50, 2000, subjects)
    offsets = np.append(0, np.cumsum(lengths))
    tokens = int(offsets[-1])
    value = np.where(source.random(tokens) < 0.4, source.normal(size=tokens), np.nan).astype(np.float32)
    clock = np.cumsum(source.integers(0, HOUR, tokens))
    arrays = {
        "code": source.integers(2, CODES, tokens).astype(np.int32),
        "time": clock - np.repeat(clock[offsets[:-1]], lengths),
        "value": value,
        "bin": np.where(np.isnan(value), 0, source.integers(1, BINS + 1, tokens)).astype(np.int16),
        "unit": np.zeros(tokens, np.int16),
        "modality": np.zeros(tokens, np.int8),
        "zone": np.full(tokens, 4, np.int8),
        "event": np.arange(tokens),
        "subject_id": np.arange(subjects),
        "birth": np.full(subjects, -60 * 8766 * HOUR),
        "split": np.zeros(subjects, np.int8),
        "shard": np.zeros(subjects, np.int16),
        "length": lengths,
    }
    arrays["previous"] = previous_of(arrays["code"], lengths)
    if beside:
        bag = np.flatnonzero(source.random(tokens) < 0.5)
        arrays |= {"bag_token": bag, "bag_code": (bag % CODES).astype(np.int32)}
        arrays["bag_weight"] = np.ones(len(bag), np.float32)
    save_part(folder / "part", arrays)
    with StoreWriter(folder) as writer:
        writer.append(folder / "part")
        entry = writer.finish(b"{}", "Europe/Berlin" if beside else None)
    store = TokenStore(folder, entry)
    subject = np.repeat(np.arange(subjects), 3)
    position = np.sort(source.integers(1, lengths[:, None] + 1, (subjects, 3)), axis=1).reshape(-1)
    examples = Examples(
        subject=subject,
        position=position,
        task=np.tile(np.arange(3, dtype=np.int32), subjects),
        value=source.integers(0, 2, 3 * subjects).astype(np.float32),
        split=np.zeros(3 * subjects, np.int8),
        prediction_time=arrays["time"][offsets[subject] + position - 1] + HOUR,
        tasks=np.asarray(["a", "b", "c"]),
    )
    return store, examples


if __name__ == "__main__":
    main()
