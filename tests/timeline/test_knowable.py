"""The table of event kinds: what is shipped is sound, what a user adds is checked."""

from pathlib import Path

import polars as pl
import pytest
from fhir_store import about, patient, write_store

from ehrseq.core.errors import TimelineError
from ehrseq.timeline import plan_view, read_timeline, timeline
from ehrseq.timeline import rendered as rendering
from ehrseq.timeline.knowable import load_knowledge
from ehrseq.timeline.systems import label_of, read_systems


def test_every_shipped_view_is_legal_fhir_and_compiles() -> None:
    """Against a frame without any element: each path is then checked by the R4B element model alone."""
    for view in load_knowledge().views.values():
        empty = plan_view(view, pl.LazyFrame(schema={"id": pl.String})).frame.collect()
        assert empty.columns == view.columns
        assert not [name for name, dtype in empty.schema.items() if dtype == pl.Null]


def test_every_view_that_makes_events_tells_subject_and_resource() -> None:
    knowledge = load_knowledge()
    for kind in knowledge.kinds:
        assert {"resource_id", "subject"} <= set(knowledge.views[kind.view].columns), kind.name


def test_only_a_stated_or_derived_time_may_read_a_start() -> None:
    """A fact with an end or an amount is never knowable at its beginning."""
    for kind in load_knowledge().kinds:
        if kind.end_time or kind.elapsed:
            columns = {column for source in kind.time or () for part in source.parts for column in part}
            assert not {column for column in columns if column.endswith("start")}, kind.name


def test_a_user_replaces_adds_and_removes(tmp_path: Path) -> None:
    (tmp_path / "flags.yaml").write_text(
        "resource: Flag\nselect:\n- column:\n  - {name: resource_id, path: getResourceKey()}\n"
        "  - {name: subject, path: subject.getReferenceKey(Patient)}\n  - {name: start, path: period.start}\n"
        "  - {name: code_system, path: code.coding.first().system}\n"
        "  - {name: code_code, path: code.coding.first().code}\n"
    )
    (tmp_path / "knowable.yaml").write_text(
        "kinds:\n  flag:\n    view: flags\n    prefix: Flag\n    concept: code\n"
        "    time: [{from: start, after: 3d, guarantee: assumed}]\n  observation_interpretation: null\n"
    )
    (tmp_path / "systems.yaml").write_text('"http://h.org/flags": warnings\n')
    flag = about(1, "Flag", "f1", period={"start": "2020-01-01"},
                 code={"coding": [{"system": "http://h.org/flags", "code": "fall"}]})  # fmt: skip
    timeline(write_store(tmp_path / "fhir", [flag]), tmp_path / "out", views=tmp_path)
    event = read_timeline(tmp_path / "out").row(0, named=True)
    assert (event["code"], str(event["time"])) == ("Flag//warnings//fall", "2020-01-04 23:59:59.999999")
    names = [kind.name for kind in load_knowledge(tmp_path).kinds]
    assert "observation_interpretation" not in names
    assert "observation" in names


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("view: obsrvation, code: X, time: static", 'there is no view `obsrvation`. Closest: "observation"'),
        ("code: X, time: [{from: isued, guarantee: stated}]", 'has column `isued`. Closest: "issued"'),
        ("code: X, time: [{from: issued, guarantee: sure}]", "'sure', expected stated or derived or assumed"),
        ("code: X, time: [{guarantee: stated}]", "needs either `from` or `latest`"),
        ("code: X, time: [{from: issued, after: soon, guarantee: stated}]", "`after` is 'soon'"),
        ("code: X, tiem: static", 'unknown key `tiem`. Closest: "time"'),
        ("time: static", "needs either `code` or `prefix`"),
        ("prefix: X, time: static", "has a `prefix` and no `concept`"),
        ("prefix: X, concept: codes, time: static", "no view at hand has column `codes_code`"),
        (
            "code: X, join: {encounter_end: encunter}, time: static",
            'no column `encunter`. Closest: "encounter"',
        ),
    ],
)
def test_a_wrong_table_names_file_and_line(kind: str, message: str, tmp_path: Path) -> None:
    view = "" if kind.startswith("view") else "view: observation, "
    (tmp_path / "knowable.yaml").write_text(f"kinds:\n  mine: {{{view}{kind}}}\n")
    with pytest.raises(TimelineError) as found:
        load_knowledge(tmp_path)
    assert f"{tmp_path / 'knowable.yaml'}:2" in str(found.value)
    assert message in str(found.value)


