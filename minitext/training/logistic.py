"""Objective of multinomial logistic regression, and two methods that minimize it: Newton's and L-BFGS.

Inputs: vectors with labels, an L2 penalty. Outputs: parameters and gradient after every iteration.
Shapes: B texts, D vector width, C classes, K logits that are learned (1 for two classes, else C), P = K * (D + 1).
Sources: Boyd & Vandenberghe 2004, "Convex optimization", section 9.5 (Newton's method); Liu & Nocedal 1989 (L-BFGS).
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from minitext.models.static import EncodedTexts, all_logits

SUFFICIENT_DECREASE = 1e-4  # Armijo's condition: the loss falls by this fraction of what its slope promises
LOSS_ROUNDING = 1e-14  # near the optimum the loss changes by less than its own rounding error
MAX_HALVINGS = 40  # of a step in the line search
CHUNK = 1024  # texts whose weighted vectors stay in the cache: a third faster than all at once
RIDGES = (0, 1e-12, 1e-9, 1e-6, 1e-3)  # relative increases of the diagonal, until a Hessian can be factorized


class LogisticObjective:
    """Weighted cross-entropy / B plus `l2` / (2 B) times the squared weights, as a function of (K, D + 1) parameters.

    The last column of the parameters holds the biases, which are not penalized. `class_weights`: (C,), the weight of
    each text by its class.
    """

    def __init__(self, data: EncodedTexts, num_logits: int, l2: float, class_weights: Tensor):
        self.labels = data.labels
        self.text_weights = class_weights[data.labels] / len(data.labels)  # (B,)
        self.features = F.pad(data.vectors, (0, 1), value=1.0)  # (B, D + 1): the ones multiply the biases
        one_hot = F.one_hot(data.labels, max(num_logits, 2)).to(self.features)  # (B, C)
        self.targets = one_hot[:, -num_logits:]  # (B, K)
        self.penalty = torch.full_like(self.features[0], l2 / len(data.labels))  # (D + 1,)
        self.penalty[-1] = 0

    def log_probabilities(self, parameters: Tensor) -> Tensor:
        return all_logits(self.features @ parameters.T).log_softmax(dim=1)  # (B, C)

    def loss_and_gradient(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and its (K, D + 1) gradient."""
        log_probabilities = self.log_probabilities(parameters)  # (B, C)
        losses = F.nll_loss(log_probabilities, self.labels, reduction="none")  # (B,)
        loss = self.text_weights @ losses + (self.penalty * parameters.square()).sum() / 2
        residuals = log_probabilities.exp()[:, -len(parameters) :] - self.targets  # (B, K)
        return loss, (residuals * self.text_weights[:, None]).T @ self.features + self.penalty * parameters

    def hessian(self, parameters: Tensor) -> Tensor:
        """The (P, P) Hessian, block by block: block (j, k) is the sum of w p_j (1[j = k] - p_k) x x' over the texts."""
        num_logits, width = parameters.shape
        probabilities = self.log_probabilities(parameters).exp()[:, -num_logits:]  # (B, K)
        hessian = parameters.new_empty(num_logits, width, num_logits, width)
        for j in range(num_logits):
            for k in range(j + 1):
                weights = self.text_weights * probabilities[:, j] * (int(j == k) - probabilities[:, k])  # (B,)
                hessian[j, :, k] = hessian[k, :, j] = self.weighted_gram(weights)
            hessian[j, :, j] += self.penalty.diag()
        return hessian.view(parameters.numel(), parameters.numel())

    def weighted_gram(self, weights: Tensor) -> Tensor:
        """The sum of w x x' over the texts, (D + 1, D + 1); weights (B,)."""
        total = torch.zeros_like(self.penalty.diag())
        for features, some in zip(self.features.split(CHUNK), weights.split(CHUNK), strict=True):
            total.addmm_(features.T, features * some[:, None])
        return total


def newton(objective: LogisticObjective, parameters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Newton's method with backtracking line search; yields parameters and gradient, (K, D + 1) each, per iteration."""
    loss, gradient = objective.loss_and_gradient(parameters)
    while True:
        step = newton_step(objective.hessian(parameters), gradient)
        slope = (gradient * step).sum()
        for size in (0.5**halvings for halvings in range(MAX_HALVINGS)):
            moved = parameters + size * step
            new_loss, new_gradient = objective.loss_and_gradient(moved)
            if new_loss <= loss + SUFFICIENT_DECREASE * size * slope + LOSS_ROUNDING * loss:
                break
        parameters, loss, gradient = moved, new_loss, new_gradient
        yield parameters, gradient


def newton_step(hessian: Tensor, gradient: Tensor) -> Tensor:
    """Solve `hessian @ step = -gradient` by a Cholesky factorization.

    A constant added to all C > 2 biases does not change the probabilities, so the Hessian is singular in that
    direction. A curvature is added there; as the gradient has no part in that direction, neither has the step, and the
    biases keep their sum of zero.
    """
    num_logits, width = gradient.shape
    if num_logits > 1:
        biases = hessian.view(num_logits, width, num_logits, width)[:, -1, :, -1]  # (K, K)
        biases += biases.diagonal().mean()
    for ridge in RIDGES:
        factor, failed = torch.linalg.cholesky_ex(hessian + ridge * hessian.diagonal().diag())
        if not failed:
            break
    return -torch.cholesky_solve(gradient.reshape(-1, 1), factor).view_as(gradient)


def lbfgs(objective: LogisticObjective, parameters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Full-batch L-BFGS with a strong Wolfe line search; yields what `newton` yields."""
    parameters = parameters.clone()
    optimizer = torch.optim.LBFGS(
        [parameters],  # changed in place
        max_iter=1,  # one call of `step` is one iteration; the optimizer keeps its curvature between calls
        max_eval=100,  # the default, max_iter * 5 / 4, would cut the line search short
        history_size=100,
        tolerance_grad=0,  # the caller decides on convergence
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        loss, parameters.grad = objective.loss_and_gradient(parameters)
        return loss

    while True:
        optimizer.step(closure)
        closure()  # the gradient where the line search ended
        yield parameters, parameters.grad
