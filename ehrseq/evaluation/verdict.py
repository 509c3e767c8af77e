"""What may be concluded, as plain sentences. The rule, in full:

- *nothing*: only one outcome occurs, or fewer than 50 rows have the rarer outcome, or the AUROC's interval is
  wider than 0.20. The sentence says so first and gives no ranking of models.
- *rough*: fewer than 100 rows with the rarer outcome, or an interval wider than 0.10. The numbers are given
  as an indication.
- *clear*: everything else.
- Two models are *not distinguishable* if the 95 % interval of their paired difference in AUROC includes 0.
- Calibration is called off if the interval of the intercept excludes 0 or that of the slope excludes 1.

At least 100 outcomes: Vergouwe et al. 2005, J Clin Epidemiol 58:475; Collins et al. 2016, Stat Med 35:214. Half of that and
the widths 0.10 and 0.20 are our choice: a difference of 0.1 is larger than most that models show, and an
interval of 0.2 spans "useful" and "useless".
"""

from dataclasses import dataclass
from enum import Enum

from ehrseq.evaluation.cohort import TaskRows
from ehrseq.evaluation.evidence import Difference, Evaluation, Result
from ehrseq.evaluation.wording import (
    TaskWords,
    integer,
    is_baseline,
    model_name,
    model_order,
    number,
    percent,
    signed,
    span,
    task_words,
)

FEWEST_OUTCOMES, ENOUGH_OUTCOMES = 50, 100
WIDEST_INTERVAL, NARROW_INTERVAL = 0.20, 0.10


