"""How tasks, models and numbers are spelled for a reader: one place, so page, terminal and verdict agree."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

BASELINES = (
    "gradient_boosting", "boosting", "logistic", "logistic_regression", "aews", "hospital", "liu", "prevalence",
)  # fmt: skip

_MODELS = {
    "attainable": "attainable",
    "gradient_boosting": "gradient boosting",
    "boosting": "gradient boosting",
    "logistic": "logistic regression",
    "logistic_regression": "logistic regression",
    "lru": "LRU",
    "lstm": "LSTM",
    "tann": "TANN",
    "aews": "aEWS",
    "hospital": "HOSPITAL",
    "liu": "Liu",
}

METRIC_NAMES = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "brier": "Brier score",
    "ece": "Calibration error",
    "calibration_slope": "Calibration slope",
    "calibration_intercept": "Calibration intercept",
    "workup": "Alerts per detection",
    "weighted_auroc": "Frequency-weighted AUROC",
    "mean_auroc": "Mean AUROC",
    "micro_f1": "Micro-F1",
}


@dataclass(frozen=True, slots=True)
class TaskWords:
    """`title` of the task, its `outcomes` and what one prediction is about (`rows`), both in the plural."""

    title: str
    outcomes: str
    rows: str


_TASKS = {  # matched as prefixes, so `in_hospital_mortality_24h` needs no entry of its own
    "in_hospital_mortality": TaskWords("In-hospital mortality", "deaths", "admissions"),
    "readmission": TaskWords("Unplanned readmission", "readmissions", "discharges"),
    "long_stay": TaskWords("Long stay", "long stays", "admissions"),
    "icu_transfer": TaskWords("ICU transfer", "transfers", "admissions"),
    "discharge_diagnoses": TaskWords("Discharge diagnoses", "diagnoses", "admissions"),
    "abnormal_laboratory": TaskWords("Abnormal laboratory values", "abnormal results", "admissions"),
}


def task_words(task: str) -> TaskWords:
    """Words for a task; an unknown one gets its own name and neutral nouns.

    >>> task_words("in_hospital_mortality_24h").title
    'In-hospital mortality, 24 h'
    >>> task_words("sepsis_onset").outcomes
    'outcomes'
    """
    for prefix, words in _TASKS.items():
        if task == prefix or task.startswith(f"{prefix}_"):
            suffix = _suffix(task[len(prefix) :].strip("_"))
            return TaskWords(words.title + (f", {suffix}" if suffix else ""), words.outcomes, words.rows)
    title = task.replace("_", " ").strip() or "unnamed task"
    return TaskWords(title[0].upper() + title[1:], "outcomes", "predictions")


def slug(task: str) -> str:
    """A task's name as part of an id or anchor.

    >>> slug('ICU "early" transfer')
    'ICU-early-transfer'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", task).strip("-")


def _suffix(suffix: str) -> str:
    """`24h` -> `24 h`, `30d` -> `30 days`; anything else with spaces."""
    if suffix[:-1].isdigit():
        unit = {"h": "h", "d": "days"}.get(suffix[-1])
        if unit:
            return f"{suffix[:-1]} {unit}"
    return suffix.replace("_", " ")


def model_name(model: str) -> str:
    """A model's name for a reader.

    >>> model_name("gradient_boosting")
    'gradient boosting'
    """
    return _MODELS.get(model, model.replace("_", " "))


def is_baseline(model: str) -> bool:
    """Whether `model` is one of the baselines that stand beside every number."""
    return model in BASELINES


def model_order(models: Iterable[str]) -> list[str]:
    """Distinct models as they are shown: models by name, then the baselines from strong to weak.

    >>> model_order(["logistic", "transformer", "gradient_boosting"])
    ['transformer', 'gradient_boosting', 'logistic']
    """
    rank = {model: number for number, model in enumerate(BASELINES)}
    return sorted(set(models), key=lambda model: (rank.get(model, -1), model))


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign; an em dash if there is none.

    >>> number(-0.014)
    '−0.01'
    """
    if value is None:
        return "—"
    text = f"{value:.{digits}f}"
    return (text if float(text) else text.lstrip("-")).replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """A difference: always with its sign, but a rounded zero has none.

    >>> signed(0.021), signed(-0.001)
    ('+0.02', '0.00')
    """
    text = number(value, digits)
    return text if value is None or text[0] == "−" or not float(text) else f"+{text}"


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval; `to` instead of a dash where an end is negative.

    >>> span(0.61, 0.97), span(-0.01, 0.05)
    ('0.61–0.97', '−0.01 to 0.05')
    """
    if low is None or high is None:
        return "no interval"
    left, right = number(low, digits), number(high, digits)
    return f"{left} to {right}" if "−" in left + right else f"{left}–{right}"


def percent(share: float) -> str:
    """A share in percent, with one decimal below 10 %.

    >>> percent(0.0545), percent(0.42)
    ('5.5 %', '42 %')
    """
    return f"{100 * share:.1f} %" if abs(share) < 0.0995 else f"{100 * share:.0f} %"


def integer(count: int) -> str:
    """A count with thousands separators.

    >>> integer(1204333)
    '1,204,333'
    """
    return f"{count:,}"


def counted(count: int, plural: str) -> str:
    """A count and its noun; the nouns of `TaskWords` lose their s for one.

    >>> counted(1, "deaths"), counted(1500, "admissions")
    ('1 death', '1,500 admissions')
    """
    return f"{integer(count)} {plural.removesuffix('s') if count == 1 else plural}"
