"""Fitting of the two static classifiers: logistic regression by Newton's method, MLP by minibatch AdamW.

Inputs: encoded texts with labels, and weights of the classes. Outputs: the chosen model, and the scores on the way.
Shapes: B texts, D vector width, C classes, K logits that are learned (1 for two classes, else C).
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minitext.models.static import MLP, EncodedTexts, LogisticRegression
from minitext.training.device import one_thread
from minitext.training.logistic import LogisticObjective, lbfgs, newton
from minitext.training.loop import selection_score
from minitext.utils.config import option, require
from minitext.utils.errors import UserError

NEWTON_MAX_PARAMETERS = 2_000  # beyond it L-BFGS is faster: a Hessian costs B * P**2 operations, its factor P**3 / 3
NEWTON_TOLERANCE = 1e-10  # largest component of the gradient of the mean loss at which a method has converged
LBFGS_TOLERANCE = 1e-7

Evaluate = Callable[[Tensor, Tensor], dict[str, float]]  # (B, C) logits and (B,) labels to "loss" and other scores


@dataclass(frozen=True)
class SelectionConfig:
    """both classifiers"""

    select_by: str = option("loss", "metric of penalty and epoch", choices=("accuracy", "macro_f1", "loss"))
    class_weights: str = option("equal", "balanced: rare classes count more in the loss", choices=("equal", "balanced"))


class FitResult(NamedTuple):
    """The chosen model, the history of its fit, and the step (iteration or epoch) that the model comes from."""

    model: LogisticRegression | MLP
    history: list[dict]  # rows {"epoch": 1, "train": {"loss": …, "accuracy": …}, "valid": {…}}, "best": True on one
    step: int
    converged: bool  # it stopped by its own criterion, not because iterations or epochs were used up
    seconds: float = 0.0

    def describe(self, select_by: str) -> str:
        """One line: what validation selected, whether the fit converged, and how long it took."""
        steps, last = len(self.history), self.history[-1]
        if "l2" in last:
            chosen, end = f"L2 {last['l2']:g}", f"{'' if self.converged else 'not '}converged after {steps} iterations"
        else:
            chosen = f"epoch {self.step} of {steps}"
            end = f"stopped by {'--patience' if self.converged else '--epochs'}"
        return f"{chosen} (by validation {select_by}), {end}; {self.seconds:.1f} s"

    def remedy(self) -> str:
        """One line on a fit that did not converge, with the option to change."""
        steps = len(self.history)
        if "l2" in self.history[-1]:
            return f"not converged after {steps} iterations; pass more --iterations, or a larger --l2"
        return f"may still improve (the best of {steps} epochs was {self.step}); pass more --epochs"


@dataclass(frozen=True)
class LogisticConfig:
    """logistic regression"""

    l2: tuple[float, ...] = option((1.0, 0.1, 0.01), "L2 penalties to try; --select-by chooses one")
    iterations: int = option(1000, "maximum number of iterations")

    def __post_init__(self) -> None:
        if not all(0 < l2 < math.inf for l2 in self.l2):
            raise UserError(f"--l2 must be > 0 (got {' '.join(map(str, self.l2))})")
        require(self, lambda value: value >= 1, "at least 1", "iterations")


@torch.no_grad()
def fit_logistic(
    train: EncodedTexts, valid: EncodedTexts, config: LogisticConfig, *, class_weights: Tensor, select_by: str,
    evaluate: Evaluate,
) -> FitResult:  # fmt: skip
    """Fit one logistic regression per penalty, in float64; return the one with the best validation score.

    `class_weights`: (C,) float32; `evaluate` returns "loss" and the metric `select_by`.
    """
    began = time.perf_counter()
    # around 0, which moves only the biases and saves L-BFGS more than half of its iterations
    mean = train.vectors.double().mean(dim=0)  # (D,)
    train, valid = (EncodedTexts(part.vectors.double() - mean, part.labels) for part in (train, valid))
    model, fits = zero_logistic(train.vectors.shape[1], len(class_weights)).double(), []
    for l2 in config.l2:  # from the optimum of the fit before, which saves a quarter of the iterations
        fits.append(minimize_logistic(model, train, valid, l2, config.iterations, class_weights.double(), evaluate))
        model = fits[-1].model
    best = max(fits, key=lambda fit: selection_score(fit.history[-1]["valid"], select_by))
    layer = best.model.output
    layer.bias -= layer.weight @ mean
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
    start: LogisticRegression, train: EncodedTexts, valid: EncodedTexts, l2: float, iterations: int,
    class_weights: Tensor, evaluate: Evaluate,
) -> FitResult:  # fmt: skip
    """Minimize the weighted cross-entropy of all texts plus `l2` / 2 times the squared weights (biases are free).

    The optimum is that of scikit-learn's `LogisticRegression(C=1 / l2, class_weight=…)`. `start`, the vectors and the
    class weights (C,) are float64.
    """
    model = copy.deepcopy(start)
    layer = model.output
    objective = LogisticObjective(train, layer.out_features, l2, class_weights)
    first = torch.cat((layer.weight, layer.bias[:, None]), dim=1)  # (K, D + 1)
    small = first.numel() <= NEWTON_MAX_PARAMETERS
    method, tolerance = (newton, NEWTON_TOLERANCE) if small else (lbfgs, LBFGS_TOLERANCE)
    tolerance *= objective.features.abs().max().item()  # the rounding error of the gradient grows with the inputs
    history: list[dict] = []
    for iteration, (parameters, gradient) in enumerate(islice(method(objective, first), iterations), start=1):
        layer.weight.copy_(parameters[:, :-1])
        layer.bias.copy_(parameters[:, -1])
        history.append({"iteration": iteration, "l2": l2} | evaluate_parts(model, train, valid, evaluate))
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
    epochs: int = option(300, "maximum number of epochs")
    patience: int = option(15, "stop after N epochs without improvement on validation")

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 1, "at least 1", "hidden", "batch_size", "epochs", "patience")
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "dropout")
        require(self, lambda value: 0 < value < math.inf, "> 0", "lr")
        require(self, lambda value: 0 <= value < math.inf, ">= 0", "weight_decay")


def fit_mlp(
    train: EncodedTexts, valid: EncodedTexts, config: MLPConfig, *, class_weights: Tensor, select_by: str,
    evaluate: Evaluate, seed: int, quiet: bool,
) -> FitResult:  # fmt: skip
    """Minibatch AdamW until validation has not improved for `patience` epochs; returns the best model."""
    began = time.perf_counter()
    vectors, labels = train
    # initialization, dropout and batch order use the global generator
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        model = MLP(vectors.shape[1], config.hidden, len(class_weights), config.dropout)
        model.standardize.fit(vectors)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        history: list[dict] = []
        best_epoch, best_score, best_weights, converged = 0, -math.inf, {}, False
        # disable=None: no bar where stderr is not a terminal
        for epoch in tqdm(range(1, config.epochs + 1), "MLP", leave=False, disable=quiet or None):
            model.train()
            for indices in torch.randperm(len(labels)).split(config.batch_size):
                loss = F.cross_entropy(model(vectors[indices]), labels[indices], class_weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            history.append({"epoch": epoch} | evaluate_parts(model, train, valid, evaluate))
            check_finite(f"MLP, epoch {epoch}", history[-1], f"lower --lr (now {config.lr:g})")
            score = selection_score(history[-1]["valid"], select_by)
            if score > best_score:
                best_epoch, best_score = epoch, score
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
def evaluate_parts(
    model: nn.Module, train: EncodedTexts, valid: EncodedTexts, evaluate: Evaluate
) -> dict[str, dict[str, float]]:
    """Scores of both parts, without dropout and class weights; the model is left in evaluation mode."""
    model.eval()
    return {name: evaluate(model(part.vectors), part.labels) for name, part in (("train", train), ("valid", valid))}
