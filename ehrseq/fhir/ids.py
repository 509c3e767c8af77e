"""Logical ids and subject ids: functions of the source's keys alone, so every run gives the same."""

from collections.abc import Sequence

import numpy as np
import polars as pl

from ehrseq.core.database import cursor
from ehrseq.core.hashing import stable_hash

_LONGEST = 64  # FHIR R4B datatypes, `id`: [A-Za-z0-9\-\.]{1,64}
_LONGEST_NUMBER = 21  # a dot, a sign and 19 digits
_HASHED_LENGTH = 34  # ".x" and 32 hex digits
_LEGAL = r"^[A-Za-z0-9\-]+$"
_LEGAL_ALONE = r"^[A-Za-z0-9\-\.]+$"  # a dot is no ambiguity where there is but one key
_LOOKS_HASHED = r"^x[0-9a-f]{32}$"
_LAST_PART = r"([^/]+)$"
_NUMBERED = r"^(?:[A-Za-z0-9-]+\.)?([1-9][0-9]{0,17})$"
_BIT_62 = np.uint64(1 << 62)


def resource_id(prefix: str, keys: Sequence[pl.Expr], *, numbers: bool = False) -> pl.Expr:
    """`<prefix>.<key>.<key>` where that is a legal id, else `<prefix>.x<md5>`; null if a key is null.

    Different keys give different ids: where a key has signs that an id cannot have, or the id would be longer
    than 64, the keys as they are (not a cleaned form of them) are hashed. `prefix` is a legal id itself, of at
    most 30 characters if it shall survive whole in front of a hash.

    >>> frame = pl.DataFrame({"a": [7, None, 8], "b": ["x", "y", "not plain"]})
    >>> frame.select(id=resource_id("m", [pl.col("a"), pl.col("b")]))["id"].to_list()
    ['m.7.x', None, 'm.xb7c6b27c28f3bb25d37370568f67e2c2']
    """
    texts = [key.cast(pl.String) for key in keys]
    plain = pl.concat_str([pl.lit(prefix), *texts], separator=".")
    if numbers and len(prefix) + _LONGEST_NUMBER * len(keys) <= _LONGEST:
        return plain
    if len(texts) == 1:
        fits = texts[0].str.contains(_LEGAL_ALONE) & ~texts[0].str.contains(_LOOKS_HASHED)
    else:
        fits = pl.all_horizontal([text.str.contains(_LEGAL) for text in texts])
    legal = fits & (plain.str.len_bytes() <= _LONGEST)
    lengths = [pl.concat_str([text.str.len_bytes(), text], separator=":") for text in texts]
    whole = pl.when(~legal).then(pl.concat_str([pl.lit(prefix), *lengths], separator="."))
    hashed = pl.lit(f"{prefix[: _LONGEST - _HASHED_LENGTH]}.x") + whole.map_batches(
        _md5, return_dtype=pl.String, is_elementwise=True
    )
    return pl.when(legal).then(plain).otherwise(hashed)


def _md5(texts: pl.Series) -> pl.Series:
    """Md5 of each text as 32 hex digits; null stays null. No security rests on it: it names things."""
    if texts.null_count() == len(texts):
        return texts
    frame = texts.alias("text").to_frame()
    with cursor() as database:
        database.register("frame", frame.to_arrow())
        hashed: pl.DataFrame = database.sql("SELECT md5(text) AS text FROM frame").pl()
    return hashed.to_series().alias(texts.name)


def subject_id(patient: pl.Expr) -> pl.Expr:
    """MEDS subject_id (Int64) of a Patient id or of a reference to a Patient; null stays null.

    It is the number at the end of the id where the id is a number, or a word, a dot and a number: so a
    hospital's own numbers stay recognisable. Otherwise it is a hash with bit 62 set, far above such numbers.

    >>> frame = pl.DataFrame({"r": ["Patient/mimic-iv-patients.10000032", "10000032", "Patient/abc", None]})
    >>> frame.select(subject_id(pl.col("r")))["r"].to_list()
    [10000032, 10000032, 7629990593350835248, None]
    """
    logical_id = patient.str.extract(_LAST_PART, 1)
    number = logical_id.str.extract(_NUMBERED, 1).cast(pl.Int64)
    rest = pl.when(number.is_null()).then(logical_id)
    return pl.coalesce(number, rest.map_batches(_hashed, return_dtype=pl.Int64, is_elementwise=True))


def _hashed(texts: pl.Series) -> pl.Series:
    """Stable hash of each text, between 2**62 and 2**63; null stays null."""
    known = texts.drop_nulls().unique()
    if known.is_empty():
        return pl.repeat(None, len(texts), dtype=pl.Int64, eager=True).alias(texts.name)
    bits = ((stable_hash(known) & (_BIT_62 - np.uint64(1))) | _BIT_62).astype(np.int64)
    return texts.replace_strict(known, pl.Series(bits), default=None, return_dtype=pl.Int64)
