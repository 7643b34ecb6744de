"""Masked-language-model batches: packing, which tokens are masked, and what that depends on."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, processors

from minitext.data.batching import Batch
from minitext.data.tokenizer import TokenizedTexts, special_ids
from minitext.pretraining.masking import MLMCollator, make_collator, pack_blocks
from minitext.utils.errors import UserError

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL, VOCAB_SIZE = (PAD, 1, CLS, SEP, MASK), 1000


def tokenized(*texts: list[int]) -> TokenizedTexts:
    flat = torch.tensor([number for text in texts for number in text], dtype=torch.int32)
    return TokenizedTexts(flat, torch.tensor([0, *map(len, texts)]).cumsum(0))


def collator_of(*blocks: list[int], vocab_size: int = VOCAB_SIZE) -> MLMCollator:
    return MLMCollator(tokenized(*blocks), 0, MASK, SPECIAL, vocab_size)


def random_blocks(*lengths: int) -> MLMCollator:
    """Blocks of ordinary tokens between [CLS] and [SEP]."""
    generator = np.random.default_rng(0)
    return collator_of(*([CLS, *generator.integers(5, VOCAB_SIZE, size - 2).tolist(), SEP] for size in lengths))


def collate(collator: MLMCollator, indices: list[int] | range, epoch: int = 0) -> Batch:
    return collator(np.array(indices), epoch)


def blocks_of(batch: Batch) -> list[tuple[list[int], list[int], list[int]]]:
    """For each block its ids, its masked indices from the block's first token, and their labels."""
    blocks = []
    for first, last in pairwise(batch.cu_seqlens.tolist()):
        inside = (batch.masked >= first) & (batch.masked < last)
        masked = (batch.masked[inside] - first).tolist()
        blocks.append((batch.ids[first:last].tolist(), masked, batch.labels[inside].tolist()))
    return blocks


def packed(*texts: list[int], length: int = 5, before: tuple = (CLS,), after: tuple = (SEP,)) -> list[list[int]]:
    blocks = pack_blocks(tokenized(*texts), length, before, after)
    assert blocks.ids.dtype == torch.int32 and blocks.offsets.dtype == torch.int64
    return [part.tolist() for part in blocks.ids.tensor_split(blocks.offsets[1:-1])]


# Packing


def test_texts_are_packed_end_to_end_in_order_and_only_the_last_block_is_shorter():
    # the stream: 11 12 13 SEP 14 15 SEP; three tokens fit between CLS and SEP
    assert packed([11, 12, 13], [14, 15]) == [[CLS, 11, 12, 13, SEP], [CLS, SEP, 14, 15, SEP], [CLS, SEP, SEP]]


@pytest.mark.parametrize("short", [0.0, 0.3, 1.0])
def test_a_fraction_of_the_blocks_is_shorter_and_no_token_is_lost(short: float):
    texts = tokenized(*(list(range(10, 200)) for _ in range(100)))
    blocks = pack_blocks(texts, 30, (CLS,), (SEP,), short, seed=1)
    lengths = blocks.lengths()[:-1]  # the last block is the rest
    assert lengths.min() >= 8 and lengths.max() == 30
    # 0.06: three standard errors of a fraction of about 800 blocks; one of 23 short blocks has 30 tokens
    assert (lengths < 30).double().mean().item() == pytest.approx(short * 22 / 23, abs=0.06)
    parts = blocks.ids.tensor_split(blocks.offsets[1:-1])
    whole = pack_blocks(texts, 10**6, (CLS,), (SEP,)).ids[1:-1]
    assert torch.equal(torch.cat([part[1:-1] for part in parts]), whole)
    again = pack_blocks(texts, 30, (CLS,), (SEP,), short, seed=2)
    assert torch.equal(blocks.offsets, again.offsets) == (short == 0)


def test_an_empty_text_is_packed_as_one_separator():
    assert packed([11], [], [12]) == [[CLS, 11, SEP, SEP, SEP], [CLS, 12, SEP, SEP]]


def test_a_stream_that_fills_its_blocks_leaves_no_empty_block():
    assert packed([11, 12, 13, 14, 15]) == [[CLS, 11, 12, 13, SEP], [CLS, 14, 15, SEP, SEP]]


def test_packing_without_special_tokens():
    assert packed([11, 12, 13], [14], [15, 16], before=(), after=()) == [[11, 12, 13, 14, 15], [16]]


