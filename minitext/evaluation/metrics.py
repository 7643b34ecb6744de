"""Classification scores with their intervals.

Inputs: labels (B,) int64 in 0..C-1, predicted classes (B,), probabilities (B, C). Outputs: plain numbers, defined as in
scikit-learn; 0/0 counts as 0. Shapes: B texts, C classes, R resamples.

Intervals: those of proportions and their means are Wilson's (`intervals`), the others come from the `bootstrap`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from minitext.evaluation.bootstrap import Counts, resampled_counts, resamples, with_interval
from minitext.evaluation.intervals import (
    Limits,
    Score,
    mean_proportion,
    proportion,
    score,
    wilson,
    wilson_effective,
)


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


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(B,): squared distance between probabilities and one-hot labels, summed over classes (Brier 1950).

    For two classes it is halved, as in scikit-learn: the squared error of one probability.
    """
    errors = probabilities.copy()
    errors[np.arange(len(labels)), labels] -= 1
    return np.einsum("bc,bc->b", errors, errors) / (2 if probabilities.shape[1] == 2 else 1)


class RocAuc:
    """Area under the ROC curve of one class against the rest, for arbitrary example weights.

    The area is the probability that a text of the class gets a higher score than another text, ties counting half
    (Hanley & McNeil 1982). Texts are sorted once; each resample then costs one cumulative sum.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray):
        order = np.argsort(scores, kind="stable")
        self.positive, self.negative = order[positive[order]], order[~positive[order]]  # indices of texts, by score
        self.scores = scores
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

    def influence(self) -> np.ndarray:
        """(B,): the area's derivative by the weight of each text, times B; the sum is 0 (DeLong et al. 1988, eq. 4)."""
        p, n = len(self.positive), len(self.negative)
        positive, negative = self.scores[self.positive], self.scores[self.negative]
        below = np.searchsorted(positive, negative, "left") + np.searchsorted(positive, negative, "right")
        of_positive, of_negative = (self.lower + self.not_higher) / (2 * n), 1 - below / (2 * p)
        result = np.empty(p + n)
        result[self.positive] = (of_positive - of_positive.mean()) * (p + n) / p
        result[self.negative] = (of_negative - of_negative.mean()) * (p + n) / n
        return result


def mean_roc_auc(labels: np.ndarray, probabilities: np.ndarray) -> tuple[float, np.ndarray, Limits]:
    """The area, or with more than two classes its mean over the classes, each against the rest; NaN if undefined.

    Also the `influence` (B,) of each text, and the limits if all resamples are equal: Wilson's for as many texts of the
    class as can be paired with another one, each in one pair only, since such pairs are independent.
    """
    count, num_classes = probabilities.shape
    classes = [1] if num_classes == 2 else range(num_classes)
    if len(np.unique(labels)) < num_classes:
        return np.nan, np.zeros(count), (np.nan, np.nan)
    areas, pairs, influence = [], [], np.zeros(count)
    for c in classes:
        curve = RocAuc(labels == c, probabilities[:, c])
        areas.append(curve.area(np.ones(count)))
        pairs.append(min(len(curve.positive), len(curve.negative)))
        influence += curve.influence() / len(classes)
    areas, pairs = np.array(areas), np.array(pairs)
    low, high = wilson(areas * pairs, pairs)
    return float(areas.mean()), influence, (low.mean(), high.mean())


def classification_scores(
    labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str], seed: int
) -> dict[str, Any]:
    """Every score of one part of the data, with a 95 % interval that contains it.

    Accuracy and the scores of a class have Wilson intervals: precision given the number of texts predicted as the
    class, recall given the number that are of it. Given these numbers the classes are independent, which gives the
    intervals of averages of precision and recall (`mean_proportion`). Averages of F1 have Wilson's form with variance
    and bias of the bootstrap (`mean_f1`). The others have the percentile bootstrap; where all resamples are equal, as
    every text is right, ROC-AUC has the limits of `mean_roc_auc`, and log-loss and Brier score have none.

    Returns:
        `{"accuracy": {"value", "low", "high"}, "macro_f1": …, …, "log_loss": …, "brier": …, "roc_auc": …, "count": B,
        "per_class": {name: {"precision": {"value", "low", "high"}, "recall": …, "f1": …, "support"}},
        "confusion": rows}`, ready for JSON. A score or limit that is undefined on this part is None.
    """
    num_classes = len(class_names)
    confusion = confusion_matrix(labels, predicted, num_classes)
    right, predicted_as, support = counts = class_counts(confusion)
    values, columns, limits = average_scores(*counts), class_scores(*counts), class_limits(*counts)
    resampled = resampled_averages(labels, [predicted], num_classes, seed)[0]
    seen = (support + predicted_as) > 0
    scores = {"accuracy": proportion(right.sum(), len(labels))}
    for kind, weights in (("macro", seen / seen.sum()), ("weighted", support / len(labels))):
        scores[f"{kind}_precision"] = mean_proportion(right, predicted_as, weights)
        scores[f"{kind}_recall"] = mean_proportion(right, support, weights)
        scores[f"{kind}_f1"] = mean_f1(values[f"{kind}_f1"], resampled[f"{kind}_f1"], counts, weights)
    per_class = {
        name: {key: score(column[c], *(end[c] for end in limits[key])) for key, column in columns.items()}
        | {"support": int(support[c])}
        for c, name in enumerate(class_names)
    }
    scores |= probability_scores(labels, probabilities, seed)
    return scores | {"count": len(labels), "per_class": per_class, "confusion": confusion.tolist()}


