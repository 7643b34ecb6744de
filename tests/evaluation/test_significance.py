"""Significance tests against hand-computed cases and SciPy, and the generalization gap."""

import itertools

import numpy as np
import pytest

from minitext.evaluation import bootstrap, metrics, significance
from minitext.evaluation.intervals import difference as difference_of_proportions
from minitext.evaluation.intervals import proportion
from minitext.evaluation.significance import (
    BootstrapEstimate,
    difference,
    generalization_gap,
    holm,
    mcnemar,
    mean_and_std,
    paired_by_seed,
    paired_scores,
)


def interval(estimate: BootstrapEstimate) -> tuple[float, float]:
    found = bootstrap.with_interval(*estimate)
    return found["low"], found["high"]


def correct_pair(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def random_runs(
    runs: int, count: int, classes: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels, and predictions and probabilities that depend on them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    raw = [np.exp(generator.normal(size=(count, classes)) + np.eye(classes)[labels]) for _ in range(runs)]
    probabilities = [scores / scores.sum(1, keepdims=True) for scores in raw]
    return labels, [given.argmax(1) for given in probabilities], probabilities


# McNemar


def test_mcnemar_of_five_discordant_texts():
    # 5 texts that one run alone has right, 4 and 1: twice (1 + 5) / 32
    assert mcnemar(*correct_pair(7, 4, 1, 3)) == (4, 1, pytest.approx(2 * 6 / 32, abs=1e-12))


def test_mcnemar_is_symmetric():
    first, second = correct_pair(7, 9, 2, 3)
    assert mcnemar(first, second).p == mcnemar(second, first).p


@pytest.mark.parametrize("discordant", [(0, 0), (1, 1), (6, 6)])
def test_p_is_1_if_both_runs_have_as_many_texts_right_alone(discordant: tuple[int, int]):
    assert mcnemar(*correct_pair(5, *discordant, 5)).p == 1


@pytest.mark.oracle
@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 3), (2, 9), (40, 71), (300, 400), (6000, 6200)])
def test_mcnemar_equals_scipy_binomial_test(only_first: int, only_second: int):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(only_first, only_first + only_second, 0.5).pvalue
    # both sum the same float64 terms; lgamma of 12,000 is right to about 1e-11
    assert mcnemar(*correct_pair(10, only_first, only_second, 10)).p == pytest.approx(expected, abs=1e-9)


def test_holm_of_three_p_values():
    # sorted: 0.01 * 3, 0.02 * 2, 0.9 * 1
    assert holm([0.02, 0.9, 0.01]) == pytest.approx([0.04, 0.9, 0.03])


def test_holm_keeps_the_order_and_stays_below_one():
    assert holm([0.03, 0.02, 0.4]) == pytest.approx([0.06, 0.06, 0.4])
    assert holm([0.8, 0.7]) == [1, 1]
    assert holm([]) == []


# The paired bootstrap


