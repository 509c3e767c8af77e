"""The promise of the whole pipeline: what becomes known after a moment changes nothing that a model sees at it.

Of a generated hospital's FHIR store, everything that was not knowable at a random moment of each patient is taken out:
whole resources, and of those that were half known (a stay that has begun, an infusion that runs) the elements that came
later. Events, tokens and features up to the moment must stay as they were, byte for byte.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ehrseq
from ehrseq.core.dataset import Build
from ehrseq.tasks.features import common_codes, table
from ehrseq.timeline import dates, scan_events
from ehrseq.timeline.schema import Event
from ehrseq.tokens.store import TOKEN_FIELDS, TokenStore

PATIENTS = 12
# elements that become known at the end of what they are in: (type, when that is, elements)
LATER = {
    "Patient": ("deceasedDateTime", ["deceasedDateTime"]),
    "Encounter": ("period.end", ["period.end", "hospitalization.dischargeDisposition", "participant"]),
    "MedicationAdministration": (
        "effectivePeriod.end",
        ["effectivePeriod.end", "dosage.dose", "dosage.rateQuantity", "note"],
    ),
    "Procedure": ("performedPeriod.end", ["performedPeriod.end"]),
}


@dataclass(frozen=True)
class Whole:
    """What the pipeline makes when nothing is taken out."""

    fhir: Path
    events: pl.DataFrame
    tokens: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    ehrseq.generate(folder / "tables", patients=PATIENTS, seed=5)
    ehrseq.map("mimic_iv", folder / "tables", folder / "fhir", validate="none")
    ehrseq.timeline(folder / "fhir", folder / "timeline", split=(1, 0, 0))
    ehrseq.tokenize(folder / "timeline", folder / "tokens", min_patients=2)
    return Whole(folder / "fhir", scan_events(folder / "timeline").collect(), folder / "tokens")


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
@given(st.integers(0, 2**32 - 1))
def test_the_future_changes_nothing_up_to_now(
    whole: Whole, tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    moments, folder = random_moments(whole.events, seed), tmp_path_factory.mktemp("cut")
    cut(whole, moments, folder / "fhir")
    ehrseq.timeline(folder / "fhir", folder / "timeline", split=(1, 0, 0))
    events = scan_events(folder / "timeline").collect()
    assert events.height < whole.events.height
    assert_same(known(events, moments), known(whole.events, moments))

    ehrseq.tokenize(folder / "timeline", folder / "tokens", vocabulary=whole.tokens)
    assert visible(folder / "tokens", moments) == visible(whole.tokens, moments)

    codes, _ = common_codes(whole.fhir.parent / "timeline", 40)
    labels = moments.select("subject_id", prediction_time="moment").lazy()
    assert table(events.lazy(), labels, codes).equals(table(whole.events.lazy(), labels, codes))


def random_moments(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """subject_id, patient (its FHIR id), moment: that of one of its events, or a little later."""
    source = np.random.default_rng(seed)
    timed = events.filter(pl.col(Event.time).is_not_null() & (pl.col(Event.code) != "MEDS_BIRTH"))
    place = timed.group_by("subject_id").agg(pl.col(Event.time)).sort("subject_id")
    chosen = [times.sort()[int(source.integers(0, len(times)))] for times in place["time"]]
    later = pl.Series(source.choice([0, 1, 3_600_000_000], len(chosen)), dtype=pl.Duration("us"))
    found = place.select("subject_id", moment=pl.Series(chosen, dtype=pl.Datetime("us")) + later)
    patients = (
        events.filter(pl.col("resource_type") == "Patient")
        .select("subject_id", patient="resource_id")
        .unique()
    )
    return found.join(patients, on="subject_id")


def cut(whole: Whole, moments: pl.DataFrame, out: Path) -> None:
    """The store without what was not knowable at each patient's moment."""
    told = known(whole.events, moments)
    with Build(out, kind="fhir", config={"cut": str(moments["moment"].to_list())}, inputs=[]) as build:
        for path in sorted(whole.fhir.glob("[A-Z]*/*.parquet")):
            frame, kind = pl.read_parquet(path), path.parent.name
            if path.stem != "shared":
                seen = told.filter(pl.col("resource_type") == kind)["resource_id"].unique()
                frame = frame.filter(pl.col("id").is_in(seen.implode()))
                frame = without_later(frame, kind, moments)
            if frame.height:
                build.write(f"{kind}/{path.name}", frame)


