"""Tests of hashed n-grams: a text has its own n-grams, equal ones share a row, and the order of tokens matters."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_batches import tokenized

from minitext.data import ngrams
from minitext.data.ngrams import add_ngrams

VOCAB_SIZE, BUCKETS = 20, 1000


def rows_of(*texts: list[int], n: int = 2, binary_counts: bool = False) -> list[list[int]]:
    found = add_ngrams(tokenized(*texts), VOCAB_SIZE, n, BUCKETS, binary_counts)
    return [part.tolist() for part in found.ids.split(found.lengths().tolist())]


def test_four_tokens_have_three_bigrams_and_two_trigrams():
    (rows,) = rows_of([1, 2, 3, 4], n=3)
    assert len(rows) == 4 + 3 + 2
    assert rows[:4] == [1, 2, 3, 4]
    assert all(VOCAB_SIZE <= row < VOCAB_SIZE + BUCKETS for row in rows[4:])


def test_without_ngrams_tokens_stay_as_they_are():
    tokens = tokenized([1, 2], [3])
    assert add_ngrams(tokens, VOCAB_SIZE, 1, BUCKETS) is tokens


TEXTS = st.lists(st.lists(st.integers(0, 19), max_size=8), max_size=8)


@given(TEXTS, st.integers(1, 4), st.booleans(), st.integers(1, 12))
def test_ngrams_of_a_text_do_not_depend_on_other_texts_or_chunks(texts, n, binary_counts, chunk):
    together = rows_of(*texts, n=n, binary_counts=binary_counts)
    alone = [rows_of(text, n=n, binary_counts=binary_counts)[0] for text in texts]
    before, ngrams.CHUNK = ngrams.CHUNK, chunk
    try:
        in_chunks = rows_of(*texts, n=n, binary_counts=binary_counts)
    finally:
        ngrams.CHUNK = before
    assert together[: len(texts)] == alone == in_chunks[: len(texts)]


@given(TEXTS, st.integers(2, 4))
def test_binary_counts_are_the_distinct_rows_in_order(texts, n):
    assert rows_of(*texts, n=n, binary_counts=True) == [sorted(set(rows)) for rows in rows_of(*texts, n=n)]


def test_binary_counts_without_ngrams_are_the_distinct_tokens():
    assert rows_of([3, 3, 0, 3], [], n=1, binary_counts=True)[0] == [0, 3]


def test_equal_ngrams_share_a_row():
    first, between, second = rows_of([1, 2, 1, 2])[0][4:]
    assert first == second != between


def test_the_order_of_a_bigram_matters():
    assert rows_of([1, 2])[0][-1] != rows_of([2, 1])[0][-1]


@pytest.mark.parametrize("n", [2, 3])
def test_different_ngrams_seldom_share_a_row(n: int):
    texts = np.unique(np.random.default_rng(0).integers(5000, size=(10_000, n)), axis=0)
    found = add_ngrams(tokenized(*texts.tolist()), 5000, n, 1 << 20)
    last = found.ids[found.offsets[1:] - 1]
    assert len(last.unique()) > 0.99 * len(texts)  # 10,000 draws of 2**20 rows: 0.995 distinct on average


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_text_shorter_than_the_ngram_has_the_ngrams_that_fit(length: int):
    assert len(rows_of(list(range(1, length + 1)), [1], n=5)[0]) == length * (length + 1) // 2


def test_rows_are_int32_and_offsets_int64():
    found = add_ngrams(tokenized([1, 2]), VOCAB_SIZE, 2, BUCKETS)
    assert (found.ids.dtype, found.offsets.dtype) == (torch.int32, torch.int64)
