"""The network sees a text's tokens and n-grams and nothing else: not its padding, not what crosses into it."""

import dataclasses

import pytest
import torch
from torch import Tensor

from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.utils.errors import UserError

SMALL = NetworkConfig(width=4, hidden=5, dropout=0.5, ngrams=1, buckets=1000)


def network(classes: int = 3, **changes) -> EmbeddingBagClassifier:
    """Without dropout, the same at every call; 20 tokens."""
    torch.manual_seed(0)
    return EmbeddingBagClassifier(20, classes, dataclasses.replace(SMALL, **changes)).eval()


def batch(*texts: list[int], longest: int | None = None, pad: int = 0) -> tuple[Tensor, Tensor]:
    longest = longest or max(map(len, texts))
    ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts])
    return ids, torch.arange(longest) < torch.tensor([[len(text)] for text in texts])


def rows_of(model: EmbeddingBagClassifier, *text: int) -> list[int]:
    """The embedding rows that count for one text."""
    features, counted = model.features(*batch(list(text)))
    return features[counted].tolist()


KINDS = [{}, {"ngrams": 3}, {"ngrams": 3, "binary_counts": True}, {"binary_counts": True}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 5])
def test_a_text_gets_a_logit_a_class(kind: dict, classes: int):
    assert network(classes, **kind)(*batch([1, 2, 3], [4], [])).shape == (3, classes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pad", [0, 3])
def test_padding_does_not_change_logits(kind: dict, pad: int):
    model = network(**kind)
    texts = [[1, 2, 3, 3], [3], [], [5, 5, 5]]
    short, long = (model(*batch(*texts, longest=longest, pad=pad)) for longest in (4, 11))
    torch.testing.assert_close(long, short, rtol=0, atol=1e-6)  # logits below 1; float32 has 7 digits


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_in_the_batch_do_not_change_logits(kind: dict):
    model = network(**kind)
    together = model(*batch([1, 2, 3, 3], [3, 4], []))
    alone = torch.cat([model(*batch(text, longest=4)) for text in ([1, 2, 3, 3], [3, 4], [])])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)  # float32


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_text_has_finite_logits_those_of_a_zero_mean(kind: dict):
    model = network(**kind)
    expected = model.output(model.hidden(torch.zeros(4)).relu())
    torch.testing.assert_close(model(*batch([], [1]))[0], expected, rtol=0, atol=1e-6)  # float32
    assert model(*batch([], longest=1)).isfinite().all()


def test_logits_are_those_of_the_mean_of_the_embeddings():
    model = network()
    mean = model.embedding.weight[[7, 7, 2]].mean(dim=0)
    expected = model.output(model.hidden(mean).relu())
    torch.testing.assert_close(model(*batch([7, 7, 2]))[0], expected, rtol=0, atol=1e-6)  # float32


# N-grams


def test_four_tokens_have_three_pairs_and_two_triples():
    features, counted = network(ngrams=3).features(*batch([1, 2, 3, 4]))
    assert features.shape == (1, 4 + 3 + 2)
    assert features[0, :4].tolist() == [1, 2, 3, 4]
    assert (features[0, 4:] >= 20).all() and (features[0, 4:] < 20 + 1000).all()
    assert counted.all()


def test_an_ngram_that_reaches_into_padding_does_not_count():
    _, counted = network(ngrams=3).features(*batch([1, 2, 3], longest=4))
    tokens, pairs, triples = [True, True, True, False], [True, True, False], [True, False]
    assert counted.tolist() == [tokens + pairs + triples]


def test_an_ngram_across_a_hole_in_the_mask_does_not_count():
    ids, mask = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[True, False, True, True]])
    _, counted = network(ngrams=3).features(ids, mask)
    assert counted.tolist() == [[True, False, True, True] + [False, False, True] + [False, False]]


def test_equal_ngrams_share_a_row():
    features, _ = network(ngrams=2).features(*batch([1, 2, 1, 2]))
    first, between, second = features[0, 4:].tolist()
    assert first == second != between


def test_the_order_of_a_pair_matters():
    model = network(ngrams=2)
    assert rows_of(model, 1, 2)[-1] != rows_of(model, 2, 1)[-1]


