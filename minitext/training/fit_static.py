"""Fitting of the two static classifiers: logistic regression by Newton's method, MLP by minibatch AdamW.

Inputs: encoded texts with labels. Outputs: the chosen model, and the losses and accuracies on the way.
Shapes: B texts, D vector width, C classes, K logits that are learned (1 for two classes, else C), P = K * (D + 1).
Sources: Boyd & Vandenberghe 2004, "Convex optimization", section 9.5 (Newton's method); Liu & Nocedal 1989 (L-BFGS).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minitext.models.static import MLP, EncodedTexts, LogisticRegression, all_logits
from minitext.utils.config import option
from minitext.utils.errors import UserError

NEWTON_MAX_PARAMETERS = 2_000  # beyond it L-BFGS is faster: a Hessian costs B * P**2 operations, its factor P**3 / 3
NEWTON_TOLERANCE = 1e-10  # largest component of the gradient of the mean loss at which a method has converged
LBFGS_TOLERANCE = 1e-7
SUFFICIENT_DECREASE = 1e-4  # Armijo's condition: the loss falls by this fraction of what its slope promises
LOSS_ROUNDING = 1e-14  # near the optimum the loss changes by less than its own rounding error
MAX_HALVINGS = 40  # of a step in the line search
RIDGES = (0, 1e-12, 1e-9, 1e-6, 1e-3)  # relative increases of the diagonal, until a Hessian can be factorized


class FitResult(NamedTuple):
    """The chosen model, the history of its fit, and the step (iteration or epoch) that the model comes from."""

    model: LogisticRegression | MLP
    history: list[dict]  # rows {"epoch": 1, "train": {"loss": …, "accuracy": …}, "valid": {…}}, "best": True on one
    step: int
    converged: bool  # it stopped by its own criterion, not because iterations or epochs were used up


@dataclass(frozen=True)
class LogisticConfig:
    """logistic regression"""

    l2: tuple[float, ...] = option((1.0, 0.1, 0.01), "L2 penalties to try; the lowest validation loss selects one")
    iterations: int = option(1000, "maximum number of iterations")

    def __post_init__(self) -> None:
        if min(self.l2) <= 0:
            raise UserError(f"--l2 must be > 0 (got {' '.join(map(str, self.l2))})")
        if self.iterations < 1:
            raise UserError(f"--iterations must be at least 1 (got {self.iterations})")


def fit_logistic(train: EncodedTexts, valid: EncodedTexts, num_classes: int, config: LogisticConfig) -> FitResult:
    """Fit one logistic regression per penalty; return the one with the lowest validation loss.

    Computes in float64. Each fit starts at the optimum of the one before, which saves a quarter of the iterations.
    """
    train, valid = (EncodedTexts(part.vectors.double(), part.labels) for part in (train, valid))
    model = zero_logistic(train.vectors.shape[1], num_classes).double()
    fits = []
    for l2 in config.l2:
        fits.append(minimize_logistic(model, train, valid, l2, config.iterations))
        model = fits[-1].model
    best = min(fits, key=lambda fit: fit.history[-1]["valid"]["loss"])
    return best._replace(model=best.model.float())


def zero_logistic(input_size: int, num_classes: int) -> LogisticRegression:
    """A logistic regression whose parameters are zero: where the fit of a convex objective may start."""
    with torch.random.fork_rng(devices=[]):  # a new layer draws values, here overwritten
        model = LogisticRegression(input_size, num_classes)
    nn.init.zeros_(model.output.weight)
    nn.init.zeros_(model.output.bias)
    return model


@torch.no_grad()
def minimize_logistic(
    start: LogisticRegression, train: EncodedTexts, valid: EncodedTexts, l2: float, iterations: int
) -> FitResult:
    """Minimize the cross-entropy summed over the texts plus `l2` / 2 times the squared weights (biases are free).

    The optimum is that of scikit-learn's `LogisticRegression(C=1 / l2)`. `start` and the vectors are float64; `start`
    is not changed. The history has one row per iteration.
    """
    model = copy.deepcopy(start)
    layer = model.output
    objective = LogisticObjective(train, layer.out_features, l2)
    first = torch.cat((layer.weight, layer.bias[:, None]), dim=1)  # (K, D + 1)
    small = first.numel() <= NEWTON_MAX_PARAMETERS
    method, tolerance = (newton, NEWTON_TOLERANCE) if small else (lbfgs, LBFGS_TOLERANCE)
    history: list[dict] = []
    for iteration, (parameters, gradient) in enumerate(islice(method(objective, first), iterations), start=1):
        layer.weight.copy_(parameters[:, :-1])
        layer.bias.copy_(parameters[:, -1])
        history.append({"iteration": iteration, "l2": l2} | losses(model, train, valid))
        # the rounding error of the gradient grows with the inputs
        converged = bool(gradient.abs().max() <= tolerance * objective.features.abs().max())
        if converged:
            break
    history[-1]["best"] = True
    return FitResult(model, history, iteration, converged)


class LogisticObjective:
    """Mean cross-entropy plus `l2` / (2 B) times the squared weights, as a function of (K, D + 1) parameters.

    The last column of the parameters holds the biases, which are not penalized.
    """

    def __init__(self, data: EncodedTexts, num_logits: int, l2: float):
        self.labels = data.labels
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
        loss = F.nll_loss(log_probabilities, self.labels) + (self.penalty * parameters.square()).sum() / 2
        residuals = log_probabilities.exp()[:, -len(parameters) :] - self.targets  # (B, K)
        return loss, residuals.T @ self.features / len(self.labels) + self.penalty * parameters

    def hessian(self, parameters: Tensor) -> Tensor:
        """The (P, P) Hessian, block by block: block (j, k) is the sum of p_j (1[j = k] - p_k) x x' over the texts."""
        num_logits, width = parameters.shape
        probabilities = self.log_probabilities(parameters).exp()[:, -num_logits:]  # (B, K)
        hessian = parameters.new_empty(num_logits, width, num_logits, width)
        for j in range(num_logits):
            for k in range(j):
                weights = -probabilities[:, j] * probabilities[:, k] / len(self.labels)  # (B,)
                hessian[j, :, k] = hessian[k, :, j] = self.features.T @ (self.features * weights[:, None])
            weights = probabilities[:, j] * (1 - probabilities[:, j]) / len(self.labels)
            hessian[j, :, j] = self.features.T @ (self.features * weights[:, None]) + self.penalty.diag()
        return hessian.view(parameters.numel(), parameters.numel())


