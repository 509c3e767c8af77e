"""Whether a record looks like those that a model was trained on; where it does not, there is no prediction.

Three measures of the tokens that a prediction looks at (the last `context` of them), each with a limit from the
training split:

| measure | what a large value means |
|---|---|
| `unknown` | share of events whose code the model does not know |
| `surprise` | mean of -log(share of the code among training events): many rare codes, or another mix of them |
| `extreme` | share of the values that stand at the end of the scale: another unit, perhaps |

A record of which no code is known is always unfamiliar. A limit is as far above the 99th percentile of training as this
is above the median, so one in some hundred familiar records is refused, and counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ehrseq.tokens.packing import Examples

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

MEASURES = ("unknown", "surprise", "extreme")
NOTHING_KNOWN = "no_known_code"
_LEAST = {"unknown": 0.1, "surprise": 0.5, "extreme": 0.1}  # no limit is lower than this
_RESERVED = 2
_END_OF_SCALE = 4.99  # of `TokenStore.value`, which ends at 5


@dataclass(frozen=True, slots=True, eq=False)
class Familiar:
    """What training looked like: log share of each code [codes], and the limit of each measure."""

    log_share: NDArray[np.float64]
    limits: Mapping[str, float]

    @classmethod
    def fit(cls, store: "TokenStore", examples: Examples, context: int) -> Self:
        """Of the training split's labels. `store` and `examples` belong together."""
        rows = examples.rows("train")
        codes = len(store.vocabulary["codes"])
        train = np.repeat(np.asarray(store.split) == 0, np.diff(store.offsets))
        counts = np.bincount(np.asarray(store.code)[train], minlength=codes) + 1.0
        bare = cls(np.log(counts / counts.sum()), {})
        found = bare.measure(store, examples, rows, context)
        limits = {}
        for name in MEASURES:
            middle, far = np.quantile(found[name], [0.5, 0.99]) if len(rows) else (0.0, 0.0)
            limits[name] = float(max(far + (far - middle), _LEAST[name]))
        return cls(bare.log_share, limits)

    def measure(
        self, store: "TokenStore", examples: Examples, rows: NDArray[Any], context: int
    ) -> dict[str, NDArray[np.float64]]:
        """Each measure, and `known` (number of known codes), of the labels `rows` [n]: [n]."""
        code = np.asarray(store.code)
        valued = np.asarray(store.bin) > 0
        stop = np.asarray(store.offsets)[examples.subject[rows]] + examples.position[rows]
        start = np.maximum(stop - context, np.asarray(store.offsets)[examples.subject[rows]])

        def total(values: NDArray[Any]) -> NDArray[np.float64]:
            below = np.concatenate([np.zeros(1), np.cumsum(values, dtype=np.float64)])
            return np.asarray(below[stop] - below[start])

        tokens, values = stop - start, total(valued)
        known = total(code >= _RESERVED)
        at_end = valued & (np.abs(np.asarray(store.value)) >= _END_OF_SCALE)
        return {
            "unknown": 1 - known / tokens,
            "surprise": -total(self.log_share[code]) / tokens,
            "extreme": total(at_end) / np.maximum(values, 1),
            "known": known,
        }

    def judge(
        self, store: "TokenStore", examples: Examples, rows: NDArray[Any], context: int
    ) -> tuple[NDArray[np.int8], NDArray[np.float64]]:
        """Why each label [n] cannot be predicted, as an index in `REASONS` (0 = it can be), and the measure [n]."""
        found = self.measure(store, examples, rows, context)
        why, value = np.zeros(len(rows), np.int8), np.zeros(len(rows))
        for number, name in reversed(list(enumerate(MEASURES, 1))):
            far = found[name] > self.limits[name]
            why[far], value[far] = number, found[name][far]
        nothing = found["known"] == 0
        why[nothing], value[nothing] = len(REASONS) - 1, 0
        return why, value

    def to_json(self) -> dict[str, Any]:
        """As plain values; log shares to four decimals."""
        return {"log_share": np.round(self.log_share, 4).tolist(), "limits": dict(self.limits)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gave."""
        return cls(np.asarray(values["log_share"]), dict(values["limits"]))


REASONS = ("", *MEASURES, NOTHING_KNOWN)
IN_WORDS = {
    "unknown": "too many of the events have codes that the model does not know",
    "surprise": "the mix of codes is unlike that of the training patients",
    "extreme": "too many values lie outside the range of the training patients; another unit?",
    NOTHING_KNOWN: "no event has a code that the model knows",
}
