"""Factories of tokenized texts and packed batches, and a reference of attention within texts."""

import math

import torch
from torch import Tensor

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts


def tokenized(*texts: list[int]) -> TokenizedTexts:
    """Token ids as a tokenizer gives them."""
    offsets = torch.tensor([0, *map(len, texts)]).cumsum(0)
    return TokenizedTexts(torch.tensor([token for text in texts for token in text], dtype=torch.int32), offsets)


def pack(
    *texts: list[int], pad_id: int | None = None, masked: list[int] | None = None, window: int | None = None
) -> Batch:
    """A packed batch of texts given as token ids. `masked`: flat indices of masked tokens."""
    collator = PackCollator(
        tokenized(*texts)._replace(window=window), torch.zeros(len(texts), dtype=torch.int64), pad_id
    )
    batch = collator(range(len(texts)))
    return batch if masked is None else batch._replace(masked=torch.tensor(masked, dtype=torch.int64))


def varlen_reference(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """Attention of packed texts in float64-safe plain torch; checks what the CUDA kernel demands."""
    assert query.dtype == key.dtype == value.dtype
    assert all(part.stride(-1) == 1 for part in (query, key, value))
    assert cu_q.dtype == cu_k.dtype == torch.int32 and cu_q.is_contiguous() and cu_k.is_contiguous()
    assert cu_q[-1] == len(query) and cu_k[-1] == len(key) == len(value) and len(cu_q) == len(cu_k)
    assert max_q >= cu_q.diff().max() and max_k >= cu_k.diff().max()
    parts = []
    for text in range(len(cu_k) - 1):
        q = query[cu_q[text] : cu_q[text + 1]].transpose(0, 1)  # (A, T, D)
        k, v = (part[cu_k[text] : cu_k[text + 1]].transpose(0, 1) for part in (key, value))
        weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)
