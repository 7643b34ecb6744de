"""Fitting of the two static classifiers: logistic regression by Newton's method, MLP by minibatch AdamW.

Inputs: encoded texts with labels. Outputs: the chosen model, and the losses and accuracies on the way.
Shapes: B texts, D vector width, C classes, K logits that are learned (1 for two classes, else C).
"""

import copy
import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from minitext.models.static import MLP, EncodedTexts, LogisticRegression
from minitext.training.device import one_thread
from minitext.training.logistic import LogisticObjective, lbfgs, newton
from minitext.utils.config import option, require
from minitext.utils.errors import UserError

NEWTON_MAX_PARAMETERS = 2_000  # beyond it L-BFGS is faster: a Hessian costs B * P**2 operations, its factor P**3 / 3
NEWTON_TOLERANCE = 1e-10  # largest component of the gradient of the mean loss at which a method has converged
LBFGS_TOLERANCE = 1e-7


class FitResult(NamedTuple):
    """The chosen model, the history of its fit, and the step (iteration or epoch) that the model comes from."""

    model: LogisticRegression | MLP
    history: list[dict]  # rows {"epoch": 1, "train": {"loss": …, "accuracy": …}, "valid": {…}}, "best": True on one
    step: int
    converged: bool  # it stopped by its own criterion, not because iterations or epochs were used up
    seconds: float = 0.0

    def describe(self) -> str:
        """One line: where the model comes from, and how long the fit took."""
        l2 = self.history[-1].get("l2")
        step = "epoch" if l2 is None else f"L2 {l2:g}, iteration"
        end = "" if self.converged else ", not converged"
        return f"{step} {self.step} of {len(self.history)} (by validation loss){end}; {self.seconds:.1f} s"


@dataclass(frozen=True)
class LogisticConfig:
    """logistic regression"""

    l2: tuple[float, ...] = option((1.0, 0.1, 0.01), "L2 penalties to try; the lowest validation loss selects one")
    iterations: int = option(1000, "maximum number of iterations")

    def __post_init__(self) -> None:
        if not all(0 < l2 < math.inf for l2 in self.l2):
            raise UserError(f"--l2 must be > 0 (got {' '.join(map(str, self.l2))})")
        require(self, lambda value: value >= 1, "at least 1", "iterations")


def fit_logistic(train: EncodedTexts, valid: EncodedTexts, num_classes: int, config: LogisticConfig) -> FitResult:
    """Fit one logistic regression per penalty, in float64; return the one with the lowest validation loss."""
    began = time.perf_counter()
    train, valid = (EncodedTexts(part.vectors.double(), part.labels) for part in (train, valid))
    model = zero_logistic(train.vectors.shape[1], num_classes).double()
    fits = []
    for l2 in config.l2:  # from the optimum of the fit before, which saves a quarter of the iterations
        fits.append(minimize_logistic(model, train, valid, l2, config.iterations))
        model = fits[-1].model
    best = min(fits, key=lambda fit: fit.history[-1]["valid"]["loss"])
    return best._replace(model=best.model.float(), seconds=time.perf_counter() - began)


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

    The optimum is that of scikit-learn's `LogisticRegression(C=1 / l2)`. `start` and the vectors are float64.
    """
    model = copy.deepcopy(start)
    layer = model.output
    objective = LogisticObjective(train, layer.out_features, l2)
    first = torch.cat((layer.weight, layer.bias[:, None]), dim=1)  # (K, D + 1)
    small = first.numel() <= NEWTON_MAX_PARAMETERS
    method, tolerance = (newton, NEWTON_TOLERANCE) if small else (lbfgs, LBFGS_TOLERANCE)
    tolerance *= objective.features.abs().max().item()  # the rounding error of the gradient grows with the inputs
    history: list[dict] = []
    for iteration, (parameters, gradient) in enumerate(islice(method(objective, first), iterations), start=1):
        layer.weight.copy_(parameters[:, :-1])
        layer.bias.copy_(parameters[:, -1])
        history.append({"iteration": iteration, "l2": l2} | losses(model, train, valid))
        check_finite(f"logistic regression, iteration {iteration}", history[-1], "check the word vectors")
        converged = gradient.abs().max().item() <= tolerance
        if converged:
            break
    history[-1]["best"] = True
    return FitResult(model, history, iteration, converged)


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
        require(self, lambda value: value >= 1, "at least 1", "hidden", "batch_size", "epochs", "patience")
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "dropout")
        require(self, lambda value: 0 < value < math.inf, "> 0", "lr")
        require(self, lambda value: 0 <= value < math.inf, ">= 0", "weight_decay")


def fit_mlp(
    train: EncodedTexts, valid: EncodedTexts, num_classes: int, config: MLPConfig, seed: int, quiet: bool
) -> FitResult:
    """Minibatch AdamW until the validation loss has not fallen for `patience` epochs; returns the best model."""
    began = time.perf_counter()
    vectors, labels = train
    # initialization, dropout and batch order use the global generator
    with torch.random.fork_rng(devices=[]), one_thread():
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
            check_finite(f"MLP, epoch {epoch}", history[-1], f"lower --lr (now {config.lr:g})")
            if not best_epoch or history[-1]["valid"]["loss"] < history[best_epoch - 1]["valid"]["loss"]:
                best_epoch = epoch
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif epoch - best_epoch == config.patience:
                converged = True
                break
    model.load_state_dict(best_weights)
    history[best_epoch - 1]["best"] = True
    return FitResult(model, history, best_epoch, converged, time.perf_counter() - began)


def check_finite(place: str, row: dict, remedy: str) -> None:
    """Raise UserError if a loss is NaN or infinite."""
    for part in ("train", "valid"):
        if not math.isfinite(row[part]["loss"]):
            raise UserError(f"{place}: the loss on {part} is {row[part]['loss']}; {remedy}")


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
