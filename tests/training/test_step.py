"""One update: micro-batches equal one batch, and what is not finite never reaches the weights."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from training_factories import (
    NO_CLIPPING,
    NO_SCALING,
    VOCAB_SIZE,
    batch_of,
    network,
    random_texts,
    same_bits,
    weights_of,
)

from minitext.data.batching import Batch
from minitext.models.bert import BertConfig, BertMaskedLM
from minitext.training.checkpoint import DelayedInterrupt
from minitext.training.distributed import Distributed
from minitext.training.optim import build_optimizers
from minitext.training.step import IGNORE_INDEX, StepConfig, StepResult, train_step

WEIGHTS = [torch.ones(3), torch.tensor([0.5, 1, 2])]


def step(
    model: nn.Module, micro_batches: Sequence[Batch], scaler: GradScaler = NO_SCALING, lr: float = 0.0, **settings
) -> StepResult:
    """One step with new optimizers; at a learning rate of zero it leaves the gradients and changes nothing."""
    of_step = {name: settings.pop(name) for name in ("num_texts", "interrupt") if name in settings}
    optimizers = build_optimizers(model, "adam", lr, 0.0)
    return train_step(model, micro_batches, optimizers, scaler, step_config(**settings), **of_step)


def step_config(**settings) -> StepConfig:
    """Two classes, in float32 and without clipping, but for `settings`."""
    return StepConfig(
        **({"max_grad_norm": NO_CLIPPING, "class_weights": torch.ones(2), "dtype": torch.float32} | settings)
    )


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.to_dense() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("micro_batch_size", [1, 2, 3, 4, 6, 10])
@pytest.mark.parametrize("class_weights", WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_micro_batches_give_the_full_batch_gradient(micro_batch_size: int, class_weights: Tensor, smoothing: float):
    batch, model = batch_of(random_texts(10, num_classes=3)), network(num_classes=3).double()
    step(model, batch.split(micro_batch_size), class_weights=class_weights, label_smoothing=smoothing)
    found = gradients_of(model)
    model.zero_grad()
    F.cross_entropy(model(batch).float(), batch.labels, class_weights, label_smoothing=smoothing).backward()
    for name, gradient in gradients_of(model).items():
        # the loss is computed in float32, from logits in float64: 1e-7 of gradients below 1
        assert (found[name] - gradient).abs().max() < 1e-7, name
        assert found[name].abs().max() > 1e-3, name


def test_micro_batches_of_a_masked_language_model_give_the_full_batch_gradient():
    """The texts have different numbers of masked tokens, and one has none."""
    torch.manual_seed(0)
    batch = batch_of(random_texts(6))
    masked = torch.arange(batch.lengths[0], len(batch.ids), 2)
    batch = batch._replace(labels=batch.ids[masked].long(), masked=masked)
    config = BertConfig(VOCAB_SIZE, 8, 2, 2, 16, 8, dropout=0.0, attention_dropout=0.0, initializer_range=0.3)
    model, class_weights = BertMaskedLM(config).double(), torch.ones(VOCAB_SIZE)
    whole = step(model, [batch], class_weights=class_weights)
    expected = gradients_of(model)
    parts = step(model, batch.split(1), class_weights=class_weights)
    assert parts.num_labels == whole.num_labels == len(masked)
    assert parts.loss == pytest.approx(whole.loss, abs=1e-6)  # float32
    for name, gradient in gradients_of(model).items():
        assert (gradient - expected[name]).abs().max() < 1e-6, name  # a loss in float32, gradients near 1


def test_the_mean_of_micro_batch_means_is_another_gradient():
    batch, model = batch_of(random_texts(10)), network()
    micro_batches = batch.split(4)  # of 4, 4 and 2 texts
    step(model, micro_batches)
    found = model.output.weight.grad.clone()
    model.zero_grad()
    for part in micro_batches:
        (F.cross_entropy(model(part), part.labels) / len(micro_batches)).backward()
    assert (found - model.output.weight.grad).abs().max() > 1e-3


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_losses_without_and_with_smoothing_are_weighted_means_over_the_update(smoothing: float):
    batch, model, class_weights = batch_of(random_texts(10, num_classes=3)), network(num_classes=3), WEIGHTS[1]
    logits = model(batch).detach()
    expected = [F.cross_entropy(logits, batch.labels, class_weights, label_smoothing=s).item() for s in (0, smoothing)]
    assert (abs(expected[0] - expected[1]) > 1e-3) == (smoothing > 0)
    result = step(model, batch.split(3), lr=0.1, class_weights=class_weights, label_smoothing=smoothing)
    assert [result.loss, result.smoothed_loss] == pytest.approx(expected, abs=1e-6)  # float32


def test_the_first_divisor_of_the_losses_cancels_out():
    batch = batch_of(random_texts(6, num_classes=3))
    batch = batch._replace(labels=torch.where(torch.arange(6) < 2, IGNORE_INDEX, batch.labels))
    gradients, results = [], []
    for num_texts in (None, 1, 1000):
        model = network(num_classes=3)
        results.append(step(model, batch.split(4), num_texts=num_texts, class_weights=WEIGHTS[1]))
        gradients.append(gradients_of(model))
    for found, result in zip(gradients[1:], results[1:], strict=True):
        assert result.grad_norm == pytest.approx(results[0].grad_norm, rel=1e-5)  # float32
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, gradients[0][name], rtol=1e-5, atol=1e-7)


def test_several_processes_have_to_be_told_the_number_of_texts_of_all():
    """Each one would divide by the number of its own: their gradients would be of different weight."""
    with pytest.raises(ValueError, match="num_texts is needed"):
        step(network(), [batch_of(random_texts(6))], distributed=Distributed(0, 2))


def test_an_interrupt_is_a_part_of_the_result_and_changes_nothing_else():
    batch, interrupt = batch_of(random_texts(6)), DelayedInterrupt()
    expected = step(network(), [batch], interrupt=interrupt)
    assert not expected.interrupted
    interrupt.requested = True
    assert step(network(), [batch], interrupt=interrupt) == expected._replace(interrupted=True)


def test_correct_predictions_are_those_before_the_update():
    batch, model = batch_of(random_texts(10)), network()
    correct = int((model(batch).argmax(dim=1) == batch.labels).sum())
    assert 0 < correct < 10
    result = step(model, batch.split(4), lr=0.1)
    assert (result.num_correct, result.num_labels) == (correct, 10)


def test_the_gradient_is_clipped_and_the_norm_before_clipping_is_returned():
    batch, model = batch_of(random_texts(8)), network()
    result = step(model, [batch], max_grad_norm=1e-3)
    norms = torch.stack([gradient.norm() for gradient in gradients_of(model).values()])
    assert result.grad_norm > 0.01
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-3)  # torch adds 1e-6 to the norm that it divides by


@pytest.mark.parametrize("class_weights", WEIGHTS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_labels_change_neither_gradient_nor_loss(class_weights: Tensor, smoothing: float):
    data = random_texts(10, num_classes=3)
    whole = batch_of(data)
    some_ignored = whole._replace(labels=torch.where(torch.arange(10) % 3 == 0, IGNORE_INDEX, whole.labels))
    kept = batch_of(data, [index for index in range(10) if index % 3])
    results, gradients = [], []
    for micro_batches in ([some_ignored], some_ignored.split(1), [kept]):  # also alone in a micro-batch
        model = network(num_classes=3).double()
        results.append(step(model, micro_batches, class_weights=class_weights, label_smoothing=smoothing))
        gradients.append(gradients_of(model))
    for result, gradient in zip(results[:2], gradients[:2], strict=True):
        assert (result.num_correct, result.num_labels) == (results[2].num_correct, 6)
        assert result.loss == pytest.approx(results[2].loss, abs=1e-6)  # float32
        for name in gradient:
            assert (gradient[name] - gradients[2][name]).abs().max() < 1e-7, name  # a loss in float32


def test_the_result_is_read_from_the_device_once(monkeypatch):
    """On a GPU every read waits for all kernels before it. `tolist` of a CPU tensor is not dispatched, but patched."""
    reads, lists, tolist = [], [], torch.Tensor.tolist
    waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select"}

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function._schema.name in waiting:
                reads.append(function._schema.name)
            return function(*args, **kwargs or {})

    def counted(tensor: Tensor) -> list:
        lists.append(tolist(tensor))
        return lists[-1]

    batch, model = batch_of(random_texts(9)), network()
    optimizers = build_optimizers(model, "adamw", 0.1, 0.0)
    scaler = GradScaler("cpu", init_scale=4.0)
    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    with Recorder():
        torch.ones(1).item()
        assert reads == ["aten::_local_scalar_dense"]  # the recorder works
        reads.clear()
        result = train_step(model, batch.split(2), optimizers, scaler, step_config(max_grad_norm=1.0))
    assert reads == []
    assert lists == [
        pytest.approx([result.loss, result.loss, result.num_correct, result.num_labels, 9, 0, result.grad_norm])
    ]


def make_gradient_infinite(parameter: Tensor) -> None:
    parameter.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("layer", ["output", "hidden"])
def test_an_overflow_changes_no_weight_and_halves_the_scale(layer: str):
    batch, model, scaler = batch_of(random_texts(8)), network(), GradScaler("cpu", init_scale=1024.0)
    config = step_config(max_grad_norm=1.0)
    optimizers = build_optimizers(model, "adam", 0.1, 0.0)
    first = train_step(model, [batch], optimizers, scaler, config)  # creates the moments
    before = weights_of(model)
    make_gradient_infinite(getattr(model, layer).bias)
    second = train_step(model, [batch], optimizers, scaler, config)
    assert (first.skipped, second.skipped) == (False, True)
    assert same_bits(weights_of(model), before)
    assert scaler.get_scale() == 512


def test_gradients_that_overflow_in_float16_skip_the_update():
    batch, model, scaler = batch_of(random_texts(8)), network(), GradScaler("cpu", init_scale=2.0**30)
    before = weights_of(model)
    result = step(model, [batch], scaler, lr=0.1, dtype=torch.float16)
    assert result.skipped
    assert math.isfinite(result.loss)
    assert same_bits(weights_of(model), before)
    assert scaler.get_scale() == 2.0**29


def test_scaling_the_loss_does_not_change_the_update():
    batch, scaled, plain = batch_of(random_texts(8)), network(), network()
    for model, scaler in ((scaled, GradScaler("cpu", init_scale=1024.0)), (plain, NO_SCALING)):
        step(model, [batch], scaler, lr=0.1, max_grad_norm=1e-3)
    assert same_bits(weights_of(scaled), weights_of(plain))  # a power of two: exact


@pytest.mark.parametrize("scaler", [NO_SCALING, GradScaler("cpu")])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_raises_before_any_weight_changes(value: float, scaler: GradScaler):
    batch, model = batch_of(random_texts(8)), network()
    with torch.no_grad():
        model.output.bias[0] = value
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        step(model, [batch], scaler, lr=0.1)
    for name in ("embedding.weight", "hidden.weight", "output.weight"):
        assert torch.equal(model.state_dict()[name], before[name])


def test_a_gradient_that_is_not_finite_raises_before_any_weight_changes():
    batch, model = batch_of(random_texts(8)), network()
    make_gradient_infinite(model.output.bias)
    before = weights_of(model)
    with pytest.raises(FloatingPointError, match="the gradient norm is"):
        step(model, [batch], lr=0.1)
    assert same_bits(weights_of(model), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_of_half_precision_is_close_to_that_of_float32(dtype: torch.dtype):
    batch = batch_of(random_texts(8))
    expected, half = step(network(), [batch]), step(network(), [batch], dtype=dtype)
    assert 0 < abs(half.loss - expected.loss) < 0.01  # bfloat16 has 8 bits, the loss is near log 2
