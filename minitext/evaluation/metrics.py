"""Scores from labels and probabilities, each with a bootstrap interval.

In: labels (N,) int64 in 0..C-1 and probabilities (N, C). Out: plain numbers, as scikit-learn defines them: a ratio with
nothing below the line is 0. Letters: N texts, C classes, R resamples of a block.
"""

from collections.abc import Iterator

import numpy as np

RESAMPLES = 10_000
BLOCK = 2**16  # weights held at once; arrays over 0.5 MB go back to the system each time, which costs more than sums
LEVEL = 0.95  # of the intervals
AVERAGES = ("macro", "weighted", "micro")


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64: row i, column j counts texts of class i that were called j."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, from (…, C, C) confusion matrices to (…, C)."""
    return class_scores(*class_counts(confusion))


def averages(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, and precision, recall and F1 in three averages, from (…, C, C) confusion matrices to (…).

    Macro: the plain mean over classes that occur or were called. Weighted: by support. Micro: over all decisions; with
    one label a text it equals the accuracy, and is given because people look for it.
    """
    return average_scores(*class_counts(confusion))


def class_counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All that precision, recall and F1 depend on: for each class its hits, how often it was called, how often it
    occurs; (…, C) each, from (…, C, C) confusion matrices.
    """
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-2), confusion.sum(-1)


def class_scores(hits: np.ndarray, called: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "precision": divide(hits, called),
        "recall": divide(hits, support),
        "f1": divide(2 * hits, called + support),
    }


def average_scores(hits: np.ndarray, called: np.ndarray, support: np.ndarray) -> dict[str, np.ndarray]:
    total = support.sum(-1)
    accuracy = divide(hits.sum(-1), total)
    seen = (support + called) > 0
    result = {"accuracy": accuracy}
    for name, values in class_scores(hits, called, support).items():
        result[f"macro_{name}"] = divide((values * seen).sum(-1), seen.sum(-1))
        result[f"weighted_{name}"] = divide((values * support).sum(-1), total)
        result[f"micro_{name}"] = accuracy
    return result


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """top / bottom, and 0 where bottom is 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top)), where=np.asarray(bottom) != 0)


def log_losses(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Minus the log-probability of each text's own class, (N,), in nats; rows are normalised and clipped off 0."""
    probabilities = probabilities.astype(np.float64)
    own = probabilities[np.arange(len(labels)), labels] / probabilities.sum(1)
    epsilon = np.finfo(np.float64).eps
    return -np.log(np.clip(own, epsilon, 1 - epsilon))


class CellCounts:
    """The confusion matrix for any weighing of the texts. Sorting happens once; each resample then adds up runs."""

    def __init__(self, labels: np.ndarray, predicted: np.ndarray, classes: int):
        cell = labels * classes + predicted
        self.classes = classes
        self.order = np.argsort(cell, kind="stable")
        self.cells, self.starts = np.unique(cell[self.order], return_index=True)

    def matrices(self, weights: np.ndarray) -> np.ndarray:
        """Weights (R, N) to confusion matrices (R, C, C)."""
        counts = np.zeros((len(weights), self.classes**2))
        counts[:, self.cells] = np.add.reduceat(np.take(weights, self.order, axis=1), self.starts, axis=1)
        return counts.reshape(-1, self.classes, self.classes)


