"""The table of event kinds: what is shipped is sound, what a user adds is checked."""

from pathlib import Path

import polars as pl
import pytest
from fhir_store import about, write_store

from ehrseq.core.errors import TimelineError
from ehrseq.timeline import plan_view, read_timeline, timeline
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


def test_labels_of_systems(tmp_path: Path) -> None:
    assert label_of("http://loinc.org", load_knowledge().systems) == "LOINC"
    assert label_of("urn:oid:1.2.3", {}) == "1.2.3"
    assert label_of("http://h.org/labs/", {}) == "labs"
    (tmp_path / "systems.yaml").write_text('"http://h.org": a/b\n')
    with pytest.raises(TimelineError, match=r"systems.yaml:1  a label is a word without"):
        read_systems(tmp_path / "systems.yaml")
