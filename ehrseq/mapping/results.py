"""Results as laboratories write them: `<5`, `≥ 100`, `3-5`, `1:160`, or words.

What is read as a number, a range or a ratio is decided here alone, so that `$text` gets exactly the rest.
"""

from dataclasses import dataclass

import polars as pl

from ehrseq.sources.numbers import number_pattern, plain_number

_COMPARATORS = {"≤": "<=", "≥": ">=", "=<": "<=", "=>": ">="}


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads results in which numbers are written with `decimal` and `thousands`."""

    decimal: str = "."
    thousands: str | None = None

    def number(self, text: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """(value Float64, comparator String) of `5`, `-5`, `< 5`, `≥5`; null where the text is no single number.

        >>> table = pl.DataFrame({"text": ["<5", "≥ 1.5", "-3", "3-5", "1e999", "NaN", "high"]})
        >>> value, comparator = Reader().number(pl.col("text"))
        >>> table.select(value).to_series().to_list(), table.select(comparator).to_series().to_list()[:3]
        ([5.0, 1.5, -3.0, None, None, None, None], ['<', '>=', None])
        """
        pattern = rf"^\s*(<=|>=|=<|=>|<|>|≤|≥)?\s*({self._signed})\s*$"
        compared = pl.when(text.str.contains("[<>≤≥]")).then(text)  # few are, and to take apart is dear
        sign = compared.str.extract_groups(pattern).struct[0].replace(_COMPARATORS)
        return self._value(text.str.extract(pattern, 2)), sign

    def range(self, text: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """(low, high) of `3-5`, `3 - 5`, `-5 - -3`, `3 to 5`; null where the text is no range, or runs downwards.

        >>> table = pl.DataFrame({"text": ["3-5", "-5 – -3", "-5", "5-3", "3 to 5"]})
        >>> low, high = Reader().range(pl.col("text"))
        >>> table.select(low).to_series().to_list(), table.select(high).to_series().to_list()
        ([3.0, -5.0, None, None, 3.0], [5.0, -3.0, None, None, 5.0])
        """
        parts = text.str.extract_groups(rf"^\s*({self._signed})\s*(?:-|–|—|to)\s*({self._signed})\s*$")
        low, high = self._value(parts.struct[0]), self._value(parts.struct[1])
        upwards = low <= high
        return pl.when(upwards).then(low), pl.when(upwards).then(high)

    def ratio(self, text: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
        """(numerator, denominator) of `1:160`; null where the text is no ratio, or one to zero."""
        parts = text.str.extract_groups(rf"^\s*({self._unsigned})\s*:\s*({self._unsigned})\s*$")
        over, under = self._value(parts.struct[0]), self._value(parts.struct[1])
        good = over.is_not_null() & (under > 0)
        return pl.when(good).then(over), pl.when(good).then(under)

    def unread(self, text: pl.Expr, kinds: frozenset[str]) -> pl.Expr:
        """The text where none of `kinds` (number, range, ratio) reads it."""
        readers = {"number": self.number, "range": self.range, "ratio": self.ratio}
        read = [readers[kind](text)[0].is_not_null() for kind in sorted(kinds)]
        return pl.when(~pl.any_horizontal(read)).then(text) if read else text

    @property
    def _unsigned(self) -> str:
        return number_pattern(self.decimal, self.thousands)

    @property
    def _signed(self) -> str:
        return f"[-+]?{self._unsigned}"

    def _value(self, text: pl.Expr) -> pl.Expr:
        number = plain_number(text, self.decimal, self.thousands).cast(pl.Float64, strict=False)
        return pl.when(number.is_finite()).then(number)


PARTIAL_DATE = "must be a date: 2020, 2020-03, 202003, 2020-03-15 or 20200315"


def partial_date(text: pl.Expr) -> pl.Expr:
    """FHIR date of a text, as precise as the text; null where it is none of the forms, or no day of the calendar.

    >>> table = pl.DataFrame({"text": ["2020", "202003", "20200315", "2020-13", "2021-02-29", "0000"]})
    >>> table.select(partial_date(pl.col("text"))).to_series().to_list()
    ['2020', '2020-03', '2020-03-15', None, None, None]
    """
    parts = text.str.strip_chars().str.extract_groups(
        "^([0-9]{4})(?:-?(0[1-9]|1[0-2]))?$|^([0-9]{4})-(0[1-9]|1[0-2])-([0-9]{2})$|"
        "^([0-9]{4})(0[1-9]|1[0-2])([0-9]{2})$"
    )
    year, month, day = (
        pl.coalesce(*(parts.struct[index] for index in group)) for group in ((0, 2, 5), (1, 3, 6), (4, 7))
    )
    whole = year + "-" + month + "-" + day
    days = pl.when(whole.str.to_date("%Y-%m-%d", strict=False).is_not_null()).then(whole)
    shorter = pl.when(day.is_null()).then(pl.coalesce(year + "-" + month, year))
    return pl.when(year != "0000").then(pl.coalesce(days, shorter))