def newton(objective: LogisticObjective, parameters: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Newton's method; yields parameters and gradient, (K, D + 1) each, after every iteration.

    A step is halved until the loss falls enough (backtracking line search).
    """
    loss, gradient = objective.loss_and_gradient(parameters)
    while True:
        step = newton_step(objective.hessian(parameters), gradient)
        slope = (gradient * step).sum()
        for halvings in range(MAX_HALVINGS):
            size = 0.5**halvings
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


@dataclass(frozen=True)
class MLPConfig:
    """MLP"""

    hidden: int = option(256, "units of the hidden layer")
    dropout: float = option(0.5, "dropout probability of the hidden units")
    lr: float = option(3e-4, "learning rate of AdamW")
    weight_decay: float = option(0.1, "decoupled weight decay of AdamW")
    batch_size: int = option(64, "texts per optimizer update")
    epochs: int = option(100, "maximum number of epochs")
    patience: int = option(15, "stop after N epochs without a lower validation loss")

    def __post_init__(self) -> None:
        for name in ("hidden", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1 (got {getattr(self, name)})")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout must be in [0, 1) (got {self.dropout})")


def fit_mlp(
    train: EncodedTexts, valid: EncodedTexts, num_classes: int, config: MLPConfig, seed: int, quiet: bool
) -> FitResult:
    """Minibatch AdamW until the validation loss has not fallen for `patience` epochs; returns the best epoch's model.

    The history has one row per epoch.
    """
    vectors, labels = train
    with torch.random.fork_rng(devices=[]):  # initialization, dropout and batch order use the global generator
        torch.manual_seed(seed)
        model = MLP(vectors.shape[1], config.hidden, num_classes, config.dropout)
        model.standardize.fit(vectors)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        history: list[dict] = []
        best_epoch, best_weights, converged = 0, {}, False
        # disable=None: no bar where stderr is not a terminal
        for epoch in tqdm(range(1, config.epochs + 1), "MLP", leave=False, disable=quiet or None):
            model.train()
            for indices in torch.randperm(len(labels)).split(config.batch_size):
                loss = F.cross_entropy(model(vectors[indices]), labels[indices])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            history.append({"epoch": epoch} | losses(model, train, valid))
            if not best_epoch or history[-1]["valid"]["loss"] < history[best_epoch - 1]["valid"]["loss"]:
                best_epoch = epoch
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif epoch - best_epoch == config.patience:
                converged = True
                break
    model.load_state_dict(best_weights)
    history[best_epoch - 1]["best"] = True
    return FitResult(model, history, best_epoch, converged)


@torch.no_grad()
def losses(model: nn.Module, train: EncodedTexts, valid: EncodedTexts) -> dict[str, dict[str, float]]:
    """Mean cross-entropy and accuracy on both parts, without dropout; the model is left in evaluation mode."""
    model.eval()
    result = {}
    for name, (vectors, labels) in (("train", train), ("valid", valid)):
        logits = model(vectors)  # (B, C)
        accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
        result[name] = {"loss": F.cross_entropy(logits, labels).item(), "accuracy": accuracy}
    return result
