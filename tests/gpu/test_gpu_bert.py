"""The encoder on a card: the variable-length kernel and compiled layers equal float32 attention of each text."""

import sys

import pytest
import torch
from gpu_factories import SMALL, batch_of, classifier, gradients, relative_error, weighted
from torch import Tensor, nn

from minitext.data.batching import Batch
from minitext.models.bert import BertMaskedLM, attend

pytestmark = pytest.mark.gpu
LENGTHS = {
    "ragged": [1, 2, 127, 128, 129, 512],
    "an empty text": [5, 0, 300],
    "one token each": [1] * 8,
    "equal": [64] * 4,
    "a single text": [77],
}
# Relative to the length of a tensor. bfloat16 keeps 8 bits, float16 11: one rounding is off by up to 2**-9 and 2**-12,
# and some ten of them meet on the way through two layers and back: in bfloat16 on a CPU the largest error was 0.044. If
# two neighboring texts see each other, some gradient is off by 0.5 or more in each of these cases.
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.0125}


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry per call of the variable-length kernel."""
    module, calls = sys.modules[attend.__module__], []
    kernel = module.varlen_attn
    monkeypatch.setattr(module, "varlen_attn", lambda *arguments: calls.append(1) or kernel(*arguments))
    return calls


def outputs(
    model: nn.Module, batch: Batch, dtype: torch.dtype = torch.float32, scale: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradients of a loss that is scaled for the backward pass."""
    with torch.autocast(batch.ids.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(batch)
    found = gradients(model, scale * weighted(logits))
    return logits, {name: gradient / scale for name, gradient in found.items()}


def assert_close(found: tuple[Tensor, dict], expected: tuple[Tensor, dict], tolerance: float) -> None:
    assert relative_error(found[0], expected[0]) < tolerance
    for name, gradient in found[1].items():
        assert relative_error(gradient, expected[1][name]) < tolerance, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_the_kernel_gives_the_logits_and_gradients_of_float32(device, kernel_calls, lengths: list, dtype: torch.dtype):
    model, batch = classifier(device), batch_of(lengths, device)
    expected = outputs(model, batch)
    assert not kernel_calls
    found = outputs(model, batch, dtype, scale=1024.0 if dtype == torch.float16 else 1.0)
    assert len(kernel_calls) == 2  # one per layer
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize("head_width", [8, 48, 64, 192])
def test_the_kernel_serves_head_widths_up_to_192(device, kernel_calls, head_width: int):
    model, batch = classifier(device, hidden_size=2 * head_width), batch_of(LENGTHS["ragged"], device)
    found, expected = outputs(model, batch, torch.bfloat16), outputs(model, batch)
    assert len(kernel_calls) == 2
    assert_close(found, expected, TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("case", ["head width 10", "head width 200", "a card before Ampere"])
def test_attention_per_text_serves_what_the_kernel_does_not(device, kernel_calls, monkeypatch, case: str):
    if case == "a card before Ampere":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
    hidden_size = {"head width 10": 20, "head width 200": 400}.get(case, 128)
    model = classifier(device, hidden_size=hidden_size)
    batch = batch_of(LENGTHS["ragged"], device)
    found, expected = outputs(model, batch, torch.float16, scale=1024.0), outputs(model, batch)
    assert not kernel_calls
    assert_close(found, expected, TOLERANCE[torch.float16])


def test_attention_dropout_in_training_leaves_the_loss_finite_and_the_kernel_out(device, kernel_calls):
    model, batch = classifier(device, attention_dropout=0.5).train(), batch_of(LENGTHS["ragged"], device)
    logits, found = outputs(model, batch, torch.bfloat16)
    assert not kernel_calls
    assert logits.isfinite().all() and all(gradient.isfinite().all() for gradient in found.values())
    assert not torch.equal(logits, outputs(model, batch, torch.bfloat16)[0])


def test_masked_tokens_get_the_logits_and_gradients_of_float32(device, kernel_calls):
    torch.manual_seed(0)
    model, batch = BertMaskedLM(SMALL).to(device), batch_of(LENGTHS["ragged"], device)
    masked = torch.arange(0, len(batch.ids), 7, device=device)
    batch = batch._replace(masked=masked, labels=batch.ids[masked].long())
    found, expected = outputs(model, batch, torch.bfloat16), outputs(model, batch)
    assert len(kernel_calls) == 2
    assert_close(found, expected, TOLERANCE[torch.bfloat16])


def test_evaluation_in_inference_mode_gives_the_logits_of_training(device, kernel_calls):
    model, batch = classifier(device).eval(), batch_of(LENGTHS["ragged"], device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        logits = model(batch)
    assert len(kernel_calls) == 2
    assert relative_error(logits, outputs(model, batch)[0]) < TOLERANCE[torch.bfloat16]


def test_recomputed_layers_give_the_same_gradients(device):
    """With dropout: the recomputation draws the same masks."""
    model, batch, found = classifier(device, dropout=0.3).train(), batch_of(LENGTHS["ragged"], device), []
    for checkpointing in (False, True):
        model.encoder.checkpointing = checkpointing
        torch.manual_seed(1)
        found.append(outputs(model, batch, torch.bfloat16))
    # the kernel adds the parts of a query's gradient in any order, in float32, and rounds them to bfloat16
    assert_close(found[1], found[0], 0.01)


def test_compiled_layers_give_the_logits_and_gradients_of_float32_within_the_limit_of_graphs(device):
    """In training and in evaluation, for batches that a compiler could take for special cases."""
    cases = ("ragged", "one token each", "equal", "a single text")
    model, batches = classifier(device), [batch_of(LENGTHS[case], device) for case in cases]
    expected = [outputs(model, batch) for batch in batches]
    model.encoder.compile_layers()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for _ in range(2):
            for batch, whole in zip(batches, expected, strict=True):
                model.train()
                assert_close(outputs(model, batch, torch.bfloat16), whole, TOLERANCE[torch.bfloat16])
                model.eval()
                with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
                    assert relative_error(model(batch), whole[0]) < TOLERANCE[torch.bfloat16]
