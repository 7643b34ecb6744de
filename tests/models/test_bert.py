"""Tests of the encoder and its heads: shapes, independence of other texts, equal results of every faster way."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packed_batches import pack, varlen_reference
from torch import Tensor, nn

from minitext.models import attention, bert
from minitext.models.attention import SequenceInfo
from minitext.models.bert import BertClassifier, BertConfig, BertLayer, BertMaskedLM
from minitext.utils.errors import UserError

# weights large enough that attention is far from uniform, which would hide an error
SMALL = BertConfig(30, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=16, max_positions=20,
                   initializer_range=0.5, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)  # fmt: skip
FAMILIES = {
    "bert": {},
    "roberta": {"first_position": 2, "num_token_types": 1, "dropout_before_head": True},
    "distilbert": {"num_token_types": 0, "head_activation": "relu"},
    "electra": {"embedding_size": 6, "head_activation": "gelu", "dropout_before_head": True},
}
each_family = pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())
TEXTS = [[1, 2, 3, 3, 9], [3], [4, 5, 6], [7, 8]]
MASKED = [0, 2, 3, 4, 5, 7, 9]  # the odd tokens of TEXTS


def config(**changes) -> BertConfig:
    return dataclasses.replace(SMALL, **changes)


def classifier(classes: int = 3, **changes) -> BertClassifier:
    torch.manual_seed(0)
    return BertClassifier(config(**changes), classes).eval()


def masked_lm(**changes) -> BertMaskedLM:
    torch.manual_seed(0)
    return BertMaskedLM(config(**changes)).eval()


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By name; those of a loss that does not reach a parameter are zero."""
    model.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def weighted(values: Tensor) -> Tensor:
    """A loss in which no two values count the same, so that a swap shows."""
    return (values * torch.arange(1, values.numel() + 1).view_as(values).sin()).sum()


# Shapes and independence


@each_family
@pytest.mark.parametrize("classes", [2, 5])
def test_output_has_one_logit_per_class_and_text(changes: dict, classes: int):
    assert classifier(classes, **changes)(pack(*TEXTS)).shape == (4, classes)


@each_family
def test_output_has_one_logit_per_word_piece_and_masked_token(changes: dict):
    assert masked_lm(**changes)(pack(*TEXTS, masked=MASKED)).shape == (7, 30)


def test_without_masked_tokens_there_are_no_logits():
    assert masked_lm()(pack(*TEXTS, masked=[])).shape == (0, 30)


@each_family
def test_hidden_states_have_one_row_per_token_or_one_per_text(changes: dict):
    encoder = classifier(**changes).encoder
    assert encoder(pack(*TEXTS)).shape == (11, 8)
    assert encoder(pack(*TEXTS), first_only=True).shape == (4, 8)


def test_attention_and_mlp_keep_the_shape_of_hidden_states():
    layer = BertLayer(SMALL)
    hidden, sequence = torch.randn(11, 8), SequenceInfo(pack(*TEXTS).cu_seqlens, 5, (5, 1, 3, 2))
    assert layer.attention(hidden, hidden, sequence).shape == (11, 8)
    assert layer.attention(hidden[:4], hidden, sequence).shape == (4, 8)
    assert layer.mlp(hidden).shape == (11, 8)


@each_family
def test_other_texts_in_the_batch_do_not_change_logits(changes: dict):
    model = classifier(**changes)
    alone = torch.cat([model(pack(text)) for text in TEXTS])
    torch.testing.assert_close(model(pack(*TEXTS)), alone, rtol=0, atol=1e-5)  # logits of about 1, float32


@each_family
def test_the_order_of_texts_in_the_batch_does_not_change_logits(changes: dict):
    model = classifier(**changes)
    reverse = model(pack(*reversed(TEXTS))).flip(0)
    torch.testing.assert_close(model(pack(*TEXTS)), reverse, rtol=0, atol=1e-5)  # logits of about 1, float32


@each_family
def test_other_texts_in_the_batch_do_not_change_logits_of_masked_tokens(changes: dict):
    model = masked_lm(**changes)
    alone = torch.cat([model(pack(text, masked=list(range(len(text))))) for text in TEXTS])
    torch.testing.assert_close(model(pack(*TEXTS, masked=list(range(11)))), alone, rtol=0, atol=1e-5)  # float32


@each_family
def test_an_empty_text_is_read_as_one_padding_token(changes: dict):
    model = classifier(**changes)
    logits = model(pack([], [1, 2], [], pad_id=0))
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, weighted(logits)).values())
    torch.testing.assert_close(logits[0], model(pack([0]))[0], rtol=0, atol=1e-5)  # float32


