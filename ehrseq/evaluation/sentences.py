"""The sentences a verdict is made of, and the words for one difference; `verdict` picks them."""

from collections.abc import Iterable

from ehrseq.evaluation.cohort import TaskRows
from ehrseq.evaluation.evidence import Difference, Evaluation, Result
from ehrseq.evaluation.panel import LOWER_IS_BETTER
from ehrseq.evaluation.wording import TaskWords, counted, model_name, number, percent, signed, span


def judgement(difference: Difference) -> str:
    """'better', 'worse', 'not distinguishable' or 'no interval'; lower is better for errors.

    >>> judgement(Difference("t", "brier", "a", "b", -0.02, -0.03, -0.01))
    'better'
    """
    if difference.low is None:
        return "no interval"
    if not difference.distinguishable:
        return "not distinguishable"
    return "better" if (difference.value < 0.0) == (difference.metric in LOWER_IS_BETTER) else "worse"


def digits_of(difference: Difference) -> int:
    """Two decimals, or three for a difference so small that two would hide it."""
    most = max(abs(difference.value), abs(difference.low or 0.0), abs(difference.high or 0.0))
    return 2 if most >= 0.02 else 3


def compare(difference: Difference) -> str:
    """A paired difference as a clause.

    >>> compare(Difference("t", "auroc", "transformer", "gradient_boosting", 0.02, -0.01, 0.05))
    'transformer vs gradient boosting: difference +0.02 (−0.01 to 0.05): not distinguishable'
    """
    digits = digits_of(difference)
    return (
        f"{model_name(difference.model)} vs {model_name(difference.reference)}: difference "
        f"{signed(difference.value, digits)} ({span(difference.low, difference.high, digits)}): "
        f"{judgement(difference)}"
    )


def one_outcome(rows: TaskRows | None, words: TaskWords) -> str:
    """For a task whose rows all have the same outcome."""
    if rows is None:
        return "Nothing was evaluated."
    counts = f"{counted(rows.positives, words.outcomes)} among {counted(rows.n, words.rows)}"
    return f"Nothing can be concluded: {counts}. Ranking needs both outcomes."


def too_few(best: Result, ranked: list[Result], words: TaskWords) -> str:
    """For a task with too little evidence: the counts, and how wide the interval is."""
    rare = "outcomes" if best.positives <= best.n - best.positives else f"{words.rows} without the outcome"
    text = f"Too few {rare} to conclude anything: {_counts(best, words)}; the interval "
    values = [result.value for result in ranked]
    if best.low is None:
        return f"{text}could not be computed."
    if len(values) > 1 and best.width > max(values) - min(values):
        return f"{text}{span(best.low, best.high)} is wider than any difference between models."
    return f"{text}{span(best.low, best.high)} is {number(best.width)} wide."


def headline(best: Result, models: int, words: TaskWords) -> str:
    """The AUROC of the model spoken of, best of `models` that are no baseline, and what it rests on."""
    flattered = f", the best of {models} models on these rows" if models > 1 else ""
    return (
        f"AUROC {number(best.value)} ({span(best.low, best.high)}) for the {model_name(best.model)}"
        f"{flattered}, from {_counts(best, words)} ({percent(best.prevalence)})."
    )


def comparison(differences: Iterable[Difference], best: Result) -> str:
    """What the AUROC of the model spoken of is against each reference, in words."""
    chosen = (d for d in differences if (d.task, d.model, d.metric) == (best.task, best.model, "auroc"))
    return " ".join(_against(difference) for difference in chosen)


def _against(difference: Difference) -> str:
    word, digits = judgement(difference), digits_of(difference)
    reference, low, high = model_name(difference.reference), difference.low, difference.high
    if word in ("better", "worse") and low is not None and high is not None:
        near, far = sorted((abs(low), abs(high)))
        amount = f"{number(abs(difference.value), digits)} ({span(near, far, digits)})"
        return f"{word.capitalize()} than {reference} by {amount}."
    amount = f"{signed(difference.value, digits)} ({span(low, high, digits)})"
    return f"Not distinguishable from {reference}: difference {amount}."


def reach(best: Result) -> str:
    """The share of the attainable lift over a coin; empty where the true risk is unknown."""
    if best.share is None or best.attainable is None or best.share_low is None or best.share_high is None:
        return ""
    ends = span(100.0 * best.share_low, 100.0 * best.share_high, 0)
    return (
        f"It reaches {percent(best.share)} ({ends} %) of the lift over a coin that the true risks attain "
        f"on these rows (AUROC {number(best.attainable)})."
    )


def calibration(evaluation: Evaluation, best: Result) -> str:
    """Whether the predicted risks can be taken at their word."""
    found = {r.metric: r for r in evaluation.results if (r.task, r.model) == (best.task, best.model)}
    level = _beside(found.get("calibration_intercept"), 0.0, "too high on average", "too low on average")
    slope = found.get("calibration_slope")
    spread = _beside(slope, 1.0, "too extreme", "too timid")
    if spread and slope:
        spread += f" (slope {number(slope.value)})"
    faults = [fault for fault in (level, spread) if fault]
    if faults:
        return f"Calibration is off: the risks are {' and '.join(faults)}."
    return (
        "No fault in calibration was found."
        if found.keys() >= {"calibration_intercept", "calibration_slope"}
        else ""
    )


def _beside(result: Result | None, perfect: float, below: str, above: str) -> str:
    """The words for an interval that lies wholly below or above the perfect value, else nothing."""
    if result is None or result.low is None or result.high is None:
        return ""
    return below if result.high < perfect else above if result.low > perfect else ""


def _counts(result: Result, words: TaskWords) -> str:
    return f"{counted(result.positives, words.outcomes)} among {counted(result.n, words.rows)}"
