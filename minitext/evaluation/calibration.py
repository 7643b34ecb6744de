"""Calibration: expected calibration error (ECE), reliability bins, temperature scaling.

Inputs: labels (B,) int64 and probabilities (B, C), or logits (B, C) for the temperature. Outputs: plain numbers.
Shapes: B texts, C classes, R simulations. Guo et al. 2017, "On calibration of modern neural networks".
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitext.evaluation.intervals import LEVEL, proportion

BINS = 15  # Guo et al. 2017, section 5
SIMULATIONS = 1_000  # of a calibrated model
BLOCK = 2**18  # random numbers per block
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
        found = proportion(int(correct[members].sum()), row["count"])
        rows.append(row | {"accuracy": found["value"], "accuracy_low": found["low"], "accuracy_high": found["high"]})
    return rows


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over texts of the difference between accuracy and mean confidence of their bin (Guo et al. 2017, section 2).

    It is positive for a perfectly calibrated model too, see `simulated_ece`.
    """
    rows = reliability_bins(labels, probabilities)
    return sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / len(labels)


def simulated_ece(probabilities: np.ndarray, seed: int) -> np.ndarray:
    """(R,): the calibration errors of a perfectly calibrated model with these predicted probabilities.

    Each simulation draws the labels of all texts from their predicted probabilities. Only whether a label is the
    predicted class counts; that has the probability of the confidence.
    """
    confidence = np.sort(probabilities.max(1))
    starts = np.unique(bin_index(confidence), return_index=True)[1]
    expected = np.add.reduceat(confidence, starts)  # (bins,), in texts
    generator, errors = np.random.default_rng(seed), []
    size = max(1, BLOCK // len(confidence))
    for start in range(0, SIMULATIONS, size):
        correct = generator.random((min(size, SIMULATIONS - start), len(confidence))) < confidence
        right = np.add.reduceat(correct, starts, axis=1, dtype=np.int64)  # (rows, bins)
        errors.append(np.abs(right - expected).sum(1) / len(confidence))
    return np.concatenate(errors)


def calibration_scores(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, dict[str, Any]]:
    """`{"ece": {"value"}, "ece_if_calibrated": {"mean", "percentile_95", "verdict"}}`.

    The verdict says whether the error is "above" the 95th percentile of the errors of a perfectly calibrated model with
    the same probabilities, or "within". An interval of the error would mislead: its estimate is biased upwards, and the
    bootstrap repeats the bias.
    """
    ece, errors = expected_calibration_error(labels, probabilities), simulated_ece(probabilities, seed)
    high = float(np.quantile(errors, LEVEL))
    verdict = "above" if ece > high else "within"
    if_calibrated = {"mean": float(errors.mean()), "percentile_95": high, "verdict": verdict}
    return {"ece": {"value": ece}, "ece_if_calibrated": if_calibrated}


class TemperatureFit(NamedTuple):
    """A temperature fitted on B validation texts, and whether it is used."""

    fitted: float
    log_loss_before: float  # in nats, at T = 1
    log_loss_fitted: float
    gain_error: float | None  # standard error of the gain, paired over the texts; None for a single text

    @property
    def temperature(self) -> float:
        """The fitted temperature if it lowers the log-loss by more than the gain's standard error, else 1."""
        gain = self.log_loss_before - self.log_loss_fitted
        return self.fitted if self.gain_error is not None and gain > self.gain_error else 1.0

    def describe(self) -> str:
        """One sentence: validation log-loss before and after, and the decision."""
        error = "unknown" if self.gain_error is None else f"{self.gain_error:.4f}"
        at_bound = " (bound)" if self.fitted in (MIN_TEMPERATURE, MAX_TEMPERATURE) else ""
        decision = "T = 1 is kept" if self.temperature == 1 else "it is used"
        return (
            f"validation log-loss {self.log_loss_before:.4f} at T = 1, {self.log_loss_fitted:.4f} at the fitted "
            f"T = {self.fitted:.2f}{at_bound}; standard error of the difference {error}: {decision}"
        )


def temperature_fit(labels: Tensor, logits: Tensor) -> TemperatureFit:
    """Fit a temperature on validation labels (B,) and logits (B, C), and measure its gain in log-loss on them."""
    fitted = minimize_temperature(labels, logits)
    before, after = (
        F.cross_entropy(logits.double() / temperature, labels, reduction="none") for temperature in (1.0, fitted)
    )
    error = (before - after).std().item() / math.sqrt(len(labels)) if len(labels) > 1 else None
    return TemperatureFit(fitted, before.mean().item(), after.mean().item(), error)


def fit_temperature(labels: Tensor, logits: Tensor) -> float:
    """The temperature to divide the logits by: the fitted one, or 1 if it gains no more than its standard error."""
    return temperature_fit(labels, logits).temperature


def minimize_temperature(labels: Tensor, logits: Tensor) -> float:
    """The temperature T in [MIN_TEMPERATURE, MAX_TEMPERATURE] that minimizes the cross-entropy of softmax(logits / T).

    Guo et al. 2017, section 4.2. The targets are smoothed, since on a validation set without mistakes hard targets
    would drive T to 0: 1 - 1 / (B + 2) for the label, the rest equally for the other classes. This is the rule of Platt
    1999, section 2.2, with the number of all texts instead of those of the class: with ten texts per class, his targets
    would be 0.92, and the probabilities of a classifier that is right more often too low. The cross-entropy is convex
    in 1 / T, so bisection on its derivative finds the minimum.
    """
    logits = logits.double()  # (B, C)
    missing = 1 / (len(logits) + 2)
    of_label = logits.gather(1, labels[:, None])[:, 0]  # (B,)
    of_others = (logits.sum(dim=1) - of_label) / (logits.shape[1] - 1)
    target = ((1 - missing) * of_label + missing * of_others).sum()  # the logits weighted by the targets

    def too_sharp(temperature: float) -> bool:
        """Whether the cross-entropy falls with a higher temperature: the sign of its derivative by 1 / T."""
        return bool(((logits / temperature).softmax(dim=1) * logits).sum() > target)

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