@pytest.mark.parametrize("before, after", [((CLS,), (SEP,)), ((), ()), ((CLS,), ())])
def test_packing_loses_no_token_and_adds_only_special_tokens(before, after):
    generator = np.random.default_rng(1)
    texts = [generator.integers(5, 99, size).tolist() for size in generator.integers(0, 40, 50)]
    blocks = packed(*texts, length=16, before=before, after=after)
    inside = [number for block in blocks for number in block[len(before) : len(block) - len(after)]]
    assert inside == [number for text in texts for number in [*text, *after]]
    assert all(block[: len(before)] == list(before) for block in blocks)
    assert all(block[len(block) - len(after) :] == list(after) for block in blocks)
    assert {len(block) for block in blocks[:-1]} == {16} and len(blocks[-1]) <= 16


# Which tokens are masked


def test_shares_of_masked_replaced_random_and_unchanged_tokens():
    batch = collate(random_blocks(*[128] * 400), range(400))
    count = len(batch.masked)
    now = batch.ids[batch.masked]
    shares = [
        (count, 400 * 126, 0.15),
        (int((now == MASK).sum()), count, 0.8),
        # a random token equals the true one in 1 of 995 cases, 0.0001 of the masked ones: far below the tolerance
        (int((now == batch.labels).sum()), count, 0.1),
        (int(((now != MASK) & (now != batch.labels)).sum()), count, 0.1),
    ]
    for hits, of, share in shares:
        assert abs(hits / of - share) < 4 * (share * (1 - share) / of) ** 0.5  # standard deviations of a binomial share


def test_random_tokens_are_uniform_over_the_ordinary_ids():
    generator = np.random.default_rng(0)
    collator = collator_of(*generator.integers(5, 15, (400, 128)).tolist(), vocab_size=15)
    batch = collate(collator, range(400))
    now = batch.ids[batch.masked]
    counts = torch.bincount(now[now != MASK], minlength=15)
    expected = int(counts.sum()) / 10
    assert counts[:5].sum() == 0
    assert (counts[5:] - expected).abs().max() < 4 * expected**0.5  # standard deviations of a count


def test_labels_are_the_true_ids_in_order_and_other_tokens_are_unchanged():
    collator = random_blocks(*[32] * 20, 9)
    plain, batch = collator.pack(np.arange(21)), collate(collator, range(21))
    assert torch.equal(batch.labels, plain.ids[batch.masked].long())
    assert batch.masked.diff().min() > 0
    others = torch.ones(len(plain.ids), dtype=torch.bool)
    others[batch.masked] = False
    assert torch.equal(batch.ids[others], plain.ids[others])
    for name in ("positions", "cu_seqlens", "indices"):
        assert torch.equal(getattr(batch, name), getattr(plain, name))
    assert batch.lengths == plain.lengths
    assert (batch.ids.dtype, batch.labels.dtype, batch.masked.dtype) == (torch.int32, torch.int64, torch.int64)


def test_special_tokens_are_neither_masked_nor_used_as_random_tokens():
    batch = collate(random_blocks(*range(4, 64), *[32] * 100), range(160))
    assert not torch.isin(batch.labels, torch.tensor(SPECIAL)).any()
    now = batch.ids[batch.masked]
    replaced = now[now != MASK]
    assert len(replaced) and not torch.isin(replaced, torch.tensor(SPECIAL)).any() and replaced.max() < VOCAB_SIZE


def test_every_block_has_a_masked_token():
    batch = collate(random_blocks(*[3] * 50, 8), range(51))  # a single ordinary token is selected in 15 % of the cases
    blocks = blocks_of(batch)
    assert all(masked for _, masked, _ in blocks)
    assert all(masked == [1] for _, masked, _ in blocks[:50])


def test_masking_favors_no_position():
    batch = collate(random_blocks(*[5] * 900), range(900))
    counts = torch.bincount(batch.positions[batch.masked], minlength=5)
    assert counts[0] == counts[4] == 0
    assert counts[1:4].max() - counts[1:4].min() < 4 * (2 * 350) ** 0.5  # deviations of the difference of two counts


@pytest.mark.parametrize("block", [[CLS, SEP], [CLS, SEP, SEP], [CLS], [1]])
def test_one_special_token_is_masked_in_a_block_that_has_no_other(block):
    _, masked, labels = blocks_of(collate(collator_of(block, [CLS, *range(5, 30), SEP]), range(2)))[0]
    assert len(masked) == 1 and masked[0] < len(block)
    assert labels == [block[masked[0]]]


# What masking depends on


@pytest.mark.parametrize("length", [64, 5])  # in 6 of 10 blocks of 3 ordinary tokens, none is selected
@pytest.mark.parametrize("cls_objective", [False, True])
def test_masking_of_a_block_does_not_depend_on_its_batch(length, cls_objective):
    collator = dataclasses.replace(random_blocks(*[length] * 20, 4, 70), cls_objective=cls_objective)
    together = blocks_of(collate(collator, range(22), epoch=3))
    for index in range(22):
        assert blocks_of(collate(collator, [index], epoch=3)) == [together[index]]


