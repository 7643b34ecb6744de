"""Calibration: ECE, Brier score, reliability bins, temperature scaling.

Inputs: labels (B,) int64 and probabilities (B, C), or logits (B, C) for the temperature. Outputs: plain numbers.
Shapes: B texts, C classes, R resamples. Guo et al. 2017, "On calibration of modern neural networks".
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitext.evaluation.metrics import QUANTILES, resampled_means, with_interval
from minitext.evaluation.subgroups import accuracy_of

BINS = 15  # Guo et al. 2017, section 5
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0


def bin_index(confidence: np.ndarray) -> np.ndarray:
    """(B,) int64: the bin of each value, among BINS bins of equal width between 0 and 1, closed above."""
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """The non-empty bins: `count`, mean `confidence`, `accuracy`, 95 % interval `accuracy_low` to `accuracy_high`."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    indices = bin_index(confidence)
    rows = []
    for members in (indices == k for k in np.unique(indices)):
        row = {"count": int(members.sum()), "confidence": float(confidence[members].mean())}
        found = accuracy_of(correct[members])
        rows.append(row | {"accuracy": found["value"], "accuracy_low": found["low"], "accuracy_high": found["high"]})
    return rows


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over texts of the difference between accuracy and mean confidence of their bin (Guo et al. 2017, section 2).

    It is positive for a perfectly calibrated model too, see `expected_ece_if_calibrated`.
    """
    rows = reliability_bins(labels, probabilities)
    return sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(labels)


def expected_ece_if_calibrated(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The mean calibration error that a perfectly calibrated model with these confidences has on so many texts.

    In a bin of n texts with confidence c the accuracy deviates from c by sqrt(2 / pi * c (1 - c) / n) on average
    (mean absolute deviation of the normal approximation).
    """
    bins = [(row["count"], row["confidence"]) for row in reliability_bins(labels, probabilities)]
    return sum(math.sqrt(2 / math.pi * c * (1 - c) * n) for n, c in bins) / len(labels)


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(B,): squared distance between probabilities and one-hot labels, summed over classes (Brier 1950).

    For two classes it is halved, as in scikit-learn: the squared error of one probability.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return ((probabilities - truth) ** 2).sum(1) / (2 if probabilities.shape[1] == 2 else 1)


def calibration_scores(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, dict[str, float]]:
    """`{"ece": {"value", "low", "high"}, "ece_if_calibrated": {"value"}, "brier": {"value", "low", "high"}}`.

    The interval of the Brier score is the percentile bootstrap's. A resample's calibration error holds the noise twice;
    so the interval of the calibration error is the basic one, reflected at the value (Efron & Tibshirani 1993, 13.4;
    Davison & Hinkley 1997, 5.2). It does not go below 0, and its upper end not below the value.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    gaps = np.eye(BINS)[bin_index(confidence)] * (correct - confidence)[:, None]  # (B, BINS)
    briers = brier_scores(labels, probabilities)
    resampled = resampled_means(np.column_stack((gaps, briers)), seed)  # (R, BINS + 1)
    errors = np.abs(resampled[:, :-1]).sum(1)
    ece = expected_calibration_error(labels, probabilities)
    low, high = np.maximum(2 * ece - np.quantile(errors, QUANTILES[::-1]), (0.0, ece)).tolist()
    return {
        "ece": {"value": ece, "low": low, "high": high},
        "ece_if_calibrated": {"value": expected_ece_if_calibrated(labels, probabilities)},
        "brier": with_interval(briers.mean(), resampled[:, -1]),
    }


def fit_temperature(labels: Tensor, logits: Tensor) -> float:
    """The temperature T in [MIN_TEMPERATURE, MAX_TEMPERATURE] that minimizes the cross-entropy of softmax(logits / T).

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
    for parameter in linear.parameters():
        parameter /= temperature
