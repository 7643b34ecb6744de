"""The encoder reads a text's tokens and nothing else, and each faster way to compute it gives the same numbers."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from minitext.models import bert
from minitext.models.bert import (
    BertClassifier,
    BertConfig,
    BertEncoder,
    BertMaskedLM,
    Layer,
    Layout,
    can_pack,
    training_flops,
)
from minitext.utils.errors import UserError

# weights large enough that attention is not all but uniform, which would hide a wrong mask
SMALL = BertConfig(30, width=8, layers=2, heads=2, inner=16, positions=20, init_std=0.5,
                   dropout=0.0, attention_dropout=0.0, head_dropout=0.0)  # fmt: skip
FAMILIES = {
    "bert": {},
    "roberta": {"first_position": 2, "types": 1, "head_drops_first": True},
    "distilbert": {"types": 0, "head_activation": "relu"},
    "electra": {"token_width": 6, "head_activation": "gelu", "head_drops_first": True},
}
each_family = pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES.keys())


def config(**changes) -> BertConfig:
    return dataclasses.replace(SMALL, **changes)


def classifier(classes: int = 3, **changes) -> BertClassifier:
    torch.manual_seed(0)
    return BertClassifier(config(**changes), classes).eval()


def masked_lm(**changes) -> BertMaskedLM:
    torch.manual_seed(0)
    return BertMaskedLM(config(**changes)).eval()


def batch(*texts: list[int], longest: int | None = None, pad: int = 0) -> tuple[Tensor, Tensor]:
    longest = longest or max(map(len, texts))
    ids = torch.tensor([text + [pad] * (longest - len(text)) for text in texts])
    return ids, torch.arange(longest) < torch.tensor([[len(text)] for text in texts])


TEXTS = [[1, 2, 3, 3, 9], [3], [4, 5, 6], [7, 8]]


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


# What the models give


@each_family
@pytest.mark.parametrize("classes", [2, 5])
def test_a_text_gets_a_logit_a_class(changes: dict, classes: int):
    assert classifier(classes, **changes)(*batch(*TEXTS)).shape == (4, classes)


@each_family
def test_a_chosen_token_gets_a_logit_a_word_of_the_vocabulary(changes: dict):
    ids, mask = batch(*TEXTS)
    chosen = mask & (ids % 2 == 1)
    assert chosen.sum() == 7
    assert masked_lm(**changes)(ids, mask, chosen).shape == (7, 30)


def test_no_chosen_token_gives_no_logits():
    ids, mask = batch(*TEXTS)
    assert masked_lm()(ids, mask, torch.zeros_like(mask)).shape == (0, 30)


@each_family
@pytest.mark.parametrize("pad", [0, 3])
def test_padding_does_not_change_logits(changes: dict, pad: int):
    model = classifier(**changes)
    short, long = (model(*batch(*TEXTS, longest=longest, pad=pad)) for longest in (5, 11))
    torch.testing.assert_close(long, short, rtol=0, atol=1e-5)  # logits of about 1; float32 has 7 digits


@each_family
def test_padding_does_not_change_logits_of_masked_tokens(changes: dict):
    model = masked_lm(**changes)
    (ids, mask), (long_ids, long_mask) = batch(*TEXTS), batch(*TEXTS, longest=11, pad=3)
    torch.testing.assert_close(model(long_ids, long_mask, long_mask), model(ids, mask, mask), rtol=0, atol=1e-5)


@each_family
def test_neighbours_in_the_batch_do_not_change_logits(changes: dict):
    model = classifier(**changes)
    alone = torch.cat([model(*batch(text)) for text in TEXTS])
    torch.testing.assert_close(model(*batch(*TEXTS)), alone, rtol=0, atol=1e-5)  # logits of about 1, float32


@each_family
def test_an_empty_text_has_finite_logits_and_gradients(changes: dict):
    model = classifier(**changes)
    logits = model(*batch([], [1, 2], []))
    assert logits.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, weighted(logits)).values())
    torch.testing.assert_close(logits[0], model(*batch([0]))[0], rtol=0, atol=1e-5)  # one token of padding, float32


def test_the_mask_that_is_given_stays_as_it_was():
    ids, mask = batch([], [1, 2])
    classifier()(ids, mask)
    assert mask.tolist() == [[False, False], [True, True]]


def test_the_order_of_tokens_matters():
    model = classifier()
    assert (model(*batch([1, 2, 3])) - model(*batch([1, 3, 2]))).abs().max() > 1e-2


def test_a_text_may_fill_the_position_table_to_its_last_row():
    changes = config(positions=7, first_position=2)
    assert changes.longest == 5
    assert BertClassifier(changes, 2)(*batch(TEXTS[0])).isfinite().all()


def test_dropout_acts_in_training_only():
    model = classifier(dropout=0.5)
    assert torch.equal(model(*batch(*TEXTS)), model(*batch(*TEXTS)))
    model.train()
    assert not torch.equal(model(*batch(*TEXTS)), model(*batch(*TEXTS)))


def test_logits_of_masked_tokens_are_products_with_the_token_embedding():
    model = masked_lm()
    ids, mask = batch(*TEXTS)
    with torch.no_grad():
        before = model(ids, mask, mask)
        model.encoder.tokens.weight[29] = 0  # a token that no text has
        model.bias[29] = 7
        after = model(ids, mask, mask)
    assert (after[:, 29] == 7).all()
    assert torch.equal(after[:, :29], before[:, :29])
    assert [name for name, value in model.named_parameters() if 30 in value.shape] == ["bias", "encoder.tokens.weight"]


# New weights


def test_new_weights_have_the_deviation_of_the_config():
    torch.manual_seed(0)
    model = BertClassifier(config(vocabulary=100, width=64, inner=128, positions=64, init_std=0.02), 64)
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
def test_a_width_that_heads_cannot_share_is_refused(heads: int):
    with pytest.raises(UserError, match=rf"8 cannot be shared by {heads} "):
        config(heads=heads)


@pytest.mark.parametrize("name", ["activation", "head_activation", "masked_lm_activation"])
def test_an_unknown_activation_is_refused_with_those_known(name: str):
    with pytest.raises(UserError, match=r"'swish'.*gelu, .*tanh"):
        config(**{name: "swish"})


# One computation, several ways


@each_family
def test_first_only_is_the_first_hidden_state_and_has_its_gradients(changes: dict):
    model = classifier(**changes).encoder.double()
    ids, mask = batch(*TEXTS)
    first, of_all = model(ids, mask, first_only=True), model(ids, mask)[:, 0]
    torch.testing.assert_close(first, of_all, rtol=0, atol=1e-12)  # float64 of values near 1
    expected = gradients(model, weighted(of_all))
    torch.testing.assert_close(gradients(model, weighted(first)), expected, rtol=0, atol=1e-10)  # float64 near 100
    assert max(gradient.abs().max() for gradient in expected.values()) > 1e-2  # the case tells


def by_text(query: Tensor, key: Tensor, value: Tensor, asking: Tensor, starts: Tensor, most: int, longest: int):
    """Attention of packed texts, one text after the other; what the CUDA kernel demands is checked."""
    assert asking.dtype == starts.dtype == torch.int32
    assert asking[-1] == len(query) and starts[-1] == len(key) == len(value) and len(asking) == len(starts)
    assert most >= asking.diff().max() and longest >= starts.diff().max()
    parts = []
    for text in range(len(starts) - 1):
        own_query = query[asking[text] : asking[text + 1]].transpose(0, 1)  # (A, tokens, H / A)
        own_key, own_value = (part[starts[text] : starts[text + 1]].transpose(0, 1) for part in (key, value))
        parts.append(F.scaled_dot_product_attention(own_query, own_key, own_value).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def packing(monkeypatch) -> list[int]:
    """Packs on the CPU as well; counts the calls of the kernel."""
    calls = []
    monkeypatch.setattr(bert, "varlen_attn", lambda *arguments: calls.append(1) or by_text(*arguments))
    monkeypatch.setattr(bert, "can_pack", lambda device: True)
    return calls


@each_family
@pytest.mark.parametrize("texts", [TEXTS, [[], *TEXTS, []], [[4], [5]]], ids=["ragged", "empty", "one token each"])
def test_packed_texts_have_the_logits_and_gradients_of_padded_ones(request, changes: dict, texts: list[list[int]]):
    model = classifier(**changes).double()
    inputs = batch(*texts)
    padded = model(*inputs)
    expected = gradients(model, weighted(padded))
    calls = request.getfixturevalue("packing")
    packed = model(*inputs)
    assert len(calls) == 2  # one a layer
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)  # float64 of values near 1
    torch.testing.assert_close(gradients(model, weighted(packed)), expected, rtol=0, atol=1e-10)  # float64 near 100


@each_family
def test_packed_texts_have_the_masked_tokens_logits_and_gradients_of_padded_ones(request, changes: dict):
    model = masked_lm(**changes).double()
    ids, mask = batch(*TEXTS, longest=8)
    chosen = mask & (ids % 2 == 1)
    padded = model(ids, mask, chosen)
    expected = gradients(model, weighted(padded))
    calls = request.getfixturevalue("packing")
    packed = model(ids, mask, chosen)
    assert len(calls) == 2  # one a layer
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-11)  # float64 of values near 10
    torch.testing.assert_close(gradients(model, weighted(packed)), expected, rtol=0, atol=1e-9)  # float64 near 1000


def test_packed_hidden_states_lie_where_their_tokens_lie(packing: list[int]):
    model = classifier().encoder
    ids, mask = batch(*TEXTS, longest=8)
    hidden = model(ids, mask)
    assert hidden.shape == (4, 8, 8)
    for row, text in enumerate(TEXTS):
        alone = model(*batch(text))[0]
        torch.testing.assert_close(hidden[row, : len(text)], alone, rtol=0, atol=1e-5)  # float32 of values near 1


def test_attention_dropout_keeps_training_from_packing_whose_kernel_has_none(packing: list[int]):
    model = classifier(attention_dropout=0.5).train()
    assert not torch.equal(model(*batch(*TEXTS)), model(*batch(*TEXTS)))
    assert not packing
    model.eval()(*batch(*TEXTS))
    assert packing


def test_the_cpu_does_not_pack():
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_pack(torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel needs CUDA")
@pytest.mark.skipif(bert.varlen_attn is None, reason="this torch has no variable-length kernel")
def test_the_cuda_kernel_gives_the_hidden_states_of_float32():
    torch.manual_seed(0)
    model = BertEncoder(config(width=128, inner=256)).cuda().eval()  # 64 a head: the kernel wants multiples of 8
    bert.initialise(model, 0.05)
    ids, mask = (part.cuda() for part in batch(*TEXTS, longest=8))
    assert not can_pack(ids.device)  # float32
    whole, first = model(ids, mask), model(ids, mask, first_only=True)
    with torch.autocast("cuda", torch.bfloat16):
        assert can_pack(ids.device)
        packed, packed_first = model(ids, mask), model(ids, mask, first_only=True)
    # bfloat16 keeps 8 bits: 1/256 of values near 1, a few times over
    torch.testing.assert_close(packed[mask].float(), whole[mask], rtol=0, atol=0.06)
    torch.testing.assert_close(packed_first.float(), first, rtol=0, atol=0.06)


def test_checkpointing_gives_the_same_loss_and_gradients(monkeypatch):
    calls = []
    again = bert.checkpoint
    monkeypatch.setattr(bert, "checkpoint", lambda *inputs, **how: calls.append(1) or again(*inputs, **how))
    model = classifier().double().train()
    plain = weighted(model(*batch(*TEXTS)))
    expected = gradients(model, plain)
    assert not calls
    model.encoder.checkpointing = True
    saving = weighted(model(*batch(*TEXTS)))
    assert len(calls) == 2  # each layer
    torch.testing.assert_close(saving, plain, rtol=0, atol=1e-12)  # float64 of values near 1
    torch.testing.assert_close(gradients(model, saving), expected, rtol=0, atol=1e-10)  # float64 of values near 100
    with torch.no_grad():
        model.eval()(*batch(*TEXTS))
    assert len(calls) == 2  # evaluation has nothing to save


@pytest.mark.oracle
@pytest.mark.parametrize("first_only", [False, True])
def test_a_layer_is_torchs_transformer_encoder_layer(first_only: bool):
    torch.manual_seed(0)
    ours = Layer(config(width=12, heads=3)).double()
    theirs = nn.TransformerEncoderLayer(
        12, 3, dim_feedforward=16, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    for module, (weight, bias) in {
        ours.query_key_value: (theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias),
        ours.attended: (theirs.self_attn.out_proj.weight, theirs.self_attn.out_proj.bias),
        ours.attention_norm: (theirs.norm1.weight, theirs.norm1.bias),
        ours.inner: (theirs.linear1.weight, theirs.linear1.bias),
        ours.outer: (theirs.linear2.weight, theirs.linear2.bias),
        ours.norm: (theirs.norm2.weight, theirs.norm2.bias),
    }.items():
        module.load_state_dict({"weight": weight, "bias": bias})
    hidden = torch.randn(4, 5, 12, dtype=torch.float64)
    _, mask = batch(*TEXTS)
    expected = theirs(hidden, src_key_padding_mask=~mask)
    found = ours(hidden, Layout(mask[:, None, None, :]), first_only)
    if first_only:
        torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=1e-12)  # float64 of values near 1
    else:
        torch.testing.assert_close(found[mask], expected[mask], rtol=0, atol=1e-12)


# Training


@each_family
def test_twenty_steps_overfit_eight_examples(changes: dict):
    torch.manual_seed(0)
    model = BertClassifier(config(width=32, heads=4, inner=64, init_std=0.02, **changes), 2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    ids, mask = batch(*([token, *range(1, 1 + token % 3)] for token in range(10, 18)))
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    for _ in range(20):
        loss = F.cross_entropy(model(ids, mask), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(model(ids, mask).argmax(dim=1), labels)
    assert loss < 0.1  # from 0.69


def test_operations_of_two_texts_counted_by_hand():
    tiny = config(width=4, inner=8, heads=2, layers=2)
    # texts of 3 and 1 tokens; a weight costs 2 operations a token, an attended pair 2 products of width 4
    first = 2 * 4 * (4 * 16 + 2 * 32) + (9 + 1) * 2 * 2 * 4
    # keys and values of 4 tokens; query, output and feed-forward of 2; each text's first token attends to 3 and to 1
    last = 2 * 4 * 2 * 16 + 2 * 2 * (2 * 16 + 2 * 32) + (3 + 1) * 2 * 2 * 4
    assert training_flops(tiny, torch.tensor([3, 1])) == 3 * (first + last) == 5664


@pytest.mark.oracle
def test_operations_are_those_that_torch_counts():
    model = BertEncoder(config(layers=3))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        weighted(model(*batch([1, 2, 3, 4, 5], [6, 7, 8, 9, 1]), first_only=True)).backward()
    assert training_flops(model.config, torch.tensor([5, 5])) == counter.get_total_flops()
