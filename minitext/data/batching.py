"""Tokenized texts to packed batches: the tokens of all texts end to end, without a mask and without padding.

Inputs: `TokenizedTexts` and labels. Outputs: batches in an order that is a function of (seed, epoch) alone.
Shapes: B texts, S sequences (texts or their windows), N tokens of a batch, M masked tokens.
Layout: "unpadding" of ModernBERT (Warner et al. 2024, 2.1.2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from minitext.data.tokenizer import TokenizedTexts
from minitext.data.windows import window_lengths

POOL_BATCHES = 50  # batches whose texts are sorted by length together: similar lengths, still well mixed


class Batch(NamedTuple):
    """The input of one forward pass. Sequence i owns the tokens `cu_seqlens[i]` to `cu_seqlens[i + 1]`.

    A sequence is a text, or where the data have windows a window of one.
    """

    ids: Tensor  # (N,) int32
    positions: Tensor  # (N,) int64, from 0 in each sequence
    cu_seqlens: Tensor  # (S + 1,) int32, cumulative lengths, from 0 to N
    lengths: tuple[int, ...]  # S lengths, known on the host so that nothing has to be read back from the device
    labels: Tensor  # (B,) int64; for masked language models (M,)
    indices: Tensor  # (B,) int64, the texts' indices in the data set
    masked: Tensor | None = None  # (M,) int64, the tokens that a masked language model predicts
    windows: Tensor | None = None  # (B,) int64, the number of windows of each text

    def to(self, device: torch.device) -> "Batch":
        """A copy on `device`, asynchronous from pinned memory to CUDA.

        MPS would copy from memory that has been freed by then: silently wrong ids (pytorch#189690).
        """
        on_cuda = torch.device(device).type == "cuda"
        return Batch(*(part.to(device, non_blocking=on_cuda) if isinstance(part, Tensor) else part for part in self))

    def split(self, max_texts: int) -> "list[Batch]":
        """Batches of at most `max_texts` texts."""
        num_texts = len(self.indices)
        if num_texts <= max_texts:
            return [self]
        return [self.part(first, first + max_texts) for first in range(0, num_texts, max_texts)]

    def part(self, first: int, last: int) -> "Batch":
        """The texts `first` to `last` (excluded)."""
        texts = sequences = slice(first, last)
        if self.windows is not None:  # the host waits for the device: texts are split only when memory has run out
            windows = self.windows.tolist()
            sequences = slice(sum(windows[:first]), sum(windows[:last]))
        start, end = sum(self.lengths[: sequences.start]), sum(self.lengths[: sequences.stop])
        tokens = slice(start, end)
        labels, masked = self.labels[texts], None
        if self.masked is not None:
            inside = (self.masked >= start) & (self.masked < end)
            labels, masked = self.labels[inside], self.masked[inside] - start
        cu_seqlens = self.cu_seqlens[sequences.start : sequences.stop + 1] - start
        windows = None if self.windows is None else self.windows[texts]
        return Batch(self.ids[tokens], self.positions[tokens], cu_seqlens, self.lengths[sequences], labels,
                     self.indices[texts], masked, windows)  # fmt: skip


class Collator(Protocol):
    """Makes a batch of the texts at some indices; pretraining masks other tokens in each epoch."""

    data: TokenizedTexts

    def __call__(self, indices: np.ndarray, epoch: int = 0) -> Batch: ...


@dataclass(frozen=True)
class PackCollator:
    """Packs texts. With `pad_id`, an empty text becomes one such token, and with `pad_to` all texts that many."""

    data: TokenizedTexts
    labels: Tensor  # (texts,) int64
    pad_id: int | None = None
    pad_to: int | None = None

    def __call__(self, indices: np.ndarray, epoch: int = 0) -> Batch:
        indices = torch.as_tensor(np.asarray(indices), dtype=torch.int64)
        starts = self.data.offsets[indices]  # (B,)
        filled = self.data.offsets[indices + 1] - starts  # (B,) lengths without padding
        lengths = filled if self.pad_id is None else filled.clamp_min(self.pad_to or 1)
        cu_seqlens = torch.cat((lengths.new_zeros(1), lengths.cumsum(0)))  # (B + 1,)
        positions = torch.arange(int(cu_seqlens[-1])) - cu_seqlens[:-1].repeat_interleave(lengths)  # (N,)
        source = starts.repeat_interleave(lengths) + positions  # (N,) where each token is in the data
        if self.pad_id is None or torch.equal(lengths, filled):
            ids = self.data.ids[source]
        else:
            padding = positions >= filled.repeat_interleave(lengths)
            ids = torch.full_like(positions, self.pad_id, dtype=torch.int32)
            ids[~padding] = self.data.ids[source[~padding]]
        batch = Batch(ids, positions, cu_seqlens.int(), tuple(lengths.tolist()), self.labels[indices], indices)
        return batch if self.data.window is None else as_windows(batch, self.data.window)


def as_windows(batch: Batch, size: int) -> Batch:
    """Each text of a batch as its windows of `size` tokens."""
    windows, lengths = window_lengths(torch.tensor(batch.lengths, dtype=torch.int64), size)  # (B,), (S,)
    cu_seqlens = torch.cat((lengths.new_zeros(1), lengths.cumsum(0))).int()
    return batch._replace(
        positions=batch.positions % size, cu_seqlens=cu_seqlens, lengths=tuple(lengths.tolist()), windows=windows
    )


def epoch_batches(
    lengths: np.ndarray, batch_size: int, seed: int, epoch: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """The indices of each batch of a training epoch; every text is in exactly one.

    Texts are shuffled, sorted by length in pools of POOL_BATCHES batches, chunked, and the batches are shuffled.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    batches = []
    for first in range(0, len(shuffled), POOL_BATCHES * batch_size):
        pool = shuffled[first : first + POOL_BATCHES * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += chunk_by_length(pool, lengths, batch_size, max_tokens)
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int, max_tokens: int | None = None) -> list[np.ndarray]:
    """Batches for a pass without training, by length. The longest come first: too little memory shows at once."""
    return chunk_by_length(np.argsort(lengths, kind="stable"), lengths, batch_size, max_tokens)[::-1]


def chunk_by_length(
    indices: np.ndarray, lengths: np.ndarray, batch_size: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """Chunks of at most `batch_size` texts and `max_tokens` tokens; a text of more tokens is alone."""
    limit = np.inf if max_tokens is None else max_tokens
    starts, tokens = [], 0
    for place, length in enumerate(lengths[indices].tolist()):
        if not starts or place - starts[-1] == batch_size or tokens + length > limit:
            starts.append(place)
            tokens = 0
        tokens += length
    return np.split(indices, starts[1:]) if starts else []


def load_batches(
    collator: Collator, batches: Sequence[np.ndarray], epochs: Sequence[int] | None = None, pin: bool = False
) -> Iterator[Batch]:
    """Yield planned batches, each of its epoch (default: 0). `pin` allows asynchronous copies to a GPU."""
    for indices, epoch in zip(batches, epochs or [0] * len(batches), strict=True):
        batch = collator(indices, epoch)
        yield Batch(*(part.pin_memory() if isinstance(part, Tensor) else part for part in batch)) if pin else batch
