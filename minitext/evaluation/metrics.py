"""Classification scores with bootstrap intervals.

Inputs: labels (B,) int64 in 0..C-1, predicted classes (B,), probabilities (B, C). Outputs: plain numbers, defined as in
scikit-learn; 0/0 counts as 0. Shapes: B texts, C classes, R resamples. Efron & Tibshirani 1993, chapter 13.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

RESAMPLES = 10_000
BLOCK = 2**16  # weights per block: larger arrays are returned to the system each time, which costs more than the sums
LEVEL = 0.95  # of the intervals
QUANTILES = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64: row i, column j counts the texts of class i that were predicted as class j."""
    cells = labels * num_classes + predicted
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True positives, number predicted and support of each class, (…, C) each, from (…, C, C) confusion matrices."""
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)


def class_scores(true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, from (…, C) `class_counts` to (…, C)."""
    return {
        "precision": divide(true_positives, predicted),
        "recall": divide(true_positives, support),
        "f1": divide(2 * true_positives, predicted + support),
    }


def average_scores(true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, and averages of precision, recall and F1, from (…, C) `class_counts` to (…).

    Macro: the mean over the classes that occur or were predicted. Weighted: by support.
    """
    seen, total = (support + predicted) > 0, support.sum(-1)
    result = {"accuracy": divide(true_positives.sum(-1), total)}
    for name, values in class_scores(true_positives, predicted, support).items():
        result[f"macro_{name}"] = divide((values * seen).sum(-1), seen.sum(-1))
        result[f"weighted_{name}"] = divide((values * support).sum(-1), total)
    return result


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator)), where=np.asarray(denominator) != 0)


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Minus the log-probability of each text's label, (B,), in nats; rows are normalized and clipped away from 0."""
    own = probabilities[np.arange(len(labels)), labels] / probabilities.sum(1)
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(own, epsilon, 1 - epsilon))


class RocAuc:
    """Area under the ROC curve of one class against the rest, for arbitrary example weights.

    The area is the probability that a text of the class gets a higher score than another text, ties counting half
    (Hanley & McNeil 1982). Texts are sorted once; each resample then costs one cumulative sum.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        order = np.argsort(scores, kind="stable")
        self.positive, self.negative = order[positive[order]], order[~positive[order]]  # indices of texts, by score
        self.lower = np.searchsorted(scores[self.negative], scores[self.positive], "left")
        self.not_higher = np.searchsorted(scores[self.negative], scores[self.positive], "right")

    def area(self, weights: np.ndarray) -> np.ndarray:
        """The areas (…) for weights (…, B); NaN where the texts of weight > 0 are all of the class, or all are not."""
        positive, negative = np.take(weights, self.positive, axis=-1), np.take(weights, self.negative, axis=-1)
        below = np.zeros((*weights.shape[:-1], len(self.negative) + 1), dtype=weights.dtype)
        np.cumsum(negative, axis=-1, out=below[..., 1:])  # weight of the other texts among the k lowest of them
        below_twice = np.take(below, self.lower, axis=-1) + np.take(below, self.not_higher, axis=-1)
        pairs = np.asarray(positive.sum(-1) * below[..., -1])
        ordered_pairs = np.einsum("...n,...n->...", positive, below_twice) / 2
        return np.divide(ordered_pairs, pairs, out=np.full(pairs.shape, np.nan), where=pairs != 0)


def mean_area(curves: Sequence[RocAuc], weights: np.ndarray) -> np.ndarray:
    return np.mean([curve.area(weights) for curve in curves], axis=0)


def classification_scores(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Every score of one part of the data, with 95 % percentile bootstrap intervals over the texts.

    Returns:
        `{"accuracy": {"value", "low", "high"}, "macro_f1": …, …, "log_loss": …, "roc_auc": …, "count": B,
        "per_class": {name: {"precision", "recall", "f1", "support"}}, "confusion": rows}`, ready for JSON. With more
        than two classes `roc_auc` is the mean over classes. A score that is undefined on this part is None.
    """
    count, num_classes = len(labels), len(class_names)
    confusion = confusion_matrix(labels, predicted, num_classes)
    values = average_scores(*class_counts(confusion))
    resampled = average_scores(*resampled_counts(labels, [predicted], num_classes, seed)[0])
    order = np.argsort(probabilities[:, -1], kind="stable")  # RocAuc then reads the weights in order, which is faster
    labels, probabilities = labels[order], probabilities[order]
    losses = log_losses(labels, probabilities)
    classes = [1] if num_classes == 2 else range(num_classes)  # each against the rest
    curves = [RocAuc(labels == c, probabilities[:, c]) for c in classes]
    values |= {"log_loss": losses.mean(), "roc_auc": mean_area(curves, np.ones(count))}
    blocks = [(weights @ losses / count, mean_area(curves, weights)) for weights in resamples(count, seed)]
    resampled["log_loss"], resampled["roc_auc"] = map(np.concatenate, zip(*blocks, strict=True))

    columns = class_scores(*class_counts(confusion)) | {"support": confusion.sum(1)}
    per_class = {name: {key: column[c].item() for key, column in columns.items()} for c, name in enumerate(class_names)}
    scores = {name: with_interval(value, resampled[name]) for name, value in values.items()}
    return scores | {"count": count, "per_class": per_class, "confusion": confusion.tolist()}


def resampled_counts(
    labels: np.ndarray, predictions: Sequence[np.ndarray], num_classes: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each of K runs the `class_counts` (R, C) of RESAMPLES resamples, which are the same for all runs.

    Drawing B texts with replacement draws from the distinct rows (label, prediction 1 … prediction K) with multinomial
    counts, so the texts themselves need not be drawn.
    """
    rows, counts = np.unique(np.stack([labels, *predictions]), axis=1, return_counts=True)  # (1 + K, P)
    drawn = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), size=RESAMPLES).astype(float)
    support, *predicted = np.eye(num_classes)[rows]  # (P, C) each
    return [(drawn @ (support * given), drawn @ given, drawn @ support) for given in predicted]


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


def with_interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    """A value with its percentile interval, None for NaN; resamples without a value (only one class) are left out."""
    defined = resampled[~np.isnan(resampled)]
    low, high = np.quantile(defined, QUANTILES) if len(defined) else (np.nan, np.nan)
    numbers = {"value": value, "low": low, "high": high}
    return {name: None if np.isnan(number) else float(number) for name, number in numbers.items()}
