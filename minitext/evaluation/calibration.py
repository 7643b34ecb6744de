"""Whether probabilities mean what they say, and one number that makes them say it better.

In: labels (N,) int64 and probabilities (N, C). Out: calibration errors, the Brier score and its parts, the bins of a
reliability diagram, and the temperature of Guo et al. 2017, "On calibration of modern neural networks". Letters: N
texts, C classes, K bins. A text's confidence is the probability of its predicted class.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from minitext.evaluation.metrics import LEVEL, resamples

BINS = 15  # Guo et al. 2017, section 5
TINY = float(np.finfo(np.float32).tiny)  # a probability that has been rounded to 0 still has a logarithm


def confidence_and_correct(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each text's confidence, and 1 where its prediction is right, else 0; (N,) each."""
    return probabilities.max(1).astype(np.float64), (probabilities.argmax(1) == labels).astype(np.float64)


def bin_index(values: np.ndarray, bins: int = BINS, equal: str = "width") -> np.ndarray:
    """(N,) int64: each value's bin. Equal `width`: K bins between 0 and 1, closed above. Equal `mass`: by rank, so that
    the bins hold as many texts each as they can; equal values may be parted.
    """
    if equal == "width":
        return np.clip(np.ceil(values * bins).astype(np.int64) - 1, 0, bins - 1)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * min(bins, len(values)) // max(len(values), 1)


def sums_by_bin(places: np.ndarray, columns: list[np.ndarray]) -> list[np.ndarray]:
    """How many texts a bin holds, and of each column the sum over them; (K,) each, empty bins left out."""
    counts = np.bincount(places)
    full = counts > 0
    return [counts[full], *(np.bincount(places, column)[full] for column in columns)]


def expected_calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS, equal: str = "width", debiased: bool = False
) -> float:
    """The expected calibration error: how far accuracy and mean confidence of a bin lie apart, in the mean over texts.

    Naeini et al. 2015 and Guo et al. 2017, section 2, with the predicted class as the event, whatever the number of
    classes. Plain, it is the mean of absolute gaps, and positive for a perfect model too, as bins are noisy. `debiased`
    takes the root of the mean of squared gaps, each less the variance of its bin's accuracy (Kumar, Liang & Ma 2019,
    "Verified uncertainty calibration", section 4.1), and 0 where less than nothing is left.
    """
    confidence, right = confidence_and_correct(labels, probabilities)
    return gap_over_bins(bin_index(confidence, bins, equal), confidence, right, debiased)


def gap_over_bins(places: np.ndarray, confidence: np.ndarray, right: np.ndarray, debiased: bool = False) -> float:
    counts, confident, hits = sums_by_bin(places, [confidence, right])
    gaps, accuracy = (hits - confident) / counts, hits / counts
    if not debiased:
        return float((counts * np.abs(gaps)).sum() / counts.sum())
    # a bin of one text says nothing of its own variance: it gets the largest there is
    noise = np.where(counts > 1, accuracy * (1 - accuracy) / np.maximum(counts - 1, 1), 0.25)
    return math.sqrt(max(float((counts * (gaps**2 - noise)).sum() / counts.sum()), 0.0))


def expected_ece_if_calibrated(probabilities: np.ndarray, bins: int = BINS) -> float:
    """The calibration error that a perfect model with these confidences would show on so many texts, in the mean.

    In a bin of n texts said to be right with probability c, the share of right ones deviates from c by
    sqrt(2 / pi * c (1 - c) / n) in the mean (of a normal distribution).
    """
    confidence = probabilities.max(1).astype(np.float64)
    counts, said = sums_by_bin(bin_index(confidence, bins), [confidence])
    deviations = np.sqrt(2 / np.pi * said / counts * (1 - said / counts) / counts)
    return float((counts * deviations).sum() / counts.sum())


def classwise_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> float:
    """The same for every class's probability, not only the largest, in the mean over classes (Nixon et al. 2019,
    "Measuring calibration in deep learning", section 3, there "static"); equal width.
    """
    errors = []
    for c, column in enumerate(probabilities.T.astype(np.float64)):
        errors.append(gap_over_bins(bin_index(column, bins), column, (labels == c).astype(np.float64)))
    return float(np.mean(errors))


