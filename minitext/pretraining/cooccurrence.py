"""How often two words stand near each other: the matrix that GloVe learns from (Pennington et al. 2014, section 3).

In: ragged word numbers. Out: the entries that are not zero, sorted. Letters: V words, N ordered pairs of words that
occur together.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minitext.data.words import UNKNOWN

CHUNK = 1 << 20  # words whose pairs are counted at once: about 0.5 GiB for a window of 10


class Pairs(NamedTuple):
    """The N entries of the co-occurrence matrix X that are not zero, by row, then by column."""

    rows: Tensor  # (N,) int32, the word
    columns: Tensor  # (N,) int32, its context
    counts: Tensor  # (N,) float32, X[row, column]


def count_pairs(
    ids: np.ndarray, offsets: np.ndarray, vocabulary: int, window: int, quiet: bool = True, chunk: int = CHUNK
) -> Pairs:
    """The co-occurrence matrix (section 3): words d apart in one text, d <= window, count 1/d, in both directions.

    `ids` and `offsets` are as from `word_ids`. Unknown words are taken out before distances are measured, as in the
    authors' program. Memory: one chunk, and the pairs found so far about four times over.
    """
    texts = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    known = ids != UNKNOWN
    ids, texts = ids[known].astype(np.int64), texts[known]
    runs = [(np.empty(0, np.int64), np.empty(0, np.float32))]
    with tqdm(desc="counting", total=len(ids), unit="word", unit_scale=True, leave=False, disable=quiet or None) as bar:
        for start in range(0, len(ids), chunk):
            stop = min(start + chunk, len(ids))
            runs.append(count_chunk(ids, texts, start, stop, vocabulary, window))
            # each run at least twice as long as the next, so that a pair is merged only log(runs) times
            while len(runs) > 1 and len(runs[-2][0]) < 2 * len(runs[-1][0]):
                runs.append(merge(runs.pop(), runs.pop()))
            bar.update(stop - start)
    while len(runs) > 1:
        runs.append(merge(runs.pop(), runs.pop()))
    keys, counts = runs.pop()
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in np.divmod(keys, vocabulary))
    return Pairs(rows, columns, torch.from_numpy(counts))


def count_chunk(
    ids: np.ndarray, texts: np.ndarray, start: int, stop: int, vocabulary: int, window: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose later word is one of `start:stop`: sorted keys (row * V + column) int64, and counts float32."""
    codes = []  # the distance is packed below the key, so that a plain sort, without an index, orders both
    for distance in range(1, window + 1):
        later = slice(max(start, distance), max(stop, distance))
        earlier = slice(later.start - distance, later.stop - distance)
        together = texts[later] == texts[earlier]
        a, b = ids[earlier][together], ids[later][together]
        codes += [(a * vocabulary + b) * window + distance - 1, (b * vocabulary + a) * window + distance - 1]
    keys, distances = np.divmod(np.sort(np.concatenate(codes)), window)
    keys, counts = add_equal(keys, 1 / (distances + 1))  # added up in float64
    return keys, counts.astype(np.float32)


def merge(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted runs of (keys, counts) as one."""
    keys, counts = map(np.concatenate, zip(first, second, strict=True))
    order = np.argsort(keys, kind="stable")  # timsort: sees the two sorted runs, and only merges them
    return add_equal(keys[order], counts[order])


def add_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each distinct key of the sorted `keys` with the sum of its counts."""
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], np.add.reduceat(counts, starts)
