"""Calibration error, reliability bins and temperature against hand-computed cases and other libraries."""

import numpy as np
import pytest
import torch
from torch import nn

from minitext.evaluation import calibration
from minitext.evaluation.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    bin_index,
    calibration_scores,
    expected_calibration_error,
    fit_temperature,
    fold_temperature,
    reliability_bins,
    simulated_ece,
    temperature_fit,
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


def test_the_simulated_errors_are_those_of_calibrated_models():
    """Mean and 95th percentile of 400 samples of 300 texts, with the confidences of the first."""
    probabilities = drawn(300, 3)[1]
    generator, errors = np.random.default_rng(0), []
    for _ in range(400):
        labels = (generator.random((300, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
        errors.append(expected_calibration_error(labels, probabilities))
    simulated = simulated_ece(probabilities, seed=1)
    deviation = np.std(errors)
    # standard errors: a twentieth of a deviation of a mean of 400, a tenth of their 95th percentile; three of each
    assert simulated.mean() == pytest.approx(np.mean(errors), abs=3 * deviation / 20)
    assert np.quantile(simulated, 0.95) == pytest.approx(np.quantile(errors, 0.95), abs=3 * deviation / 10)


def test_simulations_do_not_depend_on_the_size_of_a_block(monkeypatch):
    probabilities = drawn(50, 2)[1]
    at_once = simulated_ece(probabilities, seed=0)
    monkeypatch.setattr(calibration, "BLOCK", 120)
    assert np.array_equal(simulated_ece(probabilities, seed=0), at_once)


def test_the_error_of_a_calibrated_model_is_within_and_that_of_an_overconfident_one_above():
    verdicts = {scale: calibration_scores(*drawn(500, 3, scale), seed=0)["ece_if_calibrated"] for scale in (1.0, 2.5)}
    assert [found["verdict"] for found in verdicts.values()] == ["within", "above"]
    assert all(0 < found["mean"] < found["percentile_95"] for found in verdicts.values())


@pytest.mark.slow
def test_one_calibrated_model_in_twenty_is_above():
    """1,000 samples of 200 texts: 0.05, with a standard error of 0.007; three of them."""
    scores = [calibration_scores(*drawn(200, 2, seed=seed), seed)["ece_if_calibrated"] for seed in range(1000)]
    assert np.mean([found["verdict"] == "above" for found in scores]) == pytest.approx(0.05, abs=0.021)


def test_the_calibration_error_has_no_interval():
    assert calibration_scores(*drawn(100, 2), seed=0)["ece"].keys() == {"value"}


def test_the_same_seed_gives_the_same_simulations():
    labels, probabilities = drawn(100, 2)
    assert calibration_scores(labels, probabilities, seed=1) == calibration_scores(labels, probabilities, seed=1)
    assert calibration_scores(labels, probabilities, seed=1) != calibration_scores(labels, probabilities, seed=2)


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
    assert highest == pytest.approx(1 - 1 / 22, abs=1e-6)  # the smoothed target


@pytest.mark.parametrize(("logit", "expected"), [(1e-3, MIN_TEMPERATURE), (1e4, MAX_TEMPERATURE)])
def test_the_temperature_is_bounded(logit: float, expected: float):
    """One label of twenty is wrong: the best temperature grows with the logits."""
    labels = torch.tensor([1] + [0] * 19)
    assert temperature_fit(labels, torch.tensor([[logit, 0.0]] * 20)).fitted == expected


def test_a_gain_within_its_standard_error_leaves_the_temperature_at_1():
    """Contradicting labels of equal texts: a high temperature lowers the loss of one and raises that of the other."""
    fit = temperature_fit(torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert fit.fitted == MAX_TEMPERATURE
    losses = [np.log1p(np.exp(-1)), np.log1p(np.exp(1))]  # at T = 1
    assert fit.log_loss_before == pytest.approx(np.mean(losses), abs=1e-9)
    assert fit.log_loss_fitted == pytest.approx(np.log(2), abs=1e-3)  # T = 20 is nearly uniform
    # the gains differ by 1 / T less than the losses; the standard error of two values is half their difference
    assert fit.gain_error == pytest.approx(0.5 * (1 - 1 / MAX_TEMPERATURE), abs=1e-9)
    assert fit.temperature == 1.0
    assert "T = 1 is kept" in fit.describe() and "(bound)" in fit.describe()


def test_a_gain_beyond_its_standard_error_is_used():
    labels, logits = drawn_logits(2000, 3, scale=2.5)
    fit = temperature_fit(labels, logits)
    gains = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    gains -= nn.functional.cross_entropy(logits.double() / fit.fitted, labels, reduction="none")
    assert fit.gain_error == pytest.approx(gains.std().item() / 2000**0.5, abs=1e-9)
    assert fit.log_loss_before - fit.log_loss_fitted == pytest.approx(gains.mean().item(), abs=1e-9)
    assert fit.temperature == fit.fitted == fit_temperature(labels, logits)
    assert fit.describe().endswith("it is used")


@pytest.mark.parametrize("label", [0, 1])
def test_a_single_text_leaves_the_temperature_at_1(label: int):
    fit = temperature_fit(torch.tensor([label]), torch.tensor([[2.0, 0.0]]))
    assert (fit.gain_error, fit.temperature) == (None, 1.0)


def test_calibrated_logits_leave_the_temperature_at_1_most_often():
    """A gain is one standard error of noise in about 16 of 100 samples, or less as the fit maximizes it."""
    kept = [fit_temperature(*drawn_logits(100, 2, seed=seed)) == 1.0 for seed in range(100)]
    assert sum(kept) > 60


@pytest.mark.parametrize("right", [True, False])
def test_validation_texts_of_one_class_give_a_finite_temperature(right: bool):
    """All right: as sharp as the smoothed target. All wrong: as flat as allowed."""
    logits = torch.stack([torch.linspace(0.5, 1.5, 8), torch.zeros(8)], dim=1)
    temperature = fit_temperature(torch.full((8,), 0 if right else 1), logits)
    if right:
        assert MIN_TEMPERATURE < temperature < 1
        assert (logits / temperature).softmax(dim=1)[:, 0].mean().item() == pytest.approx(1 - 1 / 10, abs=0.03)
    else:
        assert temperature == MAX_TEMPERATURE


@pytest.mark.parametrize("bias", [True, False])
def test_folding_the_temperature_divides_the_logits(bias: bool):
    torch.manual_seed(0)
    linear, inputs = nn.Linear(5, 3, bias=bias), torch.randn(7, 5)
    before = linear(inputs).detach()
    fold_temperature(linear, 2.0)
    assert torch.equal(linear(inputs), before / 2)  # halves are exact
    assert linear.weight.requires_grad
