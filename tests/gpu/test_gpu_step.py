"""One update on a card: it waits once, launches few kernels, and equals that of the CPU."""

import math
import warnings

import pytest
import torch
from gpu_factories import VOCAB_SIZE, assert_same_change, batch_of, classifier, relative_error, update, weights_of
from torch.amp import GradScaler

from minitext.models.bert import BertClassifier, BertConfig
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training.optim import build_optimizers

pytestmark = pytest.mark.gpu
LENGTHS = [1, 2, 127, 128, 129, 300, 17]
MAX_LAUNCHES = 900  # of an update of BERT-base in bfloat16, not compiled


def network(device: torch.device, **changes) -> EmbeddingBagClassifier:
    """A small model with a sparse embedding; the same weights on every device."""
    torch.manual_seed(0)
    return EmbeddingBagClassifier(VOCAB_SIZE, 3, NetworkConfig(8, 8, dropout=0.0, ngrams=1), **changes).to(device)


def copies(optimizers: list) -> list[torch.Tensor]:
    """All tensors of the optimizers' states."""
    states = [state for optimizer in optimizers for state in optimizer.state.values()]
    return [value.clone() for state in states for value in state.values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("build", [classifier, network], ids=["BERT", "embedding bag"])
def test_an_update_waits_for_the_card_once(device, build):
    # above 3,072 tokens the backward pass of an embedding is another one, which sorts the tokens
    model, batches = build(device), [batch_of([*LENGTHS, *[512] * 6], device), batch_of(LENGTHS, device)]
    optimizers, scaler = build_optimizers(model, "adamw", 1e-3, 0.01), GradScaler("cuda", enabled=False)
    update(model, batches, optimizers, scaler, torch.bfloat16)  # creates the moments
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            torch.ones(1, device=device).item()
            assert len(caught) == 1  # a wait is seen
            update(model, batches, optimizers, scaler, torch.bfloat16)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert len(caught) == 2, [f"{warning.filename}:{warning.lineno}" for warning in caught[1:]]


def test_an_update_of_bert_base_launches_few_kernels(device):
    model, batches = BertClassifier(BertConfig(VOCAB_SIZE), 3).to(device), [batch_of(LENGTHS, device)]
    optimizers = build_optimizers(model, "adamw", 1e-5, 0.01)
    update(model, batches, optimizers, dtype=torch.bfloat16)  # creates the moments
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        update(model, batches, optimizers, dtype=torch.bfloat16)
    launches = sum(event.count for event in profile.key_averages() if "LaunchKernel" in event.key)
    assert 100 < launches <= MAX_LAUNCHES


@pytest.mark.parametrize("build", [classifier, network], ids=["BERT", "embedding bag"])
def test_three_updates_in_float32_give_the_weights_of_the_cpu(device, build):
    """The ids of a batch are int32, and so are the offsets of an embedding bag. Text 1 is empty."""
    found = []
    for place in (device, torch.device("cpu")):
        model = build(place)
        optimizers = build_optimizers(model, "adamw", 1e-3, 0.01)
        for seed in range(3):
            result = update(model, batch_of([5, 0, *LENGTHS], place, seed).split(4), optimizers)
        found.append((result.loss, weights_of(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)  # a loss near 1 in float32, after three updates
    assert_same_change(found[0][1], found[1][1], before=weights_of(build(torch.device("cpu"))))


def test_micro_batches_give_the_gradients_of_one_batch(device):
    batch, found = batch_of(LENGTHS, device), []
    for parts in ([batch], batch.split(3)):
        model = classifier(device)
        update(model, parts, build_optimizers(model, "adamw", 0.0, 0.0), max_grad_norm=1e9)
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert relative_error(found[1][name], gradient) < 1e-4, name  # float32 keeps 24 bits; sums of 700 tokens


def test_a_gradient_that_overflows_float16_changes_nothing_and_halves_the_scale(device):
    model, batch = classifier(device), batch_of(LENGTHS, device)
    optimizers, scaler = build_optimizers(model, "adamw", 1e-3, 0.01), GradScaler(device.type, init_scale=2.0**10)
    assert not update(model, [batch], optimizers, scaler, torch.float16).skipped
    scaler.update(2.0**40)
    weights, moments = weights_of(model), copies(optimizers)
    result = update(model, [batch], optimizers, scaler, torch.float16)
    assert result.skipped and math.isfinite(result.loss)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(model).items())
    assert all(torch.equal(*pair) for pair in zip(copies(optimizers), moments, strict=True))
    assert scaler.get_scale() == 2.0**39


def test_loss_scaling_gives_the_update_of_float32(device):
    found = []
    for dtype in (torch.float16, torch.float32):
        model = classifier(device)
        scaler = GradScaler(device.type, init_scale=2.0**10, enabled=dtype == torch.float16)
        result = update(model, [batch_of(LENGTHS, device)], scaler=scaler, dtype=dtype)
        found.append((result.loss, result.grad_norm))
    assert found[0] == pytest.approx(found[1], rel=0.01)  # float16 keeps 11 bits


def test_a_loss_that_is_not_finite_leaves_the_weights(device):
    model, batch = classifier(device), batch_of(LENGTHS, device)
    with torch.no_grad():
        model.output.bias[0] = math.nan
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        update(model, [batch], dtype=torch.bfloat16)
    assert all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num()) for name, tensor in weights_of(model).items()
    )


@pytest.mark.parametrize("padding", [None, 0])
def test_means_of_embeddings_are_those_of_the_cpu(device, padding: int | None):
    lengths, cpu = [3, 0, 300, 1], torch.device("cpu")
    with torch.no_grad():
        logits = [network(place, pad_id=padding)(batch_of(lengths, place)) for place in (device, cpu)]
    torch.testing.assert_close(logits[0].cpu(), logits[1], rtol=0, atol=1e-6)  # logits below 1; float32 has 7 digits