class RocAuc:
    """One class against the rest: the area under the ROC curve, for any weighing of the texts.

    The area is the probability that a text of the class gets a higher score than another text, ties counting half
    (Hanley & McNeil 1982). Sorting happens once; each resample then costs one cumulative sum.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        order = np.argsort(scores, kind="stable")
        ordered = scores[order]
        self.own = order[positive[order]]  # the class's texts by rising score
        self.lower = np.searchsorted(ordered, scores[self.own], "left")  # for each: how many have lower scores
        self.not_higher = np.searchsorted(ordered, scores[self.own], "right")
        self.order = np.concatenate(([0], order))  # behind a text that does not count, so that sums begin with 0
        self.rest = np.concatenate(([False], ~positive[order]))

    def area(self, weights: np.ndarray) -> np.ndarray:
        """The areas (…) under the curve for weights (…, N); NaN where they leave only one kind of text."""
        own = np.take(weights, self.own, axis=-1)
        rest = np.take(weights, self.order, axis=-1)
        rest *= self.rest
        rest = np.cumsum(rest, axis=-1, out=rest)  # (…, N + 1): weight of the other texts among the k lowest
        below_twice = np.take(rest, self.lower, axis=-1) + np.take(rest, self.not_higher, axis=-1)
        pairs = np.asarray(own.sum(-1) * rest[..., -1])
        right = np.einsum("...n,...n->...", own, below_twice) / 2
        return np.divide(right, pairs, out=np.full(pairs.shape, np.nan), where=pairs != 0)


def roc_curves(labels: np.ndarray, probabilities: np.ndarray) -> list[RocAuc]:
    """The curve of class 1 where there are two classes, else of each class against the rest."""
    classes = probabilities.shape[1]
    return [RocAuc(labels == c, probabilities[:, c]) for c in ([1] if classes == 2 else range(classes))]


def score(labels: np.ndarray, probabilities: np.ndarray, names: tuple[str, ...], seed: int) -> dict:
    """Every score of one part of the data, ready for `scores.json`.

    `{"accuracy": {"value", "low", "high"}, "macro_f1": …, …, "log_loss": …, "roc_auc": …, "count": N,
    "per_class": {name: {"precision", "recall", "f1", "support"}}, "confusion": rows}`. Intervals are percentile
    bootstrap intervals (Efron & Tibshirani 1993, chapter 13) over RESAMPLES draws of the texts. More than two classes:
    `roc_auc` is the mean over classes, each against the rest. A score that a part cannot have is None.
    """
    classes, count = len(names), len(labels)
    predicted = probabilities.argmax(1)
    cells = CellCounts(labels, predicted, classes)
    losses = log_losses(labels, probabilities)
    curves = roc_curves(labels, probabilities)

    def sums(weights: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the scores of each row of weights (R, N) are made of: hits, called, support (R, C); loss, area (R,)."""
        loss = np.einsum("rn,n->r", weights, losses)  # no matrix product: for so few rows its threads cost more
        area = np.mean([curve.area(weights) for curve in curves], axis=0)
        return *class_counts(cells.matrices(weights)), loss, area

    def scores(hits, called, support, loss, area) -> dict[str, np.ndarray]:
        return {**average_scores(hits, called, support), "log_loss": loss / count, "roc_auc": area}

    values = scores(*sums(np.ones((1, count), dtype=np.int64)))
    blocks = [sums(weights) for weights in resamples(count, seed)]
    resampled = scores(*(np.concatenate(column) for column in zip(*blocks, strict=True)))

    result: dict = {name: interval(float(value), resampled[name]) for name, (value,) in values.items()}
    confusion = confusion_matrix(labels, predicted, classes)
    columns = per_class(confusion)
    result["count"] = count
    result["per_class"] = {
        name: {key: float(column[c]) for key, column in columns.items()} | {"support": int(confusion[c].sum())}
        for c, name in enumerate(names)
    }
    result["confusion"] = confusion.tolist()
    return result


def resamples(count: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of N texts is drawn in each of RESAMPLES draws of N texts with replacement: blocks (R, N) int64.

    What is drawn depends on `seed` and `count` alone, not on the size of the blocks, and is what
    `scipy.stats.bootstrap` draws from `np.random.default_rng(seed)`.
    """
    generator = np.random.default_rng(seed)
    size = max(1, BLOCK // count)
    for start in range(0, RESAMPLES, size):
        rows = min(size, RESAMPLES - start)
        drawn = generator.integers(count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count  # one histogram for all rows
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)


def interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    """A value with its percentile interval; resamples without a value (one class drawn only) are left out."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    if np.isnan(resampled).all():
        return {"value": value, "low": None, "high": None}
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
