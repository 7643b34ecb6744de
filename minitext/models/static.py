"""A logistic regression and a multilayer perceptron on texts that are the mean of their words' vectors.

In: encoded texts and labels. Out: `(batch, classes)` logits. Letters: B texts, D vector width, C classes, N training
texts. The mean of word vectors is a strong baseline (Wieting et al. 2016, "Towards universal paraphrastic sentence
embeddings"; Iyyer et al. 2015, "Deep unordered composition", for the perceptron on top).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from minitext.models.mean_encoder import MeanEncoder
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import atomic, write_text

GRADIENT_TOLERANCE = 1e-7  # L-BFGS has converged when no component of the gradient of the mean loss is larger


class EncodedTexts(NamedTuple):
    """Encoded texts with their labels."""

    vectors: Tensor  # (N, D)
    labels: Tensor  # (N,) int64


class FitResult(NamedTuple):
    """What training gives: the chosen model, what was seen on the way, and the epoch (or iteration) it is from."""

    model: nn.Module
    history: list[dict]  # rows {"epoch": 1, "train": {"loss": …, "accuracy": …}, "valid": {…}}, "best": True on one
    epoch: int


class LogisticRegression(nn.Module):
    """Linear logits. Two classes share one weight vector, as one logit is free: the other class's logit is zero."""

    def __init__(self, width: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(width, 1 if classes == 2 else classes)

    def forward(self, vectors: Tensor) -> Tensor:
        logits = self.linear(vectors)  # (B, 1) or (B, C)
        return torch.cat((torch.zeros_like(logits), logits), dim=1) if logits.shape[1] == 1 else logits  # (B, C)


@dataclass(frozen=True)
class LogisticConfig:
    """logistic regression"""

    l2: tuple[float, ...] = option((1.0, 0.1, 0.01), "L2 penalties to try; the lowest validation loss decides")
    iterations: int = option(1000, "most iterations of L-BFGS")

    def __post_init__(self) -> None:
        if any(penalty <= 0 for penalty in self.l2):
            raise UserError(f"--l2 {' '.join(map(str, self.l2))}: a penalty is above 0")


def fit_logistic(train: EncodedTexts, valid: EncodedTexts, classes: int, options: LogisticConfig) -> FitResult:
    """One logistic regression for each penalty; the one with the lowest validation loss is kept."""
    fits = [minimize_logistic(train, valid, classes, l2, options.iterations) for l2 in options.l2]
    return min(fits, key=lambda fit: fit.history[-1]["valid"]["loss"])


def minimize_logistic(train: EncodedTexts, valid: EncodedTexts, classes: int, l2: float, iterations: int) -> FitResult:
    """Minimise the cross-entropy summed over the texts plus `l2`/2 of the squared weights (biases are free).

    Full-batch L-BFGS (Liu & Nocedal 1989) with a strong Wolfe line search, in float64, to convergence: the same optimum
    as scikit-learn's `LogisticRegression(C=1 / l2)`. The history has a row an iteration.
    """
    train, valid = (EncodedTexts(part.vectors.double().cpu(), part.labels.cpu()) for part in (train, valid))
    with torch.random.fork_rng(devices=[]):  # a layer draws weights when it is made; these become zeros
        model = LogisticRegression(train.vectors.shape[1], classes).double()
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=1,  # a call of `step` is one iteration; the optimizer keeps its curvature between calls
        max_eval=100,  # the default, max_iter * 5 / 4, would cut the line search short
        history_size=100,
        tolerance_grad=0,  # convergence is decided below
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = l2 / (2 * len(train.labels)) * model.linear.weight.square().sum()
        loss = F.cross_entropy(model(train.vectors), train.labels) + penalty
        loss.backward()
        return loss

    history = []
    for iteration in range(1, iterations + 1):
        optimizer.step(closure)
        closure()  # the gradient where the line search ended
        history.append({"iteration": iteration, "l2": l2} | losses(model, train, valid))
        if max(parameter.grad.abs().max().item() for parameter in model.parameters()) < GRADIENT_TOLERANCE:
            break
    history[-1]["best"] = True
    return FitResult(model.float(), history, iteration)


class Standardize(nn.Module):
    """Inputs to mean 0 and deviation 1, by the training texts': mean vectors differ little from text to text."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, vectors: Tensor) -> None:
        """Take mean and deviation from (N, D) `vectors`; a constant column keeps deviation 1."""
        deviation = vectors.std(dim=0, correction=0)
        self.mean.copy_(vectors.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.deviation


@dataclass(frozen=True)
class MLPConfig:
    """multilayer perceptron"""

    hidden: int = option(256, "units of the hidden layer")
    dropout: float = option(0.5, "share of hidden units dropped in training")
    lr: float = option(3e-4, "learning rate of AdamW")
    weight_decay: float = option(0.1, "decoupled weight decay of AdamW")
    batch_size: int = option(64, "texts in a batch")
    epochs: int = option(100, "most epochs")
    patience: int = option(15, "stop after this many epochs without a lower validation loss")

    def __post_init__(self) -> None:
        if min(self.hidden, self.batch_size, self.epochs, self.patience) < 1:
            raise UserError("--hidden, --batch-size, --epochs and --patience are at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout {self.dropout}: a share lies from 0 to below 1")


def build_mlp(width: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """`(B, D)` vectors to `(B, C)` logits through one hidden layer."""
    return nn.Sequential(
        Standardize(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
    )


def fit_mlp(
    train: EncodedTexts, valid: EncodedTexts, classes: int, options: MLPConfig, seed: int, quiet: bool
) -> FitResult:
    """Minibatch AdamW until the validation loss has not fallen for `patience` epochs; the best epoch's model is kept.

    The history has a row an epoch.
    """
    vectors, labels = train
    with torch.random.fork_rng():  # initialisation and dropout draw from the global generator
        torch.manual_seed(seed)
        model = build_mlp(vectors.shape[1], options.hidden, classes, options.dropout).to(vectors.device)
        model[0].fit(vectors)
        optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
        history, best_epoch, best_weights = [], 0, {}
        # disable=None: no bar where stderr is not a terminal
        for epoch in tqdm(range(1, options.epochs + 1), "perceptron", leave=False, disable=quiet or None):
            model.train()
            for chosen in torch.randperm(len(labels)).split(options.batch_size):
                loss = F.cross_entropy(model(vectors[chosen]), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            history.append({"epoch": epoch} | losses(model, train, valid))
            if not best_epoch or history[-1]["valid"]["loss"] < history[best_epoch - 1]["valid"]["loss"]:
                best_epoch = epoch
                best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif epoch - best_epoch == options.patience:
                break
    model.load_state_dict(best_weights)
    history[best_epoch - 1]["best"] = True
    return FitResult(model, history, best_epoch)


@torch.no_grad()
def losses(model: nn.Module, train: EncodedTexts, valid: EncodedTexts) -> dict[str, dict[str, float]]:
    """Mean cross-entropy and accuracy on both parts, with dropout off; the model is left in evaluation mode."""
    model.eval()
    result = {}
    for name, (vectors, labels) in (("train", train), ("valid", valid)):
        logits = model(vectors)  # (N, C)
        accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
        result[name] = {"loss": F.cross_entropy(logits, labels).item(), "accuracy": accuracy}
    return result


class StaticClassifier(nn.Module):
    """BertEncoder and classifier together: raw texts to logits; what a run's folder holds."""

    def __init__(self, encoder: MeanEncoder, classifier: nn.Module, names: Sequence[str]):
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.class_names = tuple(names)

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Tensor:
        """`(B, C)` logits."""
        self.eval()
        return self.classifier(self.encoder.encode(texts).vectors)

    def save(self, folder: Path) -> None:
        """Write `config.json`, `words.txt` and `model.safetensors` into `folder`."""
        config = {
            "track": "static",
            "classifier": "logistic" if isinstance(self.classifier, LogisticRegression) else "mlp",
            "width": self.encoder.table.shape[1],
            "hidden": None if isinstance(self.classifier, LogisticRegression) else self.classifier[1].out_features,
            "names": self.class_names,
        }
        write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
        write_text(folder / "words.txt", "".join(f"{word}\n" for word in self.encoder.words))
        with atomic(folder / "model.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, temporary)

    @classmethod
    def load(cls, folder: Path) -> "StaticClassifier":
        """The classifier that `save` wrote into `folder`."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")[:-1]
        tensors = load_file(folder / "model.safetensors")
        if len(words) != len(tensors["encoder.table"]):
            raise ValueError(f"words.txt has {len(words):,} words for {len(tensors['encoder.table']):,} vectors")
        encoder = MeanEncoder(
            words, tensors["encoder.table"], tensors.get("encoder.word_weights"), tensors.get("encoder.common")
        )
        width, classes = config["width"], len(config["names"])
        if config["classifier"] == "logistic":
            classifier: nn.Module = LogisticRegression(width, classes)
        else:
            classifier = build_mlp(width, config["hidden"], classes, dropout=0.0)
        model = cls(encoder, classifier, config["names"])
        model.load_state_dict(tensors)
        return model
