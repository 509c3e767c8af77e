"""Time `ehrseq timeline` on an invented FHIR store.

    python benchmarks/timeline.py --rows 1000000 --seed 0

Rows are resources: seven tenths laboratory Observations (value, unit, issued, two codings), the rest orders,
administrations, conditions and stays. Floor: read the same shards with polars, sort as many event rows as the
timeline has, and write them. One bucket after another, one run to warm up, then the median of `--runs`; CPU seconds,
as wall time depends on who else is at work.
"""

import argparse
import json
import platform
import statistics
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from ehrseq.core import progress
from ehrseq.core.dataset import Build, versions, write_parquet
from ehrseq.core.measure import Meter, peak_rss_bytes
from ehrseq.timeline import scan_events, shards, timeline
from ehrseq.timeline.schema import Event

_SHARES = {
    "Observation": 0.7,
    "MedicationRequest": 0.1,
    "MedicationAdministration": 0.1,
    "Condition": 0.08,
    "Encounter": 0.02,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--buckets", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    progress.set_quiet(True)

    with tempfile.TemporaryDirectory() as folder:
        fhir, out = Path(folder) / "fhir", Path(folder) / "timeline"
        invent_store(fhir, chosen.rows, chosen.buckets, chosen.seed)
        runs = [timeline(fhir, out, force=True).run for _ in range(chosen.runs + 1)][1:]
        floors = [floor(fhir, out, Path(folder) / "floor") for _ in range(chosen.runs + 1)][1:]
        events = scan_events(out).select(pl.len()).collect().item()
    cpu, floor_cpu = statistics.median(run["cpu_seconds"] for run in runs), statistics.median(floors)
    record = {
        "name": "timeline",
        "rows": chosen.rows,
        "events": events,
        "seconds": statistics.median(run["seconds"] for run in runs),
        "cpu_seconds": cpu,
        "cpu_seconds_range": [
            min(run["cpu_seconds"] for run in runs),
            max(run["cpu_seconds"] for run in runs),
        ],
        "rows_per_cpu_second": round(chosen.rows / cpu),
        "peak_rss_bytes": peak_rss_bytes(),
        "floor": {
            "name": "read the store, sort and write as many events",
            "cpu_seconds": round(floor_cpu, 3),
        },
        "ratio_to_floor": round(cpu / floor_cpu, 2),
        "versions": versions(),
        "device": platform.machine(),
    }
    print(json.dumps(record))


def invent_store(folder: Path, rows: int, buckets: int, seed: int) -> None:
    """Write a FHIR store of `rows` resources as `ehrseq map` would."""
    source = np.random.default_rng(seed)
    with Build(folder, kind="fhir", config={"rows": rows, "seed": seed}, inputs=[]) as build:
        for bucket in range(buckets):
            for resource, share in _SHARES.items():
                frame = invented(resource, int(rows * share / buckets), bucket, source)
                build.write(f"{resource}/{bucket:04d}.parquet", frame)


def invented(resource: str, rows: int, bucket: int, source: np.random.Generator) -> pl.DataFrame:
    """Resources of one type for the patients of one bucket."""
    patients = (source.integers(0, max(1, rows // 200), rows) * 64 + bucket + 1).astype(str)
    visits = pl.Series(source.integers(0, max(1, rows // 200), rows)).cast(pl.String)
    began = pl.Series(source.integers(4_000_000_000, 4_200_000_000, rows) * 1_000_000).cast(pl.Datetime("us"))
    frame = pl.DataFrame(
        {"patient": patients, "visit": visits, "began": began, "kind": source.integers(0, 800, rows)}
    )
    frame = frame.with_row_index("row").with_columns(value=pl.Series(source.normal(5, 2, rows)))
    code = pl.col("kind").cast(pl.String)
    told = {"Encounter": _encounter(), "Condition": _condition(code), "Observation": _observation(code)}
    specific = told.get(resource, _medication(resource, code))
    return frame.select(
        id=pl.concat_str(pl.lit(f"m.{resource[:9]}.{bucket}."), pl.col("row")),
        subject=pl.struct(reference=pl.concat_str(pl.lit("Patient/m."), "patient")),
        **specific,
        _mapping=pl.lit("invented"),
        _file=pl.lit(f"{resource}.csv"),
        _row=pl.col("row").cast(pl.Int64) + 1,
    ).with_columns(() if resource == "Encounter" else _in_visit(bucket, frame["visit"], resource))


def _in_visit(bucket: int, visits: pl.Series, resource: str) -> pl.Expr:
    name = "context" if resource == "MedicationAdministration" else "encounter"
    reference = pl.concat_str(pl.lit(f"Encounter/m.Encounter.{bucket}."), pl.lit(visits))
    return pl.struct(reference=reference).alias(name)


def _at(hours: int = 0) -> pl.Expr:
    return pl.col("began").dt.offset_by(f"{hours}h").dt.to_string("%Y-%m-%dT%H:%M:%S+00:00")


def _concept(*codings: tuple[str, pl.Expr]) -> pl.Expr:
    found = [pl.struct(system=pl.lit(system), code=code, display=code + " name") for system, code in codings]
    return pl.struct(coding=pl.concat_list(found))


def _observation(code: pl.Expr) -> dict[str, pl.Expr]:
    return {
        "status": pl.lit("final"),
        "code": _concept(("http://hospital.org/labs", code), ("http://loinc.org", code + "-1")),
        "effectiveDateTime": _at(),
        "issued": _at(2),
        "valueQuantity": pl.struct(
            value="value", unit=pl.lit("mg/dL"), comparator=pl.lit(None, dtype=pl.String)
        ),
    }


def _medication(resource: str, code: pl.Expr) -> dict[str, pl.Expr]:
    time = "authoredOn" if resource == "MedicationRequest" else "effectiveDateTime"
    return {
        "status": pl.lit("completed"),
        "medicationCodeableConcept": _concept(("http://hl7.org/fhir/sid/ndc", code)),
        time: _at(),
    }


def _condition(code: pl.Expr) -> dict[str, pl.Expr]:
    category = pl.struct(coding=pl.concat_list(pl.struct(code=pl.lit("encounter-diagnosis"))))
    return {
        "code": _concept(("http://hl7.org/fhir/sid/icd-10-cm", code)),
        "category": pl.concat_list(category),
    }


def _encounter() -> dict[str, pl.Expr]:
    act = pl.struct(system=pl.lit("http://terminology.hl7.org/CodeSystem/v3-ActCode"), code=pl.lit("IMP"))
    return {"status": pl.lit("finished"), "class": act, "period": pl.struct(start=_at(), end=_at(100))}


def floor(fhir: Path, timeline_at: Path, out: Path) -> float:
    """CPU seconds to read the store, and to sort and write its events."""
    events = [pl.read_parquet(path) for path in shards(timeline_at)]
    keys = [Event.subject_id, Event.time, Event.resource_id]
    shuffled = [frame.sample(fraction=1.0, shuffle=True, seed=0) for frame in events]
    meter = Meter()
    for path in sorted(fhir.glob("[A-Z]*/*.parquet")):
        pl.read_parquet(path)
    for number, frame in enumerate(shuffled):
        write_parquet(frame.sort(keys), out / f"{number}.parquet")
    return meter.read()["cpu_seconds"]


if __name__ == "__main__":
    main()
