"""Which time stumps are worth having: chosen in rounds of boosting from a large random pool.

A stump is a yes-no question about a prefix: was code c seen, or its value above (below) v, within the last t? The pool
is drawn from the training labels' own events; each round takes, for one task, the stumps that most reduce the loss that
the earlier ones left. Everything is vectorised over (label, event) pairs and the same for the same seed.
Source: Rajkomar et al. 2018, supplement, "boosted, embedded time-series model"; gains as in Chen and Guestrin 2016.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.models.families import StumpsConfig
from ehrseq.tokens.packing import Examples, Ints, count_until, ranges

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

type Floats = NDArray[np.float64]

_US_PER_DAY = 86_400_000_000.0
_LABELS = 20_000  # of the training split that choose, at most: memory is labels x pool bits
_COMPARISONS = 8_000_000  # (label, event, stump) at once
_SHORTEST_DAYS, _LONGEST_DAYS = 1 / 24, 3650.0  # an hour to ten years, drawn evenly in the logarithm
_FOREVER = 1e6  # days; a fifth of the stumps ask "ever"
_RIDGE = 5.0  # added to the curvature of a leaf
_RATE = 0.3  # of each round's correction


@dataclass(frozen=True, slots=True, eq=False)
class Stumps:
    """S predicates: sign * value > level of an event of `code` (level -inf: any event), `days` ago at most."""

    code: NDArray[np.int32]  # [S]; 0 = never true
    sign: NDArray[np.float32]  # [S] +1 above, -1 below
    level: NDArray[np.float32]  # [S]
    days: NDArray[np.float32]  # [S]

    def take(self, rows: Ints) -> "Stumps":
        """Some of them."""
        return Stumps(self.code[rows], self.sign[rows], self.level[rows], self.days[rows])


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Events that labels may see: P pairs by label."""

    label: Ints  # [P] 0..n-1
    code: NDArray[np.int32]
    value: NDArray[np.float32]  # NaN = none
    days: NDArray[np.float32]  # from the event to the prediction


def choose_stumps(
    store: "TokenStore", examples: Examples, rows: Ints, config: StumpsConfig, *, context: int, seed: int
) -> Stumps:
    """Choose `config.stumps` predicates on the labels `rows` of the training split; fewer gains, never-true ones last.

    Labels see their last `context` events, as the model will.
    """
    random = np.random.default_rng(seed)
    if len(rows) > _LABELS:
        rows = np.sort(random.choice(rows, _LABELS, replace=False))
    pool = _draw(store, examples, rows, config.pool, context, random)
    fired = _fired(store, examples, rows, pool, context)
    chosen = _boost(fired, examples.task[rows], examples.value[rows].astype(np.float64), config)
    missing = config.stumps - len(chosen)
    never = Stumps(*(np.zeros(missing, kind) for kind in (np.int32, *[np.float32] * 3)))
    return _joined([pool.take(chosen), never])


def _pairs(store: "TokenStore", examples: Examples, rows: Ints, context: int) -> _Pairs:
    position = examples.position[rows]
    seen = np.minimum(position, context)
    first = np.asarray(store.offsets)[examples.subject[rows]] + position - seen
    token, time = ranges(first, seen), np.asarray(store.time)
    # as the loader has it: birth and what is true for life stand at the first event after them
    born = count_until(time, first, first + seen, np.asarray(store.birth)[examples.subject[rows]])
    begun = time[first + np.where(born < seen, born, 0)]
    asked = np.repeat(examples.prediction_time[rows], seen)
    days = np.maximum(asked - np.maximum(time[token], np.repeat(begun, seen)), 0) / _US_PER_DAY
    return _Pairs(
        np.repeat(np.arange(len(rows)), seen),
        np.asarray(store.code)[token],
        np.asarray(store.value)[token],
        days.astype(np.float32),
    )


