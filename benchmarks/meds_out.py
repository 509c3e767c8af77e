"""Check that a timeline is a MEDS dataset as others see it: the schemas of `meds`, and `meds_reader`.

    python benchmarks/meds_out.py TIMELINE --meds-reader PYTHON

`meds` (0.4) validates every shard, codes, splits and dataset.json here. `PYTHON` is that of an environment with
`meds_reader`: `meds_reader_convert` takes the timeline as it is, then every event is read back, and subjects, events,
codes and values must be as many, and sum to as much, as in the timeline. Exit 1 if anything differs.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import jsonschema
import meds
import polars as pl
import pyarrow.parquet as pq

from ehrseq.timeline.meds import CODES, DATASET, SUBJECT_SPLITS, scan_events, shards

READ_BACK = """
import json, sys, meds_reader
with meds_reader.SubjectDatabase(sys.argv[1]) as database:
    subjects = events = coded = valued = 0
    total = 0.0
    for number in database:
        subjects += 1
        for event in database[number].events:
            events += 1
            coded += len(event.code)
            if event.numeric_value is not None:
                valued += 1
                total += abs(event.numeric_value)
print(json.dumps(dict(subjects=subjects, events=events, code_letters=coded, values=valued, total=total)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("timeline", type=Path)
    parser.add_argument("--meds-reader", type=Path, metavar="PYTHON", required=True)
    chosen = parser.parse_args()
    validate(chosen.timeline)
    ours, theirs = counted(chosen.timeline), read_back(chosen.timeline, chosen.meds_reader)
    apart = abs(ours.pop("total") - theirs.pop("total")) / max(theirs["values"], 1)
    agree = ours == theirs and apart < 1e-3
    print(json.dumps({"name": "meds_reader", "agree": agree, "timeline": ours, "meds_reader": theirs}))
    raise SystemExit(not agree)


def validate(timeline: Path) -> None:
    """The validators of `meds`; they raise."""
    for path in shards(timeline):
        meds.DataSchema.validate(pq.read_table(path, partitioning=None))
    meds.CodeMetadataSchema.validate(pq.read_table(timeline / CODES))
    meds.SubjectSplitSchema.validate(pq.read_table(timeline / SUBJECT_SPLITS))
    jsonschema.validate(json.loads((timeline / DATASET).read_text()), meds.DatasetMetadataSchema.schema())
    print(
        json.dumps({"name": "meds validators", "version": meds.__version__, "shards": len(shards(timeline))})
    )


def counted(timeline: Path) -> dict[str, float]:
    """What there is to find again."""
    value = pl.col("numeric_value")
    found = scan_events(timeline).select(
        subjects=pl.col("subject_id").n_unique(), events=pl.len(), code_letters=pl.col("code").str.len_chars().sum(),
        values=value.is_not_null().sum(), total=value.cast(pl.Float64).abs().sum(),
    )  # fmt: skip
    return found.collect().row(0, named=True)


def read_back(timeline: Path, python: Path) -> dict[str, float]:
    """The same, as `meds_reader` has it."""
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/database"
        command = [python.parent / "meds_reader_convert", timeline, database, "--num_threads", "1"]
        subprocess.run(command, check=True, capture_output=True)
        done = subprocess.run([python, "-c", READ_BACK, database], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
