"""Run by a Python with es-aces: FOLDER/*/{task.yaml,data/*.parquet} -> FOLDER/*/aces.csv (subject, trigger, label)."""

import logging
import sys
from pathlib import Path

import polars as pl

EMPTY = pl.DataFrame(schema={"subject_id": pl.Int64, "trigger": pl.Datetime("us"), "label": pl.Int64})


def run(folder: Path) -> None:
    from aces import config, predicates, query
    from omegaconf import DictConfig

    frames = [EMPTY]
    for shard in (folder / "data").glob("*.parquet"):
        task = config.TaskExtractorConfig.load(folder / "task.yaml")  # anew: a query changes it
        source = DictConfig({"path": str(shard), "standard": "meds", "ts_format": None})
        found = query.query(task, predicates.get_predicates_df(task, source))
        if found.width:  # rows without a trigger are candidates that es-aces has lost on the way
            frames.append(found.select(EMPTY.columns).drop_nulls("trigger").cast(dict(EMPTY.schema)))
    pl.concat(frames).write_csv(folder / "aces.csv")


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for one in Path(sys.argv[1]).iterdir():
        run(one)
