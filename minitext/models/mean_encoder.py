"""A text as the mean of the vectors of its words.

In: raw texts, words and their vectors. Out: `(B, D)` vectors, and how much of the texts the vectors cover. Letters: B
texts, D vector width, V words, N training texts.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitext.data.words import UNKNOWN, word_ids, word_ids_in_chunks

CHUNK = 4096  # texts encoded at once: bounds the memory, whatever the number of texts
SIF_A = 1e-3  # Arora et al. 2017, section 4.1: between 1e-3 and 1e-4 works


class Encoded(NamedTuple):
    """Texts as vectors, and how much of them the vectors cover."""

    vectors: Tensor  # (B, D)
    known: int  # words of the texts that have a vector
    total: int  # words of the texts


class MeanEncoder(nn.Module):
    """The mean of the vectors of a text's words; words without a vector are skipped, a text without any gives zeros.

    With `word_weights` and `common` it is the SIF embedding instead (Arora, Liang & Ma 2017, "A simple but
    tough-to-beat baseline for sentence embeddings", algorithm 1): each word weighed by a / (a + p(word)), then the
    projection on the texts' common direction taken away.
    """

    table: Tensor
    word_weights: Tensor | None
    common: Tensor | None

    def __init__(
        self, words: Sequence[str], table: Tensor, word_weights: Tensor | None = None, common: Tensor | None = None
    ):
        super().__init__()
        self.words = list(words)
        self.index = {word: row for row, word in enumerate(self.words)}
        self.register_buffer("table", table)  # (V, D)
        self.register_buffer("word_weights", word_weights)  # (V,)
        self.register_buffer("common", common)  # (D,) of length one

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Encode texts whose known words are the rows `ids`, (words,); text i owns `ids[offsets[i]:offsets[i + 1]]`."""
        if self.word_weights is None:
            vectors = F.embedding_bag(ids, self.table, offsets[:-1], mode="mean")  # (B, D)
        else:
            weights = self.word_weights[ids]
            sums = F.embedding_bag(ids, self.table, offsets[:-1], mode="sum", per_sample_weights=weights)  # (B, D)
            vectors = sums / offsets.diff().clamp_min(1)[:, None]
        if self.common is not None:
            vectors = vectors - (vectors @ self.common)[:, None] * self.common
        return vectors

    def encode(self, texts: Iterable[str]) -> Encoded:
        """Raw texts to `(B, D)` vectors on the table's device."""
        nothing = Encoded(self.table.new_zeros(0, self.table.shape[1]), 0, 0)
        vectors, known, total = zip(nothing, *self.encode_in_chunks(texts), strict=True)
        return Encoded(torch.cat(vectors), sum(known), sum(total))

    @torch.no_grad()
    def encode_in_chunks(self, texts: Iterable[str]) -> Iterator[Encoded]:
        """The same for a stream of texts, CHUNK at a time and in order; only a few chunks are taken in ahead."""
        for ids, offsets in word_ids_in_chunks(texts, self.index, CHUNK):
            has_vector = ids != UNKNOWN
            known_before = np.concatenate(([0], np.cumsum(has_vector)))
            rows = torch.from_numpy(ids[has_vector]).to(self.table.device)
            kept_offsets = torch.from_numpy(known_before[offsets].astype(np.int32)).to(self.table.device)
            yield Encoded(self(rows, kept_offsets), len(rows), len(ids))


def fit_sif(words: Sequence[str], table: Tensor, texts: Sequence[str]) -> MeanEncoder:
    """The SIF encoder whose word frequencies and common direction come from the training `texts`."""
    index = {word: row for row, word in enumerate(words)}
    ids, _ = word_ids(texts, index)
    counts = torch.from_numpy(np.bincount(ids[ids != UNKNOWN], minlength=len(index)))
    weights = SIF_A / (SIF_A + counts / max(len(ids), 1))
    plain = MeanEncoder(words, table, weights.to(table)).encode(texts).vectors  # (N, D)
    common = torch.linalg.svd(plain.double().T @ plain.double()).U[:, 0]  # the first right singular vector of `plain`
    return MeanEncoder(words, table, weights.to(table), common.to(table))