def _draw(
    store: "TokenStore", examples: Examples, rows: Ints, count: int, context: int, random: np.random.Generator
) -> Stumps:
    """Random predicates that some label answers with yes: half from events as they come, half code by code."""
    some = np.sort(random.choice(rows, min(len(rows), 2000), replace=False))
    pairs = _pairs(store, examples, some, context)
    frequent = random.integers(0, len(pairs.code), count - count // 2)
    order = np.argsort(pairs.code, kind="stable")
    codes, first, number = np.unique(pairs.code[order], return_index=True, return_counts=True)
    which = random.integers(0, len(codes), count // 2)
    even = order[first[which] + (random.random(count // 2) * number[which]).astype(np.int64)]
    at = np.concatenate([frequent, even])
    value, sign = pairs.value[at], np.where(random.random(count) < 0.5, 1, -1).astype(np.float32)
    plain = np.isnan(value) | (random.random(count) < 0.3)
    # a little below the value drawn: the comparison must not hang on the last bit
    level = np.where(plain, -np.inf, sign * np.nan_to_num(value) - 1e-3).astype(np.float32)
    days = _SHORTEST_DAYS * (_LONGEST_DAYS / _SHORTEST_DAYS) ** random.random(count)
    days = np.where(random.random(count) < 0.2, _FOREVER, days)
    return Stumps(pairs.code[at], sign, level, days.astype(np.float32))


def _fired(store: "TokenStore", examples: Examples, rows: Ints, pool: Stumps, context: int) -> Any:
    """Which stump is true for which label: a sparse [labels, pool] matrix of ones, float32."""
    from scipy import sparse  # type: ignore[import-untyped]

    order = np.argsort(pool.code, kind="stable")
    begin = np.searchsorted(pool.code[order], np.arange(int(np.asarray(store.code).max(initial=0)) + 2))
    cost = np.cumsum(np.minimum(examples.position[rows], context))
    density = max(float(np.diff(begin).max(initial=1)), 1.0)
    pieces = np.split(np.arange(len(rows)), np.flatnonzero(np.diff(cost * density // _COMPARISONS)) + 1)
    blocks = []
    for piece in pieces:
        pairs = _pairs(store, examples, rows[piece], context)
        each = begin[pairs.code + 1] - begin[pairs.code]
        pair = np.repeat(np.arange(len(pairs.code)), each)
        stump = order[ranges(begin[pairs.code], each)]
        with np.errstate(invalid="ignore"):
            above = pool.sign[stump] * pairs.value[pair] > pool.level[stump]
        true = (above | np.isneginf(pool.level[stump])) & (pairs.days[pair] <= pool.days[stump])
        flat = np.unique(pairs.label[pair[true]] * len(pool.code) + stump[true])
        place = (flat // len(pool.code), flat % len(pool.code))
        shape = (len(piece), len(pool.code))
        blocks.append(sparse.csr_matrix((np.ones(len(flat), np.float32), place), shape))
    return sparse.vstack(blocks).tocsc()


def _boost(fired: Any, task: NDArray[np.int32], value: Floats, config: StumpsConfig) -> Ints:
    """Columns of `fired` that are kept, in the order of their choice."""
    tasks = np.unique(task)
    logit = np.zeros(len(task))
    for one in tasks:
        mine = task == one
        rate = (value[mine].sum() + 0.5) / (mine.sum() + 1)
        logit[mine] = np.log(rate / (1 - rate))
    free = np.ones(fired.shape[1], bool)
    chosen: list[int] = []
    while len(chosen) < config.stumps:
        before = len(chosen)
        for one in tasks:
            wanted = min(config.kept_a_round, config.stumps - len(chosen))
            best = _round(fired, task == one, value, logit, free, wanted)
            free[best] = False
            chosen += best.tolist()
        if len(chosen) == before:
            break
    return np.asarray(chosen, np.int64)


def _round(
    fired: Any, mine: NDArray[np.bool_], value: Floats, logit: Floats, free: NDArray[np.bool_], wanted: int
) -> Ints:
    """Best `wanted` free stumps for one task; `logit` [labels] takes their corrections."""
    chance = 1 / (1 + np.exp(-logit))
    slope, curve = np.where(mine, value - chance, 0), np.where(mine, chance * (1 - chance), 0)
    yes_slope, yes_curve = fired.T @ slope, fired.T @ curve
    no_slope, no_curve = slope.sum() - yes_slope, curve.sum() - yes_curve
    gain = yes_slope**2 / (yes_curve + _RIDGE) + no_slope**2 / (no_curve + _RIDGE)
    gain -= slope.sum() ** 2 / (curve.sum() + _RIDGE)
    gain[~free | (gain <= 1e-9)] = -np.inf
    best: Ints = np.argsort(-gain, kind="stable")[:wanted]
    best = best[np.isfinite(gain[best])]
    if len(best):
        yes, no = (s[best] / (c[best] + _RIDGE) for s, c in ((yes_slope, yes_curve), (no_slope, no_curve)))
        step = _RATE / np.sqrt(len(best)) * (fired[:, best] @ (yes - no) + no.sum())
        logit[mine] += step[mine]
    return best


def _joined(parts: list[Stumps]) -> Stumps:
    names = ("code", "sign", "level", "days")
    return Stumps(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