def brier_scores(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """(N,): squared distance between probabilities and truth, summed over classes (Brier 1950); halved for two classes,
    as scikit-learn has it, so that it is the squared error of one probability.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return ((probabilities - truth) ** 2).sum(1) / (2 if probabilities.shape[1] == 2 else 1)


def brier_parts(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> dict[str, float]:
    """The Brier score as reliability - resolution + uncertainty + within_bins, exactly.

    Murphy 1973, for each class in bins of equal mass of its probability. Reliability: squared gap between a bin's mean
    probability and its share of the class. Resolution: how far the shares differ from the class's overall share.
    Uncertainty: what always answering the overall shares would score. `within_bins` is what binning leaves over:
    variance less twice the covariance inside the bins (Stephenson et al. 2008).
    """
    parts = dict.fromkeys(("reliability", "resolution", "uncertainty", "within_bins"), 0.0)
    count = len(labels)
    for c, column in enumerate(probabilities.T.astype(np.float64)):
        truth = (labels == c).astype(np.float64)
        places = bin_index(column, bins, "mass")
        sizes, said, found, squares, products = sums_by_bin(places, [column, truth, column**2, column * truth])
        parts["reliability"] += ((said - found) ** 2 / sizes).sum() / count
        parts["resolution"] += (sizes * (found / sizes - truth.mean()) ** 2).sum() / count
        parts["uncertainty"] += truth.mean() * (1 - truth.mean())
        parts["within_bins"] += (squares - said**2 / sizes - 2 * (products - said * found / sizes)).sum() / count
    halves = 2 if probabilities.shape[1] == 2 else 1
    return {name: float(value) / halves for name, value in parts.items()}


def reliability_bins(labels: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> list[dict[str, float]]:
    """A reliability diagram's bins of equal width that hold texts: `low` and `high` confidence, `count`, mean
    `confidence`, `accuracy`, and the accuracy's 95 % interval, `accuracy_low` to `accuracy_high` (Wilson 1927).
    """
    confidence, right = confidence_and_correct(labels, probabilities)
    places = bin_index(confidence, bins)
    rows = []
    sums = sums_by_bin(places, [confidence, right])
    for place, count, said, hits in zip(np.unique(places), *sums, strict=True):
        low, high = wilson(float(hits), float(count))
        rows.append(
            {"low": place / bins, "high": (place + 1) / bins, "count": int(count), "confidence": said / count,
             "accuracy": hits / count, "accuracy_low": low, "accuracy_high": high}
        )  # fmt: skip
    return rows


def wilson(hits: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `hits` among `count` (Wilson 1927; sound for few, and near 0 and 1)."""
    z = 1.959963984540054  # the normal distribution's 97.5 % quantile
    share, width = hits / count, z * z / count
    middle = (share + width / 2) / (1 + width)
    half = z * math.sqrt(share * (1 - share) / count + width / (4 * count)) / (1 + width)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The T > 0 for which softmax(logits / T) has the least cross-entropy on (validation) texts, by L-BFGS.

    Guo et al. 2017, section 4.2. Log-probabilities serve as the logits, since softmax does not see a text's constant.
    The targets are Platt's (1999, section 2.2: not 1 but 1 - 1 / (N + 2)): where validation holds no mistake, 1 would
    drive T to 0 and every probability to 0 or 1.
    """
    logits = torch.from_numpy(as_logits(probabilities))  # (N, C)
    count, classes = logits.shape
    missing = 1 / (count + 2)
    targets = F.one_hot(torch.from_numpy(labels), classes) * (1 - missing * classes / (classes - 1))
    targets = targets + missing / (classes - 1)  # (N, C), rows add up to 1
    log_inverse = torch.zeros((), dtype=torch.float64, requires_grad=True)  # log(1 / T): T stays above 0
    optimizer = torch.optim.LBFGS(
        [log_inverse], max_iter=200, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits * log_inverse.exp(), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return math.exp(-log_inverse.item())


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(N, C) probabilities after their logits have been divided by `temperature`; 1 / temperature takes that back."""
    logits = as_logits(probabilities) / temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def as_logits(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms, in float64, of probabilities of which some may have been rounded to 0."""
    return np.log(np.maximum(probabilities.astype(np.float64), TINY))


def calibration_scores(labels: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, dict]:
    """Calibration errors `{"ece", "ece_equal_mass", "ece_debiased", "ece_by_chance", "ece_classwise"}` and `"brier"`,
    each {"value"}, the first and the last with "low" and "high"; and the Brier score's parts, `"brier_parts"`.

    The Brier score's interval is the bootstrap's percentiles. Resampling adds to the calibration error what noise adds
    to it, once more; so its interval is the basic one, reflected at the value (Efron & Tibshirani 1993, 13.4; Davison
    & Hinkley 1997, 5.2). It does not go below 0, nor end below the value, which noise alone may have raised.
    """
    confidence, right = confidence_and_correct(labels, probabilities)
    places, count = bin_index(confidence), len(labels)
    order = np.argsort(places, kind="stable")  # texts of a bin side by side
    _, starts = np.unique(places[order], return_index=True)
    gaps, squares = (right - confidence)[order], brier_scores(labels, probabilities)[order]
    errors, briers = [], []
    for weights in resamples(count, seed):  # (R, N)
        errors.append(np.abs(np.add.reduceat(weights * gaps, starts, axis=1)).sum(1) / count)
        briers.append(np.einsum("rn,n->r", weights, squares) / count)
    errors, briers = np.concatenate(errors), np.concatenate(briers)
    ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ece = expected_calibration_error(labels, probabilities)
    low, high = np.maximum(2 * ece - np.quantile(errors, ends[::-1]), (0.0, ece))
    brier_low, brier_high = np.quantile(briers, ends)
    return {
        "ece": {"value": ece, "low": float(low), "high": float(high)},
        "ece_equal_mass": {"value": expected_calibration_error(labels, probabilities, equal="mass")},
        "ece_debiased": {"value": expected_calibration_error(labels, probabilities, equal="mass", debiased=True)},
        "ece_by_chance": {"value": expected_ece_if_calibrated(probabilities)},
        "ece_classwise": {"value": classwise_calibration_error(labels, probabilities)},
        "brier": {"value": float(squares.mean()), "low": float(brier_low), "high": float(brier_high)},
        "brier_parts": brier_parts(labels, probabilities),
    }
