"""Where the weights of a new masked language model start, beyond chance: what is known need not be learned.

In: a fresh model. Out: the same model, its positions, biases or token vectors set.
"""

import math

import torch
from tokenizers import Tokenizer
from torch import Tensor

from minitext.data.word_vectors import WordVectors
from minitext.models.bert import BertMaskedLM
from minitext.utils.errors import UserError


@torch.no_grad()
def init_positions(model: BertMaskedLM) -> None:
    """Positions start as the sinusoids of Vaswani et al. 2017, section 3.5, with the spread of new weights.

    Places that are near each other are then near from the first update, and those that no text reaches lie where their
    neighbours point.
    """
    table = model.encoder.positions.weight  # (positions, E)
    rows, width = table.shape
    turns = torch.arange(rows)[:, None] * 10000 ** (-torch.arange(0, width, 2) / width)  # (positions, E / 2)
    waves = torch.stack((turns.sin(), turns.cos()), dim=2).flatten(1)[:, :width]
    table.copy_(math.sqrt(2) * model.config.init_std * waves)


@torch.no_grad()
def init_output_bias(model: BertMaskedLM, ids: Tensor) -> None:
    """The answers' biases start at the logarithm of how often a token occurs, once added: nobody has to learn that."""
    counts = torch.bincount(ids.long(), minlength=model.config.vocabulary) + 1
    model.bias.copy_((counts / counts.sum()).log())


@torch.no_grad()
def start_from(model: BertMaskedLM, tokenizer: Tokenizer, vectors: WordVectors) -> None:
    """Copy the vectors of tokens that are words, scaled to the spread that new weights have; the others stay as drawn.

    What stands near what is then known from the start, and need not be found out through the layers.
    """
    if vectors.table.shape[1] != model.config.embedding_width:
        raise UserError(f"--vectors are {vectors.table.shape[1]} wide, the encoder is {model.config.embedding_width}; "
                        "give --width accordingly")  # fmt: skip
    known = [(row, vectors.index[token]) for token, row in tokenizer.get_vocab().items() if token in vectors.index]
    if not known:
        raise UserError("--vectors know none of the tokenizer's words; give others")
    rows, places = torch.tensor(known).T
    model.encoder.tokens.weight[rows] = vectors.table[places] * (model.config.init_std / vectors.table.std())
