"""Time `ehrseq map` on laboratory tables against reading the same CSV and writing it as bucketed Parquet.

    python benchmarks/mapping.py --rows 1000000 --seed 0

Rows are invented results in MIMIC-IV's columns (labevents.csv.gz with its dictionary and patients), mapped by a
source that takes labevents, d_labitems and patients from the shipped mimic_iv. Measured end to end: CSV.gz, join,
Observation, columnar validation, bucketed Parquet. Floor: pyarrow reads the CSV.gz with types, a block at a time;
polars sorts it by patient and writes it as Parquet. `--ndjson` also times `ehrseq export fhir` of
the result.
"""

import argparse
import gzip
import json
import platform
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

import ehrseq
import ehrseq.mapping.stage  # so that no import is measured
from ehrseq.core import progress
from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter

ROWS_PER_PATIENT = 500
SOURCE = """\
source: bench
timezone: UTC
subject: subject_id
constants: {systems: {lab: "http://bench.test/lab", category: "http://terminology.hl7.org/CodeSystem/observation-category"}}
tables:
  patients: {columns: {subject_id: integer, gender: string}}
  labevents: {columns: {labevent_id: integer, subject_id: integer, itemid: integer, charttime: datetime,
    storetime: datetime, value: string, valuenum: number, valueuom: string, flag: string}}
  d_labitems: {shared: true, columns: {itemid: integer, label: string}}
"""
PATIENTS = """\
version: 1
resource: Patient
from: patients
key: [subject_id]
ignore: {gender: not timed}
template: {active: true}
"""
LABEVENTS = """\
version: 1
resource: Observation
from: labevents
join: {d_labitems: itemid}
key: [labevent_id]
skip: [{when: "value IS NULL AND valuenum IS NULL", reason: no result}]
winner: [storetime]
template:
  status: "'final'"
  category: [{coding: [{system: $systems.category, code: "'laboratory'"}]}]
  code: {coding: [{system: $systems.lab, code: itemid, display: label}]}
  subject: {$reference: {patients: subject_id}}
  effectiveDateTime: {$datetime: charttime}
  issued: {$datetime: storetime}
  valueQuantity: {$quantity: {value: valuenum, unit: valueuom, text: value}}
  interpretation: [{text: flag}]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--ndjson", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, source = tables(folder / "data", chosen.rows, chosen.seed), mappings(folder / "source")
        spent = alone(timed_map, source, data, folder / "fhir", chosen.workers)
        floor = alone(floor_of, data, folder / "floor")
        report("map", chosen.rows, spent, floor)
        if chosen.ndjson:
            spent = alone(timed_export, folder / "fhir", folder / "ndjson")
            report("export.ndjson", chosen.rows, spent, floor)


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """The result of `work` in a process of its own, whose memory nothing else has used."""
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return other.submit(work, *given).result()


def timed_map(source: Path, data: Path, out: Path, workers: int) -> dict[str, float]:
    """Cost of mapping."""
    progress.set_quiet(True)
    meter = Meter()
    ehrseq.map(source, data, out, validate="none", workers=workers)
    return meter.read()


def timed_export(store: Path, out: Path) -> dict[str, float]:
    """Cost of writing the store as NDJSON."""
    progress.set_quiet(True)
    meter = Meter()
    ehrseq.export_fhir(store, out)
    return meter.read()


def report(name: str, rows: int, spent: dict[str, float], floor: float) -> None:
    """One JSON line."""
    record = {
        "name": name,
        "rows": rows,
        **spent,
        "rows_per_cpu_second": round(rows / spent["cpu_seconds"]),
        "floor": {"name": "read with types, sort by patient, write as Parquet", "cpu_seconds": floor},
        "ratio_to_floor": round(spent["cpu_seconds"] / floor, 2),
        "versions": versions(),
        "device": platform.machine(),
    }
    print(json.dumps(record), flush=True)


def mappings(folder: Path) -> Path:
    """The source of this benchmark."""
    folder.mkdir()
    for name, text in {"source": SOURCE, "patients": PATIENTS, "labevents": LABEVENTS}.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def tables(folder: Path, rows: int, seed: int) -> Path:
    """Invented laboratory tables, written a million rows at a time."""
    folder.mkdir()
    people = -(-rows // ROWS_PER_PATIENT)
    pl.DataFrame({"subject_id": np.arange(1, people + 1), "gender": "F"}).write_csv(folder / "patients.csv")
    items = pl.DataFrame({"itemid": np.arange(50_000, 51_000)}).with_columns(
        label=pl.format("Test {}", "itemid")
    )
    items.write_csv(folder / "d_labitems.csv")
    rng = np.random.default_rng(seed)
    with gzip.open(folder / "labevents.csv.gz", "wb", compresslevel=1) as stream:
        for start in range(0, rows, 1_000_000):
            frame = results(rng, start, min(1_000_000, rows - start))
            stream.write(frame.write_csv(include_header=start == 0).encode())
    return folder


def results(rng: np.random.Generator, start: int, count: int) -> pl.DataFrame:
    """Rows start.. of labevents."""
    number = start + np.arange(count)
    value = np.round(rng.gamma(4, 20, count), 1)
    charted = pl.Series(5_000_000_000 + number % ROWS_PER_PATIENT * 3_600 + rng.integers(0, 60, count) * 60)
    chart = pl.from_epoch(charted, "s")
    stored = pl.from_epoch(charted + pl.Series(rng.integers(20, 200, count) * 60), "s")
    form = "%Y-%m-%d %H:%M:%S"
    return pl.DataFrame(
        {
            "labevent_id": number + 1,
            "subject_id": number // ROWS_PER_PATIENT + 1,
            "itemid": rng.integers(50_000, 51_000, count),
            "charttime": chart.dt.strftime(form),
            "storetime": stored.dt.strftime(form),
            "value": pl.Series(value).cast(pl.String),
            "valuenum": value,
            "valueuom": np.array(["mg/dL", "mmol/L", "%", "K/uL"])[rng.integers(0, 4, count)],
            "flag": np.array(["", "abnormal"])[(rng.random(count) < 0.3).astype(int)],
        }
    )


def floor_of(data: Path, out: Path) -> float:
    """CPU seconds of reading with types, sorting by patient and writing, a block of rows at a time."""
    out.mkdir()
    meter = Meter()
    stamps = pa_csv.ConvertOptions(column_types=dict.fromkeys(("charttime", "storetime"), pa.timestamp("us")))
    blocks = pa_csv.ReadOptions(use_threads=False, block_size=16 << 20)
    quotes = pa_csv.ParseOptions(newlines_in_values=True)
    with pa.input_stream(str(data / "labevents.csv.gz"), compression="gzip") as stream:
        for number, batch in enumerate(pa_csv.open_csv(stream, blocks, quotes, stamps)):
            frame = pl.DataFrame(pl.from_arrow(batch)).sort("subject_id")
            frame.write_parquet(out / f"{number}.parquet", compression="zstd", compression_level=1)
    return meter.read()["cpu_seconds"]


if __name__ == "__main__":
    main()