class Evidence(Enum):
    """How much the rows can carry; the value is the word shown to the reader."""

    NOTHING = "too few outcomes"
    ROUGH = "indication only"
    CLEAR = "enough outcomes"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is one paragraph about `task`; `model` is the model it speaks of (None if no model was evaluated)."""

    task: str
    model: str | None
    evidence: Evidence
    text: str


def verdicts(evaluation: Evaluation) -> list[Verdict]:
    """One verdict per task, about the best model that is no baseline (or the best there is)."""
    return [verdict(evaluation, task) for task in evaluation.tasks]


def verdict(evaluation: Evaluation, task: str) -> Verdict:
    """The verdict on one task, by the rule at the top of this module."""
    words = task_words(task)
    ranked = evaluation.of(task)
    if not ranked:
        return Verdict(task, None, Evidence.NOTHING, _one_outcome(evaluation.cohorts.get(task), words))
    best = lead(ranked)
    grade = evidence(best)
    if grade is Evidence.NOTHING:
        return Verdict(task, best.model, grade, _too_few(best, ranked, words))
    against = [
        d for d in evaluation.differences if (d.task, d.model, d.metric) == (task, best.model, "auroc")
    ]
    sentences = [
        _headline(best, grade, words),
        *_comparison(against),
        _reach(best),
        _calibration(evaluation, best),
    ]
    return Verdict(task, best.model, grade, " ".join(sentence for sentence in sentences if sentence))


def lead(results: list[Result]) -> Result:
    """The result a verdict speaks of: the highest value among the models, or the baselines if there is no other."""
    models = [result for result in results if not is_baseline(result.model)] or results
    order = model_order(result.model for result in models)
    return max(models, key=lambda result: (result.value, -order.index(result.model)))


def evidence(result: Result) -> Evidence:
    """Grade one AUROC by its rarer outcome and the width of its interval."""
    rarer = min(result.positives, result.n - result.positives)
    if rarer < FEWEST_OUTCOMES or result.width > WIDEST_INTERVAL:
        return Evidence.NOTHING
    if rarer < ENOUGH_OUTCOMES or result.width > NARROW_INTERVAL:
        return Evidence.ROUGH
    return Evidence.CLEAR


def compare(difference: Difference) -> str:
    """A paired difference as a clause.

    >>> compare(Difference("t", "auroc", "transformer", "gradient_boosting", 0.02, -0.01, 0.05))
    'transformer vs gradient boosting: difference +0.02 (−0.01 to 0.05): not distinguishable'
    """
    digits = 2 if max(abs(difference.value), abs(difference.high or 0.0)) >= 0.02 else 3
    if difference.low is None:
        found = "no interval"
    elif not difference.distinguishable:
        found = "not distinguishable"
    else:
        higher_wins = difference.metric not in ("brier", "ece", "workup")
        found = "better" if (difference.value > 0.0) == higher_wins else "worse"
    return (
        f"{model_name(difference.model)} vs {model_name(difference.reference)}: difference "
        f"{signed(difference.value, digits)} ({span(difference.low, difference.high, digits)}): {found}"
    )


def _counts(result: Result, words: TaskWords) -> str:
    return f"{integer(result.positives)} {words.outcomes} among {integer(result.n)} {words.rows}"


def _one_outcome(rows: TaskRows | None, words: TaskWords) -> str:
    if rows is None:
        return "Nothing was evaluated."
    return (
        f"Nothing can be concluded: {integer(rows.positives)} {words.outcomes} among {integer(rows.n)} {words.rows}. "
        "Ranking needs both outcomes."
    )


def _too_few(best: Result, ranked: list[Result], words: TaskWords) -> str:
    text = f"Too few outcomes to conclude anything: {_counts(best, words)}; the interval "
    interval = f"{span(best.low, best.high)} of the AUROC"
    values = [result.value for result in ranked]
    if best.low is None:
        return f"{text}could not be computed."
    if len(values) > 1 and best.width > max(values) - min(values):
        return f"{text}{interval} is wider than any difference between models."
    return f"{text}{interval} is {number(best.width)} wide."


def _headline(best: Result, grade: Evidence, words: TaskWords) -> str:
    start = "An indication only: " if grade is Evidence.ROUGH else ""
    return (
        f"{start}AUROC {number(best.value)} ({span(best.low, best.high)}) for the {model_name(best.model)}, "
        f"from {_counts(best, words)} ({percent(best.prevalence)})."
    )


def _comparison(against: list[Difference]) -> list[str]:
    """One sentence per baseline, from the strongest difference in words to the weakest."""
    sentences = []
    for difference in against:
        reference = model_name(difference.reference)
        interval = f"{span(difference.low, difference.high, _digits(difference))}"
        if not difference.distinguishable:
            value = signed(difference.value, _digits(difference))
            sentences.append(f"Not distinguishable from {reference} (difference {value}, {interval}).")
        else:
            word = "better" if difference.value > 0.0 else "worse"
            value = signed(difference.value, _digits(difference))
            sentences.append(f"{word.capitalize()} than {reference} (difference {value}, {interval}).")
    return sentences


def _reach(best: Result) -> str:
    if best.share is None or best.attainable is None:
        return ""
    return (
        f"It reaches {percent(best.share)} ({span(_hundred(best.share_low), _hundred(best.share_high), 0)} %) of the lift "
        f"that the true risks attain on these rows (AUROC {number(best.attainable)})."
    )


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _calibration(evaluation: Evaluation, best: Result) -> str:
    found = {r.metric: r for r in evaluation.results if (r.task, r.model) == (best.task, best.model)}
    slope, intercept = found.get("calibration_slope"), found.get("calibration_intercept")
    faults = []
    if intercept and intercept.low is not None and intercept.high is not None:
        if intercept.low > 0.0:
            faults.append("risks are too low on average")
        elif intercept.high < 0.0:
            faults.append("risks are too high on average")
    if slope and slope.low is not None and slope.high is not None:
        if slope.high < 1.0:
            faults.append(f"risks are too extreme (slope {number(slope.value)})")
        elif slope.low > 1.0:
            faults.append(f"risks are too timid (slope {number(slope.value)})")
    if faults:
        return f"Calibration is off: {' and '.join(faults)}."
    return "No fault in calibration was found." if slope and intercept else ""
