"""Calibration: errors, Brier score, reliability diagram, temperature."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.evaluation import metrics
from minitext.evaluation.calibration import (
    apply_temperature,
    bin_index,
    brier_parts,
    brier_scores,
    calibration_scores,
    classwise_calibration_error,
    expected_calibration_error,
    expected_ece_if_calibrated,
    fit_temperature,
    reliability_bins,
    wilson,
)

EXACT = 1e-12  # float64 sums of a few numbers


def two_class(*second: float) -> np.ndarray:
    """Probabilities of two classes from those of the second."""
    return np.array([[1 - p, p] for p in second])


def drawn(count: int, classes: int, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from a model's own probabilities, and these sharpened (temperature below 1) or flattened."""
    generator = np.random.default_rng(seed)
    logits = 1.5 * generator.normal(size=(count, classes))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([generator.choice(classes, p=row) for row in honest])
    return labels, apply_temperature(honest, temperature)


# Bins


def test_a_bin_of_equal_width_is_closed_above_and_zero_belongs_to_the_first():
    assert bin_index(np.array([0.0, 0.1, 0.1001, 0.5, 0.50001, 1.0]), bins=10).tolist() == [0, 0, 1, 4, 5, 9]


def test_bins_of_equal_mass_hold_as_many_texts_each_whatever_their_values():
    places = bin_index(np.array([0.9, 0.1, 0.91, 0.92, 0.2, 0.93]), bins=3, equal="mass")
    assert places.tolist() == [1, 0, 1, 2, 0, 2]


def test_more_bins_than_texts_give_each_text_its_own():
    assert sorted(bin_index(np.array([0.3, 0.1, 0.2]), bins=15, equal="mass")) == [0, 1, 2]


# Calibration error


def test_the_calibration_error_of_a_case_done_by_hand():
    # confidences 0.8 (right), 0.9 (wrong), 0.6 (right): bins (0.5, 0.75] and (0.75, 1] of four
    labels, probabilities = np.array([1, 0, 1]), two_class(0.8, 0.9, 0.6)
    upper, lower = abs(1 / 2 - 0.85), abs(1 - 0.6)
    assert expected_calibration_error(labels, probabilities, bins=4) == pytest.approx(
        2 / 3 * upper + 1 / 3 * lower, abs=EXACT
    )


def test_a_model_that_is_always_right_and_sure_has_no_error():
    assert expected_calibration_error(np.array([0, 1]), two_class(0.0, 1.0)) == 0


def test_the_debiased_error_of_a_case_done_by_hand():
    # one bin of four texts, said 0.7, right 2 of 4: squared gap 0.04, variance of the accuracy 0.25 / 3
    labels, probabilities = np.array([1, 1, 0, 0]), two_class(0.7, 0.7, 0.7, 0.7)
    assert (
        expected_calibration_error(labels, probabilities, 1, "mass", debiased=True) == 0
    )  # 0.04 - 0.083 is below nothing
    labels, probabilities = np.array([1, 0, 0, 0]), two_class(0.9, 0.9, 0.9, 0.9)
    expected = math.sqrt((1 / 4 - 0.9) ** 2 - (1 / 4) * (3 / 4) / 3)
    assert expected_calibration_error(labels, probabilities, 1, "mass", debiased=True) == pytest.approx(
        expected, abs=EXACT
    )


def test_noise_adds_to_the_plain_error_of_a_perfect_model_and_not_to_the_debiased_one():
    plain, debiased = [], []
    for seed in range(20):
        labels, probabilities = drawn(300, 3, seed=seed)
        plain.append(expected_calibration_error(labels, probabilities, equal="mass"))
        debiased.append(expected_calibration_error(labels, probabilities, equal="mass", debiased=True))
    assert np.mean(plain) > 0.04  # 20 texts a bin: a deviation of about 0.1 each
    assert np.mean(debiased) < np.mean(plain) / 1.5


def test_the_error_by_chance_is_what_perfect_models_show_in_the_mean():
    errors, expected = [], []
    for seed in range(40):
        labels, probabilities = drawn(300, 3, seed=seed)
        errors.append(expected_calibration_error(labels, probabilities))
        expected.append(expected_ece_if_calibrated(probabilities))
    assert np.mean(expected) == pytest.approx(np.mean(errors), rel=0.1)  # 40 runs: 3 % of error, and bins are few


def test_the_classwise_error_of_two_classes_counts_both_probabilities():
    labels, probabilities = np.array([1, 0, 1]), two_class(0.8, 0.9, 0.6)
    upper, lower = abs(1 / 2 - 0.85), abs(1 - 0.6)  # the second class; the first is its mirror image
    expected = 2 / 3 * upper + 1 / 3 * lower
    assert classwise_calibration_error(labels, probabilities, bins=4) == pytest.approx(expected, abs=EXACT)


@pytest.mark.oracle
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_the_errors_bins_are_those_of_scikit_learns_calibration_curve(strategy):
    calibration = pytest.importorskip("sklearn.calibration")
    labels, probabilities = drawn(400, 2, 0.5)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    shares, means = calibration.calibration_curve(right, confidence, n_bins=10, strategy=strategy)
    equal = {"uniform": "width", "quantile": "mass"}[strategy]
    counts = np.bincount(bin_index(confidence, 10, equal))
    expected = (counts[counts > 0] * np.abs(shares - means)).sum() / 400
    # scikit-learn's quantile bins are parted by interpolated edges, which no continuous value sits on
    assert expected_calibration_error(labels, probabilities, 10, equal) == pytest.approx(expected, abs=1e-9)


# Brier score


