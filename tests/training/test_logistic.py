"""Newton's method and L-BFGS on the objective of logistic regression: derivatives, descent, convergence."""

from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from minitext.models.static import EncodedTexts
from minitext.training.logistic import LogisticObjective, lbfgs, newton

METHODS = pytest.mark.parametrize("method", [newton, lbfgs])


def objective_of(classes: int, l2: float = 0.1) -> tuple[LogisticObjective, Tensor]:
    """The objective of 60 texts in 4 dimensions, and parameters of zero."""
    num_logits = 1 if classes == 2 else classes
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % classes
    centers = torch.randn(classes, 4, dtype=torch.float64, generator=generator)
    vectors = centers[labels] + torch.randn(60, 4, dtype=torch.float64, generator=generator)
    class_weights = torch.linspace(0.5, 2.0, classes, dtype=torch.float64)
    objective = LogisticObjective(EncodedTexts(vectors, labels), num_logits, l2, class_weights)
    return objective, torch.zeros(num_logits, 5, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_and_hessian_are_those_of_autograd(classes: int):
    objective, zeros = objective_of(classes)
    at = torch.randn(zeros.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(parameters: Tensor) -> Tensor:
        return objective.loss_and_gradient(parameters)[0]

    gradient = torch.autograd.functional.jacobian(loss, at)
    hessian = torch.autograd.functional.hessian(loss, at).view(at.numel(), at.numel())
    assert torch.allclose(objective.loss_and_gradient(at)[1], gradient, atol=1e-12)
    assert torch.allclose(objective.hessian(at), hessian, atol=1e-12)


@METHODS
@pytest.mark.parametrize("classes", [2, 4])
def test_the_gradient_goes_to_zero(method, classes: int):
    gradients = [gradient.abs().max().item() for _, gradient in islice(method(*objective_of(classes)), 100)]
    assert gradients[-1] < 1e-7 < gradients[0]


@METHODS
@pytest.mark.parametrize("classes", [2, 4])
def test_the_objective_falls_with_every_iteration(method, classes: int):
    objective, zeros = objective_of(classes, l2=1e-3)
    by_iteration = [objective.loss_and_gradient(at)[0].item() for at, _ in islice(method(objective, zeros), 12)]
    # 1e-13: at the optimum only rounding is left
    assert all(later <= earlier + 1e-13 for earlier, later in pairwise(by_iteration))
    assert by_iteration[-1] < by_iteration[0]


def test_newton_squares_the_error():
    gradients = [gradient.abs().max().item() for _, gradient in islice(newton(*objective_of(3)), 8)]
    near = [(now, later) for now, later in pairwise(gradients) if 1e-6 < now < 1e-2]
    assert len(near) >= 2
    assert all(later < 100 * now**2 for now, later in near)


def test_newton_halves_steps_that_overshoot():
    # at -10 the loss is almost flat: a full Newton step is 15,000 long, and leads to a loss of thousands
    texts = EncodedTexts(torch.zeros(3, 1, dtype=torch.float64), torch.tensor([1, 1, 0]))
    objective = LogisticObjective(texts, 1, 1.0, torch.ones(2, dtype=torch.float64))
    start = torch.tensor([[0.0, -10.0]], dtype=torch.float64)
    steps = list(islice(newton(objective, start), 20))
    assert objective.loss_and_gradient(steps[0][0])[0] < objective.loss_and_gradient(start)[0]
    assert steps[-1][0][0, 1].item() == pytest.approx(np.log(2), abs=1e-9)  # two texts of three are of class 1


@pytest.mark.parametrize("classes", [3, 5])
def test_newton_keeps_the_sum_of_the_biases_at_zero(classes: int):
    parameters, _ = next(islice(newton(*objective_of(classes)), 9, None))
    assert parameters[:, -1].sum().abs().item() < 1e-12
