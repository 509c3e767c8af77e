"""Floating-point operations by arithmetic: what a forward pass must multiply and add on real tokens.

Only products of matrices count, a multiplication and an addition as two; look-ups, norms and softmaxes do not, and
padding does not. A step of training is three forward passes (the gradients of the inputs and of the weights).
Source: Kaplan et al. 2020, section 2.1, with causal attention counted by its pairs (half of T x T).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np


@dataclass(frozen=True, slots=True)
class Work:
    """What a batch holds of real things."""

    tokens: int  # positions that are no padding
    pairs: int  # (query, key): each position with itself and those before it in its segment
    labels: int
    label_pairs: int  # (label, event it may see)
    lengths: tuple[int, ...] = ()  # of the segments

    @classmethod
    def of(cls, batch: Mapping[str, Any]) -> Self:
        """Count a batch."""
        segment, at = np.asarray(batch["segment"]), np.asarray(batch["label_at"])
        position = np.asarray(batch["position"])
        there = np.asarray(batch["label_weight"]) > 0
        seen = np.take_along_axis(position, at, axis=1)[there] + 1
        number = segment + np.arange(len(segment))[:, None] * (segment.max(initial=0) + 1)
        lengths = np.unique(number[segment > 0], return_counts=True)[1]
        return cls(
            tokens=int((segment > 0).sum()),
            pairs=int((lengths * (lengths + 1) // 2).sum()),
            labels=int(there.sum()),
            label_pairs=int(seen.sum()),
            lengths=tuple(lengths.tolist()),
        )

    def local_pairs(self, window: int) -> int:
        """`pairs` within a window of positions; 0 = all.

        >>> Work(4, 10, 0, 0, (4,)).local_pairs(2)
        7
        """
        if not window:
            return self.pairs
        lengths = np.asarray(self.lengths, np.int64)
        short = np.minimum(lengths, window)
        return int((short * (short + 1) // 2 + (lengths - short) * window).sum())


def product(rows: int, *sizes: int) -> float:
    """Operations of a product: rows x sizes[0] by sizes[0] x sizes[1] by ...

    >>> product(10, 2, 3, 4)
    360.0
    """
    return float(sum(2 * rows * left * right for left, right in pairwise(sizes)))
