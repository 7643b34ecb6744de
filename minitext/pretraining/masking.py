"""Texts to the cloze test of Devlin et al. 2019, section 3.1: some tokens are hidden, and the model has to name them.

In: ragged ids of texts. Out: blocks of one length, packed full, and of them batches in which 15 % of the tokens are
chosen anew in each epoch. Letters: B blocks, T tokens of a block, M chosen tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts

MASK_PROB, MASKED, RANDOM = 0.15, 0.8, 0.1  # of all tokens; of the chosen ones: replaced by [MASK], by any token


class MLMBatch(NamedTuple):
    """What one forward pass sees; the same verbs as `Batch`."""

    ids: Tensor  # (B, T) int64, some of them replaced
    mask: Tensor  # (B, T) bool, True is a real token
    chosen: Tensor  # (B, T) bool, the tokens to predict
    labels: Tensor  # (M,) int64, what stood there, in reading order
    rows: Tensor  # (B,) int64

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ids, self.mask, self.chosen

    def to(self, device: torch.device) -> "MLMBatch":
        return MLMBatch(*(tensor.to(device, non_blocking=True) for tensor in self))

    def split(self, blocks: int) -> "list[MLMBatch]":
        """In batches of at most `blocks`."""
        if len(self.rows) <= blocks:
            return [self]
        counts = [int(part.sum()) for part in self.chosen.split(blocks)]
        parts = [tensor.split(blocks) for tensor in (self.ids, self.mask, self.chosen)]
        parts += [self.labels.split(counts), self.rows.split(blocks)]
        return [MLMBatch(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class MLMCollator:
    """Rows to a MLMBatch. What is chosen is a function of (seed, epoch, row), whatever batch the row is in."""

    padder: PackCollator
    seed: int
    mask_id: int
    special: tuple[int, ...]  # ids that are never chosen, nor put in a chosen one's place
    vocabulary: int
    epoch: int = 0
    summary: bool = False  # a block's first token has to name one of the hidden tokens, too

    @cached_property
    def ordinary(self) -> Tensor:
        """Ids that may be put in a chosen one's place."""
        return torch.tensor(sorted(set(range(self.vocabulary)) - set(self.special)))

    @property
    def data(self) -> TokenizedTexts:
        return self.padder.data

    def at_epoch(self, epoch: int) -> "MLMCollator":
        return replace(self, epoch=epoch)

    def __call__(self, rows: Sequence[int]) -> MLMBatch:
        ids, mask, _, places = self.padder(rows)
        draws = np.zeros((len(places), 3, ids.shape[1]))
        for draw, row, length in zip(draws, places.tolist(), mask.sum(dim=1).tolist(), strict=True):
            draw[:, :length] = np.random.default_rng([self.seed, self.epoch, row]).random((3, length))
        which, how, what = torch.from_numpy(draws).unbind(dim=1)  # each (B, T), from 0 to below 1
        special = torch.isin(ids, torch.tensor(self.special))
        chosen = mask & ~special & (which < MASK_PROB)
        # one a block at least, as BERT does: a special one only where there is no other, padding never
        chosen[torch.arange(len(places)), (which + special.int() + 2 * ~mask).argmin(dim=1)] = True
        hidden = torch.where(how < MASKED, self.mask_id, ids)
        hidden = torch.where(how >= 1 - RANDOM, self.ordinary[(what * len(self.ordinary)).long()], hidden)
        hidden, labels = torch.where(chosen, hidden, ids), ids.clone()
        if self.summary:
            one = which.masked_fill(~chosen, 1.0).argmin(dim=1)  # (B,) any of the block's hidden tokens, as likely
            labels[:, 0], chosen[:, 0] = ids[torch.arange(len(ids)), one], True
        return MLMBatch(hidden, mask, chosen, labels[chosen], places)


def pack_blocks(texts: TokenizedTexts, length: int, before: Sequence[int], after: Sequence[int]) -> TokenizedTexts:
    """Texts end to end, each followed by `after`, cut into blocks of `length` tokens that begin with `before` and end
    with `after`. Only the last block is shorter; nothing is padded, and no token is lost.
    """
    ids = texts.ids.numpy()
    pieces = []
    for start, end in zip(texts.offsets[:-1].tolist(), texts.offsets[1:].tolist(), strict=True):
        pieces += [ids[start:end], after]
    stream = np.concatenate([*pieces, np.empty(0, dtype=np.int32)]).astype(np.int32)
    room = length - len(before) - len(after)
    blocks = [np.concatenate([before, stream[first : first + room], after]).astype(np.int32)
              for first in range(0, len(stream), room)]  # fmt: skip
    offsets = torch.tensor([0, *map(len, blocks)], dtype=torch.int64).cumsum(0)
    return TokenizedTexts(torch.from_numpy(np.concatenate([*blocks, np.empty(0, dtype=np.int32)])), offsets)
