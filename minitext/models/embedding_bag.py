"""The scratch classifier: mean of embeddings, Linear, ReLU, dropout, Linear.

Inputs: packed batches of token or n-gram rows. Outputs: `(B, C)` logits.
Shapes: B texts, N rows of a batch, D embedding, C classes. With n-grams (`data/ngrams.py`) it is the network of
fastText (Joulin et al. 2017, "Bag of tricks for efficient text classification") with a hidden layer.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minitext.data.batching import Batch
from minitext.data.ngrams import add_ngrams
from minitext.data.tokenizer import TokenizedTexts
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.io import atomic, read_json, write_json

MIN_BUCKETS, MAX_BUCKETS = 1 << 10, 1 << 20


@dataclass(frozen=True)
class NetworkConfig:
    """network"""

    embedding_dim: int = option(64, "dimension of the embeddings")
    hidden_size: int = option(512, "units of the hidden layer")
    dropout: float = option(0.7, "dropout probability of the hidden layer")
    ngrams: int = option(2, "length of the longest n-grams with an embedding; 1: tokens only")
    buckets: int | None = option(
        None, "embeddings that the n-grams share by hashing (default: as many as n-grams in the training texts, "
        f"rounded up to a power of two, at most {MAX_BUCKETS:,})"
    )  # fmt: skip
    binary_counts: bool = option(False, "count each token and n-gram once per text (Wang & Manning 2012)")

    def __post_init__(self) -> None:
        require(self, lambda value: value >= 1, "at least 1", "embedding_dim", "hidden_size", "ngrams", "buckets")
        require(self, lambda value: 0 <= value < 1, "in [0, 1)", "dropout")


def fill_buckets(config: NetworkConfig, num_tokens: int) -> NetworkConfig:
    """Where no number of buckets is given: a power of two for the n-grams of `num_tokens` tokens, repeated ones too."""
    if config.buckets is not None:
        return config
    count = (config.ngrams - 1) * num_tokens
    return replace(config, buckets=min(max(1 << (count - 1).bit_length(), MIN_BUCKETS), MAX_BUCKETS))


class EmbeddingBagClassifier(nn.Module):
    """Mean of embeddings under one hidden layer. A text without tokens has a mean of zeros."""

    def __init__(self, vocab_size: int, num_classes: int, config: NetworkConfig, pad_id: int | None = None):
        super().__init__()
        self.vocab_size, self.num_classes, self.config = vocab_size, num_classes, config
        rows = vocab_size + (config.buckets if config.ngrams > 1 else 0)
        # sparse gradients: a batch touches few rows, and the optimizer should not visit the others.
        # padding_idx: `[PAD]`, where texts are padded to one length, is left out of the mean
        self.embedding = nn.EmbeddingBag(rows, config.embedding_dim, mode="mean", sparse=True, padding_idx=pad_id)
        self.hidden = nn.Linear(config.embedding_dim, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.hidden_size, num_classes)
        nn.init.uniform_(self.embedding.weight, -1 / config.embedding_dim, 1 / config.embedding_dim)  # as in fastText
        nn.init.zeros_(self.embedding.weight[vocab_size:])  # n-grams that no training text has add nothing to a mean

    def forward(self, batch: Batch) -> Tensor:
        """A packed batch of `features` to `(B, C)` logits."""
        mean = self.embedding(batch.ids, batch.cu_seqlens[:-1])  # (B, D)
        hidden = self.dropout(F.relu(self.hidden(mean)))  # (B, hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # logits in float32 also under autocast
            return self.output(hidden.to(self.output.weight.dtype))

    def features(self, tokens: TokenizedTexts) -> TokenizedTexts:
        """The rows of the embedding for tokens and n-grams: what `forward` expects. Computed once per corpus."""
        config = self.config
        return add_ngrams(tokens, self.vocab_size, config.ngrams, config.buckets, config.binary_counts)

    @torch.no_grad()
    def load_embeddings(self, tokens: Mapping[str, int], words: Mapping[str, int], table: Tensor) -> int:
        """Copy word vectors, (V, D), to the tokens that are words. Returns how many. Raises UserError for another D."""
        dim, expected = table.shape[1], self.config.embedding_dim
        if dim != expected:
            raise UserError(f"the vectors have dimension {dim}, the embeddings {expected}; give --embedding-dim {dim}")
        known = [(row, words[token]) for token, row in tokens.items() if token in words]
        if known:
            rows, sources = torch.tensor(known).T
            self.embedding.weight[rows] = table[sources].to(self.embedding.weight)
        return len(known)

    def save(self, folder: Path, **more: object) -> None:
        """Write `model.safetensors` and `config.json` (the network's settings and `more`) into `folder`."""
        sizes = {"vocab_size": self.vocab_size, "num_classes": self.num_classes, "pad_id": self.embedding.padding_idx}
        write_json(folder / "config.json", {"track": "scratch", **sizes, "network": asdict(self.config), **more})
        with atomic(folder / "model.safetensors") as temporary:
            save_file(self.state_dict(), temporary)

    @classmethod
    def load(cls, folder: Path) -> "EmbeddingBagClassifier":
        """The network that `save` wrote into `folder`."""
        config = read_json(folder / "config.json")
        network = NetworkConfig(**config["network"])
        sizes, tensors = (config["vocab_size"], config["num_classes"]), load_file(folder / "model.safetensors")
        with torch.device("meta"):  # without memory: sizes that do not fit the weights are found before they get any
            cls(*sizes, network, config["pad_id"]).load_state_dict(tensors, assign=True)
        model = cls(*sizes, network, config["pad_id"])
        model.load_state_dict(tensors)
        return model
