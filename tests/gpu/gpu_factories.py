"""Models, texts and comparisons for the tests on a card."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.models.bert import BertClassifier, BertConfig
from minitext.training.optim import build_optimizers
from minitext.training.step import StepConfig, StepResult, train_step

VOCAB_SIZE = 200
# weights large enough that attention is far from uniform, which would hide an error
SMALL = BertConfig(VOCAB_SIZE, hidden_size=128, num_layers=2, num_heads=2, intermediate_size=256, dropout=0.0,
                   attention_dropout=0.0, head_dropout=0.0, initializer_range=0.1)  # fmt: skip


def classifier(device: torch.device, seed: int = 0, **changes) -> BertClassifier:
    """A small model; the same seed gives the same weights on every device."""
    torch.manual_seed(seed)
    return BertClassifier(replace(SMALL, **changes), 3).to(device)


def texts(lengths: Sequence[int], seed: int = 0) -> PackCollator:
    """Random texts of these lengths, with random labels of three classes; an empty one becomes one padding token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB_SIZE, (sum(lengths),), generator=generator, dtype=torch.int32)
    labels = torch.randint(0, 3, (len(lengths),), generator=generator)
    return PackCollator(TokenizedTexts(ids, F.pad(torch.tensor(lengths).cumsum(0), (1, 0))), labels, pad_id=0)


def batch_of(lengths: Sequence[int], device: torch.device, seed: int = 0) -> Batch:
    """One batch of random texts."""
    return texts(lengths, seed)(np.arange(len(lengths))).to(device)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter, by name."""
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def weighted(values: Tensor) -> Tensor:
    """A loss in which no two values count the same, so that a swap shows."""
    weights = torch.arange(1, values.numel() + 1, device=values.device).view_as(values).sin()
    return (values.float() * weights).sum()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The length of the difference, relative to the length of what is expected."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-12)).item()


def update(
    model: nn.Module, micro_batches: Sequence[Batch], optimizers: list | None = None, scaler: GradScaler | None = None,
    dtype: torch.dtype = torch.float32, max_grad_norm: float = 1.0,
) -> StepResult:  # fmt: skip
    """One update of three classes, with AdamW and without loss scaling unless they are given."""
    device = micro_batches[0].ids.device
    optimizers = build_optimizers(model, "adamw", 1e-3, 0.01) if optimizers is None else optimizers
    scaler = GradScaler(device.type, enabled=False) if scaler is None else scaler
    config = StepConfig(dtype, max_grad_norm, torch.ones(3, device=device))
    return train_step(model, micro_batches, optimizers, scaler, config)


def assert_same_change(found: dict[str, Tensor], expected: dict[str, Tensor], before: dict[str, Tensor]) -> None:
    """Weights moved alike from `before`, up to a twentieth of the way.

    Adam divides a gradient by its size, even if it is only a rounding error; then a weight may move either way. Such
    are the biases of keys, on which a softmax does not depend: they are left out. Of the others there are few.
    """
    for name, tensor in expected.items():
        difference, change = found[name].cpu() - tensor, tensor - before[name]
        if name.endswith("qkv.bias"):
            difference, change = (torch.cat(part.chunk(3)[::2]) for part in (difference, change))
        assert difference.norm() <= 0.05 * change.norm(), name


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