def test_the_published_page_is_that_of_the_table() -> None:
    """views/README.md is written by `python -m ehrseq.timeline.rendered`."""
    page = Path(rendering.__file__).parent / "views" / "README.md"
    assert page.read_text(encoding="utf-8") == rendering.rendered(load_knowledge())


def death_told(mapping: str, number: int) -> dict[str, object]:
    return patient(number, deceasedDateTime="2020-01-03") | {"_mapping": mapping}


def test_a_mapping_overrides_when_its_facts_are_known(tmp_path: Path) -> None:
    """A register tells of deaths a month later; what other mappings make keeps the table's rule."""
    declared = {"test/register": {"death": [{"from": "deceased", "after": "30d", "guarantee": "assumed"}]}}
    told = [death_told("test/register", 1), death_told("test/ward", 2)]
    store = write_store(tmp_path / "fhir", told, notes={"knowable": declared})
    made = timeline(store, tmp_path / "out")
    deaths = read_timeline(made.out).filter(pl.col("code") == "MEDS_DEATH").sort("time")
    assert [str(time) for time in deaths["time"]] == [
        "2020-01-03 23:59:59.999999",
        "2020-02-02 23:59:59.999999",
    ]
    assert {str(time) for time in deaths["clinical_time"]} == {"2020-01-03 00:00:00"}
    assert made.manifest.notes["knowable"]["death"] == [
        {"time": "deceased", "guarantee": "assumed", "events": 1},
        {"time": "deceased + 30d (test/register)", "guarantee": "assumed", "events": 1},
    ]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"deth": [{"from": "deceased", "guarantee": "stated"}]},
            'no such kind of event with a time. Closest: "death"',
        ),
        ({"gender": [{"from": "deceased", "guarantee": "stated"}]}, "no such kind of event with a time"),
        ({"death": [{"from": "died", "guarantee": "stated"}]}, "no view at hand has column `died`"),
    ],
)
def test_a_wrong_override_names_its_mapping(
    declared: dict[str, object], message: str, tmp_path: Path
) -> None:
    store = write_store(tmp_path / "fhir", [patient(1)], notes={"knowable": {"test/register": declared}})
    with pytest.raises(TimelineError) as found:
        timeline(store, tmp_path / "out")
    assert "test/register" in str(found.value)
    assert message in str(found.value)


def test_the_zone_of_the_source_decides_when_a_day_ends(tmp_path: Path) -> None:
    store = write_store(tmp_path / "fhir", [death_told("a", 1)], notes={"timezone": "America/New_York"})
    for zone, end in ((None, "2020-01-04 04:59:59.999999"), ("UTC", "2020-01-03 23:59:59.999999")):
        made = timeline(store, tmp_path / "out", timezone=zone)
        death = read_timeline(made.out).filter(pl.col("code") == "MEDS_DEATH")
        assert str(death["time"][0]) == end
        assert made.manifest.notes["timezone"] == (zone or "America/New_York")


def test_labels_of_systems(tmp_path: Path) -> None:
    assert label_of("http://loinc.org", load_knowledge().systems) == "LOINC"
    assert label_of("urn:oid:1.2.3", {}) == "1.2.3"
    assert label_of("http://h.org/labs/", {}) == "labs"
    (tmp_path / "systems.yaml").write_text('"http://h.org": a/b\n')
    with pytest.raises(TimelineError, match=r"systems.yaml:1  a label is a word without"):
        read_systems(tmp_path / "systems.yaml")
