"""Calibration: ECE, Brier score, reliability bins, temperature scaling.

Inputs: labels (B,) int64 and probabilities (B, C), or logits (B, C) for the temperature. Outputs: plain numbers.
Shapes: B texts, C classes, K bins, R resamples. Guo et al. 2017, "On calibration of modern neural networks".
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitext.evaluation.metrics import QUANTILES, resamples

BINS = 15  # Guo et al. 2017, section 5
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def confidence_and_correct(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, the probability of the predicted class, and 1 where the prediction is right, else 0; (B,) each."""
    return probabilities.max(1).astype(np.float64), (probabilities.argmax(1) == labels).astype(np.float64)


def bin_index(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(B,) int64: the bin of each value, among K bins of equal width between 0 and 1, closed above."""
    return np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)


def bin_sums(indices: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """The number of texts in each bin and the sum of each column over them, (K,) each, without empty bins."""
    counts = np.bincount(indices)
    return [counts[counts > 0], *(np.bincount(indices, column)[counts > 0] for column in columns)]


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """Mean over texts of the difference between accuracy and mean confidence of their bin (Guo et al. 2017, section 2).

    It is positive for a perfectly calibrated model too, see `expected_ece_if_calibrated`.
    """
    confidence, correct = confidence_and_correct(labels, probabilities)
    _, gaps = bin_sums(bin_index(confidence, bins), correct - confidence)
    return float(np.abs(gaps).sum() / len(labels))


def expected_ece_if_calibrated(probabilities: np.ndarray, bins: int = BINS) -> float:
    """The mean calibration error that a perfectly calibrated model with these confidences has on so many texts.

    In a bin of n texts with confidence c the accuracy deviates from c by sqrt(2 / pi * c (1 - c) / n) on average
    (mean absolute deviation of the normal approximation).
    """
    confidence = probabilities.max(1).astype(np.float64)
    counts, sums = bin_sums(bin_index(confidence, bins), confidence)
    means = sums / counts
    deviations = np.sqrt(2 / np.pi * means * (1 - means) / counts)
    return float((counts * deviations).sum() / counts.sum())


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(B,): squared distance between probabilities and one-hot labels, summed over classes (Brier 1950).

    For two classes it is halved, as in scikit-learn: the squared error of one probability.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return ((probabilities - truth) ** 2).sum(1) / (2 if probabilities.shape[1] == 2 else 1)


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """The non-empty bins of a reliability diagram: confidences from `low` to `high`, `count`, mean `confidence`,
    `accuracy` and its 95 % interval, `accuracy_low` to `accuracy_high` (Wilson 1927).
    """
    confidence, correct = confidence_and_correct(labels, probabilities)
    indices = bin_index(confidence, bins)
    rows = []
    for k, count, total, hits in zip(np.unique(indices), *bin_sums(indices, confidence, correct), strict=True):
        low, high = wilson_interval(float(hits), float(count))
        rows.append({
            "low": k / bins, "high": (k + 1) / bins, "count": int(count), "confidence": total / count,
            "accuracy": hits / count, "accuracy_low": low, "accuracy_high": high,
        })  # fmt: skip
    return rows


def wilson_interval(hits: float, count: float) -> tuple[float, float]:
    """The 95 % interval of the proportion `hits / count` (Wilson 1927), valid for small counts and near 0 and 1."""
    z = 1.959963984540054  # 97.5 % quantile of the normal distribution
    proportion, width = hits / count, z * z / count
    center = (proportion + width / 2) / (1 + width)
    half = z * math.sqrt(proportion * (1 - proportion) / count + width / (4 * count)) / (1 + width)
    return max(center - half, 0.0), min(center + half, 1.0)


def fit_temperature(labels: Tensor, logits: Tensor) -> float:
    """The temperature T in [MIN_TEMPERATURE, MAX_TEMPERATURE] that minimises the cross-entropy of softmax(logits / T).

    Guo et al. 2017, section 4.2. The targets are smoothed as in Platt 1999, section 2.2 (1 - 1 / (B + 2) instead of 1):
    on a validation set without mistakes, hard targets would drive T to 0. The cross-entropy is convex in 1 / T, so
    bisection on its derivative finds the minimum.
    """
    logits = logits.double()  # (B, C)
    count, num_classes = logits.shape
    missing = 1 / (count + 2)
    one_hot = F.one_hot(labels, num_classes)
    targets = one_hot * (1 - missing) + (1 - one_hot) * missing / (num_classes - 1)  # (B, C), rows sum to 1

    def too_sharp(temperature: float) -> bool:
        """Whether the cross-entropy falls with a higher temperature: the sign of its derivative by 1 / T."""
        return bool((((logits / temperature).softmax(dim=1) - targets) * logits).sum() > 0)

    if not too_sharp(MIN_TEMPERATURE):
        return MIN_TEMPERATURE
    if too_sharp(MAX_TEMPERATURE):
        return MAX_TEMPERATURE
    low, high = math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)
    for _ in range(50):  # 6 / 2**50: as exact as float64 allows
        middle = (low + high) / 2
        low, high = (middle, high) if too_sharp(math.exp(middle)) else (low, middle)
    return math.exp(low)


@torch.no_grad()
def fold_temperature(linear: nn.Linear, temperature: float) -> None:
    """Divide weight and bias of the last layer by `temperature` in place, so that the model's logits are calibrated."""
    linear.weight /= temperature
    if linear.bias is not None:
        linear.bias /= temperature


def calibration_scores(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """`{"ece": {"value", "low", "high"}, "ece_if_calibrated": {"value"}, "brier": {"value", "low", "high"}}`.

    The interval of the Brier score is the percentile bootstrap's. A resample's calibration error holds the noise twice;
    so the interval of the calibration error is the basic one, reflected at the value (Efron & Tibshirani 1993, 13.4;
    Davison & Hinkley 1997, 5.2). It does not go below 0, and its upper end not below the value.
    """
    confidence, correct = confidence_and_correct(labels, probabilities)
    indices, count = bin_index(confidence), len(labels)
    order = np.argsort(indices, kind="stable")  # the texts of a bin next to each other
    _, starts = np.unique(indices[order], return_index=True)
    gaps, squares = (correct - confidence)[order], brier_scores(labels, probabilities)[order]
    errors, briers = [], []
    for weights in resamples(count, seed):  # (R, B)
        errors.append(np.abs(np.add.reduceat(weights * gaps, starts, axis=1)).sum(1) / count)
        briers.append(weights @ squares / count)
    ece = expected_calibration_error(labels, probabilities)
    low, high = np.maximum(2 * ece - np.quantile(np.concatenate(errors), QUANTILES[::-1]), (0.0, ece))
    brier_low, brier_high = np.quantile(np.concatenate(briers), QUANTILES)
    return {
        "ece": {"value": ece, "low": float(low), "high": float(high)},
        "ece_if_calibrated": {"value": expected_ece_if_calibrated(probabilities)},
        "brier": {"value": float(squares.mean()), "low": float(brier_low), "high": float(brier_high)},
    }
