"""Texts for pretraining: small, and with masked words that can be predicted from the others."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from minitext.models.bert import BertConfig
from minitext.pretraining.init import build_new


@pytest.fixture(scope="session")
def words() -> list[str]:
    """150 made-up words, sorted."""
    generator = np.random.default_rng(0)
    syllables = ["".join(pair) for pair in zip("bdfgklmnprst" * 5, "aeiou" * 12, strict=True)]
    return sorted({"".join(generator.choice(syllables, size)) for size in generator.integers(2, 4, 300)})[:150]


@pytest.fixture(scope="session")
def texts(words) -> list[str]:
    """120 texts of eight or nine words, none of them twice.

    Most repeat one of three pairs of words, so that a masked word can be predicted, before another word; every fourth
    has eight successive words, so that all words occur.
    """
    lines = []
    for index in range(120):
        pair = [8 * (index % 4), 8 * (index % 4) + 1]
        numbers = range(2 * index, 2 * index + 8) if index % 4 == 0 else [*pair * 4, index]
        lines.append(" ".join(words[number % len(words)] for number in numbers))
    return np.random.default_rng(0).permutation(lines).tolist()


@pytest.fixture(scope="session")
def tokenizer(texts) -> Tokenizer:
    """A tokenizer of 300 word pieces that adds [CLS] and [SEP]."""
    return build_new(BertConfig(300, 4, 1, 1, 8, 32), texts, 0.0)[1]