def test_the_order_of_tokens_matters():
    model = classifier()
    assert (model(pack([1, 2, 3])) - model(pack([1, 3, 2]))).abs().max() > 1e-2


def test_a_text_may_fill_the_position_table_to_its_last_row():
    changes = config(max_positions=7, first_position=2)
    assert changes.max_length == 5
    assert BertClassifier(changes, 2)(pack(TEXTS[0])).isfinite().all()


# Windows of two tokens: three, one, two and one of TEXTS
WINDOWS = [[1, 2], [3, 3], [9], [3], [4, 5], [6], [7, 8]]
WINDOWS_OF_TEXTS = [slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 7)]


def mean_of_windows(model: BertClassifier) -> Tensor:
    """`(B, C)` logits by a loop over the windows of TEXTS, each a batch of its own."""
    alone = torch.cat([model(pack(window)) for window in WINDOWS])
    return torch.stack([alone[windows].mean(dim=0) for windows in WINDOWS_OF_TEXTS])


@each_family
def test_the_logits_of_a_text_are_the_mean_of_those_of_its_windows(changes: dict):
    model = classifier(**changes).double()
    found = model(pack(*TEXTS, window=2))
    torch.testing.assert_close(found, mean_of_windows(model), rtol=0, atol=1e-12)  # float64 of values near 1
    assert (found - model(pack(*TEXTS))).abs().max() > 1e-2  # the case tells


@each_family
def test_the_gradient_of_windows_is_that_of_a_loop_over_them(changes: dict):
    model = classifier(**changes).double()
    expected = gradients(model, weighted(mean_of_windows(model)))
    for checkpointing in (False, True):
        model.encoder.checkpointing = checkpointing
        found = gradients(model.train(), weighted(model(pack(*TEXTS, window=2))))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)  # float64 of values near 100


@pytest.mark.parametrize("window", [5, 6, 99])
def test_texts_of_one_window_have_the_bits_of_texts_without_windows(window: int):
    model = classifier()
    plain, windows = model(pack(*TEXTS)), model(pack(*TEXTS, window=window))
    assert torch.equal(plain, windows)
    expected, found = (gradients(model, weighted(logits)) for logits in (plain, windows))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_other_texts_and_their_order_do_not_change_the_logits_of_windows():
    model = classifier().double()
    together = model(pack(*TEXTS, window=2))
    alone = torch.cat([model(pack(text, window=2)) for text in TEXTS])
    reverse = model(pack(*reversed(TEXTS), window=2)).flip(0)
    for other in (alone, reverse):
        torch.testing.assert_close(together, other, rtol=0, atol=1e-12)  # float64 of values near 1


def test_a_text_of_several_windows_may_be_longer_than_the_position_table():
    model = classifier(max_positions=7, first_position=2)
    assert model(pack(list(range(23)), [5], window=5)).isfinite().all()


def test_dropout_acts_in_training_only():
    model = classifier(dropout=0.5)
    assert torch.equal(model(pack(*TEXTS)), model(pack(*TEXTS)))
    model.train()
    assert not torch.equal(model(pack(*TEXTS)), model(pack(*TEXTS)))


def test_the_output_layer_is_tied_to_the_token_embedding():
    model, batch = masked_lm(), pack(*TEXTS, masked=MASKED)
    with torch.no_grad():
        before = model(batch)
        model.encoder.token_embedding.weight[29] = 0  # a token that no text has
        model.bias[29] = 7
        after = model(batch)
    assert (after[:, 29] == 7).all()
    assert torch.equal(after[:, :29], before[:, :29])
    sizes = [name for name, value in model.named_parameters() if 30 in value.shape]
    assert sizes == ["bias", "encoder.token_embedding.weight"]


def test_logits_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert classifier()(pack(*TEXTS)).dtype == torch.float32


# New weights


def test_new_weights_have_the_standard_deviation_of_the_config():
    torch.manual_seed(0)
    sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "max_positions": 64}
    model = BertClassifier(config(**sizes, initializer_range=0.02), 64)
    for name, value in model.named_parameters():
        if "norm" in name:
            assert (value == (1 if name.endswith("weight") else 0)).all()
        elif name.endswith("bias"):
            assert (value == 0).all()
        elif value.numel() >= 4096:  # the deviation of 4096 numbers is within 1.1 % in two cases of three
            assert value.std().item() == pytest.approx(0.02, rel=0.05)
            assert abs(value.mean().item()) < 0.02 * 5 / math.sqrt(value.numel())


