"""Patients who turned out to be one: who stands for whom in the end."""

import polars as pl

from ehrseq.core.errors import DataQualityError

RETIRED, SURVIVOR = "retired", "survivor"
_LONGEST_CHAIN = 64


def survivors(links: pl.DataFrame) -> pl.DataFrame:
    """Who stands for whom: `links` (retired, survivor; of several for one the last counts) with chains followed.

    Raises: DataQualityError if patients are merged in a circle.
    Source: FHIR R4B Patient.link, `replaced-by`.

    >>> survivors(pl.DataFrame({"retired": [1, 2], "survivor": [2, 3]})).rows()
    [(1, 3), (2, 3)]
    """
    known = links.drop_nulls().unique(RETIRED, keep="last", maintain_order=True)
    onward = known.rename({RETIRED: SURVIVOR, SURVIVOR: "next"})
    found = known
    for _ in range(_LONGEST_CHAIN):
        step = found.join(onward, on=SURVIVOR, how="left", maintain_order="left")
        if step["next"].null_count() == step.height:
            return found.sort(RETIRED)
        found = step.select(RETIRED, pl.coalesce("next", SURVIVOR).alias(SURVIVOR))
    circle = step.height - step["next"].null_count()
    raise DataQualityError(
        f"{circle} patients are merged in a circle (A into B, B into A), so none of them "
        "survives. Nothing was written. Correct the links."
    )


def surviving(subjects: pl.Series, merged: pl.DataFrame | None) -> pl.Series:
    """The survivor of each subject; itself, where it was never merged."""
    if merged is None or merged.is_empty():
        return subjects
    return subjects.replace(merged[RETIRED], merged[SURVIVOR])
