"""Tests of batching: the plan of an epoch, packed batches, and their order."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import pack, tokenized

from minitext.data.batching import Batch, PackCollator, chunk_by_length, epoch_batches, evaluation_batches, load_batches

LENGTHS = st.lists(st.integers(0, 300), max_size=300).map(lambda lengths: np.array(lengths, dtype=np.int64))
BUDGETS = st.none() | st.integers(1, 500)


def lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [rows.tolist() for rows in batches]


def collator(*texts: list[int], pad_id: int | None = None, pad_to: int | None = None) -> PackCollator:
    """Text i has the label 10 * i."""
    return PackCollator(tokenized(*texts), 10 * torch.arange(len(texts)), pad_id, pad_to)


def texts_of(batch: Batch) -> list[list[int]]:
    return [part.tolist() for part in batch.ids.split(batch.lengths)]


# Plans


@given(LENGTHS, st.integers(1, 40), st.integers(0, 5), st.integers(0, 5), BUDGETS)
def test_every_text_is_in_exactly_one_batch_of_an_epoch(lengths, batch, seed, epoch, budget):
    rows = [row for rows in epoch_batches(lengths, batch, seed, epoch, budget) for row in rows]
    assert sorted(rows) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 40), BUDGETS)
def test_an_evaluation_covers_every_text_longest_batch_first(lengths, batch, budget):
    batches = evaluation_batches(lengths, batch, budget)
    assert all(budget is None or len(rows) == 1 or lengths[rows].sum() <= budget for rows in batches)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    longest = [lengths[rows].max() for rows in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS, st.integers(1, 40), BUDGETS)
def test_batches_keep_the_limits_of_texts_and_tokens_unless_a_text_is_alone(lengths, batch, budget):
    for indices in epoch_batches(lengths, batch, 0, 0, budget):
        assert 1 <= len(indices) <= batch
        assert budget is None or len(indices) == 1 or lengths[indices].sum() <= budget


def test_a_text_beyond_the_token_limit_is_alone():
    lengths = np.array([50, 2, 3, 60])
    assert lists(chunk_by_length(np.argsort(lengths), lengths, 10, max_tokens=10)) == [[1, 2], [0], [3]]


def test_a_batch_holds_as_many_texts_as_the_token_limit_allows():
    chunks = chunk_by_length(np.arange(10), np.full(10, 5), 100, max_tokens=20)
    assert [len(indices) for indices in chunks] == [4, 4, 2]


LOGNORMAL = np.random.default_rng(0).lognormal(5, 0.8, 5000).astype(np.int64) + 1  # as reviews: median 146, long tail


def test_the_same_seed_and_epoch_give_the_same_plan():
    assert lists(epoch_batches(LOGNORMAL, 32, 3, 4, 9000)) == lists(epoch_batches(LOGNORMAL, 32, 3, 4, 9000))


@pytest.mark.parametrize(("seed", "epoch"), [(3, 5), (4, 4), (4, 3)])
def test_another_seed_or_epoch_gives_another_plan(seed: int, epoch: int):
    assert lists(epoch_batches(LOGNORMAL, 32, 3, 4)) != lists(epoch_batches(LOGNORMAL, 32, seed, epoch))


def test_a_batch_holds_texts_of_similar_lengths():
    spread = [float(np.ptp(np.log(LOGNORMAL[indices]))) for indices in epoch_batches(LOGNORMAL, 32, 0, 0)]
    order = np.random.default_rng(1).permutation(len(LOGNORMAL))
    at_random = [float(np.ptp(np.log(LOGNORMAL[part]))) for part in np.array_split(order, 157)]
    assert np.median(spread) < 0.1 * np.median(at_random)  # 0.08 against 3.3


def test_batches_of_similar_length_come_in_mixed_order():
    longest = [int(LOGNORMAL[rows].max()) for rows in epoch_batches(LOGNORMAL, 32, 0, 0)]
    rises = np.mean(np.diff(longest) > 0)
    assert 0.35 < rises < 0.65  # 157 batches: 0.5 give or take 0.02 by chance; sorted would be 0 or 1


# Packing


def test_a_batch_holds_its_texts_end_to_end():
    batch = collator([1, 2, 3], [4], [5, 6])(np.array([1, 2]))
    assert batch.ids.tolist() == [4, 5, 6]
    assert batch.positions.tolist() == [0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 1, 3]
    assert batch.lengths == (1, 2)
    assert batch.labels.tolist() == [10, 20]
    assert batch.indices.tolist() == [1, 2]


def test_dtypes_are_those_that_the_kernels_need():
    batch = collator([1, 2, 3], [4])(np.array([1, 0]))
    assert (batch.ids.dtype, batch.positions.dtype, batch.cu_seqlens.dtype) == (torch.int32, torch.int64, torch.int32)
    assert all(type(length) is int for length in batch.lengths)


def test_texts_come_in_the_order_of_the_indices():
    assert texts_of(collator([1], [2], [3])(np.array([2, 0]))) == [[3], [1]]


def test_pad_to_gives_all_texts_one_length():
    assert texts_of(collator([1, 2], [3], pad_id=9, pad_to=4)(np.array([1, 0]))) == [[3, 9, 9, 9], [1, 2, 9, 9]]


def test_an_empty_text_becomes_one_padding_token():
    assert texts_of(collator([1, 2], [], pad_id=9)(np.array([1, 0, 1]))) == [[9], [1, 2], [9]]
    assert texts_of(collator([], [], pad_id=9)(np.array([0, 1]))) == [[9], [9]]


def test_without_padding_an_empty_text_has_no_tokens():
    assert texts_of(collator([1, 2], [])(np.array([1, 0, 1]))) == [[], [1, 2], []]


TEXTS = st.lists(st.lists(st.integers(0, 8), max_size=6), min_size=1, max_size=20)


@given(TEXTS, st.randoms())
def test_a_batch_holds_the_texts_of_its_indices(texts, random):
    indices = random.choices(range(len(texts)), k=7)
    batch = collator(*texts)(np.array(indices))
    assert texts_of(batch) == [texts[index] for index in indices]
    assert batch.cu_seqlens.tolist() == [0, *np.cumsum(batch.lengths)]
    assert batch.positions.tolist() == [position for length in batch.lengths for position in range(length)]


@given(TEXTS, st.integers(1, 9))
def test_split_batches_are_batches_of_fewer_texts(texts, size):
    collate, indices = collator(*texts), np.arange(len(texts))
    parts = collate(indices).split(size)
    expected = [collate(indices[first : first + size]) for first in range(0, len(texts), size)]
    for part, other in zip(parts, expected, strict=True):
        assert part.lengths == other.lengths
        for name in ("ids", "positions", "cu_seqlens", "labels", "indices"):
            assert torch.equal(getattr(part, name), getattr(other, name)), name


WINDOW = st.integers(1, 4)  # of texts of up to 6 tokens


def windowed(*texts: list[int], window: int, pad_id: int | None = None) -> PackCollator:
    return replace(collator(*texts, pad_id=pad_id), data=tokenized(*texts)._replace(window=window))


def test_a_batch_holds_the_windows_of_its_texts_end_to_end():
    batch = windowed([1, 2, 3, 4, 5], [6], [7, 8, 9, 10], window=2)(np.array([2, 0]))
    assert texts_of(batch) == [[7, 8], [9, 10], [1, 2], [3, 4], [5]]
    assert batch.positions.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]  # from 0 in each window
    assert batch.cu_seqlens.tolist() == [0, 2, 4, 6, 8, 9]
    assert batch.windows.tolist() == [2, 3]
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([20, 0], [2, 0])  # one per text


@given(TEXTS, st.integers(6, 9))
def test_texts_of_one_window_are_packed_as_without_windows(texts, window):
    plain, batch = (collate(np.arange(len(texts))) for collate in (collator(*texts), windowed(*texts, window=window)))
    assert plain.windows is None and batch.windows.tolist() == [1] * len(texts)
    for name in ("ids", "positions", "cu_seqlens", "labels", "indices"):
        found, expected = getattr(batch, name), getattr(plain, name)
        assert torch.equal(found, expected) and found.dtype == expected.dtype, name
    assert plain.lengths == batch.lengths


@given(TEXTS, WINDOW, st.integers(1, 9))
def test_split_batches_of_windows_are_batches_of_fewer_texts(texts, window, size):
    collate, indices = windowed(*texts, window=window, pad_id=9), np.arange(len(texts))
    parts = collate(indices).split(size)
    expected = [collate(indices[first : first + size]) for first in range(0, len(texts), size)]
    for part, other in zip(parts, expected, strict=True):
        assert part.lengths == other.lengths
        for name in ("ids", "positions", "cu_seqlens", "labels", "indices", "windows"):
            assert torch.equal(getattr(part, name), getattr(other, name)), name


def test_masked_tokens_and_their_labels_are_split_with_their_texts():
    batch = pack([1, 2, 3], [4], [5, 6], masked=[0, 2, 4, 5])._replace(labels=torch.tensor([11, 13, 15, 16]))
    first, second = batch.split(2)
    assert (first.masked.tolist(), first.labels.tolist()) == ([0, 2], [11, 13])
    assert (second.masked.tolist(), second.labels.tolist()) == ([0, 1], [15, 16])


def test_a_batch_moves_to_a_device_with_all_its_tensors():
    batch = pack([1, 2, 3], [4], masked=[0]).to(torch.device("meta"))
    assert batch.lengths == (3, 1)
    assert all(part.is_meta for part in batch if isinstance(part, torch.Tensor))


@pytest.mark.parametrize(("name", "asynchronous"), [("cuda:1", True), ("mps", False), ("cpu", False)])
def test_only_copies_to_cuda_are_asynchronous(monkeypatch, name: str, asynchronous: bool):
    """MPS would read memory that has been freed (pytorch#189690). No such device is needed: no tensor is copied."""
    copies = []
    monkeypatch.setattr(torch.Tensor, "to", lambda part, device, non_blocking: copies.append(non_blocking) or part)
    pack([1, 2, 3], [4], masked=[0]).to(torch.device(name))
    assert copies == [asynchronous] * 6


# Loading


def test_starting_at_a_later_batch_gives_the_tail_of_the_same_order():
    data = collator(*([i] * (i % 7) for i in range(100)))
    plan = epoch_batches(data.data.lengths().numpy(), 8, 1, 2)
    whole = [batch.indices.tolist() for batch in load_batches(data, plan)]
    assert whole == lists(plan)
    assert [batch.indices.tolist() for batch in load_batches(data, plan[5:])] == whole[5:]


def test_a_collator_is_given_the_epoch_of_each_batch():
    seen = []

    class Recorder:
        data = tokenized([1], [2])

        def __call__(self, indices, epoch=0):
            seen.append(epoch)
            return pack([1])

    list(load_batches(Recorder(), [np.array([0]), np.array([1]), np.array([0])], [3, 3, 4]))
    assert seen == [3, 3, 4]


def test_loading_does_not_change_the_global_random_states():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    data = collator([1], [2], [3])
    list(load_batches(data, epoch_batches(data.data.lengths().numpy(), 2, 0, 0)))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == numpy_before
