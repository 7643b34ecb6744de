"""How often 95 % intervals contain the truth: exactly for proportions, by simulation for the other scores.

`python tests/evaluation/test_coverage.py` prints the table of docs/results.md.
"""

import math

import numpy as np
import pytest

from minitext.evaluation import bootstrap, metrics
from minitext.evaluation.intervals import difference, proportion, wilson
from minitext.evaluation.metrics import average_scores, class_counts, class_limits, class_scores, classification_scores

COUNTS = (50, 150, 500)
TRUTHS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.97, 0.98, 0.99)
ROUNDING = 1e-12


def binomial(n: int, p: np.ndarray) -> np.ndarray:
    """(len(p), n + 1): the probability of each number of successes."""
    k = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) for i in k])
    return np.exp(log_choose + k * np.log(p)[:, None] + (n - k) * np.log1p(-p)[:, None])


def coverage(n: int, truths: np.ndarray, limits: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The probability that the limits (n + 1,), one pair per number of successes, contain each true proportion."""
    low, high = limits
    inside = (low <= truths[:, None] + ROUNDING) & (truths[:, None] - ROUNDING <= high)
    return (binomial(n, truths) * inside).sum(1)


def bootstrap_limits(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The percentile bootstrap of k right texts of n with infinitely many resamples: binomial quantiles."""
    rates = np.clip(np.arange(n + 1) / n, 1e-300, 1 - 1e-16)
    cumulated = np.cumsum(binomial(n, rates), axis=1)
    ends = [(cumulated < quantile - ROUNDING).sum(1) / n for quantile in bootstrap.QUANTILES]
    for end in ends:
        end[[0, -1]] = 0, 1  # none and all right: every resample is equal
    return ends[0], ends[1]


def wilson_limits(n: int) -> tuple[np.ndarray, np.ndarray]:
    return wilson(np.arange(n + 1), np.full(n + 1, n))


@pytest.mark.slow
@pytest.mark.parametrize("n", COUNTS)
def test_wilson_intervals_cover_95_percent_averaged_over_nearby_accuracies(n: int):
    """Counts are discrete: at a single accuracy no interval has a coverage of exactly 95 %."""
    for low, high in ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 0.95), (0.95, 0.99)):
        assert 0.93 <= coverage(n, np.linspace(low, high, 101), wilson_limits(n)).mean() <= 0.97, (low, high)


@pytest.mark.slow
@pytest.mark.parametrize("n", COUNTS)
def test_wilson_intervals_cover_93_to_97_percent_at_each_accuracy_but_the_highest(n: int):
    """Exceptions are n = 50 at 0.98 (0.922) and 0.99 (0.911), where a single error decides."""
    truths = np.array([p for p in TRUTHS if n > 50 or p <= 0.97])
    found = coverage(n, truths, wilson_limits(n))
    assert (found >= 0.93).all() and (found <= 0.971).all(), dict(zip(truths, found, strict=True))
    assert coverage(n, np.linspace(0.5, 0.99, 491), wilson_limits(n)).min() > 0.89


@pytest.mark.slow
def test_the_percentile_bootstrap_of_an_accuracy_does_not_cover():
    """Which is why it is not used: 0.78 at n = 50 and an accuracy of 0.97."""
    assert coverage(50, np.array([0.97]), bootstrap_limits(50))[0] == pytest.approx(0.778, abs=0.001)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(150, 50), (500, 150)])
@pytest.mark.parametrize(("p", "q"), [(0.9, 0.8), (0.97, 0.9), (0.99, 0.95)])
def test_intervals_of_the_generalization_gap_cover(n: int, m: int, p: float, q: float):
    """Exactly: over all pairs of numbers of right texts. The widest, at 0.99 of 150 and 0.95 of 50, cover 0.974."""
    train, test = (binomial(count, np.array([rate]))[0] for count, rate in ((n, p), (m, q)))
    total = 0.0
    for i in np.flatnonzero(train > 1e-7):
        for j in np.flatnonzero(test > 1e-7):
            found = difference(proportion(int(i), n), proportion(int(j), m))
            total += train[i] * test[j] * (found["low"] <= p - q <= found["high"])
    assert 0.93 <= total <= 0.975


# Scores of classes and their averages, by simulation

