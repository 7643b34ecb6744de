"""Hidden tokens: what is packed, what is chosen, and on what the choice depends."""

import dataclasses

import numpy as np
import pytest
import torch

from minitext.data.batching import PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.pretraining.masking import MLMCollator, pack_blocks

PAD, CLS, SEP, MASK = 0, 2, 3, 4
SPECIAL, VOCABULARY = (PAD, 1, CLS, SEP, MASK), 1000


def ragged(*texts: list[int]) -> TokenizedTexts:
    flat = torch.tensor([number for text in texts for number in text], dtype=torch.int32)
    return TokenizedTexts(flat, torch.tensor([0, *map(len, texts)]).cumsum(0))


def padder_of(*blocks: list[int], vocabulary: int = VOCABULARY) -> MLMCollator:
    labels = torch.zeros(len(blocks), dtype=torch.int64)
    return MLMCollator(PackCollator(ragged(*blocks), labels, PAD), 0, MASK, SPECIAL, vocabulary)


def blocks_of(*lengths: int) -> MLMCollator:
    """Blocks of ordinary tokens between [CLS] and [SEP]."""
    generator = np.random.default_rng(0)
    return padder_of(*([CLS, *generator.integers(5, VOCABULARY, length - 2).tolist(), SEP] for length in lengths))


def packed(*texts: list[int], length: int = 5, before: list[int] = [CLS], after: list[int] = [SEP]) -> list[list[int]]:  # noqa: B006
    blocks = pack_blocks(ragged(*texts), length, before, after)
    assert blocks.ids.dtype == torch.int32 and blocks.offsets.dtype == torch.int64
    return [part.tolist() for part in blocks.ids.tensor_split(blocks.offsets[1:-1])] if len(blocks.ids) else []


# Packing


def test_texts_are_packed_end_to_end_in_their_order_and_only_the_last_block_is_shorter():
    # the stream: 11 12 13 SEP 14 15 SEP; three tokens fit between CLS and SEP
    assert packed([11, 12, 13], [14, 15]) == [[CLS, 11, 12, 13, SEP], [CLS, SEP, 14, 15, SEP], [CLS, SEP, SEP]]


def test_an_empty_text_is_a_separator_alone():
    assert packed([11], [], [12]) == [[CLS, 11, SEP, SEP, SEP], [CLS, 12, SEP, SEP]]


def test_a_stream_that_fills_its_blocks_leaves_no_empty_one():
    assert packed([11, 12, 13, 14, 15]) == [[CLS, 11, 12, 13, SEP], [CLS, 14, 15, SEP, SEP]]


def test_a_tokenizer_without_special_tokens_packs_the_bare_texts():
    assert packed([11, 12, 13], [14], [15, 16], before=[], after=[]) == [[11, 12, 13, 14, 15], [16]]


@pytest.mark.parametrize("before, after", [([CLS], [SEP]), ([], []), ([CLS], [])])
def test_no_token_is_lost_and_none_is_added_but_the_special_ones(before, after):
    generator = np.random.default_rng(1)
    texts = [generator.integers(5, 99, size).tolist() for size in generator.integers(0, 40, 50)]
    blocks = packed(*texts, length=16, before=before, after=after)
    inside = [number for block in blocks for number in block[len(before) : len(block) - len(after)]]
    assert inside == [number for text in texts for number in [*text, *after]]
    assert all(block[: len(before)] == before and block[len(block) - len(after) :] == after for block in blocks)
    assert {len(block) for block in blocks[:-1]} == {16} and len(blocks[-1]) <= 16


@pytest.mark.parametrize("texts, after", [([], [SEP]), ([[]], []), ([], [])])
def test_nothing_to_pack_gives_no_blocks(texts, after):
    assert packed(*texts, after=after) == []


# What is hidden


def test_fifteen_percent_are_chosen_and_of_these_eighty_ten_ten():
    batch = blocks_of(*[128] * 400)(range(400))
    count = int(batch.chosen.sum())
    now = batch.ids[batch.chosen]
    shares = [
        (count, 400 * 126, 0.15),
        (int((now == MASK).sum()), count, 0.8),
        # a token put in by chance is the old one in 1 of 995 cases, 0.0001 of the chosen ones: far below the tolerance
        (int((now == batch.labels).sum()), count, 0.1),
        (int(((now != MASK) & (now != batch.labels)).sum()), count, 0.1),
    ]
    for hits, of, share in shares:
        assert abs(hits / of - share) < 4 * (share * (1 - share) / of) ** 0.5  # standard deviations of a binomial share


def test_all_ordinary_tokens_are_put_in_about_equally_often():
    generator = np.random.default_rng(0)
    padder = padder_of(*generator.integers(5, 15, (400, 128)).tolist(), vocabulary=15)
    batch = padder(range(400))
    counts = torch.bincount(batch.ids[batch.chosen & (batch.ids != MASK)], minlength=15)
    expected = int(counts.sum()) / 10
    assert counts[:5].sum() == 0
    assert (counts[5:] - expected).abs().max() < 4 * expected**0.5  # standard deviations of a count


def test_labels_are_the_originals_in_reading_order_and_all_else_stays():
    padder = blocks_of(*[32] * 20, 9)
    plain, batch = padder.padder(range(21)), padder(range(21))
    expected = [plain.ids[row, column].item() for row in range(21) for column in range(32) if batch.chosen[row, column]]
    assert batch.labels.tolist() == expected
    assert torch.equal(batch.ids[~batch.chosen], plain.ids[~batch.chosen])
    assert torch.equal(batch.mask, plain.mask) and torch.equal(batch.rows, torch.arange(21))
    assert batch.ids.dtype == torch.int64


