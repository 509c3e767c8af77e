"""Killed at any instant, again and again: a readable store, and a right one when a run is let finish."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from hospital import write_mappings, write_tables

import ehrseq
from ehrseq.core.dataset import verify

TRIALS, PEOPLE = 50, 3000
MAP = """import sys, ehrseq
from pathlib import Path
ehrseq.map(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), workers=2)"""


def delivery(folder: Path, value: int) -> Path:
    tables = {
        "patients": "pid,sex,born\n" + "".join(f"{n},F,1950-01-01\n" for n in range(PEOPLE)),
        "visits": "visit,pid,began,ended\n"
        + "".join(f"{n},{n},2020-01-01 08:00:00,\n" for n in range(PEOPLE)),
        "labs": "lab,pid,visit,test,at,filed,number,text,unit\n"
        + "".join(
            f"{n},{n % PEOPLE},{n % PEOPLE},7,2020-01-01 09:00:00,,{value},,mg\n" for n in range(10 * PEOPLE)
        ),
    }
    return write_tables(folder, **tables)


def values(store: Path) -> list[float]:
    """The values of all results; every shard is read and held against the manifest."""
    verify(store)
    frame = pl.read_parquet(sorted(store.glob("Observation/*.parquet")))
    assert frame.height == 10 * PEOPLE
    return sorted(frame["valueQuantity"].struct.field("value").unique())


@pytest.mark.slow
def test_fifty_kills_in_a_row(tmp_path: Path) -> None:
    rng = random.Random(0)
    source, out = write_mappings(tmp_path / "source"), tmp_path / "fhir"
    deliveries = [delivery(tmp_path / f"delivery{value}", value) for value in (1, 2)]
    begun = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", MAP, source, deliveries[0], out], check=True, stderr=subprocess.DEVNULL
    )
    whole, standing, killed = time.monotonic() - begun, 1.0, 0
    for trial in range(TRIALS):
        wanted = trial % 2 + 1
        run = subprocess.Popen(
            [sys.executable, "-c", MAP, source, deliveries[wanted - 1], out], stderr=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(0.05, 0.8) * whole)
        run.send_signal(signal.SIGKILL)
        killed += run.wait() == -signal.SIGKILL
        found = values(out)
        assert found in ([standing], [float(wanted)]), "the old store, or the new one, nothing between"
        standing = found[0]
    assert killed > TRIALS // 2
    ehrseq.map(source, deliveries[0], tmp_path / "scratch")
    ehrseq.map(source, deliveries[0], out)
    assert values(out) == [1.0]
    for path in (tmp_path / "scratch").glob("[A-Z]*/*.parquet"):
        assert (out / path.parent.name / path.name).read_bytes() == path.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
