"""ViewDefinitions: what they give, and what they refuse with file and line."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fhir_store import frame_of

from ehrseq.core.errors import TimelineError
from ehrseq.timeline import load_view, plan_view, run_view, view_of

PATIENTS = [
    {"id": "a", "active": True, "birthDate": "1950-03",
     "name": [{"family": "A", "given": ["x", "y"], "use": "official"}]},
    {"id": "b", "active": False, "name": [{"family": "B"}, {"family": "C", "use": "official"}],
     "managingOrganization": {"reference": "http://h.org/fhir/Organization/o1/_history/2"}},
    {"id": "c", "deceasedDateTime": "2020-01-01"},
]  # fmt: skip


def values(
    path: str, resource: str = "Patient", rows: list[dict[str, Any]] = PATIENTS, **column: Any
) -> list[Any]:
    view = view_of({"resource": resource, "select": [{"column": [{"name": "v", "path": path} | column]}]})
    return run_view(view, frame_of(rows))["v"].to_list()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("id", ["a", "b", "c"]),
        ("Patient.id", ["a", "b", "c"]),
        ("name.first().family", ["A", "B", None]),
        ("name.last().family", ["A", "C", None]),
        ("name[1].family", [None, "C", None]),
        ("name.where(use = 'official').family", ["A", "C", None]),
        ("name.where(family > 'A').exists()", [False, True, False]),
        ("name.given.exists()", [True, False, False]),
        ("name.exists(use = 'official' and family = 'A')", [True, False, False]),
        ("name.given.join('+')", ["x+y", "", ""]),
        ("gender", [None, None, None]),
        ("gender.empty()", [True, True, True]),
        ("telecom.where(system = 'phone').value", [None, None, None]),
        ("active and name.exists()", [True, False, False]),
        ("active.not()", [False, True, None]),
        ("active = true or deceased.exists()", [True, False, True]),
        ("deceased.ofType(dateTime)", [None, None, "2020-01-01"]),
        ("deceased.ofType(boolean)", [None, None, None]),
        ("deceased", [None, None, "2020-01-01"]),
        ("managingOrganization.getReferenceKey()", [None, "o1", None]),
        ("managingOrganization.getReferenceKey(Organization)", [None, "o1", None]),
        ("managingOrganization.getReferenceKey(Patient)", [None, None, None]),
        ("getResourceKey()", ["a", "b", "c"]),
        ("birthDate < @1951", [True, None, None]),
        ("birthDate.lowBoundary()", ["1950-03-01", None, None]),
        ("birthDate.highBoundary()", ["1950-03-31", None, None]),
        ("id & '-' & birthDate", ["a-1950-03", "b-", "c-"]),
        ("7 div 2 + 7 mod 2", [4, 4, 4]),
        ("-7 / 2", [-3.5, -3.5, -3.5]),
        ("where(active).id", ["a", None, None]),
    ],
)
def test_path(path: str, expected: list[Any]) -> None:
    assert values(path) == expected


def test_choice_of_several_types_must_be_chosen() -> None:
    rows = [{"id": "a", "valueQuantity": {"value": 1.5}}, {"id": "b", "valueString": "x"}]
    assert values("value.ofType(Quantity).value", "Observation", rows) == [1.5, None]
    assert values("value.exists()", "Observation", rows) == [True, True]
    with pytest.raises(TimelineError, match=r"Quantity, String.*ofType"):
        values("value", "Observation", rows)


def test_instants_compare_across_time_zones() -> None:
    rows = [{"id": "a", "issued": "2020-01-01T10:00:00Z"}, {"id": "b", "issued": "2020-01-01T11:00:00Z"}]
    assert values("issued = @2020-01-01T11:00:00+01:00", "Observation", rows) == [True, False]


def test_several_values_in_one_column_are_an_error_unless_it_is_a_collection() -> None:
    with pytest.raises(TimelineError, match=r"several values.*collection: true"):
        values("name.family")
    assert values("name.family", collection=True) == [["A"], ["B", "C"], []]


def test_result_types_do_not_depend_on_what_the_store_has() -> None:
    columns = [
        ("active", "boolean"),
        ("id", "id"),
        ("multipleBirth.ofType(integer)", "integer"),
        ("name.family", "string"),
    ]
    view = view_of({"resource": "Patient", "select": [{"column": [
        {"name": f"c{i}", "path": path, "type": kind, "collection": i == 3} for i, (path, kind) in enumerate(columns)
    ]}]})  # fmt: skip
    full, bare = run_view(view, frame_of(PATIENTS)), run_view(view, pl.DataFrame({"id": ["z"]}))
    assert full.schema == bare.schema
    assert list(full.dtypes) == [pl.Boolean(), pl.String(), pl.Int64(), pl.List(pl.String())]


def test_plan_knows_what_it_reads() -> None:
    view = view_of({"resource": "Patient", "select": [{"forEach": "name", "column": [{"name": "v", "path": "family"}]}],
                    "where": [{"path": "active"}]})  # fmt: skip
    assert plan_view(view, frame_of(PATIENTS).lazy()).reads == {"name", "active"}


def column(path: str) -> str:
    return f"- column: [{{name: a, path: {path}}}]"


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (column("nmae.family"), ':3  `nmae.family`: Patient has no element `nmae`. Closest: "name".'),
        ("- column:\n  - name: a\n    path: name.where(", ":5  `name.where(` column 12"),
        ("- colum: []", ':3  unknown key `colum`. Closest: "column"'),
        ("- forEach: name\n  repeat: [name]\n  column: []", ":3  has forEach and repeat"),
        ("  []", ":2  a view needs `select`"),
        ("- column: [{name: 1a, path: id}]", ":3  a column needs a `name`"),
        ("- column: [{name: a, path: id}, {name: a, path: id}]", "column `a` is made twice"),
        (column("'name.where(use = 1)'"), "`=` between code and integer"),
        (column("'%x'"), "the view has no constant `x`"),
        (column("name.given.first().x"), "string has no element `x`"),
        (column("id") + "\nwhere:\n- path: birthDate", ":5  `birthDate`: a condition must be true or false"),
        (
            column("id") + "\nconstant: [{name: d, valueDate: 2020-01-01}]",
            ":4  not a constant of a known type",
        ),
    ],
)
def test_errors_name_file_and_line(select: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "view.yaml"
    path.write_text(f"resource: Patient\nselect:\n{select}")
    with pytest.raises(TimelineError) as found:
        run_view(load_view(path), frame_of(PATIENTS))
    assert f"{path}" in str(found.value)
    assert message in str(found.value)
