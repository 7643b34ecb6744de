"""Resamples against their definition: what is drawn, and how it is distributed."""

import numpy as np
import pytest

from minitext.evaluation import bootstrap
from minitext.evaluation.bootstrap import with_interval


def random_case(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of three classes, two thirds of them right."""
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=count)
    return labels, np.where(generator.random(count) < 0.5, labels, generator.integers(3, size=count))


def test_a_percentile_interval_leaves_undefined_resamples_out_and_contains_the_value():
    resampled = np.append(np.arange(1001.0), np.nan)
    assert list(with_interval(500.0, resampled).values()) == pytest.approx([500, 25, 975])
    assert with_interval(990.0, resampled)["high"] == 990.0


def test_equal_resamples_have_the_limits_that_are_given():
    assert with_interval(1.0, np.ones(10), (0.7, 1.0)) == {"value": 1.0, "low": 0.7, "high": 1.0}
    assert with_interval(1.0, np.ones(10), (np.nan, np.nan)) == {"value": 1.0, "low": None, "high": None}
    assert with_interval(1.0, np.ones(10)) == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("resampled", [np.full(3, np.nan), np.ones(3)])
def test_an_undefined_value_has_no_interval(resampled: np.ndarray):
    assert with_interval(np.nan, resampled) == {"value": None, "low": None, "high": None}


def test_multinomial_counts_are_distributed_as_those_of_resampled_texts(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20_000)
    labels, predicted = random_case(40)
    blocks = [counts for (counts,) in bootstrap.resampled_counts(labels, [predicted], 3, seed=1)]
    counts = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    weights = np.concatenate(list(bootstrap.resamples(40, seed=2)))
    plain = [weights @ np.eye(3)[column] for column in (predicted, labels)]
    plain.insert(0, weights @ (np.eye(3)[labels] * (predicted == labels)[:, None]))
    found, expected = np.hstack(counts), np.hstack(plain)  # (20,000, 9)
    # standard errors: 3 / sqrt(20,000) of a mean, about 9 * sqrt(2 / 20,000) of a covariance; five of them
    np.testing.assert_allclose(found.mean(0), expected.mean(0), atol=5 * 3 * (2 / 20_000) ** 0.5)
    np.testing.assert_allclose(np.cov(found.T), np.cov(expected.T), atol=5 * 9 * (2 / 20_000) ** 0.5 * 1.5)


def test_resampled_counts_of_several_runs_are_of_the_same_texts(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 50)
    labels, predicted = random_case(40)
    ((first, second),) = bootstrap.resampled_counts(labels, [predicted, labels], 3, seed=1)
    assert np.array_equal(first[2], second[2])  # support
    assert np.array_equal(second[0], second[2]) and np.array_equal(second[1], second[2])  # all right
    assert (first[0] <= np.minimum(first[1], first[2])).all()
    assert (first[1].sum(1) == 40).all()


def test_resamples_do_not_depend_on_the_size_of_a_block(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 7)
    at_once = np.concatenate(list(bootstrap.resamples(10, seed=0)))
    monkeypatch.setattr(bootstrap, "BLOCK", 30)
    in_blocks = list(bootstrap.resamples(10, seed=0))
    assert [len(block) for block in in_blocks] == [3, 3, 1]
    assert np.array_equal(np.concatenate(in_blocks), at_once)
    assert (at_once.sum(1) == 10).all()
