"""What else a row of a view says about its fact: columns → lines of `name//word` and `name=number unit`.

An attribute is a stem (STEM_code, STEM_text, STEM_display: the first that a row has), or a column: text and lists of
text give words, true gives "true", a number gives a number, with the unit of NAME_unit where the view has it.
"""

from collections.abc import Sequence

import polars as pl

WORD, NUMBER, LINE = "//", "=", "\n"


def attributes_of(names: Sequence[str], frame: pl.DataFrame) -> pl.Expr:
    r"""The attributes of each row, one a line; null where it has none. `frame` decides which columns are worth a look.

    >>> frame = pl.DataFrame({"route_code": ["IV", None], "rate": [125.0, 2.5], "rate_unit": ["mL/h", None]})
    >>> frame.select(attributes_of(["route", "rate"], frame)).to_series().to_list()
    ['route//IV\nrate=125 mL/h', 'rate=2.5']
    """
    lines = [line for name in names if (line := _line(name, frame)) is not None]
    if not lines:
        return pl.lit(None, dtype=pl.String)
    found = pl.concat_str(lines, separator=LINE, ignore_nulls=True)
    return pl.when(pl.any_horizontal(line.is_not_null() for line in lines)).then(found)


def _line(name: str, frame: pl.DataFrame) -> pl.Expr | None:
    if name in frame.columns:
        return _column(name, frame) if frame[name].null_count() < frame.height else None
    stems = [f"{name}_{part}" for part in ("code", "text", "display")]
    there = [
        pl.col(stem) for stem in stems if stem in frame.columns and frame[stem].null_count() < frame.height
    ]
    return _named(name, _word(pl.coalesce(there))) if there else None


def _column(name: str, frame: pl.DataFrame) -> pl.Expr:
    dtype, column = frame.schema[name], pl.col(name)
    if dtype.is_numeric():
        number = column.cast(pl.Float32).cast(pl.String).str.strip_suffix(".0")  # as precise as numeric_value
        unit = f"{name}_unit"
        if unit in frame.columns:
            number = pl.concat_str(number, (pl.lit(" ") + _word(pl.col(unit))).fill_null(""))
        return pl.concat_str(pl.lit(_plain(name) + NUMBER), number)
    if isinstance(dtype, pl.List):
        words = column.list.drop_nulls().list.unique(maintain_order=True)
        lines = words.list.eval(_named(name, _word(pl.element())))
        return pl.when(words.list.len() > 0).then(lines.list.join(LINE))
    if dtype == pl.Boolean:
        return pl.when(column).then(pl.lit(f"{_plain(name)}{WORD}true"))
    return _named(name, _word(column))


def _named(name: str, word: pl.Expr) -> pl.Expr:
    return pl.concat_str(pl.lit(_plain(name) + WORD), word)


def _plain(name: str) -> str:
    """The name without the view it was joined from."""
    return name.rpartition(".")[2]


def _word(text: pl.Expr) -> pl.Expr:
    """Text with single spaces; null if empty."""
    plain = text.str.replace_all(r"\s+", " ").str.strip_chars(" ")
    return pl.when(plain != "").then(plain)
