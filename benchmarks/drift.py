"""Six generated months through `ehrseq retrain` and `ehrseq monitor`, with damage planted in month four.

    uv run python benchmarks/drift.py --patients 300 --out runs/drift

Month four comes with creatinine in µmol/L instead of mg/dL (new analyser), sodium under another code (new dictionary)
and another mix of admissions (new policy). Month five brings the same four months with the first two repaired in the
mapping, and the third accepted in the configuration. Printed: one JSON line a month, with what the monitor named and
what the gate decided. Everything here is synthetic.
"""

import argparse
import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

CREATININE, SODIUM, RENAMED = (
    "Observation//lab//creatinine",
    "Observation//lab//sodium",
    "Observation//lab//NA-2",
)
TASK = "in_hospital_mortality_24h"
_HOUR = 3_600_000_000
_FIRST = int(datetime(2030, 1, 1).timestamp()) * 1_000_000
_MONTH = 30 * 24 * _HOUR
_LABS = {
    CREATININE: ("mg/dL", 0.1, 0.45),
    SODIUM: ("mmol/L", 4.93, 0.03),
    "Observation//lab//lactate": ("mmol/L", 0.4, 0.5),
}
_NOISE = [f"MedicationAdministration//drug//{number}" for number in range(20)]


def deliver(
    folder: Path, months: int, *, patients: int = 300, damaged: tuple[int, ...] = (), policy: tuple[int, ...] = (),
    seed: int = 0,
) -> Path:  # fmt: skip
    """Write a MEDS dataset of the first `months` months, `patients` new patients in each.

    `damaged`: months with new units and a renamed code; `policy`: months with another mix of admissions. Patient n is
    the same in every delivery.
    """
    parts = [
        _month(month, patients, month in damaged, month in policy, seed) for month in range(1, months + 1)
    ]
    events = pl.concat(parts).sort("subject_id", "time", maintain_order=True, nulls_last=False)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "metadata").mkdir(exist_ok=True)
    events.write_parquet(folder / "data" / "0.parquet")
    subjects = events["subject_id"].unique().sort()
    split = (pl.col("subject_id") * 7919) % 10
    names = (
        pl.when(split < 5)
        .then(pl.lit("train"))
        .when(split < 7)
        .then(pl.lit("tuning"))
        .otherwise(pl.lit("held_out"))
    )
    subjects.to_frame().select("subject_id", split=names).write_parquet(
        folder / "metadata" / "subject_splits.parquet"
    )
    return folder


def _month(month: int, patients: int, damaged: bool, policy: bool, seed: int) -> pl.DataFrame:
    random = np.random.default_rng([seed, month])
    subject = month * 100_000 + np.arange(patients)
    admitted = _FIRST + (month - 1) * _MONTH + random.integers(0, 20 * 24, patients) * _HOUR
    severity = random.normal(size=patients)
    days = np.clip(random.gamma(2, 2, patients) + 1.2, 1.2, 9)
    left = admitted + (days * 24).astype(np.int64) * _HOUR
    died = random.random(patients) < 1 / (1 + np.exp(1.2 - 1.8 * severity))
    urgent = random.random(patients) < (0.9 if policy else 0.35)
    sex = random.random(patients) < 0.5
    rows = [
        _rows(subject, None, np.where(sex, "Patient.gender//sex//female", "Patient.gender//sex//male")),
        _rows(subject, admitted - random.integers(30, 90, patients) * 8766 * _HOUR, "MEDS_BIRTH"),
        _rows(subject, admitted, "Encounter.start//ActCode//IMP"),
        _rows(
            subject,
            admitted,
            np.where(urgent, "Encounter.type//type//URGENT", "Encounter.type//type//ELECTIVE"),
        ),
        _rows(
            subject,
            left,
            np.where(died, "Encounter.end//ActCode//IMP//exp", "Encounter.end//ActCode//IMP//home"),
            days,
        ),
        _rows(subject[died], left[died], "MEDS_DEATH"),
    ]
    for code, (unit, mean, spread) in _LABS.items():
        for hour in (2, 9, 16, 22):
            value = np.exp(
                mean + spread * (0.8 * severity * (code != SODIUM) + 0.6 * random.normal(size=patients))
            )
            name, given = code, unit
            if damaged and code == CREATININE:
                value, given = value * 88.4, "umol/L"
            if damaged and code == SODIUM:
                name = RENAMED
            rows.append(_rows(subject, admitted + hour * _HOUR, name, value, given))
    for _ in range(6):
        drug = np.asarray(_NOISE)[random.integers(0, len(_NOISE), patients)]
        rows.append(_rows(subject, admitted + random.integers(1, 24, patients) * _HOUR, drug))
    return pl.concat(rows)


