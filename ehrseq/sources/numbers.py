"""Numbers as a country writes them: a decimal comma, thousands that are set apart."""

import re

import polars as pl

DECIMAL = (".", ",")
THOUSANDS = (".", ",", "'", "’", " ", "\u00a0", "\u202f")
"""What may stand before the fraction, and between groups of three digits."""


def number_pattern(decimal: str, thousands: str | None) -> str:
    """Regular expression of a number without a sign; groups of digits are whole or it is none.

    >>> bool(re.fullmatch(number_pattern(",", "."), "1.234,5")), bool(re.fullmatch(number_pattern(",", "."), "1.23"))
    (True, False)
    """
    point = re.escape(decimal)
    grouped = rf"[0-9]{{1,3}}(?:{re.escape(thousands)}[0-9]{{3}})+|" if thousands else ""
    return rf"(?:(?:{grouped}[0-9]+)(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][-+]?[0-9]+)?"


def plain_number(text: pl.Expr, decimal: str, thousands: str | None) -> pl.Expr:
    """The text of a number, which has no blanks around it, as a cast understands it: null if not written as declared.

    >>> table = pl.DataFrame({"text": ["1.234,5", "-0,5", "1.5", "x"]})
    >>> table.select(plain_number(pl.col("text"), ",", ".")).to_series().to_list()
    ['1234.5', '-0.5', None, None]
    """
    if decimal == "." and thousands is None:
        return text
    plain = text.str.replace_all(thousands, "", literal=True) if thousands else text
    good = text.str.contains(rf"^[-+]?{number_pattern(decimal, thousands)}$")
    return pl.when(good).then(plain.str.replace(decimal, ".", literal=True))