def test_special_tokens_and_padding_are_neither_chosen_nor_put_in():
    padder = blocks_of(*range(4, 64), *[32] * 100)
    plain, batch = padder.padder(range(160)).ids, padder(range(160))
    assert not batch.mask.all()  # the case tells: there is padding
    assert not torch.isin(plain[batch.chosen], torch.tensor(SPECIAL)).any()
    put_in = batch.ids[batch.chosen & (batch.ids != MASK)]
    assert len(put_in) and not torch.isin(put_in, torch.tensor(SPECIAL)).any() and put_in.max() < VOCABULARY


# On what it depends


@pytest.mark.parametrize("length", [64, 5])  # of 3 ordinary tokens, none is drawn in 6 of 10 cases
def test_what_is_hidden_depends_on_the_block_alone_whatever_it_is_batched_with(length):
    padder = blocks_of(*[length] * 20, 4, 70)
    together = padder(range(22))
    for row in range(22):
        alone = padder([row])
        size = alone.ids.shape[1]
        assert torch.equal(alone.ids[0], together.ids[row, :size])
        assert torch.equal(alone.chosen[0], together.chosen[row, :size])


def test_the_order_in_a_batch_does_not_matter():
    padder = blocks_of(*[32] * 9)
    there, back = padder(range(9)), padder(range(8, -1, -1))
    assert torch.equal(there.ids, back.ids.flip(0)) and torch.equal(there.chosen, back.chosen.flip(0))


def test_the_same_is_hidden_when_asked_again_and_torch_s_generator_is_left_alone():
    padder, state = blocks_of(*[32] * 9), torch.get_rng_state()
    assert all(torch.equal(*pair) for pair in zip(padder(range(9)), padder(range(9)), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_another_epoch_another_seed_and_another_row_hide_other_tokens():
    block = [CLS, *range(100, 162), SEP]
    padder = padder_of(block, block)
    first = padder([0]).chosen
    others = [padder.at_epoch(1)([0]), dataclasses.replace(padder, seed=1)([0]), padder([1])]
    assert not any(torch.equal(first, other.chosen) for other in others)
    assert torch.equal(padder.at_epoch(1).at_epoch(0)([0]).chosen, first)


# At least one


def test_each_block_hides_a_token_even_where_chance_chose_none():
    padder = blocks_of(*[3] * 50, 8)  # a lone ordinary token is drawn in 15 % of the cases
    batch = padder(range(51))
    assert (batch.chosen.sum(dim=1) >= 1).all()
    assert batch.chosen[:50].nonzero()[:, 1].unique().tolist() == [1]


def test_which_token_that_is_does_not_favour_a_place():
    batch = blocks_of(*[5] * 900)(range(900))
    counts = batch.chosen.sum(dim=0)[1:4].tolist()
    assert max(counts) - min(counts) < 4 * (2 * 350) ** 0.5  # standard deviations of the difference of two counts


@pytest.mark.parametrize("block", [[CLS, SEP], [CLS, SEP, SEP], [CLS], [1]])
def test_a_block_of_special_tokens_alone_hides_one_of_them_and_no_padding(block):
    batch = padder_of(block, [CLS, *range(5, 30), SEP])(range(2))
    places = batch.chosen[0].nonzero().flatten()
    assert len(places) == 1 and places[0] < len(block)
    assert batch.labels[0] == block[places[0]]
    assert len(padder_of(block)([0]).labels) == 1


# Splitting


@pytest.mark.parametrize("size", [1, 3, 7, 64])
def test_a_batch_in_pieces_is_the_batch(size):
    batch = blocks_of(*[32] * 6, 9)(range(7))
    pieces = batch.split(size)
    assert [len(piece.rows) for piece in pieces] == [min(size, 7 - first) for first in range(0, 7, size)]
    for part, whole in zip(map(torch.cat, zip(*pieces, strict=True)), batch, strict=True):
        assert torch.equal(part, whole)
    for piece in pieces:
        assert len(piece.labels) == piece.chosen.sum() >= 1


def test_a_batch_on_another_device_is_the_same_batch():
    batch = blocks_of(8, 8)(range(2)).to(torch.device("cpu"))
    assert [len(part) for part in batch.inputs] == [2, 2, 2]
    assert torch.equal(batch.ids, blocks_of(8, 8)(range(2)).ids)


def test_with_a_summary_the_first_token_has_to_name_one_of_its_blocks_hidden_tokens():
    data = dataclasses.replace(blocks_of(20, 30), summary=True)
    plain = blocks_of(20, 30)([0, 1])
    batch = data([0, 1])
    assert batch.chosen[:, 0].all() and torch.equal(batch.chosen[:, 1:], plain.chosen[:, 1:])
    assert torch.equal(batch.ids, plain.ids)  # the first token itself stays to be seen
    start = 0
    for row in range(2):
        count = int(batch.chosen[row].sum())
        named, *hidden = batch.labels[start : start + count].tolist()
        assert named in hidden
        start += count


def test_the_token_that_a_summary_names_is_another_in_other_epochs():
    data = dataclasses.replace(blocks_of(200), summary=True)
    assert len({int(data.at_epoch(epoch)([0]).labels[0]) for epoch in range(10)}) > 5