def class_limits(true_positives: np.ndarray, predicted: np.ndarray, support: np.ndarray) -> dict[str, Limits]:
    """95 % limits of `class_scores`, (C,) each; NaN for 0/0.

    F1 is 2 J / (1 + J), where J is the fraction of right texts among those that are of the class or predicted as it
    (Lam, Gopal & Qian 2023, arXiv:2309.14621, the indirect Wilson interval).
    """
    low, high = wilson(true_positives, predicted + support - true_positives)
    return {
        "precision": wilson(true_positives, predicted),
        "recall": wilson(true_positives, support),
        "f1": (2 * low / (1 + low), 2 * high / (1 + high)),
    }


def mean_f1(value: float, resampled: np.ndarray, counts: Counts, weights: np.ndarray) -> Score:
    """An average of the classes' F1 with its interval, from `class_counts` (C,) each and weights (C,).

    It is `wilson_effective` with the variance of the resamples (R,), around the value minus their bias, and extended to
    the value. The percentile interval covers 73 % instead of 95 % where nearly all texts are right, and 45 % with 100
    classes of five texts, whose resamples lack classes.
    """
    true_positives, predicted, support = counts
    involved = predicted + support - true_positives  # texts of the class or predicted as it
    known = involved > 0
    estimate = np.clip(2 * value - resampled.mean(), 0.0, 1.0)
    low, high = wilson_effective(estimate, resampled.var(), involved[known], weights[known])
    return score(value, np.minimum(low, value), np.maximum(high, value))


def probability_scores(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, Score]:
    """Log-loss, Brier score and ROC-AUC with percentile intervals, all from the same resamples.

    With more than two classes the mean area is linear in the weights of the texts, by `RocAuc.influence`: to resample
    every curve would cost as many times more as there are classes.
    """
    order = np.argsort(probabilities[:, -1], kind="stable")  # RocAuc then reads the weights in order, which is faster
    labels, probabilities = labels[order], probabilities[order]
    auc, influence, auc_limits = mean_roc_auc(labels, probabilities)
    columns = np.column_stack((log_losses(labels, probabilities), brier_scores(labels, probabilities), influence))
    curve = RocAuc(labels == 1, probabilities[:, 1]) if probabilities.shape[1] == 2 else None
    means, areas = [], []
    for weights in resamples(len(labels), seed):
        means.append(weights @ columns / len(labels))
        areas.append(curve.area(weights) if curve else np.clip(auc + means[-1][:, 2], 0.0, 1.0))
    log_loss, brier, _ = np.concatenate(means).T
    none = (np.nan, np.nan)
    return {
        "log_loss": with_interval(columns[:, 0].mean(), log_loss, none),
        "brier": with_interval(columns[:, 1].mean(), brier, none),
        "roc_auc": with_interval(auc, np.concatenate(areas), auc_limits),
    }


def resampled_averages(
    labels: np.ndarray, predictions: Sequence[np.ndarray], num_classes: int, seed: int
) -> list[dict[str, np.ndarray]]:
    """For each of K runs the `average_scores`, (R,) each, of RESAMPLES resamples, which are the same for all runs."""
    blocks = [
        [average_scores(*counts) for counts in runs]
        for runs in resampled_counts(labels, predictions, num_classes, seed)
    ]
    return [{key: np.concatenate([part[key] for part in run]) for key in run[0]} for run in zip(*blocks, strict=True)]
