"""FHIR NDJSON out, in, and columnar validation: one JSON line each, beside a floor timed in the same run.

    python benchmarks/ndjson.py --rows 200000 --seed 1

The rows are laboratory Observations like those of a hospital (about 490 bytes of JSON each). Set
POLARS_MAX_THREADS=1 to see one core.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.fhir.ndjson import read_ndjson, write_ndjson
from ehrseq.fhir.structure import duckdb_type
from ehrseq.fhir.validate import missing_references, violations

_REPEATS = 3
_TYPE = "Observation"


def observations(rows: int, seed: int) -> pl.DataFrame:
    """Synthetic laboratory results: [rows], one in seven with a comparator, one in nine as text."""
    random = np.random.default_rng(seed)
    drawn = pl.DataFrame(
        {
            "row": np.arange(1, rows + 1),
            "patient": random.integers(0, max(rows // 50, 1), rows),
            "item": random.integers(50_000, 53_000, rows).astype(str),
            "value": random.lognormal(2, 1, rows).round(2),
            "minute": random.integers(0, 60, rows),
        }
    )
    numeric = pl.col("row") % 9 > 0
    minute = pl.col("minute").cast(pl.String).str.zfill(2)
    category = pl.struct(
        system=pl.lit("http://terminology.hl7.org/CodeSystem/observation-category"), code=pl.lit("laboratory")
    )
    quantity = pl.struct(
        value=pl.when(numeric).then("value"),
        comparator=pl.when(numeric & (pl.col("row") % 7 == 0)).then(pl.lit("<")),
        unit=pl.when(numeric).then(pl.lit("mg/dL")),
    )
    return drawn.select(
        id=pl.format("mimic-labevents.{}", "row"),
        _file=pl.lit("hosp/labevents.csv.gz"),
        _row=pl.col("row"),
        status=pl.lit("final"),
        category=pl.concat_list(pl.struct(coding=pl.concat_list(category))),
        code=pl.struct(
            coding=pl.concat_list(
                pl.struct(system=pl.lit("http://h.org/items"), code="item", display=pl.lit("Creatinine"))
            )
        ),
        subject=pl.struct(reference=pl.format("Patient/mimic-patients.{}", "patient")),
        effectiveDateTime=pl.format("2180-05-06T22:{}:00+00:00", minute),
        issued=pl.format("2180-05-06T23:{}:00+00:00", minute),
        valueQuantity=quantity,
        valueString=pl.when(~numeric).then(pl.lit('trace "found"')),
    )


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Median cost of the work, after one warm-up."""
    work()
    costs = []
    for _ in range(_REPEATS):
        meter = Meter()
        work()
        costs.append(meter.read())
    return {name: statistics.median(cost[name] for cost in costs) for name in ("seconds", "cpu_seconds")}


def report(
    name: str, rows: int, work: Callable[[], object], floor_name: str, floor: Callable[[], object]
) -> None:
    cost, least = measured(work), measured(floor)
    line = {
        "name": name,
        "rows": rows,
        **cost,
        "rows_per_cpu_second": round(rows / max(cost["cpu_seconds"], 1e-3)),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": floor_name, "cpu_seconds": least["cpu_seconds"]},
        "ratio_to_floor": round(cost["cpu_seconds"] / max(least["cpu_seconds"], 1e-3), 2),
        "versions": versions(),
        "device": "cpu",
    }
    print(json.dumps(line), flush=True)


def typed_read(path: Path, schema: pl.Schema) -> pl.DataFrame:
    """DuckDB with the columns known beforehand and nothing checked."""
    columns = {name: duckdb_type(dtype) for name, dtype in schema.items()}
    query = "SELECT * FROM read_json($path, columns = $columns, format = 'newline_delimited')"
    with duckdb.connect() as database:
        return database.sql(query, params={"path": str(path), "columns": columns}).pl()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    frame = observations(options.rows, options.seed)
    patients = {"Patient": frame["subject"].struct.field("reference").str.strip_prefix("Patient/").unique()}
    with tempfile.TemporaryDirectory() as folder:
        path, parquet = Path(folder) / "out.ndjson", Path(folder) / "out.parquet"
        parquet_floor = ("polars write_parquet", lambda: frame.write_parquet(parquet))
        report("fhir.write_ndjson", frame.height, lambda: write_ndjson(frame, _TYPE, path), *parquet_floor)
        schema = read_ndjson(path, _TYPE).schema
        read_floor = ("duckdb read_json, typed, unchecked", lambda: typed_read(path, schema))
        report("fhir.read_ndjson", frame.height, lambda: read_ndjson(path, _TYPE), *read_floor)
        report("fhir.violations", frame.height, lambda: violations(frame, _TYPE), *parquet_floor)
        report(
            "fhir.missing_references",
            frame.height,
            lambda: missing_references(frame, _TYPE, patients),
            *parquet_floor,
        )


if __name__ == "__main__":
    main()
