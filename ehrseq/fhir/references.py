"""Where references lead: those to resources that are not there, found by anti-join."""

from collections.abc import Iterator, Mapping

import polars as pl

from ehrseq.fhir.dtypes import fields_of
from ehrseq.fhir.elements import element

_TYPE_AND_ID = r"^([A-Z][A-Za-z]*)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?$"
MISSING = pl.Schema({"index": pl.UInt32(), "element": pl.String()})
"""`index`: row from 0; `element`: dotted path of the reference's text, e.g. "subject.reference"."""


def missing_references(
    frame: pl.DataFrame, resource_type: str, known: Mapping[str, pl.Series]
) -> pl.DataFrame:
    """References `Type/id` at any depth for which `known[Type]` lacks the id; columns of `MISSING`, sorted.

    A type that is not in `known` has no resources. References to #contained resources, absolute URLs and URNs
    lead elsewhere and are not looked up, nor are those inside contained resources.

    >>> frame = pl.DataFrame({"subject": [{"reference": "Patient/1"}, {"reference": "Patient/2"}]})
    >>> missing_references(frame, "Observation", {"Patient": pl.Series(["1"])}).rows()
    [(1, 'subject.reference')]
    """
    found = [pl.DataFrame(schema=MISSING)]
    for steps in _reference_paths(resource_type, frame.schema):
        links = _values(frame, steps)
        parts = links.select(
            "index",
            type=pl.col("value").str.extract(_TYPE_AND_ID, 1),
            id=pl.col("value").str.extract(_TYPE_AND_ID, 2),
        ).drop_nulls()
        for (type_name,), group in parts.group_by("type"):
            ids = known.get(str(type_name), pl.Series(dtype=pl.String)).cast(pl.String).unique()
            lost = group.join(ids.to_frame("id"), on="id", how="anti").unique("index")
            found.append(lost.select("index", element=pl.lit(".".join(steps))))
    return pl.concat(found).unique().sort("index", "element")


def _reference_paths(type_name: str, fields: Mapping[str, pl.DataType]) -> Iterator[list[str]]:
    """Names of the elements from the resource down to each `reference` of a Reference."""
    for name, dtype in fields.items():
        if name.startswith("_") or name == "contained":
            continue
        child = element(type_name, name)
        if type_name == "Reference" and name == "reference":
            yield [name]
        elif not child.primitive:
            yield from ([name, *rest] for rest in _reference_paths(child.type, fields_of(dtype)))


def _values(frame: pl.DataFrame, steps: list[str]) -> pl.DataFrame:
    """`index` and `value` of the texts at the end of the path, lists unfolded."""
    found = frame.select(
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("index"), pl.col(steps[0]).alias("value")
    )
    for name in [*steps[1:], None]:
        if isinstance(found.schema["value"], pl.List):
            found = found.explode("value")
        if name is not None:
            found = found.with_columns(pl.col("value").struct.field(name).alias("value"))
    return found.drop_nulls("value")
