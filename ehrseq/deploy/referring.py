"""From subjects, moments and tokens back to FHIR: whose Patient, in which Encounter, because of which resources."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.timeline.meds import scan_events
from ehrseq.timeline.schema import Event
from ehrseq.tokens.store import TokenStore

BASIS = pl.Schema({
    "subject_id": pl.Int64(), "token": pl.Int64(), "code": pl.String(), "time": pl.Datetime("us"),
    "resource_type": pl.String(), "resource_id": pl.String(),
})  # fmt: skip


def patients(timeline: Path, subjects: pl.Series) -> pl.DataFrame:
    """`subject_id` and `patient` (id of the FHIR Patient) of subjects whose Patient gave an event."""
    return (
        scan_events(timeline)
        .filter(pl.col(Event.resource_type) == "Patient", pl.col(Event.subject_id).is_in(subjects.implode()))
        .group_by(Event.subject_id).agg(patient=pl.col(Event.resource_id).min()).sort(Event.subject_id).collect()
    )  # fmt: skip


def encounters(timeline: Path, asked: pl.DataFrame) -> pl.DataFrame:
    """`asked` (subject_id, prediction_time) with `encounter`: of the last event that has one, at or before then."""
    key = asked.select("subject_id", "prediction_time").unique()
    events = (
        scan_events(timeline)
        .filter(pl.col(Event.encounter_id).is_not_null(), pl.col(Event.time).is_not_null())
        .join(key.lazy().select("subject_id").unique(), on="subject_id", how="semi")
        .select(Event.subject_id, Event.time, encounter=Event.encounter_id).collect()
    )  # fmt: skip
    return key.sort("prediction_time").join_asof(
        events.sort(Event.time), left_on="prediction_time", right_on=Event.time, by="subject_id",
        strategy="backward", check_sortedness=False,
    ).select("subject_id", "prediction_time", "encounter")  # fmt: skip


def resources(timeline: Path, store: TokenStore, tokens: NDArray[np.int64]) -> pl.DataFrame:
    """What the tokens (indices in the store) came from: columns of `BASIS`, one row for each distinct token."""
    tokens = np.unique(tokens)
    subject = np.searchsorted(np.asarray(store.offsets), tokens, side="right") - 1
    shard, row = np.asarray(store.shard)[subject], np.asarray(store.event)[tokens]
    parts = [pl.DataFrame(schema=BASIS)]
    for number in np.unique(shard):
        mine = shard == number
        wanted = pl.DataFrame({"_row": row[mine].astype(np.uint32), "token": tokens[mine]})
        events = pl.scan_parquet(timeline / "data" / f"{number:04d}.parquet", row_index_name="_row")
        found = events.select("_row", *(name for name in BASIS if name != "token")).join(
            wanted.lazy(), on="_row", how="inner"
        )
        parts.append(found.select(*BASIS).collect())
    return pl.concat(parts)
