"""Calibration error, Brier score, reliability bins and temperature against hand-computed cases and other libraries."""

import numpy as np
import pytest
import torch
from torch import nn

from minitext.evaluation import calibration, metrics
from minitext.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    bin_index,
    brier_scores,
    calibration_scores,
    expected_calibration_error,
    expected_ece_if_calibrated,
    fit_temperature,
    fold_temperature,
    reliability_bins,
)

EXACT = 1e-12  # float64 sums of a few numbers


def two_class(*second: float) -> np.ndarray:
    """Probabilities of two classes from those of the second."""
    return np.array([[1 - p, p] for p in second])


def drawn_logits(count: int, classes: int, scale: float = 1.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels drawn from the softmax of logits, and these logits multiplied by `scale`: the right temperature."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(count, classes))
    calibrated = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([generator.choice(classes, p=row) for row in calibrated])
    return torch.from_numpy(labels), torch.from_numpy(scale * logits).float()


def drawn(count: int, classes: int, scale: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The same, with probabilities for logits."""
    labels, logits = drawn_logits(count, classes, scale, seed)
    return labels.numpy(), logits.double().softmax(dim=1).numpy()


# Bins


def test_a_bin_is_closed_above_and_zero_belongs_to_the_first(monkeypatch):
    monkeypatch.setattr(calibration, "BINS", 10)
    assert bin_index(np.array([0.0, 0.1, 0.1001, 0.5, 0.50001, 1.0])).tolist() == [0, 0, 1, 4, 5, 9]


# Calibration error


def test_the_calibration_error_of_three_texts(monkeypatch):
    monkeypatch.setattr(calibration, "BINS", 4)
    # confidences 0.8 (right), 0.9 (wrong), 0.6 (right): bins (0.5, 0.75] and (0.75, 1] of four
    labels, probabilities = np.array([1, 0, 1]), two_class(0.8, 0.9, 0.6)
    upper, lower = abs(1 / 2 - 0.85), abs(1 - 0.6)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(2 / 3 * upper + 1 / 3 * lower, abs=EXACT)


def test_a_model_that_is_always_right_with_probability_1_has_no_error():
    assert expected_calibration_error(np.array([0, 1]), two_class(0.0, 1.0)) == 0


def test_the_expected_error_is_the_mean_error_of_calibrated_models():
    errors, expected = [], []
    for seed in range(40):
        labels, probabilities = drawn(300, 3, seed=seed)
        errors.append(expected_calibration_error(labels, probabilities))
        expected.append(expected_ece_if_calibrated(labels, probabilities))
    assert np.mean(expected) == pytest.approx(np.mean(errors), rel=0.1)  # 40 runs: 3 % of error, and bins are few


@pytest.mark.oracle
def test_the_bins_equal_those_of_scikit_learn(monkeypatch):
    oracle = pytest.importorskip("sklearn.calibration")
    monkeypatch.setattr(calibration, "BINS", 10)
    labels, probabilities = drawn(400, 2, 2.0)
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    accuracies, means = oracle.calibration_curve(correct, confidence, n_bins=10)
    counts = np.bincount(bin_index(confidence))
    expected = (counts[counts > 0] * np.abs(accuracies - means)).sum() / 400
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected, abs=1e-9)


# Brier score


@pytest.mark.oracle
@pytest.mark.parametrize("classes", [2, 4])
def test_the_brier_score_equals_scikit_learn(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = drawn(200, classes, 1.7)
    if classes == 2:
        expected = metrics.brier_score_loss(labels, probabilities[:, 1])
    else:
        expected = ((probabilities - np.eye(classes)[labels]) ** 2).sum(1).mean()  # Brier 1950, by its definition
    assert brier_scores(labels, probabilities).mean() == pytest.approx(expected, abs=1e-9)


# Reliability diagram


def test_reliability_bins_contain_all_texts_and_leave_empty_bins_out(monkeypatch):
    monkeypatch.setattr(calibration, "BINS", 4)
    rows = reliability_bins(np.array([1, 0, 1]), two_class(0.8, 0.9, 0.6))
    assert [row["count"] for row in rows] == [1, 2]
    assert [row["confidence"] for row in rows] == pytest.approx([0.6, 0.85])
    assert [row["accuracy"] for row in rows] == [1.0, 0.5]
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows)


# Temperature


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "scale"), [(2, 2.5), (3, 2.5), (3, 0.4)])
def test_the_temperature_is_the_minimum_that_scipy_finds(classes, scale):
    optimize = pytest.importorskip("scipy.optimize")
    labels, logits = drawn_logits(2000, classes, scale)
    missing = 1 / 2002
    targets = torch.full((2000, classes), missing / (classes - 1), dtype=torch.float64)
    targets[torch.arange(2000), labels] = 1 - missing

    def loss(temperature: float) -> float:
        return nn.functional.cross_entropy(logits.double() / temperature, targets).item()

    found = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-10}).x
    assert fit_temperature(labels, logits) == pytest.approx(found, rel=1e-6)  # a flat minimum: sqrt(1e-12)


def test_the_temperature_undoes_a_scaling_of_calibrated_logits():
    labels, logits = drawn_logits(4000, 3, scale=2.5)
    temperature = fit_temperature(labels, logits)
    assert temperature == pytest.approx(2.5, rel=0.06)  # three standard errors of 4,000 texts
    before, after = (
        expected_calibration_error(labels.numpy(), (logits / divisor).softmax(dim=1).numpy())
        for divisor in (1, temperature)
    )
    assert after < before / 4


def test_a_validation_set_without_mistakes_does_not_drive_probabilities_to_0_and_1():
    labels, logits = torch.tensor([0, 1] * 10), torch.tensor([[1.0, -1.0], [-1.0, 1.0]] * 10)
    temperature = fit_temperature(labels, logits)
    assert 0.5 < temperature < 1
    highest = (logits.double() / temperature).softmax(dim=1).max().item()
    assert highest == pytest.approx(1 - 1 / 22, abs=1e-6)  # Platt's target


@pytest.mark.parametrize(("logit", "expected"), [(1e-3, MIN_TEMPERATURE), (1e4, MAX_TEMPERATURE)])
def test_the_temperature_is_bounded(logit: float, expected: float):
    """One label of twenty is wrong: the best temperature grows with the logits."""
    labels = torch.tensor([1] + [0] * 19)
    assert fit_temperature(labels, torch.tensor([[logit, 0.0]] * 20)) == expected


def test_labels_that_the_logits_do_not_predict_give_the_highest_temperature():
    assert fit_temperature(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])) == MAX_TEMPERATURE


@pytest.mark.parametrize("bias", [True, False])
def test_folding_the_temperature_divides_the_logits(bias: bool):
    torch.manual_seed(0)
    linear, inputs = nn.Linear(5, 3, bias=bias), torch.randn(7, 5)
    before = linear(inputs).detach()
    fold_temperature(linear, 2.0)
    assert torch.equal(linear(inputs), before / 2)  # halves are exact
    assert linear.weight.requires_grad


# All scores


def test_intervals_contain_their_values():
    labels, probabilities = drawn(500, 3, 2.5)
    scores = calibration_scores(labels, probabilities, seed=0)
    assert scores["ece"]["low"] < scores["ece"]["value"] <= scores["ece"]["high"]
    assert scores["brier"]["low"] < scores["brier"]["value"] < scores["brier"]["high"]
    assert scores["ece_if_calibrated"] == {"value": expected_ece_if_calibrated(labels, probabilities)}


def test_intervals_follow_their_definition_on_the_same_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    labels, probabilities = drawn(80, 3, 2.5)
    generator, errors, briers = np.random.default_rng(5), [], []
    for _ in range(200):
        chosen = generator.integers(80, size=80)
        errors.append(expected_calibration_error(labels[chosen], probabilities[chosen]))
        briers.append(brier_scores(labels[chosen], probabilities[chosen]).mean())
    scores = calibration_scores(labels, probabilities, seed=5)
    ece = expected_calibration_error(labels, probabilities)
    expected = [max(2 * ece - np.quantile(errors, q), least) for q, least in ((0.975, 0), (0.025, ece))]
    assert [scores["ece"]["low"], scores["ece"]["high"]] == pytest.approx(expected, abs=1e-9)
    expected = np.quantile(briers, [0.025, 0.975]).tolist()
    assert [scores["brier"]["low"], scores["brier"]["high"]] == pytest.approx(expected, abs=1e-9)


def test_the_same_seed_gives_the_same_intervals():
    labels, probabilities = drawn(100, 2)
    assert calibration_scores(labels, probabilities, seed=1) == calibration_scores(labels, probabilities, seed=1)
    assert calibration_scores(labels, probabilities, seed=1) != calibration_scores(labels, probabilities, seed=2)
