"""`lowBoundary()` and `highBoundary()`: the least and greatest value that an imprecise one may stand for.

Milliseconds are the finest time FHIRPath has; a date without an offset may be anywhere from UTC+14 to UTC-12.
A decimal's precision is read from its shortest text, so 1.50 counts as 1.5: the store keeps numbers, not digits.
Source: https://hl7.org/fhirpath/#lowboundaryprecision-integer-decimal--date--datetime--time
"""

import polars as pl

from ehrseq.core.errors import TimelineError
from ehrseq.timeline.values import Value

_FULL_LOW = "0000-01-01T00:00:00.000"
_FULL_HIGH = "9999-12-31T23:59:59.999"
_OFFSET = r"(Z|[+\-]\d\d:\d\d)$"


def boundary(value: Value, *, high: bool) -> Value:
    """The boundary of a decimal, date, dateTime, instant or time. Raises: TimelineError for other types."""
    if value.dtype.is_numeric():
        text = value.expr.cast(pl.Float64).cast(pl.String)
        digits = text.str.split(".").list.get(1, null_on_oob=True).str.len_chars().fill_null(0)
        half = 0.5 * pl.lit(10.0).pow(-digits.cast(pl.Float64))
        moved = value.expr + half if high else value.expr - half
        return Value(moved.round(8), pl.Float64(), type="decimal")
    if value.dtype != pl.String or value.type not in ("date", "dateTime", "instant", "time"):
        raise TimelineError(
            f"a boundary of {value.type or value.dtype}; expected a decimal, date, dateTime or time"
        )
    return Value(_text(value.expr, value.type, high), pl.String(), type=value.type)


def _text(text: pl.Expr, type_name: str, high: bool) -> pl.Expr:
    full = _FULL_HIGH if high else _FULL_LOW
    if type_name == "time":
        return _completed(text, full[11:])
    if type_name == "date":
        return _month_end(_completed(text, full[:10]), text, high)
    local = text.str.replace(_OFFSET, "")
    done = _month_end(_completed(local, full), local, high)
    return done + pl.coalesce(text.str.extract(_OFFSET), pl.lit("-12:00" if high else "+14:00"))


def _completed(text: pl.Expr, full: str) -> pl.Expr:
    """The text, and what is missing at its end taken from `full`."""
    return text + pl.lit(full).str.slice(text.str.len_bytes())


def _month_end(done: pl.Expr, text: pl.Expr, high: bool) -> pl.Expr:
    """Replace day 31 by the last day of the month where only the month was given."""
    if not high:
        return done
    day = (text + "-01").str.to_date("%Y-%m-%d", strict=False).dt.month_end().dt.to_string("%Y-%m-%d")
    return pl.when(text.str.len_bytes() == 7).then(day + done.str.slice(10)).otherwise(done)
