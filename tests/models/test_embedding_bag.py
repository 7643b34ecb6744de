"""Tests of the scratch classifier: shapes, independence of other texts and padding, gradients, saving."""

import dataclasses

import pytest
import torch
from packed_batches import tokenized
from torch import Tensor

from minitext.data.batching import PackCollator
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig, fill_buckets
from minitext.utils.errors import UserError

SMALL = NetworkConfig(embedding_dim=4, hidden_size=5, dropout=0.5, ngrams=1, buckets=1000)


def network(classes: int = 3, **changes) -> EmbeddingBagClassifier:
    """Without dropout, the same at every call; 20 tokens."""
    torch.manual_seed(0)
    return EmbeddingBagClassifier(20, classes, dataclasses.replace(SMALL, **changes)).eval()


def logits(model: EmbeddingBagClassifier, *texts: list[int]) -> Tensor:
    """Of texts given as token ids, n-grams included."""
    features = model.features(tokenized(*texts))
    return model(PackCollator(features, torch.zeros(len(texts), dtype=torch.int64))(range(len(texts))))


KINDS = [{}, {"ngrams": 3}, {"ngrams": 3, "binary_counts": True}, {"binary_counts": True}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 5])
def test_output_has_one_logit_per_class_and_text(kind: dict, classes: int):
    assert logits(network(classes, **kind), [1, 2, 3], [4], []).shape == (3, classes)


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_in_the_batch_do_not_change_logits(kind: dict):
    model = network(**kind)
    texts = [[1, 2, 3, 3], [3, 4], []]
    alone = torch.cat([logits(model, text) for text in texts])
    torch.testing.assert_close(logits(model, *texts), alone, rtol=0, atol=1e-6)  # logits below 1; float32 has 7 digits


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_the_logits_of_a_zero_mean(kind: dict):
    model = network(**kind)
    expected = model.output(model.hidden(torch.zeros(4)).relu())
    torch.testing.assert_close(logits(model, [], [1])[0], expected, rtol=0, atol=1e-6)  # float32
    assert logits(model, []).isfinite().all()


def test_logits_are_those_of_the_mean_of_the_embeddings():
    model = network()
    mean = model.embedding.weight[[7, 7, 2]].mean(dim=0)
    expected = model.output(model.hidden(mean).relu())
    torch.testing.assert_close(logits(model, [7, 7, 2])[0], expected, rtol=0, atol=1e-6)  # float32


def test_padding_is_left_out_of_the_mean():
    torch.manual_seed(0)
    model = EmbeddingBagClassifier(20, 3, SMALL, pad_id=9).eval()
    texts = tokenized([1, 2, 3], [4], [])
    short, long = (PackCollator(texts, torch.zeros(3), 9, pad_to)(range(3)) for pad_to in (None, 6))
    assert long.lengths == (6, 6, 6)
    torch.testing.assert_close(model(long), model(short), rtol=0, atol=1e-6)  # float32


def test_logits_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert logits(network(), [1, 2]).dtype == torch.float32


# Weights


def test_the_gradient_of_the_embedding_is_sparse_and_holds_only_rows_of_the_texts():
    model = network()
    logits(model, [3, 5, 3], [7]).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient.is_sparse
    assert sorted(set(gradient.coalesce().indices()[0].tolist())) == [3, 5, 7]


def test_dropout_acts_in_training_only():
    model = network(hidden_size=64, dropout=0.9)
    assert torch.equal(logits(model, [1, 2, 3]), logits(model, [1, 2, 3]))
    model.train()
    assert not torch.equal(logits(model, [1, 2, 3]), logits(model, [1, 2, 3]))


def test_word_vectors_are_copied_to_the_tokens_that_are_words():
    model = network()
    before = model.embedding.weight.detach().clone()
    table = torch.arange(8.0).view(2, 4)
    copied = model.load_embeddings({"good": 3, "##ly": 4, "bad": 6}, {"bad": 0, "good": 1}, table)
    assert copied == 2
    assert model.embedding.weight[[3, 6]].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    others = [row for row in range(20) if row not in (3, 6)]
    assert torch.equal(model.embedding.weight[others], before[others])


def test_without_known_tokens_the_embedding_does_not_change():
    model = network()
    before = model.embedding.weight.detach().clone()
    assert model.load_embeddings({"good": 3}, {"bad": 0}, torch.ones(1, 4)) == 0
    assert torch.equal(model.embedding.weight, before)


def test_vectors_of_another_dimension_are_refused_with_both_sizes():
    with pytest.raises(UserError, match=r"dimension 7, the embeddings 4.*--embedding-dim 7"):
        network().load_embeddings({"good": 3}, {"good": 0}, torch.ones(1, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_network_gives_the_same_logits(tmp_path, kind: dict):
    model = network(**kind)
    model.save(tmp_path, class_names=["neg", "pos", "none"])
    loaded = EmbeddingBagClassifier.load(tmp_path).eval()
    texts = [1, 2, 3, 3], [], [4]
    assert torch.equal(logits(loaded, *texts), logits(model, *texts))


def test_ngrams_begin_with_zero_and_tokens_do_not():
    model = EmbeddingBagClassifier(10, 3, NetworkConfig(4, 5, ngrams=2, buckets=6))
    assert model.embedding.weight[:10].ne(0).all()
    assert model.embedding.weight[10:].eq(0).all()


@pytest.mark.parametrize(
    ("ngrams", "num_tokens", "buckets"),
    [
        (2, 5000, 8192),
        (2, 8192, 8192),
        (2, 8193, 16384),
        (3, 5000, 16384),
        (2, 0, 1024),
        (1, 5000, 1024),
        (2, 10**8, 1 << 20),
    ],
)
def test_without_a_number_of_buckets_there_are_as_many_as_ngrams(ngrams: int, num_tokens: int, buckets: int):
    assert fill_buckets(NetworkConfig(ngrams=ngrams), num_tokens).buckets == buckets
    assert fill_buckets(NetworkConfig(ngrams=ngrams, buckets=7), num_tokens).buckets == 7


@pytest.mark.parametrize(
    "wrong", [{"embedding_dim": 0}, {"hidden_size": 0}, {"ngrams": 0}, {"buckets": 0}, {"dropout": 1.0}]
)
def test_impossible_settings_are_refused(wrong: dict):
    with pytest.raises(UserError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        NetworkConfig(**wrong)
