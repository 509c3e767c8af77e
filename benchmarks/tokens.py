"""Time `ehrseq tokenize` (vocabulary fitted and tokens written) against reading and writing its columns as Parquet.

    python benchmarks/tokens.py --rows 1000000 --seed 0

Rows are invented events: 3,000 codes with the frequencies of a Zipf law (a third with values, 4 units), 1 % short
answers, one note of 200 words in 2,000 events, 500 events a subject, in 8 shards. Floor: each shard's columns are read
with polars and written again with the compression of every ehrseq dataset; nothing is computed. One run warms up,
then the median of `--runs`; CPU seconds, as wall time depends on who else is at work. `--parts` also prints the cost
of the fit alone and of the tokens alone (a given vocabulary). (`tokenize.py` would hide the standard module.)

`--meds-transforms PYTHON`: also run MEDS-transforms on the same events, once, with the Python of an environment that
has it (0.7.0; its polars is another than ours): deciles of each code, bins, vocabulary. It writes no token store.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.core import progress
from ehrseq.core.dataset import Build, versions, write_parquet
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.timeline.schema import Event
from ehrseq.tokens.shards import timeline_shards
from ehrseq.tokens.tokenize import tokenize
from ehrseq.tokens.vocabulary import fit_vocabulary

SHARDS = 8
EVENTS_PER_SUBJECT = 500
DECILES = {"name": "values/quantiles", "quantiles": [part / 10 for part in range(1, 10)]}
COUNTS = ["code/n_occurrences", "code/n_subjects"]
PIPELINE = {
    "stages": [
        {"aggregate_code_metadata": {"aggregations": [*COUNTS, "values/n_occurrences", DECILES]}},
        "bin_numeric_values",
        {"count_binned": {"_base_stage": "aggregate_code_metadata", "aggregations": COUNTS}},
        "fit_vocabulary_indices",
    ]
}
COLUMNS = ["subject_id", "time", "code", "numeric_value", "text_value", "unit", "modality"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--meds-transforms", type=Path, metavar="PYTHON")
    chosen = parser.parse_args()
    progress.set_quiet(True)

    with tempfile.TemporaryDirectory() as folder:
        timeline, out = invented(Path(folder) / "timeline", chosen.rows, chosen.seed), Path(folder) / "tokens"
        floor = repeat(lambda: copy(timeline, Path(folder) / "copy"), chosen.runs)["cpu_seconds"]

        def report(name: str, work: Callable[[], object]) -> None:
            spent = repeat(work, chosen.runs)
            record = {
                "name": name,
                "rows": chosen.rows,
                "workers": chosen.workers,
                **spent,
                "rows_per_cpu_second": round(chosen.rows / spent["cpu_seconds"]),
                "peak_rss_bytes": peak_rss_bytes(),
                "floor": {"name": "parquet read + write of the same columns", "cpu_seconds": floor},
                "ratio_to_floor": round(spent["cpu_seconds"] / floor, 2),
                "versions": versions(),
                "device": platform.machine(),
            }
            print(json.dumps(record), flush=True)

        report("tokenize", lambda: tokenize(timeline, out, workers=chosen.workers, force=True))
        if chosen.meds_transforms:
            ours = repeat(lambda: tokenize(timeline, out, force=True), chosen.runs)["cpu_seconds"]
            theirs = meds_transforms(chosen.meds_transforms, timeline, Path(folder) / "meds")
            record = {"name": "MEDS-transforms: deciles, bins, vocabulary", "rows": chosen.rows, **theirs}
            record |= {"tokenize_cpu_seconds": ours, "ratio": round(theirs["cpu_seconds"] / ours, 1)}
            print(json.dumps(record), flush=True)
        if chosen.parts:
            report("tokenize: fit", lambda: fit_vocabulary(timeline, workers=chosen.workers))
            given = Path(folder) / "given"
            report(
                "tokenize: tokens",
                lambda: tokenize(timeline, given, vocabulary=out, workers=chosen.workers, force=True),
            )


def repeat(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median wall and CPU seconds of `runs` after one to warm up."""
    spent = []
    for _ in range(runs + 1):
        meter = Meter()
        work()
        spent.append(meter.read())
    return {
        name: round(statistics.median(run[name] for run in spent[1:]), 3)
        for name in ("seconds", "cpu_seconds")
    }


