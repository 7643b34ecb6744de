"""Scores from labels and probabilities, each with a bootstrap interval.

In: labels (N,) int64 in 0..C-1 and probabilities (N, C). Out: plain numbers, as scikit-learn defines them: a ratio with
nothing below the line is 0. Letters: N texts, C classes, R resamples.
"""

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95  # of the intervals
AVERAGES = ("macro", "weighted", "micro")


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) int64: row i, column j counts texts of class i that were called j."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of each class, from (…, C, C) confusion matrices to (…, C)."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    called, support = confusion.sum(-2), confusion.sum(-1)
    return {
        "precision": divide(hits, called),
        "recall": divide(hits, support),
        "f1": divide(2 * hits, called + support),
    }


def averages(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Accuracy, and precision, recall and F1 in three averages, from (…, C, C) confusion matrices to (…).

    Macro: the plain mean over classes that occur or were called. Weighted: by support. Micro: over all decisions; with
    one label a text it equals the accuracy, and is given because people look for it.
    """
    support = confusion.sum(-1)
    total = support.sum(-1)
    accuracy = divide(np.trace(confusion, axis1=-2, axis2=-1), total)
    seen = (support + confusion.sum(-2)) > 0
    result = {"accuracy": accuracy}
    for name, values in per_class(confusion).items():
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


class RankCurve:
    """One class against the rest: the area under the ROC curve, for any weighing of the texts.

    The area is the probability that a text of the class gets a higher score than another text, ties counting half
    (Hanley & McNeil 1982). Sorting happens once; each resample then costs two cumulative sums.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        self.order = np.argsort(scores, kind="stable")
        self.positive = positive[self.order]
        ordered = scores[self.order]
        self.group_starts = np.concatenate(([0], np.flatnonzero(np.diff(ordered)) + 1))  # equal scores make one group

    def area(self, weights: np.ndarray) -> float:
        """The area under the curve; NaN where `weights`, (N,), leave only one kind of text."""
        weights = weights[self.order]
        positives = np.add.reduceat(weights * self.positive, self.group_starts)
        negatives = np.add.reduceat(weights * ~self.positive, self.group_starts)
        total = positives.sum() * negatives.sum()
        below = np.cumsum(negatives) - negatives
        return float((positives * (below + negatives / 2)).sum() / total) if total else float("nan")


def roc_curves(labels: np.ndarray, probabilities: np.ndarray) -> list[RankCurve]:
    """The curve of class 1 where there are two classes, else of each class against the rest."""
    classes = probabilities.shape[1]
    return [RankCurve(labels == c, probabilities[:, c]) for c in ([1] if classes == 2 else range(classes))]


def score(labels: np.ndarray, probabilities: np.ndarray, names: tuple[str, ...], seed: int) -> dict:
    """Every score of one part of the data, ready for `scores.json`.

    `{"accuracy": {"value", "low", "high"}, "macro_f1": …, …, "log_loss": …, "roc_auc": …, "count": N,
    "per_class": {name: {"precision", "recall", "f1", "support"}}, "confusion": rows}`. Intervals are percentile
    bootstrap intervals (Efron & Tibshirani 1993, chapter 13) over RESAMPLES draws of the texts. More than two classes:
    `roc_auc` is the mean over classes, each against the rest. A score that a part cannot have is None.
    """
    classes, count = len(names), len(labels)
    predicted = probabilities.argmax(1)
    cell = labels * classes + predicted
    losses = log_losses(labels, probabilities)
    curves = roc_curves(labels, probabilities)

    def all_scores(weights: np.ndarray) -> dict[str, float]:
        confusion = np.bincount(cell, weights, minlength=classes**2).reshape(classes, classes)
        areas = [curve.area(weights) for curve in curves]
        return {
            **{name: float(value) for name, value in averages(confusion).items()},
            "log_loss": float(weights @ losses / count),
            "roc_auc": float(np.mean(areas)),
        }

    values = all_scores(np.ones(count))
    generator = np.random.default_rng(seed)
    resampled: dict[str, list[float]] = {name: [] for name in values}
    for _ in range(RESAMPLES):
        weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(np.float64)
        for name, value in all_scores(weights).items():
            resampled[name].append(value)

    result: dict = {name: interval(value, np.array(resampled[name])) for name, value in values.items()}
    confusion = confusion_matrix(labels, predicted, classes)
    columns = per_class(confusion)
    result["count"] = count
    result["per_class"] = {
        name: {key: float(column[c]) for key, column in columns.items()} | {"support": int(confusion[c].sum())}
        for c, name in enumerate(names)
    }
    result["confusion"] = confusion.tolist()
    return result


def interval(value: float, resampled: np.ndarray) -> dict[str, float | None]:
    """A value with its percentile interval; resamples without a value (one class drawn only) are left out."""
    if np.isnan(value):
        return {"value": None, "low": None, "high": None}
    if np.isnan(resampled).all():
        return {"value": value, "low": None, "high": None}
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": value, "low": float(low), "high": float(high)}