SETTINGS = {  # number of texts, sizes of the classes, their recalls
    "two classes": (150, [1, 1], [0.9, 0.9]),
    "a rare class": (150, [9, 1], [0.97, 0.7]),
    "three classes": (150, [5, 3, 1], [0.97, 0.9, 0.7]),
    "ten small classes": (50, [1] * 10, [0.9] * 10),
    "ten unlike classes": (150, [1] * 10, list(np.linspace(0.99, 0.6, 10))),
    "forty classes": (500, [1] * 40, list(np.linspace(0.99, 0.7, 40))),
    "right nearly always": (500, [1, 1], [0.97, 0.97]),
    "a rare class, right nearly always": (150, [9, 1], [0.99, 0.99]),
    "a hundred classes of five": (500, [1] * 100, [0.8] * 100),
}


def simulated_coverage(n: int, sizes: list[float], recalls: list[float], rounds: int) -> dict[str, float]:
    """The fraction of `rounds` samples whose intervals contain the truth, for each score of the predicted classes.

    The truth of an average of precision or recall is that over the classes, and with the weights, of the sample.
    """
    classes, generator = len(sizes), np.random.default_rng(0)
    joint = np.array(sizes)[:, None] / sum(sizes) * (1 - np.array(recalls))[:, None] / (classes - 1)
    joint = np.repeat(joint, classes, axis=1)
    np.fill_diagonal(joint, np.array(sizes) / sum(sizes) * np.array(recalls))
    truths, of_class = average_scores(*class_counts(joint)), class_scores(*class_counts(joint))
    names, hits = tuple(map(str, range(classes))), {}
    for seed in range(rounds):
        labels, predicted = np.divmod(generator.choice(classes**2, size=n, p=joint.ravel()), classes)
        found = classification_scores(labels, predicted, np.full((n, classes), 1 / classes), names, seed)
        counts = _, predicted_as, support = class_counts(np.array(found["confusion"]))
        seen = (predicted_as + support) > 0
        known = {"precision": predicted_as > 0, "recall": support > 0}
        truth = {"accuracy": truths["accuracy"], "macro_f1": truths["macro_f1"]}
        truth |= {f"macro_{key}": (of_class[key] * known[key]).sum() / seen.sum() for key in known}
        for key, value in truth.items():
            inside = found[key]["low"] - ROUNDING <= value <= found[key]["high"] + ROUNDING
            hits.setdefault(key, []).append(inside)
        for key, (low, high) in class_limits(*counts).items():
            inside = (low <= of_class[key] + ROUNDING) & (of_class[key] - ROUNDING <= high)
            hits.setdefault(key, []).extend(inside[~np.isnan(low)])
    return {key: float(np.mean(values)) for key, values in hits.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_intervals_of_classes_and_their_averages_cover(monkeypatch, name: str):
    """400 samples: standard error 0.011; the bounds are 0.93 and 0.97 with two of them."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    found = simulated_coverage(*SETTINGS[name], rounds=400)
    for key, value in found.items():
        assert 0.908 <= value <= 0.992, (key, found)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 4])
def test_intervals_of_probability_scores_cover(monkeypatch, classes: int):
    """400 samples of 200 texts; the truth is that of 100,000 texts."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    generator = np.random.default_rng(0)

    def sample(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = generator.integers(classes, size=count)
        raw = np.exp(generator.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels])
        return labels, raw / raw.sum(1, keepdims=True)

    truth = metrics.probability_scores(*sample(100_000), seed=0)
    hits = {key: 0 for key in truth}
    for seed in range(400):
        for key, found in metrics.probability_scores(*sample(200), seed).items():
            hits[key] += found["low"] <= truth[key]["value"] <= found["high"]
    for key, count in hits.items():
        assert 0.91 <= count / 400 <= 0.98, hits


def print_table() -> None:
    print("| texts | interval | " + " | ".join(f"{p:g}" for p in TRUTHS) + " | mean of 0.5 to 0.99 | lowest |")
    print("| --- " * (len(TRUTHS) + 4) + "|")
    for n in COUNTS:
        for name, limits in (("bootstrap", bootstrap_limits(n)), ("Wilson", wilson_limits(n))):
            cells = [f"{value:.3f}" for value in coverage(n, np.array(TRUTHS), limits)]
            fine = coverage(n, np.linspace(0.5, 0.99, 491), limits)
            print(f"| {n} | {name} | {' | '.join(cells)} | {fine.mean():.3f} | {fine.min():.3f} |")


if __name__ == "__main__":
    print_table()