def meds_transforms(python: Path, timeline: Path, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of a MEDS-transforms pipeline; its shards are those of the timeline, by split."""
    splits = pl.read_parquet(timeline / "metadata" / "subject_splits.parquet")
    columns = ["subject_id", "time", "code", "numeric_value"]
    for shard in timeline_shards(timeline):
        events = pl.read_parquet(shard.path, columns=columns).join(
            splits, on="subject_id", maintain_order="left"
        )
        for (split,), part in events.partition_by("split", as_dict=True, include_key=False).items():
            write_parquet(part, folder / "in" / "data" / split / shard.path.name)
    metadata = folder / "in" / "metadata"
    write_parquet(splits, metadata / "subject_splits.parquet")
    blank = {"code": pl.String, "description": pl.String, "parent_codes": pl.List(pl.String)}
    write_parquet(pl.DataFrame(schema=blank), metadata / "codes.parquet")
    (metadata / "dataset.json").write_text(json.dumps({"dataset_name": "invented", "dataset_version": "1"}))
    (folder / "pipeline.yaml").write_text(json.dumps({**PIPELINE, **_places(folder)}))
    meter, tools = Meter(), str(python.parent)
    command = [tools + "/MEDS_transform-pipeline", str(folder / "pipeline.yaml")]
    subprocess.run(
        command, check=True, capture_output=True, env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    )
    spent = meter.read()
    if not (folder / "out" / "metadata" / "codes.parquet").is_file():
        raise SystemExit(f"MEDS-transforms wrote no vocabulary; its logs are in {folder}/out/.logs")
    return {name: spent[name] for name in ("seconds", "cpu_seconds")}


def _places(folder: Path) -> dict[str, str]:
    return {"input_dir": str(folder / "in"), "output_dir": str(folder / "out")}


def copy(timeline: Path, out: Path) -> None:
    """The floor: the columns in, the columns out."""
    for shard in timeline_shards(timeline):
        write_parquet(pl.read_parquet(shard.path, columns=COLUMNS), out / shard.path.name)


def invented(out: Path, rows: int, seed: int) -> Path:
    """A timeline of invented events."""
    source = np.random.default_rng(seed)
    subjects = max(SHARDS, rows // EVENTS_PER_SUBJECT)
    with Build(out, kind="timeline", config={}, inputs=[]) as build:
        for number in range(SHARDS):
            count = rows // SHARDS + (number < rows % SHARDS)
            frame = events(source, count, np.arange(number, subjects, SHARDS))
            build.write(f"data/{number:04d}.parquet", frame, sorted_by=["subject_id", "time"])
        split = source.choice(["train", "tuning", "held_out"], subjects, p=[0.8, 0.1, 0.1])
        build.write(
            "metadata/subject_splits.parquet",
            pl.DataFrame({"subject_id": np.arange(subjects), "split": split}),
        )
    return out


def events(source: np.random.Generator, rows: int, subjects: np.ndarray) -> pl.DataFrame:
    """Rows of one shard."""
    codes = np.asarray([f"Observation//mimic-d-labitems//{50_000 + number}" for number in range(3000)])
    chance = 1 / np.arange(1, 3001)
    code = source.choice(3000, rows, p=chance / chance.sum())
    measured, answered, note = code % 3 == 0, source.random(rows) < 0.01, source.random(rows) < 1 / 2000
    words = source.integers(0, 5000, (int(note.sum()), 200))
    text = np.full(rows, None, dtype=object)
    text[answered] = np.asarray(["Positive", "Negative", "None seen"], dtype=object)[
        source.integers(0, 3, int(answered.sum()))
    ]
    text[note] = [" ".join(f"w{chr(97 + word % 26)}{word:04d}" for word in line) for line in words]
    value = np.round(source.normal(100, 20, rows) * (1 + code % 7), 1)
    frame = pl.DataFrame(
        {
            "subject_id": source.choice(subjects, rows),
            "time": pl.Series(source.integers(0, 10**15, rows)).cast(pl.Datetime("us")),
            "code": codes[code],
            "numeric_value": pl.Series(np.where(measured & ~answered & ~note, value, np.nan)).fill_nan(None),
            "text_value": pl.Series(text.tolist(), dtype=pl.String),
            "unit": np.asarray(["mg/dL", "mmol/L", "%", "K/uL"])[code % 4],
            "resource_type": "Observation",
            "resource_id": "invented",
            "modality": np.where(note, "note", "record"),
        },
        strict=False,
    )
    absent = [
        pl.lit(None, dtype).alias(name)
        for name, dtype in Event.polars_schema().items()
        if name not in frame.columns
    ]
    frame = frame.with_columns(*absent).select(Event.polars_schema().names()).cast(Event.polars_schema())
    return frame.sort("subject_id", "time")


if __name__ == "__main__":
    main()
