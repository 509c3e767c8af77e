"""Time training steps against a product of matrices, step by step beside each other.

    python benchmarks/train_step.py --size 10m --rounds 7
    python benchmarks/train_step.py --size 10m --family lru

Batches come from the loader over an invented store (see benchmarks/loader.py): packed rows of windows of 50 to 512
tokens. A step is forward, backward, clipping, AdamW and the moving average. `operations` is arithmetic, not what a
compiler reports: products of matrices on real tokens, causal attention by its pairs, three forward passes a step
(`ehrseq.models.work`). Ceiling: one jitted product of two square matrices in the step's dtype; each round times the
product, the step, and the product again, and `mfu` is the median over rounds of the step's operations per second by
those of the faster product: neighbours on the machine slow both. `--device-flops` gives a data sheet's peak besides.
`input_wait` is the share of an epoch's wall time in which the loop waits for the loader; `compilations` must be 1.
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loader import BINS, CODES, invented

from ehrseq.core.dataset import versions
from ehrseq.core.measure import peak_rss_bytes
from ehrseq.models.config import Inputs
from ehrseq.models.families import FAMILIES, model_config
from ehrseq.models.registry import count, definition, flops, initial
from ehrseq.models.work import Work
from ehrseq.tokens.loader import Loader
from ehrseq.training.config import TrainConfig
from ehrseq.training.state import optimizer_of, start
from ehrseq.training.step import make_train_step, on_device

SIZES: dict[str, dict[str, Any]] = {
    "demo": {},
    "10m": {"dim": 384, "layers": 5, "heads": 6, "mlp_ratio": 2.667, "wide": False},
    "100m": {"dim": 1024, "layers": 8, "heads": 16, "mlp_ratio": 2.667, "wide": False},
    "400m": {"dim": 1536, "layers": 14, "heads": 12, "mlp_ratio": 2.667, "wide": False},
    "1b": {"dim": 2048, "layers": 20, "heads": 16, "mlp_ratio": 2.667, "wide": False, "remat": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="transformer")
    parser.add_argument("--size", choices=SIZES, default="10m")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--row-length", type=int, default=512)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--product", type=int, default=2048, help="side of the ceiling's square matrices")
    parser.add_argument("--device-flops", type=float, help="peak of the data sheet, operations per second")
    parser.add_argument("--seed", type=int, default=0)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), parser.parse_args())), flush=True)


def measure(folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """One JSON line's worth."""
    known = FAMILIES[chosen.family].__dataclass_fields__
    wanted = SIZES[chosen.size] | {
        "family": chosen.family,
        "dtype": chosen.dtype,
        "attention": chosen.attention,
    }
    model = model_config({name: value for name, value in wanted.items() if name in known})
    length = chosen.row_length
    config = TrainConfig(
        model=model, context=length, row_length=length, batch_rows=chosen.batch_rows, seed=chosen.seed
    )
    store, examples = invented(folder, 40 * chosen.batch_rows, chosen.seed)
    tasks = tuple(examples.tasks.tolist())
    inputs = Inputs(codes=CODES, bins=BINS, units=1, modalities=1, tasks=tasks, kinds=8)
    rows = np.arange(len(examples))
    loader = Loader(
        store,
        examples,
        rows,
        context=length,
        row_length=length,
        batch_rows=chosen.batch_rows,
        seed=chosen.seed,
    )
    optimizer = optimizer_of(config, 1000)
    values = initial(model, inputs, config.seed)
    parameters = count(values)
    state = start(values, optimizer, len(inputs.tasks), config.seed)
    step: Any = make_train_step(definition(model, inputs), optimizer, len(inputs.tasks), config.ema, 0.01)
    del values
    batches = endless(loader)
    product, product_operations = matmul(chosen.product, chosen.dtype)
    works, seconds, ceilings, waits = [], [], [], []
    for _ in range(chosen.rounds + 1):  # the first warms up
        begun = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - begun)
        works.append(Work.of(batch))
        given = on_device(batch)
        before = timed(product)
        begun = time.perf_counter()
        state = jax.block_until_ready(step(state, given))
        seconds.append(time.perf_counter() - begun)
        ceilings.append(product_operations / min(before, timed(product)))
    works, seconds, ceilings, waits = works[1:], seconds[1:], ceilings[1:], waits[1:]
    operations = [3 * flops(model, inputs, work) for work in works]
    speeds = [done / spent for done, spent in zip(operations, seconds, strict=True)]
    shares = [speed / ceiling for speed, ceiling in zip(speeds, ceilings, strict=True)]
    record = {
        "name": "train_step",
        "family": chosen.family,
        "size": chosen.size,
        "parameters": parameters,
        "row_length": length,
        "batch_rows": chosen.batch_rows,
        "dtype": chosen.dtype,
        "rows": sum(work.tokens for work in works),
        "fill": round(statistics.mean(work.tokens for work in works) / (length * chosen.batch_rows), 4),
        "seconds": round(statistics.median(seconds), 4),
        "range": [round(min(seconds), 4), round(max(seconds), 4)],
        "tokens_per_second": round(sum(work.tokens for work in works) / sum(seconds)),
        "operations": statistics.median(operations),
        "operations_per_second": round(statistics.median(speeds)),
        "mfu": round(statistics.median(shares), 4),
        "mfu_range": [round(min(shares), 4), round(max(shares), 4)],
        "input_wait": round(sum(waits) / (sum(waits) + sum(seconds)), 5),
        "compilations": step._cache_size(),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {
            "name": f"product of {chosen.product} square matrices",
            "operations_per_second": round(statistics.median(ceilings)),
        },
        "ratio_to_floor": round(1 / statistics.median(shares), 2),
        "versions": versions(),
        "device": f"{jax.devices()[0].device_kind} {platform.machine()}",
    }  # fmt: skip
    if chosen.device_flops:
        record["mfu_of_data_sheet"] = round(statistics.median(speeds) / chosen.device_flops, 4)
    return record


def endless(loader: Loader) -> Iterator[dict[str, Any]]:
    """Batches of epoch after epoch."""
    while True:
        yield from loader.epoch()


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    before = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - before


def matmul(side: int, dtype: str) -> tuple[Callable[[], Any], float]:
    """A product of square matrices, and its number of floating-point operations."""
    keys = jax.random.split(jax.random.key(0), 2)
    left, right = (jax.random.normal(key, (side, side), jnp.dtype(dtype)) for key in keys)
    multiply = jax.jit(jnp.matmul)
    jax.block_until_ready(multiply(left, right))
    return lambda: multiply(left, right), 2.0 * side**3


if __name__ == "__main__":
    main()
