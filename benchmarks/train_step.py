"""Time one training step against plain matrix products of the same number of operations.

    python benchmarks/train_step.py --runs 10

The batch comes from the loader over an invented store (see benchmarks/loader.py); configuration: the defaults. The
step is forward, backward and AdamW. Floor: one jitted product of two float32 matrices, rows x dim by dim x 3 dim (the
shape of the widest common layer), timed in the same run and scaled to the floating-point operations that XLA counts
in the compiled step. XLA counts the body of a loop once, so the tiles of blockwise attention beyond the first are
not in the floor. One step warms up, then the median of `--runs`; wall seconds, as both use all cores.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from loader import invented

from ehrseq.core.dataset import versions
from ehrseq.core.measure import peak_rss_bytes
from ehrseq.models.config import Inputs
from ehrseq.models.registry import build, count, definition, parameters
from ehrseq.tokens.loader import Loader
from ehrseq.training.config import TrainConfig
from ehrseq.training.state import optimizer_of, start
from ehrseq.training.step import make_train_step, on_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()

    config = TrainConfig(seed=chosen.seed)
    store, examples = invented(300, chosen.seed)
    inputs = Inputs.of(store.vocabulary, tuple(examples.tasks.tolist()))
    sizes = {"context": config.context, "row_length": config.row_length, "batch_rows": config.batch_rows}
    loader = Loader(store, examples, np.arange(len(examples)), **sizes, seed=chosen.seed)
    batch = on_device(next(loader.epoch()))
    optimizer = optimizer_of(config, 1000)
    initial = parameters(build(config.model, inputs, config.seed))
    state = start(initial, optimizer, len(inputs.tasks), config.seed)
    step = make_train_step(definition(config.model, inputs), optimizer, len(inputs.tasks), config.ema, 0.01)
    compiled: Any = step.lower(state, batch).compile()  # type: ignore[attr-defined]
    operations = float(compiled.cost_analysis()["flops"])

    def one() -> Any:
        nonlocal state
        state = compiled(state, batch)
        return state

    spent = timed(one, chosen.runs)
    tokens = config.batch_rows * config.row_length
    product, product_operations = matmul(tokens, config.model.dim)
    speed = product_operations / statistics.median(timed(product, chosen.runs))
    seconds, floor = statistics.median(spent), operations / speed
    record = {
        "name": "train_step",
        **sizes,
        "parameters": count(initial),
        "positions": tokens,
        "seconds": round(seconds, 4),
        "range": [round(min(spent), 4), round(max(spent), 4)],
        "positions_per_second": round(tokens / seconds),
        "operations": operations,
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": "float32 products of as many operations", "seconds": round(floor, 4)},
        "floor_operations_per_second": round(speed),
        "ratio_to_floor": round(seconds / floor, 2),
        "versions": versions(),
        "device": f"{jax.devices()[0].device_kind} {platform.machine()}",
    }
    print(json.dumps(record), flush=True)


def timed(work: Callable[[], Any], runs: int) -> list[float]:
    """Wall seconds of each of `runs` calls, after one to warm up."""
    spent = []
    for _ in range(runs + 1):
        before = time.perf_counter()
        jax.block_until_ready(work())
        spent.append(time.perf_counter() - before)
    return spent[1:]


def matmul(rows: int, dim: int) -> tuple[Callable[[], Any], float]:
    """A product of float32 matrices, and its number of floating-point operations."""
    keys = jax.random.split(jax.random.key(0), 2)
    left, right = jax.random.normal(keys[0], (rows, dim)), jax.random.normal(keys[1], (dim, 3 * dim))
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(left, right), 2.0 * rows * dim * 3 * dim


if __name__ == "__main__":
    main()
