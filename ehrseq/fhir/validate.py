"""Validation of resources in columns, in two of its three tiers (the third, strict decoding, is in `ndjson`).

`violations` checks every row by columnar rules: required elements, choice elements, codes of required bindings
that are known in full, the form of primitives and the shape and type of references. `full` passes rows through
the pydantic models of `fhir.resources.R4B`, about 5,000 a CPU second, so on a sample or when asked.

Not checked by either: value set bindings beyond those codes, FHIRPath invariants, profiles and slices.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from ehrseq.core.hashing import stable_hash
from ehrseq.fhir.elements import Element, children
from ehrseq.fhir.ndjson import to_json

FOUND = pl.Schema({"index": pl.UInt32, "element": pl.String, "rule": pl.String, "message": pl.String})

_DATE = r"[0-9]{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12][0-9]|3[01]))?)?"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
_ZONE = r"(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_DAY = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
# Source: R4B datatypes, section 2.24.0.1
_FORMS = {
    "id": r"^[A-Za-z0-9\-\.]{1,64}$",
    "code": r"^\S+( \S+)*$",
    "uri": r"^\S+$", "url": r"^\S+$", "canonical": r"^\S+$", "oid": r"^urn:oid:[0-2](\.(0|[1-9][0-9]*))+$",
    "date": f"^{_DATE}$",
    "dateTime": f"^({_DATE}|{_DAY}T{_CLOCK}{_ZONE})$",
    "instant": f"^{_DAY}T{_CLOCK}{_ZONE}$",
    "time": f"^{_CLOCK}$",
    "base64Binary": r"^[A-Za-z0-9+/=\s]+$",
}  # fmt: skip
_CALENDAR = ("date", "dateTime", "instant")
_LEAST = {"positiveInt": 1, "unsignedInt": 0}
_REFERENCE = r"^(#|urn:|https?://)|^[A-Z][A-Za-z]+/[A-Za-z0-9\-\.]{1,64}(/_history/[A-Za-z0-9\-\.]{1,64})?$"


@dataclass(frozen=True)
class Rule:
    """`broken` is true for the rows of a frame that break the rule."""

    element: str
    name: str
    message: str
    broken: pl.Expr


def rules(resource_type: str, schema: pl.Schema) -> list[Rule]:
    """Columnar rules for frames of `schema` that hold resources of a type; columns starting with `_` are passed by."""
    fields = {name: dtype for name, dtype in schema.items() if not name.startswith("_")}
    return list(_of_type(resource_type, fields, "", None))


def violations(frame: pl.DataFrame, resource_type: str) -> pl.DataFrame:
    """All rules that rows break: index (UInt32, row of `frame`), element, rule, message. Empty if all is well."""
    found = rules(resource_type, frame.schema)
    broken = frame.select(rule.broken.fill_null(False).alias(str(number)) for number, rule in enumerate(found))
    if not found or not broken.select(pl.any_horizontal(pl.all().any())).item():
        return pl.DataFrame(schema=FOUND)
    parts = []
    for number, rule in enumerate(found):
        index = broken[str(number)].arg_true()
        if len(index):
            parts.append(
                pl.DataFrame({"index": index}).with_columns(
                    element=pl.lit(rule.element), rule=pl.lit(rule.name), message=pl.lit(rule.message)
                )
            )
    return pl.concat(parts).cast(FOUND).sort("index", maintain_order=True)  # type: ignore[arg-type]


def full(frame: pl.DataFrame, resource_type: str, *, fraction: float = 1.0) -> pl.DataFrame:
    """Rows that `fhir.resources.R4B` refuses, as `violations` gives them; a fraction is chosen by hash of the id.

    Messages name element and fault, never a value.
    """
    from fhir.resources.R4B import get_fhir_model_class
    from pydantic import ValidationError

    limit = np.uint64(min(int(fraction * 2**64), 2**64 - 1))
    chosen = np.flatnonzero(stable_hash(frame["id"]) <= limit) if frame.height else np.zeros(0, np.int64)
    model = get_fhir_model_class(resource_type)
    found: list[tuple[int, str, str, str]] = []
    for index, text in zip(chosen.tolist(), to_json(frame[chosen], resource_type).to_list(), strict=True):
        try:
            model.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"] if not isinstance(part, int)) or resource_type
            found.append((index, place, "fhir.resources", str(first["type"]).replace("_", " ")))
    return pl.DataFrame(found, schema=FOUND, orient="row")


def _of_type(
    type_name: str, fields: dict[str, pl.DataType], path: str, parent: pl.Expr | None
) -> Iterator[Rule]:
    """Rules for the fields of a struct `parent` (None: the columns of the frame)."""
    known = children(type_name)

    def child(name: str) -> pl.Expr:
        return pl.col(name) if parent is None else parent.struct.field(name)

    here = pl.lit(True) if parent is None else parent.is_not_null()
    for name, element in known.items():
        place = f"{path}.{name}" if path else name
        if element.required:
            missing = child(name).is_null() if name in fields else pl.lit(True)
            yield Rule(place, "required", f"`{place}` is required and missing", here & missing)
        if name in fields:
            yield from _of_element(element, fields[name], place, child(name))
    yield from _choices(known, fields, path, child, here)


def _choices(known: dict[str, Element], fields: dict[str, pl.DataType], path: str, child: object, here: pl.Expr) -> Iterator[Rule]:
    stems: dict[str, list[str]] = {}
    needed = set()
    for name, element in known.items():
        if element.choice:
            stems.setdefault(element.choice, []).extend([name] if name in fields else [])
            if element.choice_required:
                needed.add(element.choice)
    for stem, names in stems.items():
        place = f"{path}.{stem}[x]" if path else f"{stem}[x]"
        count = pl.sum_horizontal([child(name).is_not_null().cast(pl.UInt8) for name in names]) if names else pl.lit(0)  # type: ignore[operator]
        if len(names) > 1:
            yield Rule(place, "choice", f"more than one of `{place}` is present", count > 1)
        if stem in needed:
            yield Rule(place, "required", f"one of `{place}` is required and missing", here & (count == 0))


def _of_element(element: Element, dtype: pl.DataType, path: str, value: pl.Expr) -> Iterator[Rule]:
    if isinstance(dtype, pl.List):
        empty = value.list.len() == 0
        yield Rule(path, "empty", f"`{path}` is an empty list, which FHIR forbids", empty)
        inner = dtype.inner
        assert isinstance(inner, pl.DataType)
        for rule in _of_single(element, inner, path, pl.element()):
            yield Rule(rule.element, rule.name, rule.message, value.list.eval(rule.broken.fill_null(False)).list.any())
    else:
        yield from _of_single(element, dtype, path, value)


def _of_single(element: Element, dtype: pl.DataType, path: str, value: pl.Expr) -> Iterator[Rule]:
    if isinstance(dtype, pl.Struct):
        fields: dict[str, pl.DataType] = {item.name: item.dtype for item in dtype.fields}  # type: ignore[misc]
        if element.type == "Reference" and "reference" in fields:
            yield from _reference(element, path, value.struct.field("reference"))
        yield from _of_type(element.type, fields, path, value)
        return
    if element.enum:
        yield Rule(path, "code", f"`{path}` is not a code that FHIR allows there", ~value.is_in(list(element.enum)))
    if dtype == pl.String:
        form = _FORMS.get(element.type, r"\S")
        yield Rule(path, "form", f"`{path}` does not have the form of a {element.type}", ~value.str.contains(form))
        if element.type in _CALENDAR:
            day = pl.when(value.str.len_bytes() >= 10).then(value.str.head(10))
            impossible = day.is_not_null() & day.str.to_date("%Y-%m-%d", strict=False).is_null()
            yield Rule(path, "calendar", f"`{path}` is a day that the calendar does not have", impossible)
    elif element.type in _LEAST:
        yield Rule(path, "range", f"`{path}` is below {_LEAST[element.type]}", value < _LEAST[element.type])
    elif dtype.is_float():
        yield Rule(path, "range", f"`{path}` is not a finite number", ~value.is_finite())


def _reference(element: Element, path: str, value: pl.Expr) -> Iterator[Rule]:
    place = f"{path}.reference"
    yield Rule(place, "reference", f"`{place}` is not `Type/id`", ~value.str.contains(_REFERENCE))
    if element.targets and "Resource" not in element.targets:
        kinds = "|".join(element.targets)
        other = value.str.contains(r"^[A-Z][A-Za-z]+/") & ~value.str.contains(f"^({kinds})/")
        yield Rule(place, "reference", f"`{path}` may only refer to {', '.join(element.targets)}", other)
