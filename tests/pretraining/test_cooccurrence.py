"""Co-occurrence counts follow section 3 of the GloVe paper, in chunks as at once."""

import numpy as np
import pytest
import torch

from minitext.data.words import word_ids
from minitext.pretraining.cooccurrence import count_pairs

VOCAB = ["a", "b", "c", "d"]


def count(texts: list[str], window: int) -> dict[str, float]:
    """The co-occurrence matrix as {"ab": X[a, b]}."""
    pairs = count_pairs(*word_ids(texts, {word: i for i, word in enumerate(VOCAB)}), len(VOCAB), window)
    return {VOCAB[i] + VOCAB[j]: count for i, j, count in zip(*(part.tolist() for part in pairs), strict=True)}


def test_pairs_count_one_over_their_distance_within_a_text():
    counts = count(["a b c a", "b d"], window=2)
    assert counts == {
        "ab": 1.5, "ba": 1.5,  # a b at 1, b . a at 2
        "ac": 1.5, "ca": 1.5,  # a . c at 2, c a at 1
        "bc": 1.0, "cb": 1.0,
        "bd": 1.0, "db": 1.0,  # the second text
    }  # fmt: skip


def test_a_repeated_word_counts_in_both_directions():
    assert count(["a a"], window=5) == {"aa": 2.0}


def test_unknown_words_are_removed_before_distances_are_measured():
    assert count(["a unheard b"], window=1) == count(["a b"], window=1)


def test_pairs_are_sorted_by_row_then_column():
    pairs = count_pairs(*word_ids(["d c b a d b"], {word: i for i, word in enumerate(VOCAB)}), 4, 3)
    keys = pairs.rows * 4 + pairs.columns
    assert (keys.diff() > 0).all()


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_counting_in_chunks_equals_counting_at_once(chunk):
    generator = np.random.default_rng(1)
    ids = generator.integers(-1, 30, 500).astype(np.int32)
    offsets = np.array([0, 0, 3, 4, 200, 201, 500])
    whole, parts = (count_pairs(ids, offsets, 30, 6, chunk=size) for size in (1 << 20, chunk))
    assert torch.equal(whole.rows, parts.rows) and torch.equal(whole.columns, parts.columns)
    torch.testing.assert_close(parts.counts, whole.counts, rtol=1e-6, atol=0)
