"""The model that masked-LM pretraining starts from: a new one with informed initialization, or a checkpoint.

Inputs: a config and texts, or a checkpoint. Outputs: model, tokenizer, and the content of the Hub's `config.json`.
Shapes: N tokens, E width of the token embedding.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from tokenizers import Tokenizer, processors
from torch import Tensor

from minitext.data.tokenizer import train_tokenizer
from minitext.data.word_vectors import WordVectors, load_word_vectors
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.models.hf_checkpoint import load_model
from minitext.models.hf_names import FAMILIES, family_of, read_config, write_config
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.models.hub import fetch_checkpoint
from minitext.utils.errors import UserError
from minitext.utils.io import read_json


def build_new(
    config: BertConfig, texts: Sequence[str], dropout: float, vectors: str | None = None
) -> tuple[BertMaskedLM, Tokenizer, dict]:
    """A new BERT of shape `config`, a WordPiece tokenizer for `texts`, and the Hub config.

    The model has `dropout`, but the Hub config keeps the dropouts of `config`, for fine-tuning. `vectors` are word
    vectors, a name or a file. Raises UserError if the texts are too few for a vocabulary of `config.vocab_size`.
    """
    tokenizer = train_tokenizer(texts, config.vocab_size)
    size = tokenizer.get_vocab_size()
    if size < config.vocab_size:
        raise UserError(f"--vocab-size {config.vocab_size}: the texts have only {size:,} word pieces; lower it")
    config = replace(config, vocab_size=size)  # larger if the texts have more characters than that
    sep, cls = ((token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]"))
    tokenizer.post_processor = processors.BertProcessing(sep, cls)
    model = BertMaskedLM(replace(config, dropout=dropout, attention_dropout=dropout))
    init_positions(model)
    if vectors:
        init_token_embeddings(model, tokenizer, load_word_vectors(vectors, tokenizer.get_vocab()))
    return model, tokenizer, write_config(config)


def load_existing(source: str, dropout: float) -> tuple[BertMaskedLM, Tokenizer, dict]:
    """The model of a checkpoint with its masked-LM head, if it has one, its tokenizer, and its Hub config."""
    folder = fetch_checkpoint(source)
    hub_config = read_json(folder / "config.json")
    family = family_of(hub_config, source)
    if not family.masked_lm:
        supported = ", ".join(kind for kind, member in FAMILIES.items() if member.masked_lm)
        kind = hub_config["model_type"]
        raise UserError(f"{source}: {kind} checkpoints have no masked-LM head; supported: {supported}")
    config = read_config(hub_config, source)
    changed = replace(config, dropout=dropout, attention_dropout=dropout)
    model, _, _ = load_model(partial(BertMaskedLM, changed), folder, family)
    return model, load_hub_tokenizer(folder, config.vocab_size), hub_config


@torch.no_grad()
def init_positions(model: BertMaskedLM) -> None:
    """Initialize positions to the sinusoids of Vaswani et al. 2017, section 3.5, at the deviation of new weights.

    Neighboring positions are similar from the first update on, including positions that no training text reaches.
    """
    table = model.encoder.position_embedding.weight  # (max_positions, E)
    rows, width = table.shape
    angles = torch.arange(rows)[:, None] * 10000 ** (-torch.arange(0, width, 2) / width)  # (max_positions, E / 2)
    waves = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :width]
    table.copy_(math.sqrt(2) * model.config.initializer_range * waves)  # a sine's deviation is 1 / sqrt(2)


@torch.no_grad()
def init_output_bias(model: BertMaskedLM, ids: Tensor) -> None:
    """Initialize the output bias to the log of add-one-smoothed token frequencies. `ids`: (N,), the training tokens."""
    counts = torch.bincount(ids.long(), minlength=model.config.vocab_size) + 1
    model.bias.copy_((counts / counts.sum()).log())


@torch.no_grad()
def init_token_embeddings(model: BertMaskedLM, tokenizer: Tokenizer, vectors: WordVectors) -> None:
    """Initialize tokens that are words to their vectors, scaled to the deviation of new weights.

    Related tokens start close to each other. Other tokens are not changed.
    Raises UserError if the vectors have another width, or know no token.
    """
    found, expected = vectors.table.shape[1], model.config.token_width
    if found != expected:
        raise UserError(
            f"--vectors has dimension {found} but the encoder expects {expected}; pass --hidden-size {found}"
        )
    known = [(row, vectors.index[token]) for token, row in tokenizer.get_vocab().items() if token in vectors.index]
    if not known:
        raise UserError("none of the tokenizer's tokens occur in --vectors; pass other vectors")
    rows, vector_rows = torch.tensor(known).T
    scale = model.config.initializer_range / vectors.table.std()
    model.encoder.token_embedding.weight[rows] = vectors.table[vector_rows] * scale
