"""Small data and models for the tests of training."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler

from minitext.data.batching import Batch, PackCollator
from minitext.data.tokenizer import TokenizedTexts
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig

CPU = torch.device("cpu")
VOCAB_SIZE = 12
NO_SCALING = GradScaler("cpu", enabled=False)
NO_CLIPPING = 1e9


def random_texts(count: int, num_classes: int = 2, seed: int = 0) -> PackCollator:
    """Texts of 1 to 6 random tokens with random labels, which can only be memorized."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator)
    ids = torch.randint(1, VOCAB_SIZE, (int(lengths.sum()),), generator=generator, dtype=torch.int32)
    labels = torch.randint(0, num_classes, (count,), generator=generator)
    return PackCollator(TokenizedTexts(ids, F.pad(lengths.cumsum(0), (1, 0))), labels)


def network(num_classes: int = 2, dropout: float = 0.0, seed: int = 0) -> EmbeddingBagClassifier:
    """A small model with a sparse embedding; the same seed gives the same weights."""
    torch.manual_seed(seed)
    config = NetworkConfig(embedding_dim=8, hidden_size=8, dropout=dropout, ngrams=1)
    return EmbeddingBagClassifier(VOCAB_SIZE, num_classes, config)


def batch_of(data: PackCollator, indices: Sequence[int] | None = None) -> Batch:
    """The texts at `indices`; default: all."""
    return data(np.arange(len(data.labels)) if indices is None else np.asarray(indices))


def validate(model: nn.Module, data: PackCollator, dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """The scores of `model` on `data`."""
    return classification_metrics(predict_logits(model, data, 4, CPU, dtype), data.labels)


def evaluator(model: nn.Module, data: PackCollator) -> Callable[[], dict[str, float]]:
    """What `fit` calls to evaluate."""
    return lambda: validate(model, data)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two models have the same weights."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
