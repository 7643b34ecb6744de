"""Masked-language-model batches (BERT, Devlin et al. 2019, section 3.1).

Inputs: tokenized texts. Outputs: blocks of tokens, and packed batches of blocks in which tokens are masked.
Shapes: B blocks, N tokens of a batch, M masked tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tokenizers import Tokenizer, processors
from torch import Tensor

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts, encode, special_ids
from minitext.models.hf_checkpoint import mask_id
from minitext.utils.errors import UserError

MASK_PROB = 0.15  # fraction of all tokens that are masked, that is, predicted; evaluations always use it
MASK_TOKEN_SHARE = 0.8  # fraction of the masked tokens that are replaced by [MASK]
RANDOM_TOKEN_SHARE = 0.1  # fraction that are replaced by a random token; the rest keep their token
MIN_BLOCK = 8  # tokens, special ones included
NO_TRUNCATION = 1 << 30  # tokens; blocks are cut, not texts


@dataclass(frozen=True)
class MLMCollator:
    """Packs blocks and masks tokens: `batch.masked` are their indices in the batch, `batch.labels` the true ids.

    What is masked is a function of (seed, epoch, index of the block), whatever batch the block is in.
    """

    data: TokenizedTexts  # blocks of at least one token
    seed: int
    mask_id: int
    special_ids: tuple[int, ...]  # ids that are neither masked nor used as random tokens
    vocab_size: int  # V
    mask_prob: float = MASK_PROB
    cls_objective: bool = False  # the first token of a block also has to predict one of the block's masked tokens

    @cached_property
    def pack(self) -> PackCollator:
        """Makes batches of unchanged blocks."""
        return PackCollator(self.data, torch.zeros(len(self.data.offsets) - 1, dtype=torch.int64))

    @cached_property
    def ordinary_ids(self) -> Tensor:
        """All ids that are not special, int32."""
        return torch.tensor(sorted(set(range(self.vocab_size)) - set(self.special_ids)), dtype=torch.int32)

    def __call__(self, indices: np.ndarray, epoch: int = 0) -> Batch:
        batch = self.pack(indices)
        draws = [
            np.random.default_rng([self.seed, epoch, index]).random((3, length))
            for index, length in zip(batch.indices.tolist(), batch.lengths, strict=True)
        ]
        select_draw, action_draw, token_draw = torch.from_numpy(np.concatenate(draws, axis=1))  # each (N,), in [0, 1)
        # special tokens come after all others: one is masked only in a block that has nothing else
        select_draw = select_draw + torch.isin(batch.ids, torch.tensor(self.special_ids, dtype=torch.int32))
        first_index = batch.cu_seqlens[:-1].long()  # (B,)
        lowest = torch.stack([part.argmin() for part in select_draw.split(batch.lengths)])  # (B,), index in the block
        target_index = first_index + lowest
        is_masked = select_draw < self.mask_prob
        is_masked[target_index] = True  # at least one token per block

        random_ids = self.ordinary_ids[(token_draw * len(self.ordinary_ids)).long()]
        corrupted = torch.where(action_draw < MASK_TOKEN_SHARE, self.mask_id, batch.ids)
        corrupted = torch.where(action_draw >= 1 - RANDOM_TOKEN_SHARE, random_ids, corrupted)
        corrupted = torch.where(is_masked, corrupted, batch.ids)
        true_ids = batch.ids.clone()
        if self.cls_objective:
            true_ids[first_index] = batch.ids[target_index]  # each masked token of the block is equally likely
            is_masked[first_index] = True
        masked = is_masked.nonzero().flatten()
        return batch._replace(ids=corrupted, labels=true_ids[masked].long(), masked=masked)


def pack_blocks(
    texts: TokenizedTexts, length: int, before: Sequence[int], after: Sequence[int], short: float = 0.0, seed: int = 0
) -> TokenizedTexts:
    """Concatenate texts, each followed by `after`, and cut them into blocks of `length` tokens, a fraction `short` of
    them shorter: of 8 to `length` tokens, each number as likely.

    Each block begins with `before` and ends with `after`. The last block is the rest; no token is lost.
    """
    start, end = (torch.tensor(ids, dtype=torch.int32) for ids in (before, after))
    stream = torch.cat([torch.cat((text, end)) for text in texts.ids.split(texts.lengths().tolist())])
    sizes = block_sizes(len(stream), length - len(start) - len(end), MIN_BLOCK - len(start) - len(end), short, seed)
    blocks = [torch.cat((start, part, end)) for part in stream.split(sizes)]
    return TokenizedTexts(torch.cat(blocks), torch.tensor([0, *map(len, blocks)]).cumsum(0))


def block_sizes(total: int, full: int, least: int, short: float, seed: int) -> list[int]:
    """Sizes that add up to `total`: `full`, or for a fraction `short` of them from `least` to `full`; the last less."""
    generator, sizes, rest = np.random.default_rng(seed), [], total
    while rest > 0:
        size = full if generator.random() >= short else int(generator.integers(min(least, full), full + 1))
        sizes.append(min(size, rest))
        rest -= size
    return sizes


def make_collator(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    length: int,
    seed: int,
    mask_prob: float = MASK_PROB,
    cls_objective: bool = False,
    short_blocks: float = 0.0,
    quiet: bool = True,
) -> MLMCollator:
    """A collator of blocks of at most `length` tokens of texts. Raises UserError if the tokenizer does not fit."""
    mask, (before, after) = mask_id(tokenizer), special_ids(tokenizer)
    if mask is None:
        raise UserError("the tokenizer has no [MASK] or <mask> token; use that of a masked language model")
    if cls_objective and not before:
        raise UserError("--cls-objective needs a tokenizer that adds a token before a text, such as [CLS]; drop it")
    bare = Tokenizer.from_str(tokenizer.to_str())  # adds no tokens to a text: blocks have their own
    bare.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    tokens = encode(bare, texts, NO_TRUNCATION, "head", quiet)
    if not len(tokens.ids):
        raise UserError(f"the tokenizer finds no tokens in {len(texts)} texts; give other texts")
    blocks = pack_blocks(tokens, length, before, after, short_blocks, seed)
    special = sorted(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return MLMCollator(blocks, seed, mask, tuple(special), tokenizer.get_vocab_size(), mask_prob, cls_objective)
