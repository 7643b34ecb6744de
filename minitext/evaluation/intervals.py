"""95 % intervals in closed form: of a proportion, of a mean of proportions, of a difference of two proportions.

Inputs: numbers of successes and of trials. Outputs: a value with its lower and upper limit. Wilson 1927; Newcombe 1998;
Korn & Graubard 1998.
"""

from collections.abc import Mapping

import numpy as np

LEVEL = 0.95
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
Limits = tuple[np.ndarray, np.ndarray]
Score = dict[str, float | None]  # value, low, high


def wilson(successes: np.ndarray, counts: np.ndarray) -> Limits:
    """Wilson's score interval of `successes` out of `counts`, elementwise; NaN where the count is 0.

    The limits lie in [0, 1], contain the proportion, and differ even if all trials have the same outcome. The coverage
    is 95 % averaged over the true proportions; at a single one it deviates, as counts are discrete (Brown, Cai &
    DasGupta 2001).
    """
    n = np.where(np.asarray(counts) > 0, counts, np.nan).astype(float)
    p = successes / n
    center = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # rounding errors: at p = 0 and 1 the limits are exactly 0 and 1
    return np.clip(center - half, 0.0, p), np.clip(center + half, p, 1.0)


def score(value: float, low: float, high: float) -> Score:
    """`{"value", "low", "high"}`, ready for JSON: None for NaN."""
    numbers = {"value": value, "low": low, "high": high}
    return {name: None if np.isnan(number) else float(number) for name, number in numbers.items()}


def proportion(successes: int, count: int) -> Score:
    """A proportion with Wilson's limits; 0/0 is 0, without limits."""
    return score(successes / count if count else 0.0, *wilson(np.array(successes), np.array(count)))


def wilson_effective(mean: float, variance: float, counts: np.ndarray, weights: np.ndarray) -> Limits:
    """Wilson's interval of a weighted mean over C classes of `counts` texts, by its effective number of texts.

    That is the number that would give one proportion the variance of the mean (Korn & Graubard 1998), at most the
    number if all classes had the same proportion. `counts` and `weights`: (C,), of classes with texts.
    """
    shares = weights / weights.sum()
    number = 1 / (shares**2 / counts).sum()
    if 0 < mean < 1 and variance > 0:
        number = min(number, mean * (1 - mean) / variance)
    return wilson(mean * number, number)


def mean_proportion(successes: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> Score:
    """The mean of independent proportions of C classes, (C,) each, with weights that sum to 1; 0/0 is a constant 0.

    The interval is `wilson_effective`. The variance takes each proportion moved towards the mean by Z**2 texts, since a
    class of five right texts of five has no observed variance.
    """
    known = counts > 0
    x, n, w = successes[known], counts[known], weights[known]
    share = 1.0 if known.all() else w.sum()
    if not share:
        return score(0.0, np.nan, np.nan)
    mean = (w * (x / n)).sum() / w.sum()
    w = w / w.sum()
    smoothed = (x + Z**2 * mean) / (n + Z**2)
    low, high = wilson_effective(mean, (w**2 * smoothed * (1 - smoothed) / n).sum(), n, w)
    return score(share * mean, share * min(low, mean), share * max(high, mean))  # rounding: the mean is between them


def difference(first: Mapping[str, float], second: Mapping[str, float]) -> Score:
    """First minus second, two independent proportions with Wilson limits (Newcombe 1998, method 10)."""
    value = first["value"] - second["value"]
    down = np.hypot(first["value"] - first["low"], second["high"] - second["value"])
    up = np.hypot(first["high"] - first["value"], second["value"] - second["low"])
    return score(value, value - down, value + up)
