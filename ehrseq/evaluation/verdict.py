"""What may be concluded, as plain sentences. The rule, in full:

- *nothing*: only one outcome occurs, or fewer than 50 rows have the rarer outcome, or the AUROC's interval is
  wider than 0.20. The sentence says so first and gives no ranking of models.
- *rough*: fewer than 100 rows with the rarer outcome, or an interval wider than 0.10. The numbers are given
  as an indication.
- *clear*: everything else.
- Two models are *not distinguishable* if the 95 % interval of their paired difference in AUROC includes 0.
- The model spoken of is the best of those that are no baseline *on these rows*; with several, the sentence
  says so, because the best of many is flattered by chance.
- Calibration is called off if the interval of the intercept excludes 0 or that of the slope excludes 1.

At least 100 outcomes: Vergouwe et al. 2005, J Clin Epidemiol 58:475; Collins et al. 2016, Stat Med 35:214.
Half of that and the widths 0.10 and 0.20 are our choice: a difference of 0.1 is larger than most that models
show, and an interval of 0.2 spans "useful" and "useless".
"""

from dataclasses import dataclass
from enum import Enum

from ehrseq.evaluation import sentences
from ehrseq.evaluation.evidence import Evaluation, Result
from ehrseq.evaluation.wording import is_baseline, model_order, task_words

FEWEST_OUTCOMES, ENOUGH_OUTCOMES = 50, 100
WIDEST_INTERVAL, NARROW_INTERVAL = 0.20, 0.10


class Evidence(Enum):
    """How much the rows can carry; the value is the word shown to the reader."""

    NOTHING = "too few outcomes"
    ROUGH = "indication only"
    CLEAR = "enough outcomes"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`text` is one paragraph about `task`; `model` is the one it speaks of (None without one)."""

    task: str
    model: str | None
    evidence: Evidence
    text: str


def verdicts(evaluation: Evaluation) -> list[Verdict]:
    """One verdict per task, about the best model that is no baseline (or the best there is)."""
    return [verdict(evaluation, task) for task in evaluation.tasks]


def verdict(evaluation: Evaluation, task: str) -> Verdict:
    """The verdict on one task, by the rule at the top of this module."""
    words, ranked = task_words(task), evaluation.of(task)
    if not ranked:
        return Verdict(
            task, None, Evidence.NOTHING, sentences.one_outcome(evaluation.cohorts.get(task), words)
        )
    best = lead(ranked)
    grade = evidence(best)
    if grade is Evidence.NOTHING:
        return Verdict(task, best.model, grade, sentences.too_few(best, ranked, words))
    models = sum(not is_baseline(result.model) for result in ranked)
    parts = [
        "An indication only." if grade is Evidence.ROUGH else "",
        sentences.headline(best, models, words),
        sentences.comparison(evaluation.differences, best),
        sentences.reach(best),
        sentences.calibration(evaluation, best),
    ]
    return Verdict(task, best.model, grade, " ".join(part for part in parts if part))


def lead(results: list[Result]) -> Result:
    """The result a verdict speaks of: the highest of the models, else of the baselines."""
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
