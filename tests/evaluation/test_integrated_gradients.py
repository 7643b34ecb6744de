"""Integrated gradients add up to the change of the margin, and are exact for one hidden layer."""

import pytest
import torch
from torch import nn

from minitext.evaluation import integrated_gradients as module
from minitext.evaluation.integrated_gradients import PathIntegral, integrated_gradients, one_layer_gradients

CPU = torch.device("cpu")


def two_class_margin(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 1] - logits[:, 0]


def random_layers() -> tuple[nn.Linear, nn.Linear, torch.Tensor, torch.Tensor]:
    """Return a hidden layer, an output layer, vectors of five tokens and a baseline."""
    torch.manual_seed(0)
    return nn.Linear(4, 32), nn.Linear(32, 2), 2 * torch.randn(5, 4), torch.randn(4)


@pytest.mark.oracle
@pytest.mark.slow
def test_one_layer_gradients_equal_scipy_s_integral_of_the_slopes():
    integrate = pytest.importorskip("scipy.integrate")
    hidden, output, vectors, fixed = (part.double() for part in random_layers())

    def slope(scale: float, token: int) -> float:
        scales = torch.full((1, 5), scale, dtype=torch.float64).requires_grad_()
        value = two_class_margin(output(hidden(fixed + scales @ vectors).relu()))
        return torch.autograd.grad(value.sum(), scales)[0][0, token].item()

    found = one_layer_gradients(hidden, output, vectors, fixed, two_class_margin)
    expected = [integrate.quad(slope, 0, 1, args=(token,), limit=500)[0] for token in range(5)]
    assert found.contributions.tolist() == pytest.approx(expected, abs=1e-4)  # quad's error at the kinks
    assert found.steps is None


def test_one_layer_gradients_add_up():
    hidden, output, vectors, fixed = random_layers()
    found = one_layer_gradients(hidden, output, vectors, fixed, two_class_margin)
    end = two_class_margin(output(hidden(fixed + vectors.sum(dim=0))[None].relu())).item()
    assert found.completeness_error < 1e-12  # float64
    assert found.margin == pytest.approx(end, abs=1e-5)  # float32
    assert abs(found.margin - found.baseline_margin) > 0.1  # the case is not trivial


def test_one_layer_gradients_leave_the_layers_in_float32():
    hidden, output, vectors, fixed = random_layers()
    one_layer_gradients(hidden, output, vectors, fixed, two_class_margin)
    assert hidden.weight.dtype == output.weight.dtype == torch.float32


def test_without_a_hidden_layer_each_token_contributes_its_logits():
    _, _, vectors, _ = random_layers()
    output = nn.Linear(4, 2)
    found = one_layer_gradients(None, output, vectors, torch.zeros(4), two_class_margin)
    expected = vectors @ (output.weight[1] - output.weight[0])
    assert found.contributions.tolist() == pytest.approx(expected.tolist(), abs=1e-5)  # float32


def test_a_unit_whose_input_does_not_change_adds_nothing():
    hidden, output = nn.Linear(1, 1), nn.Linear(1, 2)
    nn.init.zeros_(hidden.weight)
    found = one_layer_gradients(hidden, output, torch.ones(2, 1), torch.zeros(1), two_class_margin)
    assert found.contributions.tolist() == [0, 0]


@pytest.mark.oracle
def test_integrated_gradients_equal_scipy_s_integral_of_the_slopes():
    integrate = pytest.importorskip("scipy.integrate")

    def margin(scales: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * scales[:, 0]) * torch.exp(scales[:, 1])

    found = integrated_gradients(margin, 2, CPU)
    expected = [
        integrate.quad(lambda a: 3 * torch.tensor(3 * a).cos().item() * torch.tensor(a).exp().item(), 0, 1)[0],
        integrate.quad(lambda a: torch.tensor(3 * a).sin().item() * torch.tensor(a).exp().item(), 0, 1)[0],
    ]
    assert found.contributions.tolist() == pytest.approx(expected, abs=1e-5)  # float32 slopes
    assert found.baseline_margin == 0
    assert found.completeness_error < 1e-5


def test_points_in_several_passes_give_the_same_integral(monkeypatch):
    def margin(scales: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * scales[:, 0]) * torch.exp(scales[:, 1])

    whole = integrated_gradients(margin, 2, CPU)
    monkeypatch.setattr(module, "TOKENS_PER_PASS", 6)  # three points per pass
    assert integrated_gradients(margin, 2, CPU).contributions.tolist() == pytest.approx(
        whole.contributions.tolist(), abs=1e-12
    )


def test_steps_increase_until_the_error_is_small():
    steps = []
    for sharpness in (1, 30, 300):
        found = integrated_gradients(lambda s, k=sharpness: torch.tanh(k * (s[:, 0] - 0.3)), 1, CPU)
        assert found.completeness_error < module.MAX_ERROR
        steps.append(found.steps)
    assert steps[0] == module.STEPS[0] < steps[1] < steps[2]


def test_after_the_last_number_of_steps_the_error_is_reported(monkeypatch):
    monkeypatch.setattr(module, "STEPS", (16, 64))
    found = integrated_gradients(lambda s: (10_000 * (s[:, 0] - 0.4)).sigmoid(), 1, CPU)  # a jump
    assert found.steps == 64
    assert found.completeness_error > module.MAX_ERROR


def test_completeness_error_is_relative_to_the_change_of_the_margin():
    assert PathIntegral(torch.tensor([1.0, 2.0]), -1.0, 3.0).completeness_error == pytest.approx(0.25)
