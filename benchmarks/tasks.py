"""Time `ehrseq label` on a timeline against reading the columns it needs.

    python benchmarks/tasks.py --rows 2000000 --seed 0

Rows are invented events of stays (2,000 events a subject, every 200th starts or ends a stay) in 8 shards; the task
is the shipped in-hospital mortality. Floor: polars reads subject, time, code and value of every shard. The median
of `--runs` after one warm-up. A second line is the table of features for these labels.

With `--aces-python` (a Python with es-aces 0.7.3, whose pins are not ours) the same files are given to es-aces, each
extraction in a process of its own, and labels are compared row for row:

    python benchmarks/tasks.py --aces-python PYTHON [--meds mimic_iv_demo_meds_events.parquet] [--timeline TIMELINE ...]

`--meds` (the MIMIC-IV demo as MEDS) is asked for the tasks of `benchmarks/aces/`, `--timeline` for the shipped tasks.
"cpu_seconds" are those of the work after the program's imports, "with_imports" those of the process.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from ehrseq.core import progress
from ehrseq.core.dataset import Build, versions
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.core.parquet import write_parquet
from ehrseq.tasks.definition import find_task, task_document
from ehrseq.tasks.extract import label
from ehrseq.tasks.features import features
from ehrseq.timeline.meds import CODES, SUBJECT_SPLITS, split_subjects
from ehrseq.timeline.schema import Code, Event

SHARDS, EVENTS_PER_SUBJECT, EVENTS_PER_STAY = 8, 2_000, 200
CODES_OF_FEATURES = 200
COLUMNS = ["subject_id", "time", "code", "numeric_value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--aces-python")
    parser.add_argument("--meds", type=Path)
    parser.add_argument("--timeline", type=Path, nargs="*", default=[])
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        timeline = invented(Path(folder) / "timeline", chosen.rows, chosen.seed)
        shards = sorted((timeline / "data").iterdir())
        floor = cost(lambda: [pl.read_parquet(path, columns=COLUMNS) for path in shards], chosen.runs)[
            "cpu_seconds"
        ]
        spent = cost(
            lambda: label("in_hospital_mortality_24h", timeline, Path(folder) / "labels", force=True),
            chosen.runs,
        )
        record = {
            "name": "label",
            "rows": chosen.rows,
            **spent,
            "rows_per_cpu_second": round(chosen.rows / spent["cpu_seconds"]),
            "peak_rss_bytes": peak_rss_bytes(),
            "floor": {"name": "polars reads the four columns", "cpu_seconds": floor},
            "ratio_to_floor": round(spent["cpu_seconds"] / floor, 2),
            "versions": versions(),
            "device": platform.machine(),
        }
        print(json.dumps(record), flush=True)
        print(json.dumps(of_features(chosen, timeline, Path(folder))), flush=True)
        if chosen.aces_python:
            against_aces(chosen, timeline, Path(folder))


def of_features(chosen: argparse.Namespace, timeline: Path, folder: Path) -> dict[str, object]:
    """`ehrseq features` of the labels just made; floor: read the events, write the table it makes."""
    labels, out = folder / "labels", folder / "features"
    spent = cost(lambda: features(timeline, labels, out, codes=CODES_OF_FEATURES, force=True), chosen.runs)
    made = pl.read_parquet(out / "data/*.parquet")

    def floor() -> None:
        for path in sorted((timeline / "data").iterdir()):
            pl.read_parquet(path, columns=COLUMNS)
        write_parquet(made, folder / "floor.parquet")

    least = cost(floor, chosen.runs)["cpu_seconds"]
    return {
        "name": "features", "rows": chosen.rows, "labels": made.height, "columns": made.width, **spent,
        "cells_per_cpu_second": round(made.height * made.width / spent["cpu_seconds"]),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": "polars reads the four columns and writes the table", "cpu_seconds": least},
        "ratio_to_floor": round(spent["cpu_seconds"] / least, 2),
    }  # fmt: skip


def against_aces(chosen: argparse.Namespace, invented_timeline: Path, folder: Path) -> None:
    """A line for each task and timeline: labels equal or not, and what each program spent."""
    shipped = ["in_hospital_mortality_24h", "readmission_30d", "long_stay_7d", "icu_transfer_24h"]
    shipped += ["in_hospital_mortality_admission", "readmission_30d_24h", "icu_transfer_admission"]
    pairs = [(find_task(shipped[0]), invented_timeline)]
    if chosen.meds:
        imported = as_timeline(folder / "meds", read_meds(chosen.meds), shards=1)
        pairs += [(path, imported) for path in sorted((Path(__file__).parent / "aces").glob("*.yaml"))]
    pairs += [(find_task(name), timeline) for timeline in chosen.timeline for name in shipped]
    for path, timeline in pairs:
        print(json.dumps(compared(chosen.aces_python, path, timeline, folder)), flush=True)


def compared(python: str, path: Path, timeline: Path, folder: Path) -> dict[str, object]:
    """One task on one timeline by both programs."""
    task, script = folder / f"{path.stem}.yaml", str(Path(__file__).parent / "aces" / "measure.py")
    task.write_text(yaml.safe_dump(plain(task_document(path).value), sort_keys=False))
    costs, found = {}, {}
    for name, program, source in (
        ("ehrseq", sys.executable, str(timeline)),
        ("aces", python, f"{timeline}/data/*.parquet"),
    ):
        out = folder / f"{name}.parquet"
        done = subprocess.run(
            [program, script, name, str(task), source, str(out)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"name": "labels", "task": path.stem, "timeline": timeline.name, name: done.stderr[-300:]}
        costs[name], found[name] = json.loads(done.stdout.splitlines()[-1]), pl.read_parquet(out)
    ours, theirs = costs["ehrseq"], costs["aces"]
    return {
        "name": "labels", "task": path.stem, "timeline": timeline.name, "rows": found["aces"].height,
        "positives": int(found["aces"]["value"].sum()), "equal": found["ehrseq"].equals(found["aces"]),
        "ehrseq": ours, "aces": theirs,
        "times_faster": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 1),
        "memory_of_theirs": round(ours["peak_rss_bytes"] / theirs["peak_rss_bytes"], 2),
    }  # fmt: skip


def plain(document: dict) -> dict:
    """A task without what es-aces does not read; with `each` it is whether any output is true."""
    windows = {
        name: {key: value for key, value in window.items() if key != "each"}
        for name, window in document["windows"].items()
    }
    return {key: value for key, value in document.items() if key != "extends"} | {"windows": windows}


def read_meds(path: Path) -> pl.DataFrame:
    """A MEDS file, the value under its MEDS name."""
    frame = pl.read_parquet(path)
    return frame.rename({"value": "numeric_value"} if "value" in frame.columns else {})


def cost(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median seconds and CPU seconds."""
    work()
    readings = []
    for _ in range(runs):
        meter = Meter()
        work()
        readings.append(meter.read())
    return {
        name: round(statistics.median(reading[name] for reading in readings), 3)
        for name in ("seconds", "cpu_seconds")
    }


