"""Proves that tests between runs are those of the textbooks and of SciPy, that runs are compared on the same resamples,
and that chance is not called a difference.
"""

import itertools

import numpy as np
import pytest

from minitext.evaluation import metrics, significance
from minitext.evaluation.significance import (
    BootstrapEstimate,
    difference,
    holm,
    is_overfitted,
    mcnemar,
    paired_scores,
    summary,
    train_test_gap,
)


def right_and_wrong(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    second = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    return first, second


def random_runs(
    runs: int, count: int, classes: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels, predictions and probabilities that know a little about them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(classes, size=count)
    raw = [np.exp(generator.normal(size=(count, classes)) + np.eye(classes)[labels]) for _ in range(runs)]
    probabilities = [scores / scores.sum(1, keepdims=True) for scores in raw]
    return labels, [given.argmax(1) for given in probabilities], probabilities


# McNemar


def test_mcnemar_by_hand():
    # of 5 texts that only one has right, 1 against 4: twice (1 + 5) / 32
    assert mcnemar(*right_and_wrong(7, 4, 1, 3)) == (4, 1, pytest.approx(2 * 6 / 32, abs=1e-12))


def test_mcnemar_is_the_same_from_either_side():
    first, second = right_and_wrong(7, 9, 2, 3)
    assert mcnemar(first, second).p == mcnemar(second, first).p


@pytest.mark.parametrize("sides", [(0, 0), (1, 1), (6, 6)])
def test_as_many_on_either_side_are_no_evidence(sides: tuple[int, int]):
    assert mcnemar(*right_and_wrong(5, *sides, 5)).p == 1


@pytest.mark.oracle
@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 3), (2, 9), (40, 71), (300, 400), (6000, 6200)])
def test_mcnemar_is_scipys_binomial_test(only_first: int, only_second: int):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(only_first, only_first + only_second, 0.5).pvalue
    # both sum the same float64 terms; lgamma of 12,000 is right to about 1e-11
    assert mcnemar(*right_and_wrong(10, only_first, only_second, 10)).p == pytest.approx(expected, abs=1e-9)


def test_holm_by_hand():
    # sorted: 0.01 * 3, 0.02 * 2, 0.9 * 1
    assert holm([0.02, 0.9, 0.01]) == pytest.approx([0.04, 0.9, 0.03])


def test_holm_keeps_the_order_and_stays_below_one():
    assert holm([0.03, 0.02, 0.4]) == pytest.approx([0.06, 0.06, 0.4])
    assert holm([0.8, 0.7]) == [1, 1]
    assert holm([]) == []


# The paired bootstrap