def _rows(subject: Any, time: Any, code: Any, value: Any = None, unit: str | None = None) -> pl.DataFrame:
    count = len(subject)
    return pl.DataFrame(
        {
            "subject_id": subject,
            "time": pl.Series(np.full(count, None) if time is None else time, dtype=pl.Int64).cast(
                pl.Datetime("us")
            ),
            "code": np.full(count, code) if isinstance(code, str) else code,
            "numeric_value": pl.Series(np.full(count, None) if value is None else value, dtype=pl.Float32),
            "unit": pl.Series([unit] * count, dtype=pl.String),
        }
    )


def settings(folder: Path, *, admission: float = 0.2, epochs: int = 6) -> Path:
    """Write `retrain.yaml` for deliveries at `folder`/delivery. `admission`: limit of the drift of admissions."""
    path = folder / "retrain.yaml"
    path.write_text(
        f"""
name: months
source: meds
data: delivery
work: work
tasks: [{TASK}]
newest_days: 31
train:
  context: 64
  row_length: 64
  batch_rows: 16
  epochs: {epochs}
  patience: {epochs}
  model: {{dim: 8, heads: 2, layers: 0, pools: 1, attention: reference}}
gate:
  min_events: 10
  difference: -0.08
  subgroup: 0.5
  drift: {{admission: {admission}}}
"""
    )
    return path


PLAN: dict[str, dict[str, Any]] = {
    "month-1": {"months": 1},
    "month-2": {"months": 2},
    "month-3": {"months": 3},
    "month-4": {"months": 4, "damaged": (4,), "policy": (4,)},
    "month-4-repaired": {"months": 4, "policy": (4,), "admission": 99.0},
    "month-5": {"months": 5, "policy": (4, 5), "admission": 99.0},
    "month-6": {"months": 6, "policy": (4, 5, 6), "admission": 99.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    import ehrseq

    for run_id, told in PLAN.items():
        what = {key: value for key, value in told.items() if key != "admission"}
        deliver(given.out / "delivery", **what, patients=given.patients, seed=given.seed)
        config = settings(given.out, admission=told.get("admission", 0.2))
        named: list[dict[str, Any]] = []
        if (given.out / "models/months/registry.json").is_file():
            import_to = given.out / "monitored" / run_id
            timeline = ehrseq.import_meds(given.out / "delivery", import_to / "timeline").out
            found = ehrseq.monitor("months", timeline, import_to, models=given.out / "models")
            named = [asdict(one) for one in found.exceeded]
        decided = ehrseq.retrain(config, run_id=run_id)
        again = ehrseq.retrain(config, run_id=run_id)
        line = {
            "name": "drift", "run": run_id, "monitor": [[one["check"], one["what"]] for one in named],
            "sentences": [one["sentence"] for one in named], "decision": decided.status, "exit_code": decided.exit_code,
            "refused_by": [check["sentence"] for check in decided.checks if not check["passed"]],
            "again": "nothing done" if not again.fresh else "done twice",
        }  # fmt: skip
        print(json.dumps(line, ensure_ascii=False), flush=True)
    registry = json.loads((given.out / "models/months/registry.json").read_text())
    promotions = [entry for entry in registry["history"] if entry["alias"] == "champion"]
    print(json.dumps({"name": "promotions", "runs": [entry.get("run_id") for entry in promotions]}))


if __name__ == "__main__":
    sys.exit(main())
