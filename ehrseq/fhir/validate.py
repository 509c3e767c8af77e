"""Validation in tiers: columnar rules on every row, `fhir.resources.R4B` on a sample, references by anti-join.

Checked on every row (`violations`): required elements (within objects that are there), at most one type of a
choice, codes of required bindings where the standard lists them, formats and ranges of primitives with days
that the calendar has, no empty strings, the shape and target type of literal references.
Checked on a sample or on all (`full`): what the classes of fhir.resources check besides.
Checked on request (`missing_references`): that what a reference names is there.

Not checked by any: bindings to value sets other than short required lists; invariants (dom-, ext-, per-1,
obs-6 ...) and so the order of a Period; profiles and slices; the meaning of codes, units and URLs; that ids are
unique; XHTML of narratives; and, on every row, what is inside contained resources.
Messages name elements, never values.
"""

from collections.abc import Iterator

import polars as pl

from ehrseq.core.schema import Required, Schema
from ehrseq.fhir.json_text import json_text
from ehrseq.fhir.references import missing_references
from ehrseq.fhir.rules import Rule, rules

__all__ = ["Rule", "Violation", "full", "missing_references", "rules", "sample", "violations"]

_FULL = "fhir.resources"
_OWN_WORDS = {  # pydantic's own messages for these speak of the expectation alone
    "missing": "is required",
    "extra_forbidden": "is not an element here",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "too_long": "has too many items",
}


class Violation(Schema):
    """One demand of FHIR that one row breaks, in the order of rows. It holds no value of the row."""

    index = Required(pl.UInt32)  # row of the frame, from 0
    element = Required(pl.String)  # dotted path, "value[x]" for a choice
    rule = Required(pl.String)  # see `ehrseq.fhir.rules.Rule`, or "fhir.resources"
    message = Required(pl.String)


def violations(
    frame: pl.DataFrame, resource_type: str, *, known_good: frozenset[str] = frozenset()
) -> pl.DataFrame:
    """All rules that rows of `frame` break, as a `Violation` table sorted by row. Fast where there are none.

    Inside columns that are `known_good` nothing is looked at again.
    Raises: SchemaError for a column or field that is not an element of the type, or has another dtype.

    >>> frame = pl.DataFrame({"subject": [{"reference": "Patient/1"}, {"reference": "Patient 2"}]})
    >>> violations(frame, "Condition").select("index", "element", "rule").rows()
    [(1, 'subject.reference', 'reference')]
    """
    found = rules(resource_type, frame.schema, known_good=known_good)
    bad = frame.select(found.any_fails).to_series().arg_true()
    rows = frame[bad]
    parts = [Violation.empty()]
    for rule in found.each if rows.height else ():
        hits = bad.filter(rows.select(rule.fails.fill_null(False)).to_series())
        if not hits.is_empty():
            texts = {
                Violation.element: rule.element,
                Violation.rule: rule.rule,
                Violation.message: rule.message,
            }
            part = hits.cast(pl.UInt32).alias(Violation.index).to_frame()
            parts.append(part.with_columns(pl.lit(text).alias(name) for name, text in texts.items()))
    return pl.concat(parts).sort(Violation.index, maintain_order=True)


def full(
    frame: pl.DataFrame, resource_type: str, *, fraction: float = 1.0, limit: int | None = None
) -> pl.DataFrame:
    """Decode rows through the classes of `fhir.resources.R4B`; what they refuse, as a `Violation` table.

    `fraction` and `limit` bound the rows decoded (see `sample`): a row takes some tenths of a millisecond.
    """
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    model = get_fhir_model_class(resource_type)
    rows = sample(frame, fraction, limit=limit)
    text = json_text(frame[rows].select(pl.exclude("^_.*$")), resource_type)
    found: list[tuple[int, str, str, str]] = []
    for index, line in zip(rows.to_list(), text, strict=True):  # a sample: rows may meet Python here
        try:
            model.model_validate_json(line)
        except ValidationError as error:
            found += [(index, place, _FULL, words) for place, words in _faults(error)]
        except ValueError as error:
            found.append((index, resource_type, _FULL, f"is refused ({type(error).__name__})"))
    return pl.DataFrame(found, schema=Violation.polars_schema(), orient="row")


def sample(frame: pl.DataFrame, fraction: float = 1.0, *, limit: int | None = None) -> pl.Series:
    """Row numbers (u32, ascending) of a sample that depends on the ids alone, in one version of polars: about
    `fraction` of all rows, at most `limit`. A row that is in a smaller sample is in every larger one.

    >>> sample(pl.DataFrame({"id": ["a", "b", "c", "d"]}), limit=3).len()
    3
    """
    names = frame["id"] if "id" in frame.columns else pl.Series(range(frame.height), dtype=pl.Int64)
    hashes = names.hash().alias("hash")
    rows = hashes.to_frame().with_row_index("index")
    if fraction < 1:
        rows = rows.filter(pl.col("hash") < round(fraction * 2.0**64))
    if limit is not None and rows.height > limit:
        rows = rows.sort("hash", maintain_order=True).head(limit).sort("index")
    return rows["index"]


def _faults(error: "ValidationError") -> Iterator[tuple[str, str]]:  # type: ignore[name-defined]  # noqa: F821
    """Element and message of each fault, once; the library's own words may quote values, so they are not used."""
    seen = set()
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(part for part in fault["loc"] if isinstance(part, str)) or "resource"
        words = _OWN_WORDS.get(fault["type"], f"is refused ({fault['type']})")
        if (place, words) not in seen:
            seen.add((place, words))
            yield place, words
