"""A text is the mean of its words' vectors, plain or weighted by rarity, however many texts are encoded at once."""

import numpy as np
import pytest
import torch
from torch import Tensor

from minitext.models import mean_encoder as encoder
from minitext.models.mean_encoder import MeanEncoder, fit_sif

WORDS = ["good", "bad", "film"]
TABLE = torch.tensor([[1.0, 0], [0, 1], [2, 4]])


def test_a_text_is_the_mean_of_its_words():
    encoded = MeanEncoder(WORDS, TABLE).encode(["Good film!", "bad", "good, good; bad... film"])
    assert encoded.vectors.tolist() == [[1.5, 2], [0, 1], [1, 1.25]]


def test_words_without_a_vector_are_skipped_and_counted():
    encoded = MeanEncoder(WORDS, TABLE).encode(["a good film", "the bad one"])
    assert encoded.vectors.tolist() == [[1.5, 2], [0, 1]]
    assert (encoded.known, encoded.total) == (3, 6)


@pytest.mark.parametrize("text", ["", "  ", "?!", "utterly unknown"])
def test_a_text_without_known_words_gives_zeros(text: str):
    assert MeanEncoder(WORDS, TABLE).encode(["bad", text, "film"]).vectors.tolist() == [[0, 1], [0, 0], [2, 4]]


def test_no_texts_give_no_vectors_of_the_right_width():
    encoded = MeanEncoder(WORDS, TABLE).encode([])
    assert (encoded.vectors.shape, encoded.known, encoded.total) == ((0, 2), 0, 0)


def test_texts_may_come_from_a_generator():
    assert MeanEncoder(WORDS, TABLE).encode(text for text in ("bad", "film")).vectors.tolist() == [[0, 1], [2, 4]]


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_do_not_change_the_vectors(monkeypatch, weighted: bool):
    weights = torch.tensor([0.5, 0.25, 2]) if weighted else None
    encoder = MeanEncoder(WORDS, TABLE, weights)
    texts = ["good", "bad film", "", "unknown", "good bad", "film film film good", "bad"]
    whole = encoder.encode(texts)
    for size in range(1, 8):
        monkeypatch.setattr("minitext.models.mean_encoder.CHUNK", size)
        chunked = encoder.encode(texts)
        assert torch.equal(chunked.vectors, whole.vectors)  # the numbers are powers of two and small: sums are exact
        assert (chunked.known, chunked.total) == (whole.known, whole.total)


# SIF

# 8 words: good stands for 4 of them, bad for 2, film for none; 2 have no vector
SIF_TEXTS = ["good good bad", "good thing", "bad good stuff"]


def test_sif_weighs_a_word_by_its_rarity():
    a = encoder.SIF_A
    weights = fit_sif(WORDS, TABLE, SIF_TEXTS).word_weights
    expected = [a / (a + 4 / 8), a / (a + 2 / 8), 1]  # a word that training never shows has p = 0
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)  # float32


def test_a_weighted_text_is_divided_by_its_number_of_known_words():
    encoder = MeanEncoder(WORDS, TABLE, word_weights=torch.tensor([0.5, 0.25, 2]))
    assert encoder.encode(["good bad nothing", "film", ""]).vectors.tolist() == [[0.25, 0.125], [4, 8], [0, 0]]


def test_the_common_direction_is_taken_away():
    encoder = MeanEncoder(WORDS, TABLE, common=torch.tensor([0.6, 0.8]))
    # film (2, 4): its part along (0.6, 0.8) is 1.2 + 3.2 = 4.4 long
    assert encoder.encode(["film"]).vectors.tolist()[0] == pytest.approx([2 - 4.4 * 0.6, 4 - 4.4 * 0.8], abs=1e-6)


def sif_case() -> tuple[list[str], Tensor, list[str]]:
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    table = torch.from_numpy(generator.normal(0.5, 1, (30, 6))).float()
    texts = [" ".join(generator.choice(words, 7)) for _ in range(40)]
    return words, table, texts


def test_sif_leaves_nothing_along_the_common_direction():
    words, table, texts = sif_case()
    encoder = fit_sif(words, table, texts)
    vectors = encoder.encode(texts).vectors
    assert encoder.common.norm().item() == pytest.approx(1, abs=1e-6)  # float32
    assert (vectors @ encoder.common).abs().max().item() < 1e-6 * vectors.norm(dim=1).max().item() + 1e-9


def test_sif_takes_nothing_from_other_texts():
    words, table, texts = sif_case()
    encoder = fit_sif(words, table, texts)
    alone = encoder.encode(["w3 w4"]).vectors
    assert torch.equal(encoder.encode(["w3 w4", "w5", "w6 w6"]).vectors[:1], alone)


def test_sif_of_texts_without_known_words_gives_zeros():
    assert fit_sif(WORDS, TABLE, ["", "unknown"]).encode(["", "unknown"]).vectors.tolist() == [[0, 0], [0, 0]]


@pytest.mark.oracle
def test_the_common_direction_is_scikit_learns_first_singular_vector():
    from sklearn.decomposition import TruncatedSVD

    words, table, texts = sif_case()
    encoder = fit_sif(words, table, texts)
    plain = MeanEncoder(words, table, encoder.word_weights).encode(texts).vectors.double().numpy()
    expected = TruncatedSVD(1, algorithm="arpack", tol=1e-12).fit(plain).components_[0]
    # a singular vector's sign is free; float32 has 7 digits
    assert abs(encoder.common.double().numpy() @ expected) == pytest.approx(1, abs=1e-6)
