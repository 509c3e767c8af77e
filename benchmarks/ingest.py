"""FHIR NDJSON to typed columns, to a store and to a timeline; one JSON line each.

    ehrseq import fhir BUNDLES --out STORE && ehrseq export fhir STORE --out NDJSON
    python benchmarks/ingest.py NDJSON [--gz GZ]

`typed`: the Observations of NDJSON/Observation.ndjson, read line by line, with the elements that the shipped views look
at as columns and the whole text beside them; floor: DuckDB's typed read of the same columns, nothing checked or kept.
`import`: the same file as a FHIR store (checked, newest versions, by patient), same floor. `timeline`: all files of GZ
(the same folder, each file compressed) to a store and to sorted events, in this process.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import duckdb

import ehrseq
from ehrseq.core import progress
from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.fhir.dtypes import pruned_dtype
from ehrseq.fhir.json_columns import json_columns
from ehrseq.fhir.structure import duckdb_type
from ehrseq.sources.fhir.files import read_texts
from ehrseq.timeline.definition import load_view
from ehrseq.timeline.reads import elements_read

VIEWS = Path(ehrseq.__file__).parent / "timeline" / "views"
TYPE = "Observation"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ndjson", type=Path)
    parser.add_argument("--gz", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    progress.set_quiet(True)
    path = chosen.ndjson / f"{TYPE}.ndjson"
    paths = elements_read([load_view(view) for view in sorted(VIEWS.glob("*.yaml"))])[TYPE]
    with tempfile.TemporaryDirectory() as folder:
        out, events = Path(folder) / "fhir", Path(folder) / "timeline"
        rows = typed(path, paths)
        floor = median(lambda: bare(path, paths), chosen.runs)
        report("typed", rows, median(lambda: typed(path, paths), chosen.runs), floor)
        report("import", rows, median(lambda: ehrseq.import_fhir(path, out, force=True), chosen.runs), floor)
        if chosen.gz:
            cost = median(lambda: whole(chosen.gz, out, events), chosen.runs)
            report("timeline", ehrseq.import_fhir(chosen.gz, out).manifest.rows["used"], cost, None)


def typed(path: Path, paths: frozenset[str]) -> int:
    """Read the file as the engine does, a block at a time; returns the number of resources."""
    return sum(json_columns(block["_json"], TYPE, paths).height for block in read_texts([(path, path.name)]))


def bare(path: Path, paths: frozenset[str]) -> None:
    """DuckDB alone, on one thread."""
    columns = {name: duckdb_type(dtype) for name, dtype in pruned_dtype(TYPE, sorted(paths)).items()}
    query = "SELECT * FROM read_json($path, columns = $columns, format = 'newline_delimited')"
    with duckdb.connect(config={"threads": 1}) as database:
        database.sql(query, params={"path": str(path), "columns": columns}).pl()


def whole(data: Path, out: Path, events: Path) -> None:
    """All files to a store, the store to a timeline."""
    ehrseq.import_fhir(data, out, force=True)
    ehrseq.timeline(out, events, force=True)


def median(work: Callable[[], object], runs: int) -> float:
    """CPU seconds, after one run to warm up."""
    costs = []
    for _ in range(runs + 1):
        meter = Meter()
        work()
        costs.append(meter.read()["cpu_seconds"])
    return statistics.median(costs[1:])


def report(name: str, rows: int, cpu: float, floor: float | None) -> None:
    line = {
        "name": f"ingest.{name}",
        "rows": rows,
        "cpu_seconds": cpu,
        "rows_per_cpu_second": round(rows / cpu),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {"name": "duckdb read_json, typed, one thread", "cpu_seconds": floor} if floor else None,
        "ratio_to_floor": round(cpu / floor, 2) if floor else None,
        "versions": versions(),
        "device": "cpu",
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
