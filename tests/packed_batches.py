"""Factories of tokenized texts and packed batches."""

import torch

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts


def tokenized(*texts: list[int]) -> TokenizedTexts:
    """Token ids as a tokenizer gives them."""
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return TokenizedTexts(torch.tensor([token for text in texts for token in text], dtype=torch.int32), offsets)


def pack(*texts: list[int], pad_id: int | None = None, masked: list[int] | None = None) -> Batch:
    """A packed batch of texts given as token ids. `masked`: flat indices of masked tokens."""
    collator = PackCollator(tokenized(*texts), torch.zeros(len(texts), dtype=torch.int64), pad_id)
    batch = collator(range(len(texts)))
    return batch if masked is None else batch._replace(masked=torch.tensor(masked, dtype=torch.int64))