def test_new_weights_come_from_torchs_generator():
    first, again = classifier().state_dict(), classifier().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("heads", [3, 0, -2])
def test_a_hidden_size_that_is_not_divisible_by_the_heads_is_refused(heads: int):
    with pytest.raises(UserError, match=rf"8 is not divisible by {heads} heads"):
        config(num_heads=heads)


@pytest.mark.parametrize("name", ["activation", "head_activation", "masked_lm_activation"])
def test_an_unknown_activation_is_refused_with_those_supported(name: str):
    with pytest.raises(UserError, match=r"'swish'.*gelu, .*tanh"):
        config(**{name: "swish"})


# One computation, several ways


@each_family
def test_first_only_is_the_first_hidden_state_and_has_its_gradients(changes: dict):
    model, batch = classifier(**changes).encoder.double(), pack(*TEXTS)
    first, of_all = model(batch, first_only=True), model(batch)[batch.cu_seqlens[:-1]]
    torch.testing.assert_close(first, of_all, rtol=0, atol=1e-12)  # float64 of values near 1
    expected = gradients(model, weighted(of_all))
    torch.testing.assert_close(gradients(model, weighted(first)), expected, rtol=0, atol=1e-10)  # float64 near 100
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2  # the case tells


@pytest.fixture
def varlen_calls(monkeypatch) -> list[int]:
    """Uses a stand-in for the kernel on the CPU; counts its calls."""
    calls = []
    monkeypatch.setattr(attention, "varlen_attn", lambda *arguments: calls.append(1) or varlen_reference(*arguments))
    monkeypatch.setattr(bert, "can_use_varlen", lambda device, head_width: True)
    return calls


@each_family
@pytest.mark.parametrize("texts", [TEXTS, [[], *TEXTS, []], [[4], [5]]], ids=["ragged", "empty", "one token each"])
def test_the_kernel_path_has_the_logits_and_gradients_of_attention_per_text(request, changes: dict, texts: list):
    model = classifier(**changes).double()
    batch = pack(*texts, pad_id=0)
    per_text = model(batch)
    expected = gradients(model, weighted(per_text))
    calls = request.getfixturevalue("varlen_calls")
    packed = model(batch)
    assert len(calls) == 2  # one per layer
    torch.testing.assert_close(packed, per_text, rtol=0, atol=1e-12)  # float64 of values near 1
    torch.testing.assert_close(gradients(model, weighted(packed)), expected, rtol=0, atol=1e-10)  # float64 near 100


@each_family
def test_the_kernel_path_has_the_masked_tokens_logits_and_gradients_of_attention_per_text(request, changes: dict):
    model = masked_lm(**changes).double()
    batch = pack(*TEXTS, masked=MASKED)
    per_text = model(batch)
    expected = gradients(model, weighted(per_text))
    calls = request.getfixturevalue("varlen_calls")
    packed = model(batch)
    assert len(calls) == 2  # one per layer
    torch.testing.assert_close(packed, per_text, rtol=0, atol=1e-11)  # float64 of values near 10
    torch.testing.assert_close(gradients(model, weighted(packed)), expected, rtol=0, atol=1e-9)  # float64 near 1000


def test_attention_dropout_in_training_does_not_use_the_kernel(varlen_calls: list[int]):
    model = classifier(attention_dropout=0.5).train()
    assert not torch.equal(model(pack(*TEXTS)), model(pack(*TEXTS)))
    assert not varlen_calls
    model.eval()(pack(*TEXTS))
    assert varlen_calls


def test_checkpointing_gives_the_same_loss_and_gradients(monkeypatch):
    calls = []
    again = bert.checkpoint
    monkeypatch.setattr(bert, "checkpoint", lambda *inputs, **how: calls.append(1) or again(*inputs, **how))
    model = classifier().double().train()
    plain = weighted(model(pack(*TEXTS)))
    expected = gradients(model, plain)
    assert not calls
    model.encoder.checkpointing = True
    saving = weighted(model(pack(*TEXTS)))
    assert len(calls) == 2  # each layer
    torch.testing.assert_close(saving, plain, rtol=0, atol=1e-12)  # float64 of values near 1
    torch.testing.assert_close(gradients(model, saving), expected, rtol=0, atol=1e-10)  # float64 of values near 100
    with torch.no_grad():
        model.eval()(pack(*TEXTS))
    assert len(calls) == 2  # evaluation has nothing to save


