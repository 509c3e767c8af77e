"""Rows as FHIR JSON text, by string expressions: no row is touched by Python, and no null is ever written.

FHIR JSON has no nulls, no empty objects and no empty lists. What is absent is found from the column as a whole:
where a column has no gaps, its text is only pieces to be joined with its neighbours' in one go; only where
it has gaps is it made apart, so that a gap can be left out. The text is the same by either way.
Source: HL7 FHIR R4B, section 2.6.2 (JSON representation).
"""

from dataclasses import dataclass

import polars as pl

from ehrseq.core.errors import SchemaError
from ehrseq.fhir.dtypes import fields_of

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPES |= {chr(code): f"\\u{code:04x}" for code in range(0x20) if chr(code) not in _ESCAPES}

type _Piece = str | pl.Expr


@dataclass(frozen=True)
class _Text:
    """JSON text as pieces to be joined; where `gaps`, it is a single expression that may be null."""

    pieces: list[_Piece]
    gaps: bool

    def joined(self) -> pl.Expr:
        return _joined(self.pieces)


def json_text(frame: pl.DataFrame, resource_type: str) -> pl.Series:
    r"""One JSON object per row of `frame` (columns: FHIR elements), `resourceType` first, as String [rows].

    Raises: SchemaError for a dtype that FHIR JSON does not have, and for NaN or infinity.

    >>> frame = pl.DataFrame({"id": ["a", "b"], "valueQuantity": [{"value": 1.1, "unit": None}, {"value": None}]})
    >>> print(*json_text(frame, "Observation"), sep="\n")
    {"resourceType":"Observation","id":"a","valueQuantity":{"value":1.1}}
    {"resourceType":"Observation","id":"b"}
    """
    fields = {series.name: _value(pl.col(series.name), series, series.name) for series in frame}
    text = _object({"resourceType": _Text([f'"{resource_type}"'], gaps=False), **fields})
    assert text is not None  # resourceType is never a gap
    return frame.select(pl.repeat("", pl.len()).alias("") + text.joined()).to_series()


def _value(expr: pl.Expr, series: pl.Series, path: str) -> _Text | None:
    """Text of the values of `series`, which `expr` gives; None if there is none in any row."""
    dtype = series.dtype
    if series.null_count() == len(series):
        return None
    if isinstance(dtype, pl.Struct):
        below = {name: (expr.struct.field(name), series.struct.field(name)) for name in fields_of(dtype)}
        return _object({name: _value(*both, f"{path}.{name}") for name, both in below.items()})
    if isinstance(dtype, pl.List):
        return _list(expr, series, path)
    gaps = series.null_count() > 0
    scalar = _scalar(expr, series, path)
    return _Text([_joined(scalar)] if gaps else scalar, gaps)


def _scalar(expr: pl.Expr, series: pl.Series, path: str) -> list[_Piece]:
    dtype = series.dtype
    if dtype.is_float():
        if not series.is_finite().all():
            raise SchemaError(f"`{path}` holds NaN or infinity, which JSON cannot write. Make them null.")
        return [expr.cast(pl.String)]
    if dtype.is_integer() or dtype == pl.Boolean:
        return [expr.cast(pl.String)]
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        text = expr.cast(pl.String)
        if series.cast(pl.String).str.contains(_NEEDS_ESCAPE).any():
            text = text.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))
        return ['"', text, '"']
    raise SchemaError(
        f"`{path}` is {dtype}, which FHIR JSON does not have. Cast it to text, a number or a boolean."
    )


def _object(fields: dict[str, _Text | None]) -> _Text | None:
    """Text of an object; a gap where all its fields are gaps."""
    texts = {name: text for name, text in fields.items() if text is not None}
    if not texts:
        return None
    names = list(texts)
    sure = next((index for index, name in enumerate(names) if not texts[name].gaps), None)
    if sure is None:
        parts = [_joined([f'"{name}":', *texts[name].pieces]) for name in names]
        body = pl.concat_str(parts, separator=",", ignore_nulls=True)
        return _Text([pl.when(body != "").then(_joined(["{", body, "}"]))], gaps=True)
    pieces: list[_Piece] = ["{"]
    for index, name in enumerate(names):  # the comma goes to the side of the field that is never a gap
        before, after = ("," if index > sure else ""), ("," if index < sure else "")
        part = [f'{before}"{name}":', *texts[name].pieces, after]
        pieces += [_joined(part).fill_null("")] if texts[name].gaps else part
    return _Text([*pieces, "}"], gaps=False)


def _list(expr: pl.Expr, series: pl.Series, path: str) -> _Text | None:
    """Text of a list; a gap where nothing is in it."""
    items = series.explode(empty_as_null=False, keep_nulls=False)
    if items.is_empty():
        return None
    if series.list.len().eq_missing(pl.Series([1])).all():  # most lists of FHIR: as if there were no list
        text = _value(expr.list.first(), items, path)
        if text is None or text.gaps:
            return text and _Text([_joined(["[", text.joined(), "]"])], gaps=True)
        return _Text(["[", *text.pieces, "]"], gaps=False)
    text = _value(pl.element(), items, path)
    if text is None:
        return None
    body = expr.list.eval(text.joined()).list.join(",", ignore_nulls=True)
    return _Text([pl.when(body != "").then(_joined(["[", body, "]"]))], gaps=True)


def _joined(pieces: list[_Piece]) -> pl.Expr:
    """One expression that joins the pieces, neighbouring constants made one; null where a piece is null."""
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and isinstance(piece, str) and isinstance(merged[-1], str):
            merged[-1] += piece
        elif not isinstance(piece, str) or piece:
            merged.append(piece)
    return pl.concat_str([pl.lit(piece) if isinstance(piece, str) else piece for piece in merged])
