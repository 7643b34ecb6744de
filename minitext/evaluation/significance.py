"""Whether one run is better than another, or the texts happened to suit it.

In: labels (N,) and, for each of K runs on the same texts, predictions (N,) and probabilities (N, C). Out: changed_settings
with intervals and p-values: McNemar 1947, and the paired bootstrap (Efron & Tibshirani 1993, chapters 13 and 16).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minitext.evaluation.metrics import (
    LEVEL,
    RESAMPLES,
    CellCounts,
    average_scores,
    class_counts,
    log_losses,
    resamples,
)

OVERFITTING = 0.01  # one point of accuracy: a gap that is surely there, but smaller than this, changes no decision
SIGNIFICANT = 1 - LEVEL
SCORES = ("accuracy", "macro_f1", "log_loss")


class BootstrapEstimate(NamedTuple):
    """A number and what it is in R resamples of the texts, (R,)."""

    value: float
    resampled: np.ndarray

    def interval(self) -> tuple[float, float]:
        """The percentile bootstrap interval."""
        low, high = np.quantile(self.resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def p_value(self) -> float:
        """Of "this number is 0", two-sided: twice the share of resamples on the rarer side of 0; the sample itself
        counts as one more resample, so that p is never 0 (Davison & Hinkley 1997, section 4.2).
        """
        rarer = min((self.resampled <= 0).sum(), (self.resampled >= 0).sum())
        return min(1.0, 2 * (1 + int(rarer)) / (1 + len(self.resampled)))


class McNemar(NamedTuple):
    """Two runs on the same texts: how many only the one or the other has right, and p of "both are as accurate"."""

    only_first: int
    only_second: int
    p: float


def mcnemar(correct_a: np.ndarray, second_right: np.ndarray) -> McNemar:
    """The exact test of McNemar 1947 for two runs, (N,) bool each.

    Texts that both have right, or both wrong, say nothing. Of the others, were the runs equally good, each would fall
    to either side with probability 1/2: p is two-sided from that binomial distribution.
    """
    only_first = int((correct_a & ~second_right).sum())
    only_second = int((second_right & ~correct_a).sum())
    total, fewer = only_first + only_second, min(only_first, only_second)
    logs = [log_choose(total, k) - total * math.log(2) for k in range(fewer + 1)]
    return McNemar(only_first, only_second, min(1.0, 2 * math.fsum(map(math.exp, logs))))


def log_choose(n: int, k: int) -> float:
    """The logarithm of the binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for all of them being looked at (Holm 1979): the chance that any of the tests whose
    corrected p is below 5 % is wrong stays below 5 %.
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def paired_scores(
    labels: np.ndarray, predicted: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], seed: int
) -> list[dict[str, BootstrapEstimate]]:
    """Accuracy, macro F1 and log-loss of each of K runs; the k-th resample holds the same texts for all runs, so that
    what makes a text easy or hard for all of them cancels in their changed_settings.
    """
    classes = probabilities[0].shape[1]
    cells = [CellCounts(labels, called, classes) for called in predicted]
    losses = [log_losses(labels, given) for given in probabilities]

    def scores(weights: np.ndarray) -> list[np.ndarray]:
        """Weights (R, N) to one array (SCORES, R) a run."""
        rows = []
        for cell, loss in zip(cells, losses, strict=True):
            means = average_scores(*class_counts(cell.matrices(weights)))
            rows.append(
                np.stack([means["accuracy"], means["macro_f1"], np.einsum("rn,n->r", weights, loss) / len(loss)])
            )
        return rows

    values = scores(np.ones((1, len(labels)), dtype=np.int64))
    blocks = [scores(weights) for weights in resamples(len(labels), seed)]
    result = []
    for run, (value, *resampled) in enumerate(zip(values, *blocks, strict=True)):
        columns = np.concatenate(resampled, axis=1)
        result.append({name: BootstrapEstimate(float(value[i, 0]), columns[i]) for i, name in enumerate(SCORES)})
    return result


def difference(first: BootstrapEstimate, second: BootstrapEstimate) -> BootstrapEstimate:
    """First less second, resample by resample; both must be of one call of `paired_scores`."""
    return BootstrapEstimate(first.value - second.value, first.resampled - second.resampled)


def train_test_gap(train: np.ndarray, test: np.ndarray, seed: int) -> BootstrapEstimate:
    """How much more accurate a run is on train than on test, from their confusion matrices (C, C).

    Train and test are different texts, so they are resampled independently. Drawing N texts with replacement and
    counting the right ones is a binomial draw; nothing else of the texts is needed.
    """
    generator = np.random.default_rng(seed)
    parts = []
    for confusion in (train, test):
        right, count = np.trace(confusion), confusion.sum()
        parts.append(
            BootstrapEstimate(float(right / count), generator.binomial(count, right / count, RESAMPLES) / count)
        )
    return difference(*parts)


def is_overfitted(gap: BootstrapEstimate) -> bool:
    """Whether a train-test gap is more than chance and more than trifling: its interval lies above one point."""
    return gap.interval()[0] > OVERFITTING


def summary(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (with N - 1) of a score over seeds; one value has no deviation."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
