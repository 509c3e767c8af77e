"""The verdict on each row of a table: used, rejected or filtered, and why."""

import base64
import zlib
from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ehrseq.core.manifest import Account
from ehrseq.sources.rejects import FILTERED, REJECTED


@dataclass
class Verdicts:
    """The verdict on each row of one table of one bucket; rows are named by their index in it."""

    height: int
    used: NDArray[np.bool_]
    rejected: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    filtered: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)

    @classmethod
    def on(cls, height: int) -> "Verdicts":
        """No verdict yet on any of `height` rows."""
        return cls(height, np.zeros(height, bool))

    def mark(self, outcome: str, reason: str, index: pl.Series | NDArray[np.int64]) -> None:
        """Reject or filter the rows at `index` for `reason`."""
        book = self.rejected if outcome == REJECTED else self.filtered
        book.setdefault(reason, np.zeros(self.height, bool))[np.asarray(index)] = True

    def to_json(self) -> dict[str, Any]:
        """As plain values, ready for `json`."""
        return {
            "height": self.height,
            "used": _packed(self.used),
            "rejected": {reason: _packed(rows) for reason, rows in self.rejected.items()},
            "filtered": {reason: _packed(rows) for reason, rows in self.filtered.items()},
            "made": self.made,
        }

    @classmethod
    def from_json(cls, value: Map[str, Any]) -> "Verdicts":
        """What `to_json` gave."""
        height = value["height"]
        rejected, filtered = (
            {reason: _unpacked(rows, height) for reason, rows in value[book].items()}
            for book in ("rejected", "filtered")
        )
        return cls(height, _unpacked(value["used"], height), rejected, filtered, value["made"])

    def final(self, leftover: str) -> list[tuple[str, str, NDArray[np.bool_]]]:
        """(outcome, reason, rows) of all rows that are not used; those without a verdict are filtered as `leftover`."""
        open_rows, found = ~self.used, []
        for outcome, book in ((REJECTED, self.rejected), (FILTERED, self.filtered)):
            for reason, rows in book.items():
                if (hit := open_rows & rows).any():
                    found.append((outcome, reason, hit))
                    open_rows = open_rows & ~hit
        return [*found, (FILTERED, leftover, open_rows)] if open_rows.any() else found

    def account(self, leftover: str) -> Account:
        """The books of the table."""
        account = Account(self.height, int(self.used.sum()), made=dict(self.made))
        for outcome, reason, rows in self.final(leftover):
            count = int(rows.sum())
            account.add(
                Account(rejected=count * (outcome == REJECTED), filtered=count * (outcome == FILTERED),
                        reasons={reason: count})
            )  # fmt: skip
        return account


def _packed(rows: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(rows).tobytes())).decode()


def _unpacked(text: str, height: int) -> NDArray[np.bool_]:
    bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return np.unpackbits(bits, count=height).astype(bool)
