"""Time the generated hospital against writing the same gzipped bytes.

    python benchmarks/synthetic.py --rows 4000 --seed 0        (rows: admissions)

Floor: the finished tables are read into memory, then compressed again at the same level and written.
"""

import argparse
import gzip
import json
import platform
import tempfile
from pathlib import Path

from ehrseq.core import progress
from ehrseq.core.dataset import versions
from ehrseq.core.measure import Meter
from ehrseq.synthetic import generate
from ehrseq.synthetic.writing import _LEVEL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000, help="admissions")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    progress.set_quiet(True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "hospital"
        meter = Meter()
        made = generate(out, admissions=chosen.rows, seed=chosen.seed)
        spent = meter.read()
        texts = {path: gzip.decompress(path.read_bytes()) for path in out.rglob("*.csv.gz")}
        meter = Meter()
        for path, text in texts.items():
            with gzip.open(path, "wb", compresslevel=_LEVEL) as stream:
                stream.write(text)
        floor = meter.read()["cpu_seconds"]
        rows = sum(made.rows.values())
        record = {
            "name": "synthetic.generate",
            "rows": rows,
            "admissions": made.admissions,
            **spent,
            "rows_per_cpu_second": round(rows / spent["cpu_seconds"]),
            "floor": {"name": "gzip the same tables", "cpu_seconds": floor},
            "ratio_to_floor": round(spent["cpu_seconds"] / floor, 2),
            "versions": versions(),
            "device": platform.machine(),
        }
        print(json.dumps(record))


if __name__ == "__main__":
    main()
