"""Resources to test with: small valid ones, and arbitrary ones of a fixed shape."""

from typing import Any

import polars as pl
from hypothesis import strategies as st

from ehrseq.fhir.dtypes import pruned_dtype

OBSERVATION: dict[str, Any] = {
    "id": "o1",
    "status": "final",
    "category": [{"coding": [{"system": "http://h.org/category", "code": "laboratory"}]}],
    "code": {"coding": [{"system": "http://loinc.org", "code": "2160-0", "display": "Creatinine"}]},
    "subject": {"reference": "Patient/p.1"},
    "effectiveDateTime": "2180-05-06T22:23:00+00:00",
    "issued": "2180-05-06T22:29:00Z",
    "valueQuantity": {"value": 1.1, "unit": "mg/dL", "comparator": "<"},
    "component": [{"code": {"text": "part"}, "valueInteger": 3}],
}

PATIENT_PATHS = (
    "id", "meta.source", "extension.url", "extension.valueDecimal", "extension.extension.valueString", "active",
    "name.family", "name.given", "name.period.start", "birthDate", "multipleBirthInteger",
    "communication.language.coding.code", "communication.preferred",
)  # fmt: skip
PATIENT = pruned_dtype("Patient", PATIENT_PATHS)


def stripped(value: Any) -> Any:
    """Without nulls, empty objects and empty lists: what FHIR JSON can say. The slow and obvious way."""
    if isinstance(value, dict):
        return {
            name: below for name, item in value.items() if (below := stripped(item)) not in (None, {}, [])
        }
    if isinstance(value, list):
        return [below for item in value if (below := stripped(item)) not in (None, {}, [])]
    return value


def values(dtype: Any) -> st.SearchStrategy[Any]:
    """Any value of a FHIR column's dtype, null included."""
    if isinstance(dtype, pl.Struct):
        return st.none() | st.fixed_dictionaries({field.name: values(field.dtype) for field in dtype.fields})
    if isinstance(dtype, pl.List):
        return st.none() | st.lists(values(dtype.inner), max_size=3)
    if dtype == pl.String:
        return (
            st.none()
            | st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
            | st.sampled_from('"\\\n{,')
        )
    if dtype == pl.Float64:
        return st.none() | st.floats(allow_nan=False, allow_infinity=False)
    return st.none() | (st.booleans() if dtype == pl.Boolean else st.integers(-(2**63), 2**63 - 1))


def patients() -> st.SearchStrategy[pl.DataFrame]:
    """Frames of Patients, mostly strange, with whole columns empty now and then."""
    row = st.fixed_dictionaries({name: values(dtype) for name, dtype in PATIENT.items()})
    empty = st.sets(st.sampled_from(list(PATIENT)))
    rows = st.lists(row, min_size=1, max_size=4)
    return st.builds(
        lambda rows, empty: pl.DataFrame(
            [{name: None if name in empty else value for name, value in row.items()} for row in rows],
            schema=PATIENT,
        ),
        rows,
        empty,
    )


def observations(*changes: dict[str, Any]) -> pl.DataFrame:
    """One Observation for each change; a None takes the element away, a dotted name reaches into objects."""
    rows = []
    for change in changes:
        row = {**OBSERVATION}
        for path, value in change.items():
            *above, last = path.split(".")
            target = row
            for name in above:
                target[name] = {**target[name]}
                target = target[name]
            target[last] = value
        rows.append(row)
    schema = pruned_dtype("Observation", {path for row in [OBSERVATION, *rows] for path in paths_of(row)})
    return pl.DataFrame(rows, schema=schema)


def paths_of(value: Any, path: str = "") -> set[str]:
    """Dotted paths of the primitives of a JSON value."""
    if isinstance(value, dict):
        return {
            found for name, item in value.items() for found in paths_of(item, f"{path}.{name}".lstrip("."))
        }
    if isinstance(value, list):
        return {found for item in value for found in paths_of(item, path)}
    return set() if value is None else {path}
