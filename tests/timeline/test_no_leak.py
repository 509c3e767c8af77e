"""The promise of the timeline: a prefix is exactly what was known. Checked on invented records of every shape."""

import datetime as dt
from typing import Any

import polars as pl
from fhir_store import Resource, about, encounter, frame_of, patient
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrseq.timeline.bucket import _sorted
from ehrseq.timeline.concepts import Concepts
from ehrseq.timeline.events import make_events
from ehrseq.timeline.knowable import load_knowledge
from ehrseq.timeline.schema import Event
from ehrseq.timeline.views import run_view

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
times = st.integers(0, 2000).map(lambda hours: (START + dt.timedelta(hours=hours)).isoformat())
dates = st.tuples(times, st.sampled_from([4, 7, 10, 25])).map(lambda pair: pair[0][: pair[1]])
codes = st.sampled_from("abc").map(lambda code: {"coding": [{"system": "http://h.org/x", "code": code}]})


billing = st.sampled_from([None, [{"coding": [{"code": "encounter-diagnosis"}]}]])
KNOWLEDGE = load_knowledge()
NOWHERE = run_view(KNOWLEDGE.views["location"], pl.DataFrame(schema={"id": pl.String}))


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


@st.composite
def records(draw: st.DrawFn) -> list[Resource]:
    """A patient's stays, diagnoses, results and procedures, with dates missing at random."""
    stays = draw(st.lists(st.tuples(times, maybe(st.integers(1, 500))), min_size=1, max_size=3))
    resources: list[Resource] = [patient(1)]
    for n, (start, hours) in enumerate(stays):
        end = (dt.datetime.fromisoformat(start) + dt.timedelta(hours=hours)).isoformat() if hours else None
        resources.append(encounter(f"e{n}", 1, start, end))
    within = maybe(st.integers(0, len(stays) - 1).map(lambda n: {"reference": f"Encounter/e{n}"}))
    for n in range(draw(st.integers(0, 6))):
        told = {"code": draw(codes), "encounter": draw(within)}
        result = {"issued": draw(maybe(times)), "effectiveDateTime": draw(maybe(dates))}
        disease = {
            "recordedDate": draw(maybe(dates)),
            "onsetDateTime": draw(maybe(dates)),
            "category": draw(billing),
        }
        resources.append(about(1, "Observation", f"o{n}", status="final", **told, **result))
        resources.append(about(1, "Condition", f"c{n}", **told, **disease))
        done = draw(maybe(dates))
        resources.append(about(1, "Procedure", f"r{n}", status="completed", performedDateTime=done, **told))
    return [{key: value for key, value in resource.items() if value is not None} for resource in resources]


def events_of(resources: list[Resource]) -> pl.DataFrame:
    """The timeline of one patient, without disk."""
    names = sorted({resource["resourceType"] for resource in resources})
    frames = {name: frame_of(r for r in resources if r["resourceType"] == name) for name in names}
    rows = {
        name: run_view(view, frames[view.resource])
        for name, view in KNOWLEDGE.views.items()
        if view.resource in frames
    }
    concepts, made = Concepts(KNOWLEDGE.systems, set()), []
    for kind in (kind for name in names for kind in KNOWLEDGE.kinds_of(name)):
        view = rows[kind.view].with_columns(subject_id=pl.lit(1, dtype=pl.Int64), resource_type=pl.lit("x"))
        joined = {name: rows.get(name, NOWHERE) for name, _ in kind.join}
        order = KNOWLEDGE.order(kind)
        made.append(make_events(kind, view, joined, order=order, concepts=concepts, timezone="UTC").events)
    return _sorted(made).select(Event.polars_schema().names())


def instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None)


@settings(max_examples=10, deadline=None)
@given(records())
def test_nothing_is_known_too_early(resources: list[Resource]) -> None:
    by_id = {resource["id"]: resource for resource in resources}
    for event in events_of(resources).iter_rows(named=True):
        source, time = by_id[event["resource_id"]], event["time"]
        if event["code"].startswith("Observation//") and "issued" in source:
            assert time == instant(source["issued"])
        if event["code"].startswith(("Condition//", "Procedure//")):
            stay = by_id.get(source.get("encounter", {}).get("reference", "").removeprefix("Encounter/"))
            charted = "recordedDate" in source or len(source.get("performedDateTime", "")) > 10
            if stay and not charted:
                assert time >= instant(stay["period"]["end"])
            billed = source.get("category") and not charted
            assert not (billed and not stay)
        if time is not None:
            assert event["end_time"] is None or event["end_time"] <= time
            written = source.get("recordedDate") or source.get("issued")
            if written and len(written) <= 10:
                assert time.isoformat()[: len(written)] == written
                assert time.time() == dt.time.max


@settings(max_examples=10, deadline=None)
@given(records(), st.integers(1, 5))
def test_later_resources_do_not_change_earlier_events(resources: list[Resource], more: int) -> None:
    """Prefix invariance: what became known after a moment leaves the events up to it as they were."""
    before = events_of(resources)
    moment = before["time"].drop_nulls().sort()[before["time"].count() // 2]
    late = (moment + dt.timedelta(hours=1)).replace(tzinfo=dt.UTC).isoformat()
    code = {"coding": [{"system": "http://h.org/x", "code": "a"}], "text": "late"}
    result = {"status": "final", "issued": late, "effectiveDateTime": "2020-01-01", "code": code}
    added = [about(1, "Observation", f"0late{n}", **result) for n in range(more)]
    added.append(about(1, "Condition", "0late", code=code, recordedDate=late, onsetDateTime="2019"))
    known = pl.col("time").is_null() | (pl.col("time") <= moment)
    assert events_of([*added, *resources]).filter(known).equals(before.filter(known))


@settings(max_examples=5, deadline=None)
@given(records(), st.randoms(use_true_random=False))
def test_order_of_the_store_does_not_matter(resources: list[Resource], random: Any) -> None:
    shuffled = list(resources)
    random.shuffle(shuffled)
    assert events_of(shuffled).equals(events_of(resources))
