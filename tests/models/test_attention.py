"""Attention of packed texts is attention of each text, whatever computes it."""

import pytest
import torch
import torch.nn.functional as F
from packed_batches import varlen_reference
from torch import Tensor

from minitext.models import attention
from minitext.models.attention import MAX_EXPLICIT_LENGTH, SequenceInfo, attend, can_use_varlen

LENGTHS = {
    "equal": (6, 6, 6, 6),
    "ragged": (5, 1, 3, 2),
    "runs": (4, 4, 9, 4, 1, 1, 1),
    "one text": (7,),
    "one token each": (1, 1, 1),
}
each_layout = pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
one_or_all = pytest.mark.parametrize("one_per_text", [False, True], ids=["all queries", "one query per text"])


def inputs(lengths: tuple[int, ...], one_per_text: bool, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values of two heads of width 8; scores far from equal, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(0)
    sizes = (len(lengths) if one_per_text else sum(lengths), sum(lengths), sum(lengths))
    parts = [torch.randn(size, 2, 8, generator=generator, dtype=torch.float64) for size in sizes]
    return [part.to(dtype).requires_grad_() for part in parts]


def sequence_of(lengths: tuple[int, ...]) -> SequenceInfo:
    cu_seqlens = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).int()
    return SequenceInfo(cu_seqlens, max(lengths), lengths)


def expected(parts: list[Tensor], lengths: tuple[int, ...]) -> Tensor:
    cu_k = sequence_of(lengths).cu_seqlens
    cu_q = torch.arange(len(cu_k), dtype=torch.int32) if len(parts[0]) < len(parts[1]) else cu_k
    longest = max(lengths)
    return varlen_reference(*parts, cu_q, cu_k, longest, longest).flatten(1)


def results(output: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a loss in which no two values count the same."""
    weights = torch.arange(1, output.numel() + 1).double().sin().view_as(output).to(output.dtype)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), parts)]


@each_layout
@one_or_all
def test_batches_of_equal_lengths_have_the_outputs_and_gradients_of_each_text(lengths, one_per_text: bool):
    parts = inputs(lengths, one_per_text, torch.float64)
    found = results(attend(*parts, sequence_of(lengths), 0.0), parts)
    for tensor, reference in zip(found, results(expected(parts, lengths), parts), strict=True):
        torch.testing.assert_close(tensor, reference, rtol=0, atol=1e-12)  # float64 of values near 1


@each_layout
@one_or_all
@pytest.mark.parametrize("training", [True, False])
def test_in_bfloat16_outputs_and_gradients_are_those_of_float64_within_its_rounding(
    lengths, one_per_text: bool, training: bool
):
    parts = inputs(lengths, one_per_text, torch.bfloat16)
    exact = [part.detach().double().requires_grad_() for part in parts]
    reference = results(expected(exact, lengths), exact)
    with torch.set_grad_enabled(training):
        output = attend(*parts, sequence_of(lengths), 0.0)
    assert output.dtype == torch.bfloat16
    for tensor, value in zip(results(output, parts) if training else [output], reference, strict=False):
        # scores, weights and sums are each rounded to 8 bits
        torch.testing.assert_close(tensor.double(), value, rtol=0, atol=0.03 * max(1, value.abs().max().item()))


def test_bfloat16_scores_of_any_size_have_a_finite_softmax():
    parts = inputs((6, 6), False, torch.bfloat16)
    output = attend(parts[0] * 1e4, parts[1] * 1e4, parts[2], sequence_of((6, 6)), 0.0)
    assert output.isfinite().all()
    assert output.abs().max() <= parts[2].abs().max()  # a mixture of values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_zeroes_weights_and_keeps_their_expectation(dtype: torch.dtype):
    torch.manual_seed(0)
    texts, length = 64, 16
    lengths = (length,) * texts
    query, key = (torch.zeros(texts * length, 2, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    value = torch.ones(texts * length, 2, 8, dtype=dtype)  # uniform weights: an output is its share of kept weights
    output = attend(query, key, value, sequence_of(lengths), 0.25).double()
    kept = output * 0.75 * length
    assert (kept - kept.round()).abs().max() < 0.1  # numbers of weights, in 8 bits
    assert kept.unique().numel() > 5
    # 2,048 outputs of 16 weights: the mean has a standard deviation of 0.0032
    assert output.mean().item() == pytest.approx(1, abs=0.016)


def test_consecutive_texts_of_one_length_are_one_product(monkeypatch):
    shapes = []
    plain = attention.attend_equal_lengths
    monkeypatch.setattr(
        attention, "attend_equal_lengths", lambda q, *rest: shapes.append(tuple(q.shape)) or plain(q, *rest)
    )
    lengths = (4, 4, 9, 4, 1, 1, 1)
    attend(*inputs(lengths, False, torch.float32), sequence_of(lengths), 0.0)
    assert shapes == [(2, 2, 4, 8), (1, 2, 9, 8), (1, 2, 4, 8), (3, 2, 1, 8)]


@pytest.mark.parametrize(
    ("dtype", "length", "training", "explicit"),
    [
        (torch.bfloat16, 8, True, True),
        (torch.bfloat16, 8, False, False),
        (torch.bfloat16, MAX_EXPLICIT_LENGTH + 1, True, False),
        (torch.float32, 8, True, False),
    ],
)
def test_only_training_in_bfloat16_on_short_texts_multiplies_explicitly(
    monkeypatch, dtype: torch.dtype, length: int, training: bool, explicit: bool
):
    calls = []
    kernel = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    with torch.set_grad_enabled(training):
        parts = [part.detach().requires_grad_(training) for part in inputs((length,), False, dtype)]
        attend(*parts, sequence_of((length,)), 0.0)
    assert bool(calls) != explicit


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("head_width", "capability", "built", "dtype", "expected"),
    [
        (64, (8, 0), True, torch.bfloat16, True),
        (64, (9, 0), True, torch.float16, True),
        (192, (8, 0), True, torch.bfloat16, True),
        (10, (8, 0), True, torch.bfloat16, False),
        (200, (8, 0), True, torch.bfloat16, False),
        (64, (7, 5), True, torch.float16, False),
        (64, (8, 0), False, torch.bfloat16, False),
        (64, (8, 0), True, None, False),
    ],
)
def test_the_kernel_is_used_where_head_width_card_build_and_dtype_allow(
    monkeypatch, head_width: int, capability: tuple[int, int], built: bool, dtype: torch.dtype | None, expected: bool
):
    monkeypatch.setattr(attention, "varlen_attn", varlen_reference)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: built)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: dtype is not None)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device_type: dtype)
    assert can_use_varlen(CUDA, head_width) == expected


def test_the_cpu_does_not_use_the_kernel():
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_use_varlen(torch.device("cpu"), 64)
