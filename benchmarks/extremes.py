"""Two patients no hospital forgets: a stay of 200,000 events, and a year of one-minute heart rate.

    python benchmarks/extremes.py --limit-gb 2 --limit-seconds 10

`stay`: one admission with `--events` laboratory results beside a hundred ordinary patients; `heart_rate`: one patient
with `--minutes` values, one a minute. Both go as CSV tables through map, timeline and tokenize, each by itself:
CPU seconds of the three together, the largest peak memory. Truncation policy: nothing is cut before the loader.
Timeline and token store hold every event; a training window is the latest `context` tokens before a prediction time,
and how many of the longest patient's tokens such a window leaves out is printed. Exit 1 above a limit.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mapping import alone, mappings
from memory import cost_of, ehrseq_map, ehrseq_timeline, ehrseq_tokenize

from ehrseq.core.dataset import versions
from ehrseq.tokens.store import TokenStore

MINUTES = 365 * 24 * 60
CONTEXT = 4096
_START = 4_102_444_800  # 2100-01-01, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--minutes", type=int, default=MINUTES)
    parser.add_argument("--limit-gb", type=float, default=2.0)
    parser.add_argument("--limit-seconds", type=float, default=10.0)
    chosen = parser.parse_args()
    stay = measured("stay", results(chosen.events, step=12, codes=400))
    heart = measured("heart_rate", results(chosen.minutes, step=60, codes=1))
    fits = stay["peak_rss_bytes"] < chosen.limit_gb * 1e9 and heart["cpu_seconds"] < chosen.limit_seconds
    raise SystemExit(not fits)


def results(count: int, *, step: int, codes: int) -> pl.DataFrame:
    """Rows of labevents: patient 1 with `count` results, one every `step` seconds; patients 2 to 101 with 50 each."""
    source = np.random.default_rng(0)
    patient = np.concatenate([np.ones(count, np.int64), np.repeat(np.arange(2, 102), 50)])
    rows = len(patient)
    seconds = np.concatenate([np.arange(count) * step, np.tile(np.arange(50) * 3600, 100)]) + _START
    charted = pl.Series(seconds).cast(pl.Int64) * 1_000_000
    number = source.normal(80, 10, rows).round(1)
    return pl.DataFrame({
        "labevent_id": np.arange(rows), "subject_id": patient, "itemid": 50_000 + source.integers(0, codes, rows),
        "charttime": charted.cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M:%S"),
        "storetime": charted.cast(pl.Datetime("us")).dt.to_string("%Y-%m-%d %H:%M:%S"),
        "value": pl.Series(number).cast(pl.String), "valuenum": number,
        "valueuom": pl.Series(["/min"]).new_from_index(0, rows),
        "flag": pl.Series([None], dtype=pl.String).new_from_index(0, rows),
    })  # fmt: skip


def measured(name: str, rows: pl.DataFrame) -> dict[str, Any]:
    """Map, timeline and tokenize these results; print what that cost and what a training window would leave out."""
    with tempfile.TemporaryDirectory() as folder:
        costs = dict(stages(Path(folder), rows))
        store = TokenStore.open(Path(folder) / "tokens")
        longest = int(np.diff(store.offsets).max())
    total = {
        "cpu_seconds": round(sum(cost["cpu_seconds"] for cost in costs.values()), 2),
        "peak_rss_bytes": max(cost["peak_rss_bytes"] for cost in costs.values()),
    }
    policy = {
        "longest_patient": longest,
        "context": CONTEXT,
        "not_in_a_window_at_the_end": max(0, longest - CONTEXT),
    }
    print(
        json.dumps(
            {"name": name, "rows": rows.height, **total, "stages": costs, **policy, "versions": versions()}
        ),
        flush=True,
    )
    return total


def stages(folder: Path, rows: pl.DataFrame) -> Iterator[tuple[str, dict[str, float]]]:
    """(stage, cost) of each, one after another."""
    data, source = folder / "data", mappings(folder / "source")
    data.mkdir()
    rows.write_csv(data / "labevents.csv")
    rows.select("itemid").unique().sort("itemid").with_columns(label=pl.lit("result")).write_csv(
        data / "d_labitems.csv"
    )
    rows.select("subject_id").unique().sort("subject_id").with_columns(gender=pl.lit("F")).write_csv(
        data / "patients.csv"
    )
    yield "map", alone(cost_of, ehrseq_map, source, data, folder / "fhir")
    yield "timeline", alone(cost_of, ehrseq_timeline, folder / "fhir", folder / "timeline")
    yield "tokenize", alone(cost_of, ehrseq_tokenize, folder / "timeline", folder / "tokens")


if __name__ == "__main__":
    main()
