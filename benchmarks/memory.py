"""Peak memory of map, timeline and tokenize, each in a process of its own, as the rows grow.

    python benchmarks/memory.py --rows 1000000 10000000 50000000

Rows are the laboratory results of `mapping.py`, 500 a patient; one worker. One JSON line a stage and size, then how
many times more memory the largest size took than the smallest. `--limit-gb`: exit 1 above that peak.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mapping import alone, mappings, tables

import ehrseq
from ehrseq.core import progress
from ehrseq.core.dataset import Result, versions
from ehrseq.core.measure import Meter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-gb", type=float)
    chosen = parser.parse_args()
    peaks: dict[str, list[float]] = {}
    for rows in chosen.rows:
        with tempfile.TemporaryDirectory() as name:
            for stage, cost in stages(Path(name), rows, chosen.seed):
                peaks.setdefault(stage, []).append(cost["peak_rss_bytes"])
                print(json.dumps({"name": stage, "rows": rows, **cost, "versions": versions()}), flush=True)
    growth = {stage: round(found[-1] / found[0], 2) for stage, found in peaks.items()}
    print(json.dumps({"name": "growth", "rows": chosen.rows, "times": growth}))
    if chosen.limit_gb:
        raise SystemExit(max(map(max, peaks.values())) > chosen.limit_gb * 1e9)


def stages(folder: Path, rows: int, seed: int) -> Any:
    """(stage, cost) of each stage, one after another."""
    data, source = alone(tables, folder / "data", rows, seed), mappings(folder / "source")
    yield "map", alone(cost_of, ehrseq_map, source, data, folder / "fhir")
    yield "timeline", alone(cost_of, ehrseq_timeline, folder / "fhir", folder / "timeline")
    yield "tokenize", alone(cost_of, ehrseq_tokenize, folder / "timeline", folder / "tokens")


def ehrseq_map(source: Path, data: Path, out: Path) -> Result:
    """`ehrseq map`, without the sample of full validation."""
    return ehrseq.map(source, data, out, validate="none")


def ehrseq_timeline(fhir: Path, out: Path) -> Result:
    """`ehrseq timeline`."""
    return ehrseq.timeline(fhir, out)


def ehrseq_tokenize(timeline: Path, out: Path) -> Result:
    """`ehrseq tokenize`."""
    return ehrseq.tokenize(timeline, out)


def cost_of(work: Callable[..., Result], *given: Path) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of a stage, in this process."""
    progress.set_quiet(True)
    meter = Meter()
    work(*given)
    return meter.read()


if __name__ == "__main__":
    main()
