"""TokenizedTexts ids to batches: texts of similar length together, padded to the longest among them.

In: token ids with offsets. Out: padded batches in an order that is a function of (seed, epoch) alone, so that a run can
start from any batch of any epoch. Letters: B texts, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from minitext.data.tokenizer import TokenizedTexts

POOL_BATCHES = (
    50  # batches' worth of texts that are sorted by length together: enough to be alike, few enough to stay mixed
)


class Batch(NamedTuple):
    """What one forward pass sees."""

    ids: Tensor  # (B, T) int64
    mask: Tensor  # (B, T) bool, True is a real token
    labels: Tensor  # (B,) int64
    rows: Tensor  # (B,) int64, the texts' places in the data

    @property
    def inputs(self) -> tuple[Tensor, Tensor]:
        """What the model is given."""
        return self.ids, self.mask

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def split(self, texts: int) -> "list[Batch]":
        """In batches of at most `texts`, padded as before."""
        if len(self.rows) <= texts:
            return [self]
        return [Batch(*parts) for parts in zip(*(tensor.split(texts) for tensor in self), strict=True)]


def epoch_batches(
    lengths: np.ndarray, batch: int, seed: int, epoch: int, max_tokens: int | None = None
) -> list[np.ndarray]:
    """The rows of each batch of a training epoch; every text is in exactly one.

    Texts are shuffled, sorted by length in pools of POOL_BATCHES batches, cut into batches of `batch` texts (fewer where the
    padded batch would hold more than `max_tokens` tokens), and the batches are shuffled. Only each pool's last batch
    can be small. A text longer than `max_tokens` has a batch of its own.
    """
    generator = np.random.default_rng([seed, epoch])
    shuffled = generator.permutation(len(lengths))
    batches = []
    for first in range(0, len(shuffled), POOL_BATCHES * batch):
        pool = shuffled[first : first + POOL_BATCHES * batch]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += chunk_by_length(pool, lengths, batch, max_tokens)
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch: int, max_tokens: int | None = None) -> list[np.ndarray]:
    """Batches for a pass without training: by length, the longest first, so that too little memory shows at once."""
    return chunk_by_length(np.argsort(lengths, kind="stable"), lengths, batch, max_tokens)[::-1]


def chunk_by_length(rows: np.ndarray, lengths: np.ndarray, batch: int, max_tokens: int | None) -> list[np.ndarray]:
    """Cut rows that are sorted by length, short to long."""
    if max_tokens is None:
        return [rows[first : first + batch] for first in range(0, len(rows), batch)]
    batches, first = [], 0
    for place, row in enumerate(rows):
        count = place - first
        if count and (count == batch or (count + 1) * lengths[row] > max_tokens):
            batches.append(rows[first:place])
            first = place
    return [*batches, rows[first:]] if len(rows) else batches


@dataclass(frozen=True)
class PackCollator:
    """Rows to a padded batch: what a DataLoader calls on the rows of a batch."""

    data: TokenizedTexts
    labels: Tensor  # (N,) int64
    pad: int  # the id of padding
    length: int | None = None  # pad every batch to this many tokens; None: to the longest of the batch

    def at_epoch(self, epoch: int) -> "PackCollator":
        """The same in each epoch; pretraining hides other tokens in each."""
        return self

    def __call__(self, rows: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(np.asarray(rows), dtype=torch.int64)
        starts = self.data.offsets[chosen]  # (B,)
        lengths = self.data.offsets[chosen + 1] - starts  # (B,)
        longest = self.length or max(int(lengths.max()), 1)
        positions = torch.arange(longest)
        mask = positions < lengths[:, None]  # (B, T)
        places = (starts[:, None] + positions).clamp_max(max(len(self.data.ids) - 1, 0))
        ids = torch.full(mask.shape, self.pad) if not len(self.data.ids) else self.data.ids[places].long()
        return Batch(ids.masked_fill(~mask, self.pad), mask, self.labels[chosen], chosen)


def load_batches(padder: PackCollator, batches: Sequence[np.ndarray], pin: bool = False) -> Iterator[Batch]:
    """A DataLoader over planned batches. `pin` readies them for an asynchronous copy to a GPU."""
    # its own generator: by default a loader draws from the global one, which would move the dropout of a resumed run
    loader = DataLoader(
        range(len(padder.data.offsets) - 1),
        batch_sampler=batches,
        collate_fn=padder,
        pin_memory=pin,
        generator=torch.Generator(),
    )
    return iter(loader)
