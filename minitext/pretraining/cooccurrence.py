"""Word-word co-occurrence counts, from which GloVe learns (Pennington et al. 2014, section 3).

Inputs: ragged word ids. Outputs: the nonzero entries of the co-occurrence matrix, sorted.
Shapes: V words, N nonzero entries.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minitext.data.words import UNKNOWN

CHUNK = 1 << 20  # words whose pairs are counted at once: about 0.5 GiB with a window of 10


class Pairs(NamedTuple):
    """The nonzero entries of the co-occurrence matrix X, sorted by row, then by column."""

    rows: Tensor  # (N,) int32, the word
    columns: Tensor  # (N,) int32, its context
    counts: Tensor  # (N,) float32, X[row, column]


def count_pairs(ids: np.ndarray, offsets: np.ndarray, vocab_size: int, window: int, chunk: int = CHUNK) -> Pairs:
    """The co-occurrence matrix (section 3): words at distance d <= window in one text count 1/d, in both directions.

    `ids` and `offsets` are from `word_ids`. Unknown words are removed before distances are measured, as in the
    authors' program. Memory: one chunk, and about four times the pairs found so far.
    """
    texts = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    known = ids != UNKNOWN
    ids, texts = ids[known].astype(np.int64), texts[known]
    keys, counts = np.empty(0, np.int64), np.empty(0, np.float32)  # key: row * V + column
    for start in range(0, len(ids), chunk):
        new_keys, new_counts = count_chunk(ids, texts, start, min(start + chunk, len(ids)), vocab_size, window)
        keys, counts = np.concatenate((keys, new_keys)), np.concatenate((counts, new_counts))
        order = np.argsort(keys, kind="stable")  # timsort merges the two sorted runs
        keys, counts = add_equal(keys[order], counts[order])
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in np.divmod(keys, vocab_size))
    return Pairs(rows, columns, torch.from_numpy(counts))


def count_chunk(
    ids: np.ndarray, texts: np.ndarray, start: int, stop: int, vocab_size: int, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Count pairs whose later word is in `start:stop`. Returns sorted keys (row * V + column) int64, counts float32."""
    codes = []  # key * window + distance - 1, so that one sort without an index orders keys and distances
    for distance in range(1, window + 1):
        later = slice(max(start, distance), max(stop, distance))
        earlier = slice(later.start - distance, later.stop - distance)
        same_text = texts[later] == texts[earlier]
        a, b = ids[earlier][same_text], ids[later][same_text]
        codes += [(a * vocab_size + b) * window + distance - 1, (b * vocab_size + a) * window + distance - 1]
    keys, distances = np.divmod(np.sort(np.concatenate(codes)), window)
    keys, counts = add_equal(keys, 1 / (distances + 1))  # summed in float64
    return keys, counts.astype(np.float32)


def add_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct keys of the sorted `keys`, and the sum of the counts of each."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(counts, starts)