def without_later(frame: pl.DataFrame, kind: str, moments: pl.DataFrame) -> pl.DataFrame:
    ends, elements = LATER.get(kind, ("", []))
    if not ends or ends.split(".")[0] not in frame.columns:
        return frame
    owner = (
        pl.col("id")
        if kind == "Patient"
        else pl.col("subject").struct.field("reference").str.strip_prefix("Patient/")
    )
    both = frame.with_columns(_patient=owner).join(
        moments.select(_patient="patient", _moment="moment"), on="_patient", how="left", maintain_order="left"
    )
    late = dates.latest(field(ends)) > pl.col("_moment")
    for path in elements:
        top = path.split(".")[0]
        if top in frame.columns:
            both = both.with_columns(blanked(frame.schema[top], path, late))
    return both.drop("_patient", "_moment")


def field(path: str) -> pl.Expr:
    first, *rest = path.split(".")
    expression = pl.col(first)
    for name in rest:
        expression = expression.struct.field(name)
    return expression


def blanked(dtype: Any, path: str, late: pl.Expr) -> pl.Expr:
    """The column with the element at `path` (one or two names) null where it is `late`."""
    top, _, below = path.partition(".")
    if not below:
        return pl.when(~late.fill_null(False)).then(pl.col(top)).alias(top)
    if below not in [part.name for part in dtype.fields]:
        return pl.col(top)
    kept = pl.when(~late.fill_null(False)).then(field(path))
    return (
        pl.when(pl.col(top).is_not_null()).then(pl.col(top).struct.with_fields(kept.alias(below))).alias(top)
    )


def known(events: pl.DataFrame, moments: pl.DataFrame) -> pl.DataFrame:
    """Events of each patient up to its moment, those true for life among them."""
    both = events.join(
        moments.select("subject_id", "moment"), on="subject_id", how="left", maintain_order="left"
    )
    seen = pl.col(Event.time).is_null() | (pl.col(Event.time) <= pl.col("moment"))
    return both.filter(seen).drop("moment").sort("subject_id", maintain_order=True)


def assert_same(found: pl.DataFrame, expected: pl.DataFrame) -> None:
    if not found.equals(expected):
        extra = found.join(expected, on=found.columns, how="anti", nulls_equal=True)
        missing = expected.join(found, on=found.columns, how="anti", nulls_equal=True)
        raise AssertionError(
            f"only without the future: {extra['code'].to_list()}; only with it: {missing['code'].to_list()}"
        )


def visible(tokens: Path, moments: pl.DataFrame) -> dict[int, dict[str, bytes]]:
    """What a model can see of each patient at its moment: bytes of every array but the event's row number."""
    store, seen = TokenStore.open(tokens), {}
    for subject, moment in moments.select("subject_id", pl.col("moment").to_physical()).rows():
        rows = store.rows(int(store.index_of([subject])[0]))
        count = int((store.time[rows] <= moment).sum())
        seen[subject] = {
            name: getattr(store, name)[rows][:count].tobytes() for name in TOKEN_FIELDS if name != "event"
        }
        beside = slice(*np.searchsorted(store.bag_token, [rows.start, rows.start + count]))
        seen[subject] |= {name: getattr(store, name)[beside].tobytes() for name in ("bag_code", "bag_weight")}
        seen[subject]["bag_token"] = (store.bag_token[beside] - rows.start).tobytes()
        assert count > 0
    return seen