@pytest.mark.parametrize("n", [2, 3])
def test_different_ngrams_seldom_share_a_row(n: int):
    model = EmbeddingBagClassifier(5000, 2, NetworkConfig(width=1, hidden=1, ngrams=n, buckets=1 << 20))
    ids = torch.randint(5000, (10_000, n), generator=torch.Generator().manual_seed(0)).unique(dim=0)
    features, _ = model.features(ids, torch.ones_like(ids, dtype=torch.bool))
    found = len(features[:, -1].unique())
    assert found > 0.99 * len(ids)  # thrown at random, 10,000 into 2**20 rows: 0.995 are left


@pytest.mark.parametrize("length", [1, 2])
def test_a_batch_shorter_than_the_ngram_has_the_ngrams_that_fit(length: int):
    model = network(ngrams=5)
    assert len(rows_of(model, *range(1, length + 1))) == length * (length + 1) // 2
    assert model(*batch([1] * length)).isfinite().all()


# Distinct


def test_distinct_tokens_count_once():
    model = network(binary_counts=True)
    table = torch.nn.Embedding.from_pretrained(model.embedding.weight)
    mean = table(torch.tensor([3, 5])).mean(dim=0)
    expected = model.output(model.hidden(mean).relu())
    torch.testing.assert_close(model(*batch([3, 3, 5, 3]))[0], expected, rtol=0, atol=1e-6)  # float32


def test_distinct_ngrams_count_once():
    # 1 2 1 2: the tokens 1 and 2, the pairs 1 2 (twice) and 2 1
    assert sorted(rows_of(network(ngrams=2, binary_counts=True), 1, 2, 1, 2)) == sorted(
        set(rows_of(network(ngrams=2), 1, 2, 1, 2))
    )
    assert len(rows_of(network(ngrams=2, binary_counts=True), 1, 2, 1, 2)) == 4


def test_the_token_0_counts_once_and_its_padding_not_at_all():
    features, counted = network(binary_counts=True).features(*batch([0, 0, 4], [4], longest=5))
    assert [row[chosen].tolist() for row, chosen in zip(features, counted, strict=True)] == [[0, 4], [4]]


# Weights


def test_the_embeddings_gradient_is_sparse_and_holds_the_texts_rows_only():
    model = network()
    model(*batch([3, 5, 3], [7])).sum().backward()
    gradient = model.embedding.weight.grad
    assert gradient.is_sparse
    assert sorted(set(gradient.coalesce().indices()[0].tolist())) == [3, 5, 7]


def test_dropout_acts_in_training_only():
    model = network(hidden=64, dropout=0.9)
    inputs = batch([1, 2, 3])
    assert torch.equal(model(*inputs), model(*inputs))
    model.train()
    assert not torch.equal(model(*inputs), model(*inputs))


def test_known_tokens_start_from_their_vectors():
    model = network()
    before = model.embedding.weight.detach().clone()
    table = torch.arange(8.0).view(2, 4)
    copied = model.start_from({"good": 3, "##ly": 4, "bad": 6}, {"bad": 0, "good": 1}, table)
    assert copied == 2
    assert model.embedding.weight[[3, 6]].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    others = [row for row in range(20) if row not in (3, 6)]
    assert torch.equal(model.embedding.weight[others], before[others])


def test_no_known_token_leaves_the_embedding_as_it_was():
    model = network()
    before = model.embedding.weight.detach().clone()
    assert model.start_from({"good": 3}, {"bad": 0}, torch.ones(1, 4)) == 0
    assert torch.equal(model.embedding.weight, before)


def test_vectors_of_another_width_are_refused_with_both_widths():
    with pytest.raises(UserError, match=r"7 wide, the embedding 4.*--width"):
        network().start_from({"good": 3}, {"good": 0}, torch.ones(1, 7))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_network_gives_the_same_logits(tmp_path, kind: dict):
    model = network(**kind)
    model.save(tmp_path, names=["neg", "pos", "none"])
    inputs = batch([1, 2, 3, 3], [], [4])
    assert torch.equal(EmbeddingBagClassifier.load(tmp_path).eval()(*inputs), model(*inputs))


@pytest.mark.parametrize("wrong", [{"width": 0}, {"hidden": 0}, {"ngrams": 0}, {"buckets": 0}, {"dropout": 1.0}])
def test_settings_that_make_no_network_are_refused(wrong: dict):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        NetworkConfig(**wrong)
