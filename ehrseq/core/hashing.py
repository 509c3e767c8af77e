"""Hashes that are the same for ever: on every machine, in every version of every library.

polars' own `hash` promises stability only within one version, so buckets, splits and ids use these.
"""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


def stable_hash(values: ArrayLike) -> NDArray[np.uint64]:
    """Hash each value: strings by FNV-1a over their UTF-8 bytes, integers by their value, both finalised.

    `values` [n]: strings (or anything whose `to_numpy()` gives strings) or integers. Returns [n] uint64.
    An integer and its decimal text have different hashes.
    Source: Fowler-Noll-Vo 1a, 64 bits; finaliser of SplitMix64 (Steele et al. 2014).

    >>> stable_hash(["a", "b"])[0] == stable_hash(["a"])[0]
    np.True_
    >>> hex(stable_hash([7])[0])
    '0x63cbe1e459320dd7'
    """
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.dtype.kind in "iu":
        return _finalise(array.astype(np.int64).view(np.uint64))
    if array.size == 0:
        return np.zeros(0, np.uint64)
    unique, inverse = np.unique(np.asarray(array, dtype=np.str_), return_inverse=True)
    encoded = np.char.encode(unique, "utf-8")
    width = max(encoded.dtype.itemsize, 1)
    letters = np.frombuffer(encoded.astype(f"S{width}").tobytes(), np.uint8).reshape(len(encoded), width)
    lengths = np.char.str_len(encoded)
    state = np.full(len(encoded), _FNV_OFFSET)
    for position in range(width):  # over the letters of the longest value, not over the rows
        mixed = (state ^ letters[:, position].astype(np.uint64)) * _FNV_PRIME
        state = np.where(position < lengths, mixed, state)
    return _finalise(state)[inverse.reshape(-1)]


def _finalise(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix all bits, so that `% n` is even for any n."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def content_hash(value: Any) -> str:
    """Sha256 of a JSON-able value in canonical form (sorted keys, no spaces).

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
