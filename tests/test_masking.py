"""Hidden tokens: what is packed, what is chosen, and on what the choice depends."""

import numpy as np
import torch

from minitext.batches import Padder
from minitext.masking import MaskingPadder, pack_blocks
from minitext.tokens import Ragged

SPECIAL, MASK, VOCABULARY = (0, 1, 2, 3, 4), 4, 1000


def ragged(*texts: list[int]) -> Ragged:
    flat = torch.tensor([number for text in texts for number in text], dtype=torch.int32)
    return Ragged(flat, torch.tensor([0, *map(len, texts)]).cumsum(0))


def blocks_of(count: int, length: int) -> MaskingPadder:
    """Blocks of ordinary tokens between [CLS] 2 and [SEP] 3."""
    ids = np.random.default_rng(0).integers(5, VOCABULARY, (count, length))
    ids[:, 0], ids[:, -1] = 2, 3
    data = ragged(*ids.tolist())
    return MaskingPadder(Padder(data, torch.zeros(count, dtype=torch.int64), 0), 0, MASK, SPECIAL, VOCABULARY)


def test_texts_are_packed_end_to_end_and_no_token_is_lost():
    packed = pack_blocks(ragged([11, 12, 13], [], [14, 15]), 5, [2], [3])
    # the stream: 11 12 13 SEP, SEP of the empty text, 14 15 SEP; three tokens fit between CLS and SEP
    assert packed.ids.tolist() == [2, 11, 12, 13, 3, 2, 3, 3, 14, 3, 2, 15, 3, 3]
    assert packed.lengths().tolist() == [5, 5, 4]


def test_fifteen_percent_are_chosen_and_of_these_eighty_ten_ten():
    padder = blocks_of(400, 128)
    batch = padder(range(400))
    whole = padder.padder(range(400)).ids
    chosen = batch.chosen
    count = int(chosen.sum())
    assert abs(count / (400 * 126) - 0.15) < 0.007  # four standard deviations of a binomial share
    now = batch.ids[chosen]
    assert abs(float((now == MASK).float().mean()) - 0.8) < 0.02  # as above, of the 7,560 chosen
    assert abs(float((now == batch.labels).float().mean()) - 0.1) < 0.015
    assert torch.equal(batch.labels, whole[chosen])
    assert torch.equal(batch.ids[~chosen], whole[~chosen])


def test_special_tokens_are_neither_chosen_nor_put_in():
    padder = blocks_of(200, 32)
    batch = padder(range(200))
    assert not batch.chosen[:, [0, -1]].any()
    put_in = batch.ids[batch.chosen & (batch.ids != MASK)]
    assert not torch.isin(put_in, torch.tensor(SPECIAL)).any()


def test_what_is_hidden_depends_on_the_block_and_the_epoch_alone():
    padder = blocks_of(8, 64)
    alone, among = padder([5]), padder(range(8))
    assert torch.equal(alone.ids[0], among.ids[5]) and torch.equal(alone.chosen[0], among.chosen[5])
    assert not torch.equal(padder.at_epoch(1)([5]).chosen, alone.chosen)


def test_a_batch_in_pieces_is_the_batch():
    batch = blocks_of(7, 32)(range(7))
    pieces = batch.split(3)
    assert [len(piece.rows) for piece in pieces] == [3, 3, 1]
    for part, whole in zip(map(torch.cat, zip(*pieces, strict=True)), batch, strict=True):
        assert torch.equal(part, whole)