@pytest.mark.oracle
@pytest.mark.parametrize("classes", [2, 4])
def test_the_brier_score_is_scikit_learns(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, probabilities = drawn(200, classes, 0.6)
    if classes == 2:
        expected = metrics.brier_score_loss(labels, probabilities[:, 1])
    else:
        expected = ((probabilities - np.eye(classes)[labels]) ** 2).sum(1).mean()  # Brier 1950, by its definition
    assert brier_scores(labels, probabilities).mean() == pytest.approx(expected, abs=1e-9)


def test_the_brier_scores_parts_of_a_case_done_by_hand():
    # second class: 0.2 twice (once true), 0.8 twice (always true); two bins; overall share 3/4
    labels, probabilities = np.array([0, 1, 1, 1]), two_class(0.2, 0.2, 0.8, 0.8)
    parts = brier_parts(labels, probabilities, bins=2)
    assert parts["reliability"] == pytest.approx((0.3**2 + 0.2**2) / 2, abs=EXACT)
    assert parts["resolution"] == pytest.approx(0.25**2, abs=EXACT)
    assert parts["uncertainty"] == pytest.approx(3 / 4 * 1 / 4, abs=EXACT)
    assert parts["within_bins"] == pytest.approx(0, abs=EXACT)


@given(st.integers(1, 60), st.integers(2, 5), st.floats(0.2, 3), st.integers(0, 99))
def test_the_parts_add_up_to_the_brier_score(count, classes, temperature, seed):
    labels, probabilities = drawn(count, classes, temperature, seed)
    parts = brier_parts(labels, probabilities)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bins"]
    assert total == pytest.approx(brier_scores(labels, probabilities).mean(), abs=1e-9)


# Reliability diagram


def test_a_reliability_diagrams_bins_hold_all_texts_and_leave_empty_bins_out():
    rows = reliability_bins(np.array([1, 0, 1]), two_class(0.8, 0.9, 0.6), bins=4)
    assert [(row["low"], row["high"], row["count"]) for row in rows] == [(0.5, 0.75, 1), (0.75, 1.0, 2)]
    assert [row["confidence"] for row in rows] == pytest.approx([0.6, 0.85])
    assert [row["accuracy"] for row in rows] == [1.0, 0.5]
    assert all(row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] for row in rows)


@pytest.mark.oracle
@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 7), (81, 263), (10, 10)])
def test_the_interval_of_a_share_is_scipys_wilson_interval(hits, count):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson(hits, count) == pytest.approx((expected.low, expected.high), abs=1e-9)


# Temperature


@pytest.mark.oracle
@pytest.mark.parametrize(("classes", "sharpened"), [(2, 0.4), (3, 0.4), (3, 2.5)])
def test_the_temperature_is_the_minimum_that_scipy_finds(classes, sharpened):
    optimize = pytest.importorskip("scipy.optimize")
    labels, probabilities = drawn(2000, classes, sharpened)
    missing = 1 / 2002
    targets = np.where(np.eye(classes)[labels] == 1, 1 - missing, missing / (classes - 1))

    def loss(temperature: float) -> float:
        return -(targets * np.log(apply_temperature(probabilities, temperature))).sum()

    found = optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-10}).x
    assert fit_temperature(labels, probabilities) == pytest.approx(found, rel=1e-6)  # a flat minimum: sqrt(1e-12)


def test_the_temperature_undoes_what_sharpened_honest_probabilities():
    labels, probabilities = drawn(4000, 3, 0.4)
    temperature = fit_temperature(labels, probabilities)
    assert temperature == pytest.approx(1 / 0.4, rel=0.06)  # three standard errors of 4,000 texts
    before, after = (
        expected_calibration_error(labels, p) for p in (probabilities, apply_temperature(probabilities, temperature))
    )
    assert after < before / 4


def test_a_validation_part_without_mistakes_does_not_drive_probabilities_to_0_and_1():
    labels, probabilities = np.array([0, 1] * 10), two_class(*[0.1, 0.9] * 10)
    temperature = fit_temperature(labels, probabilities)
    assert 0.5 < temperature < 1
    assert apply_temperature(probabilities, temperature).max() == pytest.approx(1 - 1 / 22, abs=1e-6)  # Platt's target


def test_a_temperature_changes_no_prediction_and_its_inverse_takes_it_back():
    _, probabilities = drawn(50, 4)
    warmer = apply_temperature(probabilities, 1.7)
    assert (warmer.argmax(1) == probabilities.argmax(1)).all()
    np.testing.assert_allclose(apply_temperature(warmer, 1 / 1.7), probabilities, atol=EXACT)
    np.testing.assert_allclose(warmer.sum(1), 1, atol=EXACT)


def test_probabilities_that_were_rounded_to_0_and_1_stay_numbers():
    labels, probabilities = np.array([0, 1, 1]), two_class(0.0, 1.0, 0.0)
    temperature = fit_temperature(labels, probabilities)
    assert math.isfinite(temperature) and temperature > 1
    assert np.isfinite(apply_temperature(probabilities, temperature)).all()


# All of them


def test_every_score_is_there_and_the_intervals_hold_the_values():
    labels, probabilities = drawn(500, 3, 0.4)
    scores = calibration_scores(labels, probabilities, seed=0)
    assert scores["ece"]["low"] < scores["ece"]["value"] <= scores["ece"]["high"]
    assert scores["brier"]["low"] < scores["brier"]["value"] < scores["brier"]["high"]
    assert {"ece_equal_mass", "ece_debiased", "ece_classwise", "brier_parts"} < scores.keys()


def test_the_intervals_are_those_of_the_definition_on_the_same_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    labels, probabilities = drawn(80, 3, 0.4)
    generator, errors, briers = np.random.default_rng(5), [], []
    order = np.argsort(bin_index(probabilities.max(1)), kind="stable")  # the order in which texts are drawn
    for _ in range(200):
        chosen = order[generator.integers(80, size=80)]
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
