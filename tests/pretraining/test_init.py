"""The model that pretraining starts from: new, initialized from what is known, or a checkpoint."""

import json
import math

import pytest
import torch

from minitext.data.word_vectors import WordVectors
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.models.hf_checkpoint import save_model
from minitext.models.hf_tokenizer import load_hub_tokenizer
from minitext.pretraining.init import (
    build_new,
    init_output_bias,
    init_positions,
    init_token_embeddings,
    load_existing,
)
from minitext.utils.errors import UserError

SHAPE = BertConfig(300, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=64, max_positions=32)
TINY = BertConfig(4, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=8, max_positions=50)


def random_vectors(words: list[str], width: int = 16) -> WordVectors:
    return WordVectors(words, 3 * torch.randn(len(words), width, generator=torch.Generator().manual_seed(1)))


@pytest.fixture
def checkpoint(texts, tmp_path):
    """A saved model that was not trained."""
    torch.manual_seed(0)
    model, tokenizer, hub_config = build_new(SHAPE, texts, 0.0)
    (tmp_path / "checkpoint").mkdir()
    save_model(model, tokenizer, tmp_path / "checkpoint", hub_config)
    return tmp_path / "checkpoint"


# A new model


def test_a_new_model_has_the_vocabulary_of_its_tokenizer(texts):
    model, tokenizer, hub_config = build_new(SHAPE, texts, 0.0)
    assert tokenizer.get_vocab_size() == model.config.vocab_size == hub_config["vocab_size"] == 300


def test_a_new_tokenizer_adds_cls_and_sep(texts, words):
    _, tokenizer, _ = build_new(SHAPE, texts, 0.0)
    tokens = tokenizer.encode(words[0].upper()).tokens
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]") and "[UNK]" not in tokens


def test_the_dropout_of_pretraining_is_not_saved(texts):
    model, _, hub_config = build_new(SHAPE, texts, 0.3)
    assert (model.config.dropout, model.config.attention_dropout) == (0.3, 0.3)
    assert (hub_config["hidden_dropout_prob"], hub_config["attention_probs_dropout_prob"]) == (0.1, 0.1)


def test_too_few_texts_for_the_vocabulary_are_refused(texts):
    with pytest.raises(UserError, match=r"--vocab-size 300: the texts have only \d+ word pieces; lower it"):
        build_new(SHAPE, texts[:1], 0.0)


# Informed initialization


def test_positions_are_sinusoids_with_the_deviation_of_new_weights():
    model = BertMaskedLM(TINY)
    init_positions(model)
    table = model.encoder.position_embedding.weight.detach()
    expected = math.sqrt(2) * 0.02 * torch.tensor([math.sin(7), math.cos(7), math.sin(7 / 100), math.cos(7 / 100)])
    torch.testing.assert_close(table[7], expected, rtol=1e-5, atol=1e-7)  # float32
    assert table.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-5)


def test_the_output_bias_predicts_smoothed_token_frequencies():
    model = BertMaskedLM(TINY)
    init_output_bias(model, torch.tensor([0, 0, 0, 2], dtype=torch.int32))
    expected = torch.tensor([4 / 8, 1 / 8, 2 / 8, 1 / 8])
    torch.testing.assert_close(model.bias.softmax(dim=0).detach(), expected)


def test_word_vectors_initialize_the_tokens_of_their_words_alone(texts, words, tmp_path):
    torch.manual_seed(0)
    plain, tokenizer, _ = build_new(SHAPE, texts, 0.0)
    known = [word for word in words if tokenizer.token_to_id(word) is not None]
    assert len(known) > 20
    vectors = random_vectors([*known[::2], "elsewhere"])
    vectors.write(tmp_path / "vectors.txt", digits=9)
    torch.manual_seed(0)
    model, _, _ = build_new(SHAPE, texts, 0.0, str(tmp_path / "vectors.txt"))
    rows = [tokenizer.token_to_id(word) for word in known[::2]]
    scaled = vectors.table[:-1] * (0.02 / vectors.table[:-1].std())  # only the known words are read from the file
    tokens = model.encoder.token_embedding.weight.detach()
    torch.testing.assert_close(tokens[rows], scaled, rtol=1e-6, atol=0)  # float32
    others = [row for row in range(300) if row not in rows]
    assert torch.equal(tokens[others], plain.encoder.token_embedding.weight[others])
    for name, tensor in plain.state_dict().items():
        assert name == "encoder.token_embedding.weight" or torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "vectors, message",
    [
        (WordVectors([], torch.empty(0, 16)), "none of the tokenizer's tokens occur in --vectors"),
        (random_vectors(["a"], width=100), "--vectors has dimension 100 but the encoder expects 16"),
    ],
)
def test_word_vectors_that_do_not_fit_are_refused(texts, vectors, message):
    model, tokenizer, _ = build_new(SHAPE, texts, 0.0)
    before = model.encoder.token_embedding.weight.clone()
    with pytest.raises(UserError, match=message):
        init_token_embeddings(model, tokenizer, vectors)
    assert torch.equal(model.encoder.token_embedding.weight, before)


# A checkpoint


def test_a_checkpoint_gives_back_its_weights_tokenizer_and_config(checkpoint, texts):
    torch.manual_seed(0)
    expected, tokenizer, _ = build_new(SHAPE, texts, 0.0)
    model, loaded_tokenizer, hub_config = load_existing(str(checkpoint), 0.2)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert loaded_tokenizer.to_str() == tokenizer.to_str()
    assert hub_config == json.loads((checkpoint / "config.json").read_text())
    assert (model.config.dropout, model.config.attention_dropout) == (0.2, 0.2)


def test_an_electra_checkpoint_is_refused_with_the_supported_types(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    with pytest.raises(UserError, match="electra checkpoints have no masked-LM head; supported: bert, roberta, .*"):
        load_existing(str(checkpoint), 0.0)


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(checkpoint):
    tokenizer = load_hub_tokenizer(checkpoint)
    tokenizer.add_tokens(["another"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(UserError, match="has a tokenizer of 301 tokens but an encoder of 300"):
        load_existing(str(checkpoint), 0.0)