def invented(folder: Path, rows: int, seed: int) -> Path:
    """A timeline of subjects who are born, stay, are measured, leave, and sometimes die."""
    rng = np.random.default_rng(seed)
    subject = np.arange(rows) // EVENTS_PER_SUBJECT
    place = np.arange(rows) % EVENTS_PER_SUBJECT
    in_stay = place % EVENTS_PER_STAY
    dead = rng.random(rows) < 0.1
    code = np.array([f"Observation//local//{number}" for number in range(1_000)])[
        rng.integers(0, 1_000, rows)
    ].astype(object)
    code[in_stay == 1] = "Encounter.start//ActCode//IMP"
    code[in_stay == EVENTS_PER_STAY - 1] = "Encounter.end//ActCode//IMP//home"
    code[(in_stay == EVENTS_PER_STAY - 1) & dead] = "Encounter.end//ActCode//IMP//exp"
    code[place == 0] = "MEDS_BIRTH"
    hours = np.where(place == 0, -500_000, place + 1)
    frame = pl.DataFrame(
        {
            "subject_id": subject,
            "time": pl.Series(hours * 3_600_000_000, dtype=pl.Int64).cast(pl.Datetime("us")),
            "code": pl.Series(code.tolist()),
            "numeric_value": rng.normal(size=rows).astype(np.float32),
        }
    )
    return as_timeline(folder, frame, SHARDS)


def as_timeline(folder: Path, frame: pl.DataFrame, shards: int) -> Path:
    """A timeline of these subjects, times, codes and values."""
    known = {"resource_type": "Observation", "resource_id": "o", "modality": "record"}
    blank = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in Event.polars_schema().items()
        if name not in frame.columns
    ]
    whole = frame.with_columns(blank).with_columns(**{name: pl.lit(text) for name, text in known.items()})
    whole = whole.select(Event.polars_schema().names())
    whole = whole.sort("subject_id", "time", nulls_last=False, maintain_order=True)
    codes = whole.group_by("code").agg(events=pl.len().cast(pl.Int64)).sort("code")
    codes = codes.with_columns(
        description=pl.lit(None, pl.String), parent_codes=pl.lit(None, pl.List(pl.String))
    )
    with Build(folder, kind="timeline", config={}, inputs=[]) as build:
        for shard in range(shards):
            build.write(f"data/{shard:04d}.parquet", whole.filter(pl.col("subject_id") % shards == shard))
        build.write(SUBJECT_SPLITS, split_subjects(whole["subject_id"].unique()))
        build.write(CODES, codes.select(Code.polars_schema().names()))
    return folder


if __name__ == "__main__":
    main()
