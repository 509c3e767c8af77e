"""Splits that ask more of a model than other patients of the same years and wards: another time, or another site.

Write the frame that they return to a Parquet file and give it to `ehrseq timeline FHIR --out TIMELINE --splits FILE`;
the timeline's events are taken over, only the splits change.
"""

from datetime import datetime
from pathlib import Path

import polars as pl

from ehrseq.core.errors import TimelineError
from ehrseq.timeline.meds import scan_events, split_subjects
from ehrseq.timeline.schema import Event

_TUNING = 1 / 9  # of those that are not held out: 8 to 1, as in the usual split


def hold_out_since(timeline: Path, moment: datetime, *, seed: int = 0) -> pl.DataFrame:
    """`subject_id` and `split`: held out is who has any event at or after `moment` (birth and static ones aside).

    So nothing that a model is taught happened later, of anybody. Raises: TimelineError if that is nobody or everybody.
    """
    later = pl.col(Event.time) >= pl.lit(moment).cast(pl.Datetime("us"))
    return _split(timeline, later & (pl.col(Event.code) != "MEDS_BIRTH"), f"since {moment:%Y-%m-%d}", seed)


def hold_out_with(timeline: Path, pattern: str, *, seed: int = 0) -> pl.DataFrame:
    """`subject_id` and `split`: held out is who has an event whose code matches `pattern`, such as a site's own codes.

    Raises: TimelineError if that is nobody or everybody.
    """
    return _split(timeline, pl.col(Event.code).str.contains(pattern), f"with a code like {pattern}", seed)


def _split(timeline: Path, held_out: pl.Expr, words: str, seed: int) -> pl.DataFrame:
    subjects = scan_events(timeline).group_by(Event.subject_id).agg(apart=held_out.any().fill_null(False))
    found = subjects.collect().sort(Event.subject_id)
    apart = int(found["apart"].sum())
    if apart in (0, found.height):
        raise TimelineError(
            f"{timeline}: {apart} of {found.height} patients have events {words}, so there is nothing to hold out "
            "or nothing to learn from."
        )
    drawn = split_subjects(found[Event.subject_id], (1 - _TUNING, _TUNING, 0.0), seed)
    split = pl.when("apart").then(pl.lit("held_out")).otherwise("split")
    return found.join(drawn, on=Event.subject_id, maintain_order="left").select(Event.subject_id, split=split)