@pytest.mark.oracle
@pytest.mark.parametrize("first_only", [False, True])
def test_a_layer_is_torchs_transformer_encoder_layer(first_only: bool):
    torch.manual_seed(0)
    ours = BertLayer(config(hidden_size=12, num_heads=3)).double()
    theirs = nn.TransformerEncoderLayer(
        12, 3, dim_feedforward=16, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    for module, (weight, bias) in {
        ours.attention.qkv: (theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias),
        ours.attention.output: (theirs.self_attn.out_proj.weight, theirs.self_attn.out_proj.bias),
        ours.attention_norm: (theirs.norm1.weight, theirs.norm1.bias),
        ours.mlp.up: (theirs.linear1.weight, theirs.linear1.bias),
        ours.mlp.down: (theirs.linear2.weight, theirs.linear2.bias),
        ours.mlp_norm: (theirs.norm2.weight, theirs.norm2.bias),
    }.items():
        module.load_state_dict({"weight": weight, "bias": bias})
    batch = pack(*TEXTS)
    hidden = torch.randn(11, 12, dtype=torch.float64)
    expected = torch.cat([theirs(text[None])[0] for text in hidden.split(batch.lengths)])
    found = ours(hidden, SequenceInfo(batch.cu_seqlens, 5, batch.lengths), first_only)
    expected = expected[batch.cu_seqlens[:-1]] if first_only else expected
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)  # float64 of values near 1


def cast_on_the_cpu(*modules: nn.Linear) -> list[Tensor]:
    """What `cast_parameters` does on CUDA."""
    return bert.CastTogether.apply(torch.bfloat16, *(p for module in modules for p in (module.weight, module.bias)))


def test_casting_a_layers_parameters_together_gives_the_bits_of_autocast(monkeypatch):
    batch = pack(*TEXTS)
    found = []
    for together in (True, False):
        model = classifier().train()
        with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            if together:
                patch.setattr(bert, "cast_parameters", cast_on_the_cpu)
            logits = model(batch)
        found.append((logits.detach(), gradients(model, weighted(logits))))
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert gradient.dtype == torch.float32
        # the first layer's gradient of the last one's slices is added up in float32 here, in bfloat16 there
        torch.testing.assert_close(gradient, found[1][1][name], rtol=0.02, atol=0.02)


def test_frozen_parameters_get_no_gradient_from_being_cast_together(monkeypatch):
    monkeypatch.setattr(bert, "cast_parameters", cast_on_the_cpu)
    model = classifier().train()
    model.encoder.layers[0].requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        model(pack(*TEXTS)).sum().backward()
    assert all(parameter.grad is None for parameter in model.encoder.layers[0].parameters())
    assert all(parameter.grad is not None for parameter in model.encoder.layers[1].parameters())


@each_family
@pytest.mark.parametrize("multiple", [4, 11, 64])
def test_rounding_up_the_number_of_tokens_does_not_change_logits_and_gradients(monkeypatch, changes: dict, multiple):
    batch = pack(*TEXTS, masked=MASKED)
    for model in (classifier(**changes).double(), masked_lm(**changes).double()):
        plain = model(batch)
        expected = gradients(model, weighted(plain))
        with monkeypatch.context() as patch:
            patch.setattr(bert, "token_multiple", lambda device: multiple)
            rounded = model(batch)
            assert rounded.shape == plain.shape
            torch.testing.assert_close(rounded, plain, rtol=0, atol=1e-11)  # float64 of values up to 10
            found = gradients(model, weighted(rounded))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)  # float64 of values up to 1000


@pytest.mark.parametrize(("count", "expected"), [(11, 64), (64, 64), (65, 128)])
def test_a_batch_is_rounded_up_by_one_text_at_its_end(count: int, expected: int):
    batch = pack(list(range(1, count)), [7])
    aligned = bert.align(batch, 64)
    assert len(aligned.ids) == len(aligned.positions) == sum(aligned.lengths) == expected
    assert aligned.cu_seqlens.tolist() == [0, *np.cumsum(aligned.lengths)] and aligned.cu_seqlens.dtype == torch.int32
    assert torch.equal(aligned.ids[:count], batch.ids) and aligned.lengths[:2] == batch.lengths
    assert aligned.indices is batch.indices and aligned.labels is batch.labels
    assert bert.token_multiple(torch.device("cuda")) == 64 and bert.token_multiple(torch.device("cpu")) == 1


# Training


@each_family
def test_twenty_steps_overfit_eight_examples(changes: dict):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "initializer_range": 0.02}
    model = BertClassifier(config(**sizes, **changes), 2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = pack(*([token, *range(1, 1 + token % 3)] for token in range(10, 18)))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    for _ in range(20):
        loss = F.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(batch).argmax(dim=1), labels)
    assert loss < 0.1  # from 0.69
