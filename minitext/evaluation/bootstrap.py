"""The bootstrap over texts: resamples, and percentile intervals.

Inputs: columns (B, F) of numbers, or labels and predicted classes (B,). Outputs: means or counts in each resample.
Shapes: B texts, C classes, R resamples. Efron & Tibshirani 1993, chapter 13.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from minitext.evaluation.intervals import LEVEL, Score, score

RESAMPLES = 4_000
BLOCK = 2**16  # weights per block: larger arrays are returned to the system each time, which costs more than the sums
CELLS_BLOCK = 2**20  # counts of cells of confusion matrices per block
QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # true positives, number predicted and support of each class


def resamples(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of B texts is drawn in each of RESAMPLES draws of B texts with replacement: blocks (R, B) int64.

    The draws depend on `seed` and `count` only, not on the size of the blocks, and are those of
    `scipy.stats.bootstrap` with `np.random.default_rng(seed)`.
    """
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count  # one histogram for all rows
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def resampled_means(columns: np.ndarray, seed: int) -> np.ndarray:
    """(R, F): the means of (B, F) columns in each of the `resamples`."""
    return np.concatenate([weights @ columns for weights in resamples(len(columns), seed)]) / len(columns)


def with_interval(value: float, resampled: np.ndarray, if_equal: Sequence[float] | None = None) -> Score:
    """A value with its percentile interval, widened to contain it; resamples without a value are left out.

    `if_equal`: the limits if all resamples are equal (default: that one number). NaN becomes None.
    """
    defined = resampled[~np.isnan(resampled)]
    if not len(defined) or np.isnan(value):
        return score(value, np.nan, np.nan)
    low, high = np.quantile(defined, QUANTILES)
    if if_equal is not None and np.ptp(defined) < 1e-12:  # rounding errors of a mean
        low, high = if_equal
    return score(value, np.minimum(low, value), np.maximum(high, value))


def resampled_counts(
    labels: np.ndarray, predictions: Sequence[np.ndarray], num_classes: int, seed: int
) -> Iterator[list[Counts]]:
    """Yield blocks of resamples: for each of K runs its `class_counts` (R, C) in the same resamples.

    Drawing B texts with replacement draws from the P distinct rows (label, prediction 1 … prediction K) with
    multinomial counts, so the texts themselves need not be drawn.
    """
    rows, counts = np.unique(np.stack([labels, *predictions]), axis=1, return_counts=True)  # (1 + K, P)
    support, *predicted = rows
    generator, size = np.random.default_rng(seed), max(1, CELLS_BLOCK // max(rows.shape[1], num_classes))
    for start in range(0, RESAMPLES, size):
        drawn = generator.multinomial(len(labels), counts / len(labels), size=min(size, RESAMPLES - start))  # (R, P)
        of_class = sum_by_class(drawn, support, num_classes)
        yield [
            (
                sum_by_class(drawn[:, support == given], given[support == given], num_classes),
                sum_by_class(drawn, given, num_classes),
                of_class,
            )
            for given in predicted
        ]


def sum_by_class(drawn: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """(R, C): the sums of the columns of each class, from (R, P) counts and the class of each column."""
    order = np.argsort(classes, kind="stable")
    present, starts = np.unique(classes[order], return_index=True)
    result = np.zeros((len(drawn), num_classes))
    if len(present):
        result[:, present] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return result