def test_values_are_those_of_score(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    labels, predicted, probabilities = random_runs(2, 50, 3, seed=0)
    paired = paired_scores(labels, predicted, probabilities, seed=5)
    for run, given in zip(paired, probabilities, strict=True):
        alone = metrics.score(labels, given, ("a", "b", "c"), seed=5)
        for name, sampled in run.items():
            low, high = sampled.interval()
            assert {"value": sampled.value, "low": low, "high": high} == pytest.approx(alone[name], abs=1e-12), name


def test_a_run_against_itself_has_no_difference(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    labels, predicted, probabilities = random_runs(1, 50, 2, seed=0)
    first, second = paired_scores(labels, predicted * 2, probabilities * 2, seed=0)
    for name in significance.SCORES:
        gap = difference(first[name], second[name])
        assert (gap.value, gap.interval(), gap.p_value()) == (0, (0, 0), 1), name


def test_what_two_runs_share_cancels():
    """Two runs that are wrong on the same hard texts, and differ on one: each accuracy is uncertain, the gap is not."""
    labels = np.zeros(100, dtype=np.int64)
    predicted = np.repeat([0, 1], [60, 40])
    other = predicted.copy()
    other[60] = 0
    given = np.full((100, 2), 0.5)
    first, second = paired_scores(labels, [other, predicted], [given, given], seed=0)
    low, high = first["accuracy"].interval()
    assert high - low > 0.15  # 1.96 standard errors to either side: 0.19
    low, high = difference(first["accuracy"], second["accuracy"]).interval()
    assert (low, high) == (0, pytest.approx(0.03, abs=0.0101))  # the one text is drawn 0 to 3 times


@pytest.mark.oracle
def test_the_paired_interval_is_scipys(monkeypatch):
    bootstrap = pytest.importorskip("scipy.stats").bootstrap
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    labels, predicted, probabilities = random_runs(2, 60, 2, seed=1)
    first, second = paired_scores(labels, predicted, probabilities, seed=9)
    right = [(called == labels).astype(float) for called in predicted]
    losses = [metrics.log_losses(labels, given) for given in probabilities]
    for name, columns in (("accuracy", right), ("log_loss", losses)):
        expected = bootstrap(
            tuple(columns), lambda a, b: a.mean() - b.mean(), paired=True, vectorized=False, n_resamples=300,
            method="percentile", random_state=np.random.default_rng(9),
        ).confidence_interval  # fmt: skip
        # float64 sums in another order
        assert difference(first[name], second[name]).interval() == pytest.approx(tuple(expected), abs=1e-9), name


def test_a_p_value_by_hand():
    # 1 of 9 resamples is at or below 0, and the sample itself counts as one: twice 2 / 10
    assert BootstrapEstimate(0.5, np.array([-1.0, 1, 1, 1, 1, 1, 1, 1, 1])).p_value() == pytest.approx(0.4)


def test_a_p_value_is_never_zero():
    assert BootstrapEstimate(1.0, np.ones(999)).p_value() == pytest.approx(2 / 1000)


def test_the_bootstrap_and_mcnemar_agree_on_a_clear_case():
    labels, predicted, probabilities = random_runs(1, 400, 2, seed=2)
    better = np.where(np.arange(400) % 5 == 0, labels, predicted[0])
    first, second = paired_scores(labels, [better, predicted[0]], probabilities * 2, seed=0)
    p = difference(first["accuracy"], second["accuracy"]).p_value()
    assert p < 0.01
    assert mcnemar(better == labels, predicted[0] == labels).p < 0.01


# Train against test


def test_the_gap_is_the_difference_of_two_accuracies():
    gap = train_test_gap(np.array([[45, 5], [5, 45]]), np.array([[30, 20], [20, 30]]), seed=0)
    assert gap.value == pytest.approx(0.3)
    low, high = gap.interval()
    # 1.96 * sqrt(0.9 * 0.1 / 100 + 0.6 * 0.4 / 100) = 0.1126; a resampled share moves in steps of a hundredth
    assert (low, high) == pytest.approx((0.3 - 0.1126, 0.3 + 0.1126), abs=0.0151)
    assert is_overfitted(gap)


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        ([[9, 1], [1, 9]], [[8, 2], [2, 8]], False),  # ten points, but of twenty texts: chance
        ([[90_500, 9_500], [9_500, 90_500]], [[90_000, 10_000], [10_000, 90_000]], False),  # sure, but half a point
        ([[92_000, 8_000], [8_000, 92_000]], [[90_000, 10_000], [10_000, 90_000]], True),  # two points, and sure
        ([[60, 40], [40, 60]], [[99, 1], [1, 99]], False),  # better on test
    ],
)
def test_overfitting_is_more_than_chance_and_more_than_a_point(train: list, test: list, expected: bool):
    assert is_overfitted(train_test_gap(np.array(train), np.array(test), seed=0)) == expected


def test_train_and_test_are_drawn_independently():
    same = np.array([[80, 20], [20, 80]])
    low, high = train_test_gap(same, same, seed=0).interval()
    assert low < -0.04 < 0.04 < high  # 1.96 * sqrt(2 * 0.8 * 0.2 / 200) = 0.078; drawn together it would be 0


# SeedGroup


def test_a_summary_is_mean_and_deviation():
    assert summary([1.0, 2, 3, 6]) == (3, pytest.approx((14 / 3) ** 0.5))


def test_one_seed_has_no_deviation():
    assert summary([0.8]) == (0.8, None)


@pytest.mark.slow
@pytest.mark.oracle
def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch):
    """500 samples of 200 texts: 95 % intervals of a difference whose truth is known to be 0.1 hold it 91 to 98 times in
    100 (two standard errors of a share of 0.95 in 500 samples, and the bootstrap's own small error).
    """
    monkeypatch.setattr(metrics, "RESAMPLES", 500)
    generator, held = np.random.default_rng(0), 0
    labels, given = np.zeros(200, dtype=np.int64), np.full((200, 2), 0.5)
    for seed in range(500):
        wrong = generator.random((2, 200)) < np.array([[0.2], [0.3]])
        first, second = paired_scores(labels, list(wrong.astype(np.int64)), [given, given], seed)
        low, high = difference(first["accuracy"], second["accuracy"]).interval()
        held += low - 1e-12 <= 0.1 <= high + 1e-12
    assert 0.91 <= held / 500 <= 0.98


def test_every_pair_of_three_can_be_compared(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 30)
    labels, predicted, probabilities = random_runs(3, 40, 4, seed=3)
    scores = paired_scores(labels, predicted, probabilities, seed=0)
    gaps = {
        (i, j): difference(scores[i]["log_loss"], scores[j]["log_loss"]) for i, j in itertools.permutations(range(3), 2)
    }
    assert gaps[0, 2].value == pytest.approx(gaps[0, 1].value + gaps[1, 2].value, abs=1e-12)
    assert gaps[0, 2].resampled == pytest.approx(gaps[0, 1].resampled + gaps[1, 2].resampled, abs=1e-12)
