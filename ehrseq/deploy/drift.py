"""What has changed between the data that a model was trained on and those of a later period, each change by its name.

| check | what it finds |
|---|---|
| `unknown` | events whose codes the model's vocabulary does not know |
| `renamed` | a code that is gone and another that has come in its place |
| `missing` | a code that fewer patients have than before, or nobody |
| `appeared` | a code that was hardly there before |
| `unit` | values of a code in another unit than before |
| `scale` | values that moved though their unit did not |
| `admission` | another mix of the codes that describe admissions (class, type, priority, source) |
| `mix` | another mix of all codes (population stability index) |
| `abstained` | predictions that were refused, as the records are unlike those of training |
| `scores` | another distribution of the predictions |
| `calibration` | outcomes more or less frequent than predicted, once they are known, in all and by group |

Rates are of subject-months (see `profile`), so that a month can be held against years. A change counts when it is large
and would be rare by chance (`Z` standard errors); patients are taken as independent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from ehrseq.core.errors import ConfigError
from ehrseq.deploy.profile import RARE, Profile
from ehrseq.evaluation.bootstrap import LEVEL, Resamples, number_patients
from ehrseq.models.config import checked_fields
from ehrseq.tokens.vocabulary import Vocabulary

Z = 4.0
ADMISSION = (
    "Encounter.start",
    "Encounter.type",
    "Encounter.priority",
    "Encounter.admitSource",
    "Encounter.class",
)
_FEWEST = 20  # values, admissions or predictions; below, nothing is said


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on a change is one. All are fractions or ratios."""

    unknown: float = 0.05  # share of events with an unknown code
    share: float = 0.03  # of subject-months that must have a code before its going or coming matters
    missing: float = 0.5  # relative fall of a code's rate
    unit: float = 0.2  # share of a code's values that stand in other units than before
    scale: float = 2.0  # how many interquartile ranges a median may move
    admission: float = 0.2  # population stability index of the mix of admissions
    mix: float = 0.25  # the same of all codes
    scores: float = 0.25  # the same of the predictions
    calibration: float = 1.5  # observed / expected, or its inverse
    abstained: float = 0.1  # share of the predictions that were refused

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Limits":
        """From plain values. Raises: ConfigError for an unknown key, with the closest."""
        return cls(**checked_fields(cls, values, "drift"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One change. `what` is a code, a task or a group; `exceeded` says whether it is beyond the limit."""

    check: str
    what: str
    measured: float
    limit: float
    exceeded: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """As a plain dict."""
        return asdict(self)


def psi(before: ArrayLike, now: ArrayLike) -> float:
    """Population stability index of two vectors of counts [n], less what chance alone makes of it; at least 0.

    0.1 is commonly called small, 0.25 large.

    >>> psi([50, 50], [50, 50]), round(psi([500, 500], [100, 900]), 2)
    (0.0, 0.87)
    """
    left, right = np.asarray(before, np.float64), np.asarray(now, np.float64)
    if left.sum() == 0 or right.sum() == 0:
        return 0.0
    p, q = ((x + 0.5) / (x + 0.5).sum() for x in (left, right))
    chance = (len(left) - 1) * (1 / left.sum() + 1 / right.sum())
    return float(max(((q - p) * np.log(q / p)).sum() - chance, 0.0))


def compare(before: Profile, now: Profile, vocabulary: Vocabulary | None, limits: Limits) -> list[Finding]:
    """All findings of the records themselves, those beyond their limit first."""
    found = [*_codes(before, now, limits), *_units(before, now, limits), *_admissions(before, now, limits)]
    if vocabulary is not None:
        found.append(_unknown(now, vocabulary, limits))
    return sorted(found, key=lambda one: not one.exceeded)


def _rates(profile: Profile) -> pl.DataFrame:
    """`code`, `months` (subject-months that have it), `events`, and of its commonest unit `unit`, `low`, `high`."""
    rows = profile.rows.filter(pl.col("code") != RARE).sort("code", "events", descending=[False, True])
    return rows.group_by("code", maintain_order=True).agg(
        months=pl.col("subject_months").first(),
        events=pl.col("events").sum(),
        unit=pl.col("unit").first(),
        values=pl.col("values").first(),
        low=pl.col("low").first(),
        high=pl.col("high").first(),
    )


def _codes(before: Profile, now: Profile, limits: Limits) -> Iterable[Finding]:
    both = _rates(before).join(_rates(now), on="code", how="full", coalesce=True, suffix="_now")
    both = both.with_columns(pl.col("months", "months_now", "events", "events_now").fill_null(0)).sort("code")
    n, m = max(before.subject_months, 1), max(now.subject_months, 1)
    index = psi(both["events"], both["events_now"])
    words = f"the mix of all codes has a stability index of {index:.2f} (limit {limits.mix:g})"
    yield Finding("mix", "all codes", index, limits.mix, index > limits.mix, f"{words}.")
    p, q = pl.col("months") / n, pl.col("months_now") / m
    pooled = (pl.col("months") + pl.col("months_now")) / (n + m)
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)).sqrt()
    kind = pl.col("code").str.split("//").list.first()  # admissions have a check of their own
    judged = both.filter(~kind.is_in(ADMISSION)).with_columns(p=p, q=q, z=(q - p) / error)
    gone = judged.filter(
        pl.col("p") >= limits.share, pl.col("z") < -Z, pl.col("q") < (1 - limits.missing) * pl.col("p")
    )
    come = judged.filter(pl.col("q") >= limits.share, pl.col("z") > Z, pl.col("p") < 0.1 * pl.col("q"))
    come_rows, replaced = come.to_dicts(), set()
    for row in gone.to_dicts():
        heir = next((one for one in come_rows if one["code"] not in replaced and _alike(row, one)), None)
        fall = 1 - row["q"] / row["p"]
        if heir and fall > 0.9:
            replaced.add(heir["code"])
            yield Finding(
                "renamed", row["code"], fall, limits.missing, True,
                f"`{row['code']}` is gone ({_percent(row['p'])} of subject-months before, {_percent(row['q'])} now) "
                f"and `{heir['code']}` has come in its place ({_percent(heir['q'])}): renamed? Map it to the old code.",
            )  # fmt: skip
        else:
            yield Finding(
                "missing", row["code"], fall, limits.missing, True,
                f"`{row['code']}` is in {_percent(row['q'])} of subject-months, before in {_percent(row['p'])}.",
            )  # fmt: skip
    for row in come_rows:
        if row["code"] not in replaced:
            yield Finding(
                "appeared", row["code"], row["q"], limits.share, True,
                f"`{row['code']}` is in {_percent(row['q'])} of subject-months, before in {_percent(row['p'])}.",
            )  # fmt: skip


def _alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a new code may be an old one: the same kind, about as common, values that overlap in the same unit."""
    if old["code"].split("//")[0] != new["code"].split("//")[0] or not 0.5 < new["q"] / old["p"] < 2:
        return False
    if old["low"] is None or new["low_now"] is None:
        return old["low"] is None and new["low_now"] is None
    overlap = old["low"] <= new["high_now"] and new["low_now"] <= old["high"]
    return bool(overlap and old["unit"] == new["unit_now"])


def _units(before: Profile, now: Profile, limits: Limits) -> Iterable[Finding]:
    old, new = (profile.rows.filter(pl.col("values") >= _FEWEST) for profile in (before, now))
    for (code,), rows in sorted(new.group_by("code"), key=lambda item: str(item[0][0])):
        known = {row["unit"]: row for row in old.filter(code=code).to_dicts()}
        if not known:
            continue
        usual = max(known.values(), key=lambda row: row["values"])
        others = rows.filter(~pl.col("unit").is_in(list(known)))
        share = int(others["values"].sum()) / int(rows["values"].sum())
        if share > limits.unit:
            row = others.sort("values", descending=True).row(0, named=True)
            factor = row["median"] / usual["median"] if usual["median"] else float("nan")
            yield Finding(
                "unit", str(code), share, limits.unit, True,
                f"`{code}`: {_percent(share)} of the values are in `{row['unit']}`, before in `{usual['unit']}`; the "
                f"median is {row['median']:.4g} instead of {usual['median']:.4g} (factor {factor:.3g}). Convert it "
                "in the mapping, or train on both units.",
            )  # fmt: skip
        for row in rows.filter(pl.col("unit").is_in(list(known))).to_dicts():
            past = known[row["unit"]]
            spread = max(past["high"] - past["low"], 1e-9 + 0.01 * abs(past["median"]))
            moved = abs(row["median"] - past["median"]) / spread
            if moved > limits.scale and past["values"] >= _FEWEST:
                yield Finding(
                    "scale", str(code), moved, limits.scale, True,
                    f"`{code}` in `{row['unit']}`: the median is {row['median']:.4g}, before {past['median']:.4g}, "
                    f"{moved:.1f} interquartile ranges away: another unit under the old name?",
                )  # fmt: skip


def _admissions(before: Profile, now: Profile, limits: Limits) -> Iterable[Finding]:
    kind = pl.col("code").str.split("//").list.first()
    for name in ADMISSION:
        old, new = (
            profile.rows.filter(kind == name).group_by("code").agg(pl.col("events").sum())
            for profile in (before, now)
        )
        both = old.join(new, on="code", how="full", coalesce=True, suffix="_now").fill_null(0).sort("code")
        if both["events"].sum() < _FEWEST or both["events_now"].sum() < _FEWEST:
            continue
        index = psi(both["events"], both["events_now"])
        share = both.with_columns(
            p=pl.col("events") / pl.col("events").sum(), q=pl.col("events_now") / pl.col("events_now").sum()
        )
        most = share.sort((pl.col("q") - pl.col("p")).abs(), descending=True).row(0, named=True)
        words = f"`{most['code']}` is {_percent(most['q'])} of them, before {_percent(most['p'])}"
        yield Finding(
            "admission", name, index, limits.admission, index > limits.admission,
            f"the mix of `{name}` has a stability index of {index:.2f} (limit {limits.admission:g}); {words}.",
        )  # fmt: skip


def _unknown(now: Profile, vocabulary: Vocabulary, limits: Limits) -> Finding:
    rows = now.rows.filter(pl.col("code") != RARE).group_by("code").agg(pl.col("events").sum()).to_dicts()
    ways = [(vocabulary.read(row["code"])[1], row) for row in rows]
    total = max(sum(row["events"] for row in rows), 1)
    lost = [row for way, row in ways if way == "unknown"]
    backed = sum(row["events"] for way, row in ways if way == "backed_off") / total
    share = sum(row["events"] for row in lost) / total
    first = max(lost, key=lambda row: row["events"], default=None)
    named = f"; the commonest is `{first['code']}`" if first else ""
    words = f"{_percent(share)} of the events have unknown codes{named}; {_percent(backed)} back off to a wider one"
    return Finding("unknown", "all codes", share, limits.unknown, share > limits.unknown, f"{words}.")


def compare_scores(
    task: str, edges: ArrayLike, probability: ArrayLike, n_before: int, limits: Limits
) -> Finding | None:
    """Whether predictions [n] are distributed as the held-out ones, whose deciles are `edges`; None for too few."""
    now, cuts = np.asarray(probability, np.float64), np.asarray(edges, np.float64)
    if len(now) < _FEWEST or n_before < _FEWEST or not len(cuts):
        return None
    cells = np.unique(cuts)
    before = np.bincount(np.searchsorted(cells, cuts, side="left"), minlength=len(cells) + 1).astype(
        np.float64
    )
    before[-1] += 1  # the part above the last decile
    counts = np.bincount(np.searchsorted(cells, now, side="left"), minlength=len(cells) + 1)
    index = psi(before / before.sum() * n_before, counts)
    words = f"{task}: predictions have a stability index of {index:.2f} (limit {limits.scores:g})"
    return Finding(
        "scores", task, index, limits.scores, index > limits.scores,
        f"{words}; their mean is {now.mean():.4f}, their number {len(now):,}.",
    )  # fmt: skip


def compare_outcomes(
    what: str,
    labels: ArrayLike,
    probability: ArrayLike,
    patients: ArrayLike,
    limits: Limits,
    *,
    looks: int = 1,
    seed: int = 0,
) -> Finding | None:
    """Observed over expected outcomes [n], with an interval by resampling patients; None for too few.

    Beyond the limit if the ratio is, and its interval does not hold 1. `looks`: how many such ratios are looked at
    together; the interval is the wider the more, so that of many groups none is far off by chance alone (Bonferroni).
    """
    y, p = np.asarray(labels, np.float64), np.asarray(probability, np.float64)
    if len(y) < _FEWEST or p.sum() <= 0:
        return None
    numbers = number_patients(patients)
    sums = np.stack([np.bincount(numbers, weights=x) for x in (y, p)], axis=1)
    drawn = np.concatenate([weights @ sums for weights in Resamples(len(sums), 1000, seed)])
    ratio = float(y.sum() / p.sum())
    outside = (1 - LEVEL) / looks
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [outside / 2, 1 - outside / 2])
    far = max(ratio, 1 / max(ratio, 1e-9)) > limits.calibration and not low <= 1 <= high
    return Finding(
        "calibration", what, ratio, limits.calibration, bool(far),
        f"{what}: {int(y.sum())} outcomes in {len(y):,} predictions, {p.sum():.1f} expected: a ratio of {ratio:.2f} "
        f"({low:.2f} to {high:.2f}).",
    )  # fmt: skip


def check_limits(values: Any) -> Limits:
    """Limits from a configuration's mapping. Raises: ConfigError."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"drift is {values!r}; expected keys and values.")
    return Limits.from_dict(values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
