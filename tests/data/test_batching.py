"""Every text is in exactly one batch of an epoch, an epoch's order is a function of (seed, epoch) alone,
and a padded batch holds what its rows hold.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.batching import PackCollator, epoch_batches, evaluation_batches, load_batches
from minitext.data.tokenizer import TokenizedTexts

LENGTHS = st.lists(st.integers(0, 300), max_size=300).map(lambda lengths: np.array(lengths, dtype=np.int64))
BUDGETS = st.none() | st.integers(1, 500)


def padded(lengths: np.ndarray, batches: list[np.ndarray]) -> int:
    return sum(len(rows) * int(lengths[rows].max()) for rows in batches)


def lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [rows.tolist() for rows in batches]


def ragged(*texts: list[int]) -> TokenizedTexts:
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return TokenizedTexts(torch.tensor([i for text in texts for i in text], dtype=torch.int32), offsets)


def padder(*texts: list[int], length: int | None = None) -> PackCollator:
    """Padding is 9; text i has the label 10 * i."""
    return PackCollator(ragged(*texts), 10 * torch.arange(len(texts)), pad=9, length=length)


# Plans


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5), BUDGETS)
def test_every_text_is_in_exactly_one_batch_of_an_epoch(lengths, batch, seed, epoch, budget):
    rows = [row for rows in epoch_batches(lengths, batch, seed, epoch, budget) for row in rows]
    assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 40), BUDGETS)
def test_an_evaluation_covers_every_text_longest_batch_first(lengths, batch, budget):
    batches = evaluation_batches(lengths, batch, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    longest = [lengths[rows].max() for rows in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS, st.integers(1, 40), BUDGETS, st.booleans())
def test_budgets_of_texts_and_padded_tokens_are_kept_unless_a_text_is_alone(lengths, batch, budget, training):
    plan = epoch_batches(lengths, batch, 0, 0, budget) if training else evaluation_batches(lengths, batch, budget)
    for rows in plan:
        assert 1 <= len(rows) <= batch
        assert budget is None or len(rows) == 1 or len(rows) * lengths[rows].max() <= budget


def test_a_text_beyond_the_budget_is_alone():
    assert lists(evaluation_batches(np.array([50, 2, 3, 60]), 10, max_tokens=10)) == [[3], [0], [1, 2]]


def test_a_batch_holds_as_many_texts_as_its_budget_allows():
    assert [len(rows) for rows in evaluation_batches(np.full(10, 5), 100, max_tokens=20)] == [2, 4, 4]


LOGNORMAL = np.random.default_rng(0).lognormal(5, 0.8, 5000).astype(np.int64) + 1  # as reviews: median 146, long tail


def test_the_same_seed_and_epoch_give_the_same_plan():
    assert lists(epoch_batches(LOGNORMAL, 32, 3, 4, 9000)) == lists(epoch_batches(LOGNORMAL, 32, 3, 4, 9000))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 5), (4, 4), (4, 3)])
def test_another_seed_or_epoch_gives_another_plan(seed: int, epoch: int):
    assert lists(epoch_batches(LOGNORMAL, 32, 3, 4)) != lists(epoch_batches(LOGNORMAL, 32, seed, epoch))


def test_similar_lengths_together_waste_little_padding():
    real = int(LOGNORMAL.sum())
    order = np.random.default_rng(1).permutation(len(LOGNORMAL))
    at_random = real / padded(LOGNORMAL, [order[first : first + 32] for first in range(0, len(order), 32)])
    planned = real / padded(LOGNORMAL, epoch_batches(LOGNORMAL, 32, 0, 0))
    assert at_random < 0.35  # of a random batch's tokens, 0.25 are real
    assert planned > 0.85  # 0.89


def test_batches_of_similar_length_come_in_mixed_order():
    longest = [int(LOGNORMAL[rows].max()) for rows in epoch_batches(LOGNORMAL, 32, 0, 0)]
    rises = np.mean(np.diff(longest) > 0)
    assert 0.35 < rises < 0.65  # 157 batches: 0.5 give or take 0.02 by chance; sorted would be 0 or 1


# Padding


def test_a_batch_is_padded_to_its_longest_text():
    batch = padder([1, 2, 3], [4], [5, 6])([1, 2])
    assert batch.ids.tolist() == [[4, 9], [5, 6]]
    assert batch.mask.tolist() == [[True, False], [True, True]]
    assert batch.labels.tolist() == [10, 20]
    assert batch.rows.tolist() == [1, 2]
    assert (batch.ids.dtype, batch.mask.dtype) == (torch.int64, torch.bool)


def test_rows_come_in_the_order_that_was_asked_for():
    assert padder([1], [2], [3])([2, 0]).ids.tolist() == [[3], [1]]


def test_a_fixed_length_pads_every_batch_alike():
    assert padder([1, 2], [3], length=4)([1, 0]).ids.tolist() == [[3, 9, 9, 9], [1, 2, 9, 9]]


@pytest.mark.parametrize("texts", [([1, 2], []), ([], [1, 2])])
def test_an_empty_text_is_all_padding(texts):
    batch = padder(*texts)([texts.index([])])
    assert (batch.ids.tolist(), batch.mask.tolist()) == ([[9]], [[False]])


def test_a_batch_of_empty_texts_has_one_column_of_padding():
    batch = padder([], [], [])([0, 2])
    assert (batch.ids.tolist(), batch.mask.tolist()) == ([[9], [9]], [[False], [False]])


@given(st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=20), st.randoms())
def test_a_batch_holds_what_its_rows_hold(texts, random):
    rows = random.choices(range(len(texts)), k=7)
    batch = padder(*texts)(rows)
    assert [ids[mask].tolist() for ids, mask in zip(batch.ids, batch.mask, strict=True)] == [texts[i] for i in rows]
    assert (batch.ids[~batch.mask] == 9).all()


# Loading


def test_starting_at_a_later_batch_gives_the_tail_of_the_same_order():
    data = padder(*([i] * (i % 7) for i in range(100)))
    plan = epoch_batches(data.data.lengths().numpy(), 8, 1, 2)
    whole = [batch.rows.tolist() for batch in load_batches(data, plan)]
    assert whole == lists(plan)
    assert [batch.rows.tolist() for batch in load_batches(data, plan[5:])] == whole[5:]


def test_loading_leaves_the_global_random_state_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    data = padder([1], [2], [3])
    list(load_batches(data, epoch_batches(data.data.lengths().numpy(), 2, 0, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before