def test_paired_scores_equal_classification_scores(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    labels, predicted, probabilities = random_runs(2, 50, 3, seed=0)
    paired = paired_scores(labels, predicted, probabilities, seed=5)
    for run, given in zip(paired, probabilities, strict=True):
        alone = metrics.classification_scores(labels, given.argmax(1), given, ("a", "b", "c"), seed=5)
        for name, estimate in run.items():
            assert estimate.value == pytest.approx(alone[name]["value"], abs=1e-12), name


def test_a_run_does_not_differ_from_itself(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 40)
    labels, predicted, probabilities = random_runs(1, 50, 2, seed=0)
    first, second = paired_scores(labels, predicted * 2, probabilities * 2, seed=0)
    for name in significance.SCORES:
        gap = difference(first[name], second[name])
        assert (gap.value, interval(gap)) == (0, (0, 0)), name


def test_errors_on_the_same_texts_cancel():
    """Two runs that differ on one text: each accuracy is uncertain, their difference is not."""
    labels = np.zeros(100, dtype=np.int64)
    predicted = np.repeat([0, 1], [60, 40])
    other = predicted.copy()
    other[60] = 0
    given = np.full((100, 2), 0.5)
    first, second = paired_scores(labels, [other, predicted], [given, given], seed=0)
    low, high = interval(first["accuracy"])
    assert high - low > 0.15  # 1.96 standard errors to either side: 0.19
    low, high = interval(difference(first["accuracy"], second["accuracy"]))
    assert (low, high) == (0, pytest.approx(0.03, abs=0.0101))  # the one text is drawn 0 to 3 times


@pytest.mark.oracle
def test_the_paired_interval_of_log_loss_equals_scipy(monkeypatch):
    scipy_bootstrap = pytest.importorskip("scipy.stats").bootstrap
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    labels, predicted, probabilities = random_runs(2, 60, 2, seed=1)
    first, second = paired_scores(labels, predicted, probabilities, seed=9)
    losses = tuple(metrics.log_losses(labels, given) for given in probabilities)
    expected = scipy_bootstrap(
        losses, lambda a, b: a.mean() - b.mean(), paired=True, vectorized=False, n_resamples=300,
        method="percentile", random_state=np.random.default_rng(9),
    ).confidence_interval  # fmt: skip
    # float64 sums in another order
    found = interval(difference(first["log_loss"], second["log_loss"]))
    assert found == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.oracle
def test_the_paired_interval_of_accuracy_has_the_width_that_scipy_finds():
    scipy_bootstrap = pytest.importorskip("scipy.stats").bootstrap
    labels, predicted, probabilities = random_runs(2, 400, 2, seed=1)
    first, second = paired_scores(labels, predicted, probabilities, seed=9)
    correct = tuple((given == labels).astype(float) for given in predicted)
    expected = scipy_bootstrap(
        correct, lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True, vectorized=True, n_resamples=10_000,
        method="percentile", random_state=np.random.default_rng(3), batch=500,
    ).confidence_interval  # fmt: skip
    found = interval(difference(first["accuracy"], second["accuracy"]))
    # other draws: the standard error of a 2.5 % quantile is 0.027 deviations; differences move in steps of 1 / 400
    assert found == pytest.approx(tuple(expected), abs=2 / 400 + 1e-12)


def test_bootstrap_and_mcnemar_agree_on_a_clear_difference():
    labels, predicted, probabilities = random_runs(1, 400, 2, seed=2)
    better = np.where(np.arange(400) % 5 == 0, labels, predicted[0])
    first, second = paired_scores(labels, [better, predicted[0]], probabilities * 2, seed=0)
    assert interval(difference(first["accuracy"], second["accuracy"]))[0] > 0
    assert mcnemar(better == labels, predicted[0] == labels).p < 0.01


# Generalization gap


def test_the_generalization_gap_is_the_accuracy_on_train_minus_that_on_test():
    train, test = ({"accuracy": proportion(*counts)} for counts in ((180, 200), (30, 50)))
    gap = generalization_gap(train, test)
    assert gap == difference_of_proportions(train["accuracy"], test["accuracy"])
    assert gap["value"] == pytest.approx(0.3)
    assert gap["low"] < 0.3 < gap["high"]


# Seeds


def test_mean_and_standard_deviation():
    assert mean_and_std([1.0, 2, 3, 6]) == (3, pytest.approx((14 / 3) ** 0.5))


def test_one_value_has_no_standard_deviation():
    assert mean_and_std([0.8]) == (0.8, None)


def test_differences_are_paired_by_seed():
    """Two runs whose scores depend on the seed's texts far more than on the run."""
    found = paired_by_seed([0.80, 0.86, 0.83], [0.79, 0.86, 0.81])
    assert found == {
        "mean": pytest.approx(0.01), "std": pytest.approx(0.01), "error": pytest.approx(0.01 / 3**0.5), "seeds": 3
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.oracle
def test_95_percent_intervals_cover_the_truth_about_95_times_in_100(monkeypatch):
    """500 samples of 200 texts: the 95 % intervals of a difference, which is 0.1, contain it 91 to 98 times in 100 (two
    standard errors of a proportion of 0.95 in 500 samples, and the bootstrap's own small error).
    """
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator, covered = np.random.default_rng(0), 0
    labels, given = np.zeros(200, dtype=np.int64), np.full((200, 2), 0.5)
    for seed in range(500):
        wrong = generator.random((2, 200)) < np.array([[0.2], [0.3]])
        first, second = paired_scores(labels, list(wrong.astype(np.int64)), [given, given], seed)
        low, high = interval(difference(first["accuracy"], second["accuracy"]))
        covered += low - 1e-12 <= 0.1 <= high + 1e-12
    assert 0.91 <= covered / 500 <= 0.98


def test_differences_of_three_runs_add_up(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 30)
    labels, predicted, probabilities = random_runs(3, 40, 4, seed=3)
    scores = paired_scores(labels, predicted, probabilities, seed=0)
    gaps = {
        (i, j): difference(scores[i]["log_loss"], scores[j]["log_loss"]) for i, j in itertools.permutations(range(3), 2)
    }
    assert gaps[0, 2].value == pytest.approx(gaps[0, 1].value + gaps[1, 2].value, abs=1e-12)
    assert gaps[0, 2].resampled == pytest.approx(gaps[0, 1].resampled + gaps[1, 2].resampled, abs=1e-12)
