"""Whether a predicted 10 % happens in 10 of 100: bins of equal mass, and the calibration line.

The line is a logistic regression of the outcome on the logit of the prediction. A slope of 1 and an
intercept of 0 are perfect; a slope below 1 means the predictions are too extreme; an intercept above 0 means
the outcome is more frequent than predicted. The intercept is fitted with the slope held at 1
("calibration in the large").

Source: Van Calster et al. 2016, J Clin Epidemiol 74:167; Steyerberg 2019, Clinical Prediction Models, 15.3.
"""

import numpy as np

from ehrseq.evaluation.checks import Floats, Integers, UndefinedMetricError

BINS = 10
_CLIP = 1e-6  # a prediction of exactly 0 or 1 has no logit
_STEPS = 50
_STEEPEST = 1e3  # beyond this slope the classes are separated and the fit has no end


def logit(probabilities: Floats) -> Floats:
    """Log odds, with probabilities clipped to [1e-6, 1 - 1e-6]; any shape, float64."""
    clipped = np.clip(probabilities, _CLIP, 1.0 - _CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def expit(values: Floats) -> Floats:
    """Inverse of `logit`, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def equal_mass_bins(scores: Floats, weights: Floats | None = None, bins: int = BINS) -> Integers:
    """Bin number [n], 0 to bins - 1, so that bins weigh about the same; equal scores share a bin.

    A run of equal scores goes where its middle falls. Fewer distinct scores than bins leave bins empty.

    >>> equal_mass_bins(np.array([0.1, 0.4, 0.4, 0.9]), bins=2).tolist()
    [0, 0, 0, 1]
    """
    mass = np.ones_like(scores) if weights is None else weights
    _, run = np.unique(scores, return_inverse=True)
    run_mass = np.bincount(run, weights=mass)
    middle = (np.cumsum(run_mass) - run_mass / 2.0) / mass.sum()
    number = np.minimum((middle * bins - 1e-9).astype(np.int64), bins - 1)
    return np.asarray(number[run], dtype=np.int64)


def smoothed_risk(labels: Floats, probabilities: Floats, span: float = 0.75, grid: int = 200) -> Floats:
    """Observed risk at each prediction [n] by local linear regression (loess without its robust steps).

    Source: Cleveland 1979, J Am Stat Assoc 74:829.
    """
    points = np.unique(np.quantile(probabilities, np.linspace(0.0, 1.0, grid)))
    nearest = max(2, int(np.ceil(span * labels.size)))
    risk = np.empty_like(points)
    for number, point in enumerate(points):
        away = probabilities - point
        far = np.abs(away)
        reach = np.partition(far, nearest - 1)[nearest - 1]
        weight = np.clip(1.0 - (far / (reach * (1.0 + 1e-9) + 1e-12)) ** 3, 0.0, None) ** 3
        mass, first, second = weight.sum(), weight @ away, weight @ (away * away)
        level, slope = weight @ labels, weight @ (labels * away)
        spread = mass * second - first * first
        straight = spread > 1e-12 * max(mass * second, 1e-300)
        risk[number] = (second * level - first * slope) / spread if straight else level / mass
    return np.interp(probabilities, points, np.clip(risk, 0.0, 1.0))


def fit_intercept(labels: Floats, logits: Floats, weights: Floats) -> float:
    """Intercept of the calibration line with its slope held at 1; arrays [n].

    Raises: UndefinedMetricError if it runs away (only one outcome occurs).
    """
    intercept = 0.0
    for _ in range(_STEPS):
        fitted = expit(intercept + logits)
        curvature = float(weights @ (fitted * (1.0 - fitted)))
        step = float(weights @ (labels - fitted)) / curvature if curvature > 0.0 else np.inf
        if not np.isfinite(step):
            break
        intercept += float(np.clip(step, -5.0, 5.0))  # a long first step overshoots where the curve is flat
        if abs(step) < 1e-10:
            return intercept
    raise UndefinedMetricError("The calibration intercept has no finite value: only one outcome occurs.")


def fit_line(labels: Floats, logits: Floats, weights: Floats) -> tuple[float, float]:
    """(intercept, slope) of the calibration line, both free; arrays [n].

    Raises: UndefinedMetricError if all predictions are equal or separate the outcomes perfectly.
    """
    centre = float(np.average(logits, weights=weights))
    spread = float(np.sqrt(np.average((logits - centre) ** 2, weights=weights)))
    if spread < 1e-9:
        raise UndefinedMetricError("The calibration slope has no value: all predictions are equal.")
    design = np.stack([np.ones_like(logits), (logits - centre) / spread], axis=1)
    line = np.zeros(2)
    for _ in range(_STEPS):
        fitted = expit(design @ line)
        curvature = (design * (weights * fitted * (1.0 - fitted))[:, None]).T @ design
        if np.linalg.cond(curvature) > 1e12:
            break
        step = np.linalg.solve(curvature, design.T @ (weights * (labels - fitted)))
        line = line + np.clip(step, -3.0, 3.0)
        if abs(line[1]) > _STEEPEST:
            break
        if np.abs(step).max() < 1e-10:
            slope = float(line[1]) / spread
            return float(line[0]) - slope * centre, slope
    raise UndefinedMetricError(
        "The calibration slope has no finite value: the predictions separate the outcomes."
    )
