"""One extraction in a process of its own, by `ehrseq` or `aces`: labels to a file, what it cost to stdout.

python measure.py aces TASK.yaml "SHARDS/*.parquet" OUT.parquet     (a Python with es-aces)
python measure.py ehrseq TASK.yaml TIMELINE OUT.parquet
"""

import glob
import json
import logging
import resource
import sys
import tempfile
from pathlib import Path

import polars as pl

NAMES = ["subject_id", "prediction_time", "value"]


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def by_aces(task: str, shards: str) -> tuple[float, pl.DataFrame]:
    from aces import config, predicates, query
    from omegaconf import DictConfig

    logging.disable(logging.CRITICAL)
    before, frames = (
        cpu(),
        [pl.DataFrame(schema=dict(zip(NAMES, (pl.Int64, pl.Datetime("us"), pl.Boolean), strict=True)))],
    )
    for shard in sorted(glob.glob(shards)):
        chosen = config.TaskExtractorConfig.load(task)  # anew: a query changes it
        source = DictConfig({"path": shard, "standard": "meds", "ts_format": None})
        found = query.query(chosen, predicates.get_predicates_df(chosen, source))
        if found.width:  # rows without a trigger are candidates that es-aces has lost on the way
            found = found.drop_nulls("trigger")
            frames.append(
                found.select(
                    "subject_id",
                    pl.col("index_timestamp").alias("prediction_time").cast(pl.Datetime("us")),
                    value=pl.col("label") > 0,
                )
            )
    return before, pl.concat(frames)


def by_ehrseq(task: str, timeline: str) -> tuple[float, pl.DataFrame]:
    from ehrseq.core import progress
    from ehrseq.tasks.extract import label

    progress.set_quiet(True)
    before = cpu()
    with tempfile.TemporaryDirectory() as folder:
        made = label(task, Path(timeline), Path(folder) / "labels")
        return before, pl.read_parquet(made.out / "data/*.parquet").rename({"boolean_value": "value"})


if __name__ == "__main__":
    before, labels = (by_aces if sys.argv[1] == "aces" else by_ehrseq)(*sys.argv[2:4])
    spent = cpu() - before
    # of candidates with one prediction time the first counts, as a MEDS label has no other key
    labels.unique(NAMES[:2], keep="first", maintain_order=True).sort(NAMES).write_parquet(sys.argv[4])
    # not getrusage's: after fork and exec that still counts the parent's pages
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(
        json.dumps({"cpu_seconds": round(spent, 3), "with_imports": round(cpu(), 3), "peak_rss_bytes": peak})
    )
