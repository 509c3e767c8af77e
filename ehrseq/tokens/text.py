"""Text as codes: a short answer that many give becomes a code of its own, any other text its words.

"Observation//local//urine-nitrite" with the text "Positive " is `Observation//local//urine-nitrite//TEXT//positive`, if
enough patients have it. Words are then read as pieces (pieces.py).
"""

import polars as pl

from ehrseq.timeline.schema import Event
from ehrseq.tokens.shards import NOTE

ANSWER_LETTERS = 64  # longer text is prose: almost never the same twice, so never a code
_WORD = (
    r"\p{L}+|\p{N}+(?:\.\p{N}+)?|[<>=≤≥+%±]"  # signs that change what a number says; the rest is punctuation
)


def is_answered() -> pl.Expr:
    """Whether an event is of the record, not a note, and has text."""
    return pl.col(Event.text_value).is_not_null() & (pl.col(Event.modality) != NOTE)


def answer(text: pl.Expr) -> pl.Expr:
    """Lower-cased text with single spaces; null for prose and for nothing.

    >>> pl.DataFrame({"t": ["  Not  Seen", " ", "x" * 65]}).select(answer(pl.col("t")))["t"].to_list()
    ['not seen', None, None]
    """
    plain = text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when((text.str.len_chars() <= ANSWER_LETTERS) & (plain != "")).then(plain)


def answer_code(code: pl.Expr, plain: pl.Expr) -> pl.Expr:
    """The code of an answer `plain` to `code`."""
    return pl.concat_str(code, pl.lit("//TEXT//"), plain)


def words(text: pl.Expr) -> pl.Expr:
    """The words, numbers and signs of a text in lower case, in order: a list column; null for no text.

    >>> pl.DataFrame({"t": ["BP 120.5, well. CK >300"]}).select(words(pl.col("t")))["t"][0].to_list()
    ['bp', '120.5', 'well', 'ck', '>', '300']
    """
    return text.str.to_lowercase().str.extract_all(_WORD)