def test_masking_does_not_depend_on_the_order_in_a_batch():
    collator = random_blocks(*[32] * 9, 20)
    assert blocks_of(collate(collator, range(10))) == blocks_of(collate(collator, range(9, -1, -1)))[::-1]


def test_masking_is_repeatable_and_leaves_the_global_generator_alone():
    collator, state = random_blocks(*[32] * 9), torch.get_rng_state()
    assert blocks_of(collate(collator, range(9))) == blocks_of(collate(collator, range(9)))
    assert torch.equal(torch.get_rng_state(), state)


def test_epoch_seed_and_index_each_change_what_is_masked():
    block = [CLS, *range(100, 162), SEP]
    collator = collator_of(block, block)
    first = collate(collator, [0]).masked
    others = [
        collate(collator, [0], epoch=1),
        collate(dataclasses.replace(collator, seed=1), [0]),
        collate(collator, [1]),
    ]
    assert not any(torch.equal(first, other.masked) for other in others)
    assert torch.equal(collate(collator, [0], epoch=0).masked, first)


# The batch


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_a_split_batch_has_the_same_masked_tokens(size):
    collator = random_blocks(*[32] * 6, 9)
    batch = collate(collator, range(7))
    pieces = batch.split(size)
    assert [len(piece.lengths) for piece in pieces] == [min(size, 7 - first) for first in range(0, 7, size)]
    assert [block for piece in pieces for block in blocks_of(piece)] == blocks_of(batch)


# [CLS] objective


def test_the_cls_objective_adds_one_of_the_masked_tokens_as_label_of_the_first_token():
    collator = random_blocks(20, 30)
    plain = collate(collator, [0, 1])
    batch = collate(dataclasses.replace(collator, cls_objective=True), [0, 1])
    assert torch.equal(batch.ids, plain.ids)  # the first token itself is not replaced
    for (_, masked, labels), (_, plain_masked, plain_labels) in zip(blocks_of(batch), blocks_of(plain), strict=True):
        assert masked == [0, *plain_masked] and labels[1:] == plain_labels
        assert labels[0] in plain_labels


def test_the_label_of_the_first_token_changes_between_epochs():
    collator = dataclasses.replace(random_blocks(200), cls_objective=True)
    first_labels = {int(collate(collator, [0], epoch).labels[0]) for epoch in range(10)}
    assert len(first_labels) > 5


# From texts


def test_texts_are_encoded_whole_and_without_special_tokens(tokenizer, words):
    long = " ".join(words * 5)
    expected = tokenizer.encode(long, add_special_tokens=False).ids
    collator = make_collator(tokenizer, [long, "", words[0]], 5000, seed=0)
    last = tokenizer.encode(words[0], add_special_tokens=False).ids
    assert collator.data.ids.tolist() == [CLS, *expected, SEP, SEP, *last, SEP, SEP] and len(expected) > 512
    assert special_ids(tokenizer) == ([CLS], [SEP])  # the tokenizer itself is unchanged


def test_a_collator_of_texts_knows_blocks_mask_token_and_special_tokens(tokenizer, texts):
    collator = make_collator(tokenizer, texts, 16, seed=7, cls_objective=True)
    assert (collator.seed, collator.mask_id, collator.special_ids) == (7, MASK, (0, 1, 2, 3, 4))
    assert (collator.vocab_size, collator.cls_objective) == (300, True)
    lengths = collator.data.lengths()
    assert set(lengths[:-1].tolist()) == {16}
    assert (collator.data.ids[collator.data.offsets[:-1]] == CLS).all()
    count = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    assert len(collator.data.ids) == count + len(texts) + 2 * len(lengths)  # [SEP] of texts, both of blocks


def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer, texts):
    other = Tokenizer.from_str(tokenizer.to_str().replace("[MASK]", "[OTHER]"))
    with pytest.raises(UserError, match=r"the tokenizer has no \[MASK\] or <mask> token"):
        make_collator(other, texts, 16, seed=0)


def test_the_cls_objective_needs_a_token_before_a_text(tokenizer, texts):
    other = Tokenizer.from_str(tokenizer.to_str())
    other.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    assert not make_collator(other, texts, 16, seed=0).cls_objective
    with pytest.raises(UserError, match="--cls-objective needs a tokenizer that adds a token before a text"):
        make_collator(other, texts, 16, seed=0, cls_objective=True)
    with pytest.raises(UserError, match="finds no tokens in 2 texts"):
        make_collator(other, [" ", ""], 16, seed=0)
