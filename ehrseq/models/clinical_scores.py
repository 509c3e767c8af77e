"""Scores that hospitals use already, as baselines: aEWS (death), HOSPITAL (readmission), Liu (long stay).

A score is a file of factors, `scores/<name>.yaml`: which codes a factor reads (patterns over the vocabulary), what it
takes of them, and for a score of points what that is worth. Codes that a record lacks are a factor's missing value; a
score with codes for fewer than half of its factors is not offered. The sum of points becomes a probability, and the
weights of the others are fitted, by logistic regression on the training split.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ehrseq.core.errors import ConfigError, ModelError
from ehrseq.models.prefix_features import Floats, Pairs, ages, pieces
from ehrseq.tokens.packing import Examples, Ints

if TYPE_CHECKING:
    from ehrseq.tokens.store import TokenStore

SHIPPED = Path(__file__).with_name("scores")
_TAKES = ("last", "present", "count", "hours", "age")
_METHODS = ("points", "logistic")


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """One number of a patient: `take` of the tokens with `codes` [k] (ids) within `within_hours`.

    last: latest value; present: 0 or 1; count: events; hours: since the latest event; age: years. `steps` are (bound,
    points): the points of the highest bound reached, or for `below` of the lowest bound that the value is under.
    """

    name: str
    take: str
    codes: Ints
    within_hours: float
    steps: tuple[tuple[float, float], ...] = ()
    below: bool = False

    def points(self, values: Floats) -> Floats:
        """Points [n] of values [n]; a missing value has none."""
        out = np.zeros(len(values))
        for bound, worth in sorted(self.steps, reverse=self.below):
            out = np.where(values < bound if self.below else values >= bound, worth, out)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """A score as its file says, with codes of one vocabulary."""

    name: str
    tasks: str  # part of the names of the tasks that it is for
    method: str
    factors: tuple[Factor, ...]

    @property
    def usable(self) -> bool:
        """Whether at least half of the factors have codes here."""
        known = [factor.take == "age" or len(factor.codes) > 0 for factor in self.factors]
        return 2 * sum(known) >= len(known)


def shipped_scores(names: Sequence[str]) -> list[Score]:
    """The scores that can be computed from a vocabulary with these code `names`."""
    scores = [read_score(path, names) for path in sorted(SHIPPED.glob("*.yaml"))]
    return [score for score in scores if score.usable]


def read_score(path: Path, names: Sequence[str]) -> Score:
    """Read a file. Raises: ConfigError for a key or word that is not known."""
    import yaml

    document = yaml.safe_load(path.read_text())
    if document.get("method") not in _METHODS:
        raise ConfigError(f"{path}: method is {document.get('method')!r}; expected {' or '.join(_METHODS)}.")
    factors = tuple(_factor(path, name, entry, names) for name, entry in document["factors"].items())
    return Score(document["name"], document["tasks"], document["method"], factors)


def _factor(path: Path, name: str, entry: Mapping[str, Any], names: Sequence[str]) -> Factor:
    takes = [key for key in entry if key in _TAKES]
    known = {*_TAKES, "within_hours", "below", "from"}
    if len(takes) != 1 or set(entry) - known:
        raise ConfigError(
            f"{path}: factor {name} has {', '.join(entry)}; expected one of {', '.join(_TAKES)}."
        )
    (take,) = takes
    patterns = [] if take == "age" else [re.compile(pattern) for pattern in entry[take]]
    codes = [number for number, code in enumerate(names) if any(one.search(code) for one in patterns)]
    steps = entry.get("below") or entry.get("from") or {}
    return Factor(
        name,
        take,
        np.asarray(codes, np.int64),
        float(entry.get("within_hours", np.inf)),
        tuple((float(bound), float(points)) for bound, points in steps.items()),
        "below" in entry,
    )


def factor_values(
    store: "TokenStore", examples: Examples, rows: Ints, score: Score, values: NDArray[Any] | None = None
) -> Floats:
    """The factors of the labels `rows`: [len(rows), factors] float64, NaN = never measured.

    `values` [N]: the tokens' numbers as the record gives them, which points need; None = the store's normalised ones.
    """
    out = np.full((len(rows), len(score.factors)), np.nan)
    for piece, pairs in pieces(store, examples, rows, values):
        for column, factor in enumerate(score.factors):
            if factor.take != "age":
                out[piece, column] = _taken(pairs, factor, piece.stop - piece.start)
    for column, factor in enumerate(score.factors):
        if factor.take == "age":
            out[:, column] = ages(store, examples, rows)
    return out


def _taken(pairs: Pairs, factor: Factor, labels: int) -> Floats:
    mine = np.isin(pairs.code, factor.codes) & (pairs.hours <= factor.within_hours)
    if factor.take == "last":
        mine &= ~np.isnan(pairs.value)
    label = pairs.label[mine]
    if factor.take in ("present", "count"):
        count = np.bincount(label, minlength=labels).astype(np.float64)
        return np.minimum(count, 1) if factor.take == "present" else count
    out = np.full(labels, np.nan)
    out[label] = (pairs.value if factor.take == "last" else pairs.hours)[mine]  # the last one stands
    return out


@dataclass(frozen=True, slots=True, eq=False)
class FittedScore:
    """A score whose numbers have become probabilities."""

    score: Score
    middle: Floats  # [columns] what stands for a missing value
    spread: Floats  # [columns]
    model: Any

    def predict(self, factors: Floats) -> Floats:
        """Probabilities [n] from `factor_values` [n, factors]."""
        found: Floats = self.model.predict_proba(_design(self, _columns(self.score, factors)))[:, 1]
        return found


def fit_score(score: Score, factors: Floats, labels: NDArray[Any]) -> FittedScore:
    """Fit on the factors [n, factors] and labels [n] of training rows.

    Raises: ModelError if one outcome occurs only.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        raise ModelError(f"score {score.name}: one class only in the training split: nothing can be learnt.")
    columns = _columns(score, factors)
    there = ~np.isnan(columns).all(axis=0)
    middle, spread = np.zeros(columns.shape[1]), np.ones(columns.shape[1])
    middle[there] = np.nanmedian(columns[:, there], axis=0)
    spread[there] = np.nanstd(columns[:, there], axis=0)
    fitted = FittedScore(score, middle, np.where(spread > 0, spread, 1.0), LogisticRegression(max_iter=500))
    fitted.model.fit(_design(fitted, columns), labels)
    return fitted


def _columns(score: Score, factors: Floats) -> Floats:
    if score.method == "logistic":
        return factors
    points = [factor.points(factors[:, column]) for column, factor in enumerate(score.factors)]
    return np.sum(points, axis=0)[:, None]


def _design(fitted: FittedScore, columns: Floats) -> Floats:
    known = np.where(np.isnan(columns), fitted.middle, columns)
    return np.clip((known - fitted.middle) / fitted.spread, -5, 5)
