"""Significance tests between runs: McNemar, Holm, paired bootstrap; and the generalization gap of one run.

Inputs: labels (B,), and predicted classes (B,) and probabilities (B, C) of each of K runs. Outputs: differences with
intervals and p-values. Shapes: B texts, C classes, R resamples. Efron & Tibshirani 1993, chapters 13 and 16.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minitext.evaluation import bootstrap, intervals, metrics

SIGNIFICANT = 1 - intervals.LEVEL
SCORES = ("accuracy", "macro_f1", "log_loss")


class BootstrapEstimate(NamedTuple):
    """A number, and its value in each of R resamples of the texts, (R,)."""

    value: float
    resampled: np.ndarray


class McNemar(NamedTuple):
    """Two runs on the same texts: how many texts only one of them has right, and the p-value of equal accuracy."""

    only_first: int
    only_second: int
    p: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """The exact test of McNemar 1947 for two runs, (B,) bool each.

    Only the texts that exactly one run has right count. If the runs are equally accurate, each of them falls to either
    run with probability 1/2; p is two-sided, from that binomial distribution.
    """
    only_first, only_second = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    n, fewer = only_first + only_second, min(only_first, only_second)
    log_probabilities = (  # n choose k, divided by 2**n; through the gamma function, as both are large
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(fewer + 1)
    )
    return McNemar(only_first, only_second, min(1.0, 2 * math.fsum(map(math.exp, log_probabilities))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for multiple tests: at 5 %, any of them is wrongly significant in at most 5 % (Holm 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def paired_scores(
    labels: np.ndarray, predicted: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], seed: int
) -> list[dict[str, BootstrapEstimate]]:
    """Accuracy, macro F1 and log-loss of each of K runs; in `difference`, what makes a text hard for all runs cancels,
    as the r-th resample of a score holds the same texts for all of them.
    """
    num_classes = probabilities[0].shape[1]
    averages = metrics.resampled_averages(labels, predicted, num_classes, seed)
    losses = np.stack([metrics.log_losses(labels, given) for given in probabilities], axis=1)  # (B, K)
    means = bootstrap.resampled_means(losses, seed)  # (R, K)
    result = []
    for k, given in enumerate(predicted):
        values = metrics.average_scores(*metrics.class_counts(metrics.confusion_matrix(labels, given, num_classes)))
        values["log_loss"] = losses[:, k].mean()
        resampled = averages[k] | {"log_loss": means[:, k]}
        result.append({name: BootstrapEstimate(float(values[name]), resampled[name]) for name in SCORES})
    return result


def difference(first: BootstrapEstimate, second: BootstrapEstimate) -> BootstrapEstimate:
    """First minus second, resample by resample; both from one call of `paired_scores`."""
    return BootstrapEstimate(first.value - second.value, first.resampled - second.resampled)


def generalization_gap(train: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy on train minus on test, from `classification_scores`: `{"value", "low", "high"}`.

    The 95 % interval is Newcombe's for the difference of two independent proportions (1998, method 10).
    """
    return intervals.difference(train["accuracy"], test["accuracy"])


def paired_by_seed(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """The difference of a score of two runs, paired by seed: `{"mean", "std", "error", "seeds"}`.

    `first` and `second`: (S,) with two or more seeds. `error` is the standard error of the mean, std / sqrt(S).
    """
    mean, std = mean_and_std(np.subtract(first, second))
    return {"mean": mean, "std": std, "error": std / math.sqrt(len(first)), "seeds": len(first)}


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (with N - 1) of a score over seeds; a single value has no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
