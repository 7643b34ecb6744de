"""Compiled layers give the numbers of eager ones, and a few graphs serve batches of all sizes.

The graphs are those of torch.compile up to the point where kernels would be generated, which takes a compiler.
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from packed_batches import pack, varlen_reference
from torch import Tensor
from torch._dynamo.backends.debugging import aot_eager

from minitext.data.batching import Batch
from minitext.models import attention, bert
from minitext.models.bert import BertClassifier, BertConfig

CONFIG = BertConfig(30, hidden_size=16, num_layers=3, num_heads=2, intermediate_size=16, max_positions=20,
                    initializer_range=0.5, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)  # fmt: skip


@torch.library.custom_op("minitext_tests::varlen", mutates_args=())
def varlen(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """A stand-in for the CUDA kernel that a graph holds as one operator, as it holds the kernel."""
    return varlen_reference(query, key, value, cu_q, cu_k, max_q, max_k).contiguous()


@varlen.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("minitext_tests::varlen_backward", mutates_args=())
def varlen_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """By hand: inside of an operator, torch records no gradients."""
    gradients: tuple[list[Tensor], ...] = ([], [], [])
    for i in range(len(cu_k) - 1):
        q, g = (part[cu_q[i] : cu_q[i + 1]].transpose(0, 1) for part in (query, gradient))  # (A, T, D)
        k, v = (part[cu_k[i] : cu_k[i + 1]].transpose(0, 1) for part in (key, value))
        scale = q.shape[-1] ** -0.5
        weights = (scale * q @ k.transpose(1, 2)).softmax(dim=-1)  # (A, T, T)
        of_weights = g @ v.transpose(1, 2)
        of_scores = scale * weights * (of_weights - (weights * of_weights).sum(dim=-1, keepdim=True))
        values = (of_scores @ k, of_scores.transpose(1, 2) @ q, weights.transpose(1, 2) @ g)
        for found, part in zip(gradients, values, strict=True):
            found.append(part.transpose(0, 1))
    return tuple(torch.cat(found).contiguous() for found in gradients)


@varlen_backward.register_fake
def _(gradient, query, key, value, *rest) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def save_inputs(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.longest = inputs[5:]


def backward(ctx, gradient: Tensor) -> tuple:
    return *varlen_backward(gradient, *ctx.saved_tensors, *ctx.longest), None, None, None, None


varlen.register_autograd(backward, setup_context=save_inputs)


@pytest.fixture(params=[pytest.param("per length", marks=pytest.mark.slow), "kernel"])
def kernel(request, monkeypatch) -> bool:
    """Both ways to compute attention."""
    if request.param == "kernel":
        monkeypatch.setattr(attention, "varlen_attn", varlen)
        monkeypatch.setattr(bert, "can_use_varlen", lambda device, head_width: True)
    return request.param == "kernel"


@pytest.fixture
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """Forgets all graphs, before and after, and collects the new ones."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def classifier(graphs: list | None = None) -> BertClassifier:
    """The same weights, and compiled layers that add to `graphs`."""

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return aot_eager(graph, inputs)

    torch.manual_seed(0)
    model = BertClassifier(CONFIG, 2)
    if graphs is not None:
        model.encoder.compile_layers(backend)
    return model


def batches() -> Iterator[Batch]:
    """Ragged and equal texts, one text, another number of tokens each time."""
    generator = np.random.default_rng(0)
    for lengths in ([5, 17, 2, 9], [6, 6, 6], [12], [3, 4, 4, 4, 18, 2], [13], [7, 5]):
        yield pack(*(generator.integers(1, 30, length).tolist() for length in lengths))


def logits_and_gradients(model: BertClassifier, batch: Batch, dtype: torch.dtype) -> list[Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = model(batch)
    (logits * torch.arange(1, logits.numel() + 1).view_as(logits).sin()).sum().backward()
    return [logits.detach(), *(parameter.grad for parameter in model.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
@pytest.mark.usefixtures("kernel")
def test_compiled_layers_give_the_logits_and_gradients_of_eager_ones(graphs: list, dtype, tolerance: float):
    compiled, eager = classifier(graphs), classifier()
    for batch in list(batches())[:4]:
        expected = logits_and_gradients(eager, batch, dtype)
        for found, reference in zip(logits_and_gradients(compiled, batch, dtype), expected, strict=True):
            # relative to the largest value of a tensor; sums in another order, in bfloat16 of 8 bits
            assert (found - reference).abs().max() <= tolerance * max(1.0, reference.abs().max().item())
    assert graphs


@pytest.mark.slow
def test_batches_of_all_sizes_share_a_few_graphs(graphs: list, kernel: bool):
    """In training and in evaluation: one for the last layer and one for the others, and the same again for one text."""
    model = classifier(graphs)
    counts = []
    for batch in batches():
        for training in (True, False):
            model.train(training)
            with torch.set_grad_enabled(training):
                model(batch)
        counts.append(len(graphs))
    # per length, attention is outside of the graphs: it divides each in two
    assert counts[-1] <= (8 if kernel else 40)
    assert counts[2:] == [counts[2]] * 4  # the last three batches have new sizes, and no new graph


@pytest.mark.slow
def test_checkpointed_layers_can_be_compiled(graphs: list):
    compiled, eager = classifier(graphs), classifier()
    compiled.encoder.checkpointing = True
    batch = next(batches())
    expected = logits_and_gradients(eager, batch, torch.float32)
    for found, reference in zip(logits_and_gradients(compiled, batch, torch.float32), expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-4)  # float32
