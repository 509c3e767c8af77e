"""Logical ids and subject ids: functions of the source's keys alone, so every run gives the same."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from ehrseq.core.hashing import stable_hash

_LONGEST = 64  # FHIR R4B datatypes, `id`: [A-Za-z0-9\-\.]{1,64}
_PLAIN_KEY = r"^[A-Za-z0-9\-]+$"
_SUBJECT = r"^(?:[A-Za-z]+/)?(?:[A-Za-z0-9-]+\.)?([1-9][0-9]{0,17})$"


def resource_id(prefix: str, keys: Sequence[pl.Expr]) -> pl.Expr:
    """`<prefix>.<key>.<key>` where that is a legal id, else `<prefix>.x<128-bit hash>`; null if a key is null.

    Different keys give different ids: a key with other signs than letters, digits and hyphens is hashed whole.

    >>> frame = pl.DataFrame({"a": [7, None, 8], "b": ["x", "y", "not plain"]})
    >>> frame.select(id=resource_id("m", [pl.col("a"), pl.col("b")]))["id"].to_list()
    ['m.7.x', None, 'm.x8db04e3a1f17fa67b691c9d3ce1620fd']
    """
    texts = [key.cast(pl.String) for key in keys]
    plain = pl.concat_str([pl.lit(prefix), *texts], separator=".")
    legal = pl.all_horizontal([text.str.contains(_PLAIN_KEY) for text in texts]) & (
        plain.str.len_bytes() <= _LONGEST
    )
    whole = pl.concat_str([pl.lit(prefix), *texts], separator="\x1f")
    odd = pl.when(~legal).then(whole)
    hashed = pl.lit(f"{prefix[:29]}.x") + odd.map_batches(_hex, return_dtype=pl.String, is_elementwise=True)
    return pl.when(legal).then(plain).otherwise(hashed)


def _hex(texts: pl.Series) -> pl.Series:
    """128 bits of stable hash as hex; null stays null."""
    known = texts.drop_nulls().unique(maintain_order=True)
    if known.is_empty():
        return pl.Series(texts.name, [None], dtype=pl.String).new_from_index(0, len(texts))
    pairs = np.stack([stable_hash(known), stable_hash("\x1e" + known)], axis=1).astype(">u8")
    raw = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(known), [None, pa.py_buffer(pairs.tobytes())])
    hexed = pl.Series(raw.cast(pa.binary())).bin.encode("hex")
    return texts.replace_strict(known, hexed, default=None, return_dtype=pl.String)


def subject_id(patient: pl.Expr) -> pl.Expr:
    """MEDS subject_id (Int64) of a Patient id or reference.

    It is the number at the end of the id where there is one, so that hospital's own numbers stay
    recognisable; otherwise a hash with bit 62 set, far above such numbers.

    >>> frame = pl.DataFrame({"r": ["Patient/mimic-iv-patients.10000032", "Patient/abc", None]})
    >>> frame.select(subject_id(pl.col("r")))["r"].to_list()
    [10000032, 5366262162158249740, None]
    """
    number = patient.str.extract(_SUBJECT, 1).cast(pl.Int64, strict=False)
    hashed = (
        pl.when(number.is_null())
        .then(patient.str.split("/").list.last())
        .map_batches(_hashed, return_dtype=pl.Int64, is_elementwise=True)
    )
    return pl.coalesce(number, hashed)


def _hashed(texts: pl.Series) -> pl.Series:
    known = texts.drop_nulls().unique(maintain_order=True)
    if known.is_empty():
        return pl.Series(texts.name, [None], dtype=pl.Int64).new_from_index(0, len(texts))
    bits = (stable_hash(known) >> np.uint64(2)) | np.uint64(1 << 62)
    return texts.replace_strict(known, pl.Series(bits.astype(np.int64)), default=None, return_dtype=pl.Int64)
