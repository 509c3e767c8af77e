"""The numbers behind the tokens as the record gives them, in its own units; the store holds normalised ones."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.timeline.schema import Event
from ehrseq.tokens.store import TokenStore


def raw_values(store: TokenStore, timeline: Path) -> NDArray[np.float32]:
    """Number of each token's event [N] float32, NaN = none, read from the timeline that the store was made of.

    Units are those of the record: codes with several units mix them, where the store keeps them apart.
    """
    out = np.full(store.tokens, np.nan, np.float32)
    offsets = np.asarray(store.offsets)
    lengths = offsets[1:] - offsets[:-1]
    shard = np.repeat(np.asarray(store.shard), lengths)
    valued = ~np.isnan(np.asarray(store.value))
    for number in np.unique(np.asarray(store.shard)).tolist():
        mine = np.flatnonzero((shard == number) & valued)
        path = timeline / f"data/{number:04d}.parquet"
        numbers = pl.read_parquet(path, columns=[Event.numeric_value])[Event.numeric_value].to_numpy()
        out[mine] = numbers[np.asarray(store.event)[mine]]
    return out
