"""MeanEncoder, LogisticRegression, MLP and StaticClassifier: vectors by hand, shapes, saving and loading."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minitext.models import static
from minitext.models.static import (
    MLP,
    LogisticRegression,
    MeanEncoder,
    Standardize,
    StaticClassifier,
    fit_sif,
    time_encoding,
)

WORDS = ["good", "bad", "film"]
TABLE = torch.tensor([[1.0, 0], [0, 1], [2, 4]])
TOPICS = ["sea", "sky", "city", "forest", "desert"]


def randomize(model: nn.Module) -> nn.Module:
    """Every parameter and buffer gets normal values, so that none can be lost without a test that fails."""
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        tensor.normal_(generator=generator)
    return model


# MeanEncoder


def test_a_text_is_the_mean_of_its_words():
    encoded = MeanEncoder(WORDS, TABLE).encode(["Good film!", "bad", "good, good; bad... film"])
    assert encoded.vectors.tolist() == [[1.5, 2], [0, 1], [1, 1.25]]


def test_words_without_a_vector_are_skipped_and_counted():
    encoded = MeanEncoder(WORDS, TABLE).encode(["a good film", "the bad one"])
    assert encoded.vectors.tolist() == [[1.5, 2], [0, 1]]
    assert (encoded.num_known, encoded.num_words) == (3, 6)


@pytest.mark.parametrize("text", ["", "  ", "?!", "utterly unknown"])
def test_a_text_without_known_words_gives_zeros(text: str):
    assert MeanEncoder(WORDS, TABLE).encode(["bad", text, "film"]).vectors.tolist() == [[0, 1], [0, 0], [2, 4]]


def test_no_texts_give_an_empty_matrix_of_the_vector_width():
    encoded = MeanEncoder(WORDS, TABLE).encode([])
    assert (encoded.vectors.shape, encoded.num_known, encoded.num_words) == ((0, 2), 0, 0)


def test_texts_may_come_from_a_generator():
    assert MeanEncoder(WORDS, TABLE).encode(text for text in ("bad", "film")).vectors.tolist() == [[0, 1], [2, 4]]


@pytest.mark.parametrize("weighted", [False, True])
def test_chunks_do_not_change_the_vectors(monkeypatch, weighted: bool):
    weights = torch.tensor([0.5, 0.25, 2]) if weighted else None
    encoder = MeanEncoder(WORDS, TABLE, weights)
    texts = ["good", "bad film", "", "unknown", "good bad", "film film film good", "bad"]
    whole = encoder.encode(texts)
    for size in range(1, 8):
        monkeypatch.setattr(static, "CHUNK", size)
        chunked = encoder.encode(texts)
        assert torch.equal(chunked.vectors, whole.vectors)  # the numbers are powers of two and small: sums are exact
        assert (chunked.num_known, chunked.num_words) == (whole.num_known, whole.num_words)


# SIF

# 8 words: good occurs 4 times, bad twice, film never; 2 have no vector
SIF_TEXTS = ["good good bad", "good thing", "bad good stuff"]


def test_sif_weights_follow_the_formula():
    a = static.SIF_A
    weights = fit_sif(WORDS, TABLE, SIF_TEXTS).word_weights
    expected = [a / (a + 4 / 8), a / (a + 2 / 8), 1]  # a word that does not occur in training has p = 0
    assert weights.tolist() == pytest.approx(expected, rel=1e-6)  # float32


def test_a_weighted_text_is_divided_by_its_number_of_known_words():
    encoder = MeanEncoder(WORDS, TABLE, word_weights=torch.tensor([0.5, 0.25, 2]))
    assert encoder.encode(["good bad nothing", "film", ""]).vectors.tolist() == [[0.25, 0.125], [4, 8], [0, 0]]


def test_the_common_direction_is_subtracted():
    encoder = MeanEncoder(WORDS, TABLE, common=torch.tensor([0.6, 0.8]))
    # film (2, 4): its part along (0.6, 0.8) is 1.2 + 3.2 = 4.4 long
    assert encoder.encode(["film"]).vectors.tolist()[0] == pytest.approx([2 - 4.4 * 0.6, 4 - 4.4 * 0.8], abs=1e-6)


def sif_case() -> tuple[list[str], Tensor, list[str]]:
    generator = np.random.default_rng(0)
    words = [f"w{i}" for i in range(30)]
    table = torch.from_numpy(generator.normal(0.5, 1, (30, 6))).float()
    texts = [" ".join(generator.choice(words, 7)) for _ in range(40)]
    return words, table, texts


def test_sif_vectors_are_orthogonal_to_the_common_direction():
    words, table, texts = sif_case()
    encoder = fit_sif(words, table, texts)
    vectors = encoder.encode(texts).vectors
    assert encoder.common.norm().item() == pytest.approx(1, abs=1e-6)  # float32
    assert (vectors @ encoder.common).abs().max().item() < 1e-6 * vectors.norm(dim=1).max().item() + 1e-9


def test_a_sif_vector_does_not_depend_on_the_other_texts():
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


def test_the_encoding_of_a_sentence_is_timed():
    line = time_encoding(MeanEncoder(WORDS, TABLE), "A good film.")
    assert re.fullmatch(r"encoded 'A good film\.' to shape \(1, 2\) in \d+\.\d\d ms, 2 of 3 words known", line)


# LogisticRegression and MLP


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_regression_gives_one_logit_per_class(classes: int):
    assert LogisticRegression(4, classes)(torch.randn(7, 4)).shape == (7, classes)


def test_two_classes_share_one_weight_vector():
    model = LogisticRegression(4, 2)
    assert model.output.weight.shape == (1, 4)
    assert model(torch.randn(3, 4))[:, 0].tolist() == [0, 0, 0]


def test_standardized_vectors_have_mean_zero_and_deviation_one():
    layer = Standardize(2)
    layer.fit(torch.tensor([[1.0, 10], [3, 30]]))
    assert layer(torch.tensor([[1.0, 10], [3, 30], [2, 40]])).tolist() == [[-1, -1], [1, 1], [0, 2]]


def test_a_constant_column_keeps_its_scale():
    layer = Standardize(2)
    layer.fit(torch.tensor([[5.0, 1], [5, 3]]))
    assert layer(torch.tensor([[5.0, 1], [7, 3]])).tolist() == [[0, -1], [2, 1]]


@pytest.mark.parametrize("value", [0.1, 1 / 3, 123.456, -1e-3])
def test_rounding_does_not_make_a_constant_column_vary(value: float):
    layer = Standardize(3)
    layer.fit(torch.full((1000, 3), value))
    # 0.5 away from the constant stays 0.5 away: 1e-3 allows for the rounding of the mean
    assert layer(torch.full((1, 3), value + 0.5)).tolist()[0] == pytest.approx([0.5] * 3, abs=1e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_mlp_gives_one_logit_per_class(classes: int):
    assert MLP(4, 16, classes, 0.5)(torch.randn(7, 4)).shape == (7, classes)


def test_mlp_is_standardize_linear_relu_linear():
    model = randomize(MLP(2, 3, 2))
    vectors = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    standardized = (vectors - model.standardize.mean) / model.standardize.deviation
    hidden = (standardized @ model.hidden.weight.T + model.hidden.bias).clamp_min(0)
    expected = hidden @ model.output.weight.T + model.output.bias
    assert torch.allclose(model(vectors), expected, atol=1e-5)  # float32


# StaticClassifier


def make_classifier(kind: str, num_classes: int) -> StaticClassifier:
    """Random weights on the vectors of five topics and `and`."""
    encoder = MeanEncoder([*TOPICS, "and"], torch.cat((4 * torch.eye(5), torch.ones(1, 5))))
    classifier = LogisticRegression(5, num_classes) if kind == "logistic" else MLP(5, 8, num_classes, dropout=0.9)
    return StaticClassifier(encoder, randomize(classifier), TOPICS[:num_classes])


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("kind", ["logistic", "mlp"])
def test_a_loaded_classifier_gives_the_same_logits(tmp_path, kind: str, num_classes: int):
    texts = ["sea and sky", "forest", "", "unknown"]
    model = make_classifier(kind, num_classes)
    model.save(tmp_path)
    loaded = StaticClassifier.load(tmp_path)
    assert loaded.class_names == tuple(TOPICS[:num_classes])
    assert loaded.logits(texts).shape == (4, num_classes)
    assert torch.equal(loaded.logits(texts), model.logits(texts))


def test_a_loaded_classifier_keeps_its_sif_weights(tmp_path):
    model = make_classifier("logistic", 5)
    model.encoder = fit_sif(model.encoder.words, model.encoder.table, ["sea and sky", "city and", "and forest"])
    model.save(tmp_path)
    assert torch.equal(StaticClassifier.load(tmp_path).logits(["sea and city"]), model.logits(["sea and city"]))


def test_words_that_do_not_match_the_vectors_are_refused(tmp_path):
    make_classifier("logistic", 2).save(tmp_path)
    (tmp_path / "words.txt").write_text("sea\nsky\n")
    with pytest.raises(ValueError, match=r"words\.txt has 2 words for 6 vectors"):
        StaticClassifier.load(tmp_path)


def test_words_beyond_ascii_are_saved(tmp_path):
    model = StaticClassifier(MeanEncoder(["café", "日本", "naïve"], TABLE), LogisticRegression(2, 2), ("neg", "pos"))
    model.save(tmp_path)
    assert StaticClassifier.load(tmp_path).encoder.words == ["café", "日本", "naïve"]


def test_prediction_turns_dropout_off():
    model = make_classifier("mlp", 2).train()
    assert torch.equal(model.logits(["sea and sky"]), model.logits(["sea and sky"]))
