"""Intervals in closed form against SciPy, published examples and their laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitext.evaluation.intervals import difference, mean_proportion, proportion, wilson

COUNTS = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


def limits(found: dict) -> tuple[float, float]:
    return found["low"], found["high"]


# One proportion


@pytest.mark.oracle
@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 7), (81, 263), (10, 10)])
def test_wilson_intervals_equal_scipy(hits: int, count: int):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert limits(proportion(hits, count)) == pytest.approx((expected.low, expected.high), abs=1e-9)


@settings(deadline=None)
@given(COUNTS)
def test_an_interval_contains_the_proportion_and_is_never_a_point(case: tuple[int, int]):
    found = proportion(*case)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    assert found["high"] - found["low"] > 0.007  # 3.84 / (500 + 3.84), where all of 500 texts are right


@settings(deadline=None)
@given(COUNTS, st.integers(2, 20))
def test_fewer_texts_give_a_wider_interval(case: tuple[int, int], times: int):
    few, many = proportion(*case), proportion(times * case[0], times * case[1])
    assert few["low"] <= many["low"] and many["high"] <= few["high"]
    assert few["high"] - few["low"] > many["high"] - many["low"]


@settings(deadline=None)
@given(COUNTS)
def test_successes_and_failures_have_mirrored_intervals(case: tuple[int, int]):
    successes, failures = proportion(*case), proportion(case[1] - case[0], case[1])
    assert limits(successes) == pytest.approx((1 - failures["high"], 1 - failures["low"]), abs=1e-12)


def test_no_text_gives_no_interval():
    assert proportion(0, 0) == {"value": 0.0, "low": None, "high": None}
    assert np.isnan(wilson(np.array([0, 1]), np.array([0, 1]))[0]).tolist() == [True, False]


# A mean of proportions


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=6).filter(any))
def test_the_mean_of_classes_of_one_size_is_the_proportion_of_all_or_wider(right: list[int]):
    """Equal sizes and equal proportions: no class is moved by smoothing, and the interval is that of all texts."""
    classes = len(right)
    weights, counts = np.full(classes, 1 / classes), np.full(classes, 20)
    whole, found = proportion(sum(right), 20 * classes), mean_proportion(np.array(right), counts, weights)
    assert found["value"] == pytest.approx(whole["value"], abs=1e-12)
    assert limits(found) == pytest.approx(limits(whole), abs=1e-9)


def test_a_small_class_makes_the_mean_uncertain():
    balanced, unbalanced = (
        mean_proportion(np.array(counts), np.array(counts), np.array([0.5, 0.5])) for counts in ((50, 50), (95, 5))
    )
    assert unbalanced["low"] < balanced["low"] < 1 == balanced["high"] == unbalanced["high"]
    assert balanced["low"] == pytest.approx(proportion(100, 100)["low"], abs=1e-12)
    assert unbalanced["low"] == pytest.approx(proportion(19, 19)["low"], abs=1e-12)  # 4 / (1 / 95 + 1 / 5) texts


def test_a_class_without_texts_counts_as_a_constant_0():
    two = mean_proportion(np.array([8, 9]), np.array([10, 10]), np.array([0.5, 0.5]))
    three = mean_proportion(np.array([8, 9, 0]), np.array([10, 10, 0]), np.full(3, 1 / 3))
    for key, value in three.items():
        assert value == pytest.approx(2 / 3 * two[key], abs=1e-12)


# A difference of two proportions


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((10, 10), (0, 20), (0.6791, 1.0000)),
    ],
)
def test_differences_equal_the_examples_of_newcombe(first: tuple, second: tuple, expected: tuple):
    """Newcombe 1998, table II, method 10; four digits are printed there."""
    assert limits(difference(proportion(*first), proportion(*second))) == pytest.approx(expected, abs=5.1e-5)


@settings(deadline=None)
@given(COUNTS, COUNTS)
def test_a_difference_is_within_its_interval_and_changes_its_sign_with_the_order(first: tuple, second: tuple):
    forth, back = (
        difference(proportion(*first), proportion(*second)),
        difference(proportion(*second), proportion(*first)),
    )
    assert -1 <= forth["low"] < forth["high"] <= 1
    assert forth["low"] <= forth["value"] <= forth["high"]
    assert limits(forth) == pytest.approx((-back["high"], -back["low"]), abs=1e-12)
