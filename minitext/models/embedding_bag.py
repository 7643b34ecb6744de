"""The from-scratch classifier: Embedding, mean over the text, Linear, ReLU, dropout, Linear.

In: `(B, T)` token ids and their mask. Out: `(B, C)` logits. With hashed n-grams it is the network of fastText (Joulin
et al. 2017, "Bag of tricks for efficient text classification") with a hidden layer. Letters: B texts, T tokens, F
features (tokens and n-grams), D width of the embedding, C classes, V vocabulary.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import atomic, write_text

MULTIPLIER = 0x9E3779B1  # a prime near 2**32 / golden ratio: multiplicative hashing (Knuth, TAOCP 3, section 6.4)
HASH_MASK = (1 << 31) - 1  # int64 products wrap around; the bits kept are never negative


@dataclass(frozen=True)
class NetworkConfig:
    """network"""

    width: int = option(64, "width of the embedding")
    hidden: int = option(64, "units of the hidden layer")
    dropout: float = option(0.5, "share of hidden units dropped in training")
    ngrams: int = option(1, "longest run of tokens that has an embedding of its own; 1: tokens only")
    buckets: int = option(1 << 20, "rows that the n-grams share by hashing")
    binary_counts: bool = option(False, "count each distinct token and n-gram of a text once (Wang & Manning 2012)")

    def __post_init__(self) -> None:
        if min(self.width, self.hidden, self.ngrams, self.buckets) < 1:
            raise UserError("--width, --hidden, --ngrams and --buckets are at least 1")
        if not 0 <= self.dropout < 1:
            raise UserError(f"--dropout {self.dropout}: a share lies from 0 to below 1")


class EmbeddingBagClassifier(nn.Module):
    """Mean of embeddings under one hidden layer. A text without tokens has a mean of zeros."""

    def __init__(self, vocabulary: int, classes: int, options: NetworkConfig):
        super().__init__()
        self.vocabulary, self.classes, self.options = vocabulary, classes, options
        rows = vocabulary + (options.buckets if options.ngrams > 1 else 0)
        # sparse: a batch touches few of the rows, and gradient and optimizer should not visit the others
        self.embedding = nn.EmbeddingBag(rows, options.width, mode="mean", sparse=True)
        self.hidden = nn.Linear(options.width, options.hidden)
        self.dropout = nn.Dropout(options.dropout)
        self.output = nn.Linear(options.hidden, classes)
        nn.init.uniform_(self.embedding.weight, -1 / options.width, 1 / options.width)  # as fastText starts

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """`(B, T)` ids with a bool mask, True is a real token, to `(B, C)` logits."""
        features, counted = self.features(ids, mask)  # (B, F), (B, F)
        per_text = counted.sum(dim=1)  # (B,)
        mean = self.embedding(features[counted], per_text.cumsum(0) - per_text)  # (B, D)
        return self.output(self.dropout(F.relu(self.hidden(mean))))

    def features(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The embedding's rows for tokens and n-grams, `(B, F)`, and which of them count."""
        rows, counted = [ids], [mask]
        gram, inside = ids, mask
        for n in range(2, min(self.options.ngrams, ids.shape[1]) + 1):
            gram = ((gram[:, :-1] * MULTIPLIER + ids[:, n - 1 :]) * MULTIPLIER >> 7) & HASH_MASK  # (B, T - n + 1)
            inside = inside[:, :-1] & mask[:, n - 1 :]
            rows.append(self.vocabulary + gram % self.options.buckets)
            counted.append(inside)
        features, counts = torch.cat(rows, dim=1), torch.cat(counted, dim=1)
        if self.options.binary_counts:
            features = features.masked_fill(~counts, -1).sort(dim=1).values
            first = torch.ones_like(counts)
            first[:, 1:] = features[:, 1:] != features[:, :-1]
            counts = first & (features >= 0)
        return features, counts

    @torch.no_grad()
    def start_from(self, tokens: dict[str, int], words: dict[str, int], table: Tensor) -> int:
        """Copy the vectors of tokens that are words of `table`, (words, D), into the embedding; returns how many."""
        if table.shape[1] != self.options.width:
            raise UserError(
                f"the vectors are {table.shape[1]} wide, the embedding {self.options.width}; make --width equal"
            )
        known = [(row, words[token]) for token, row in tokens.items() if token in words]
        if known:
            rows, places = torch.tensor(known).T
            self.embedding.weight[rows] = table[places].to(self.embedding.weight)
        return len(known)

    def save(self, folder: Path, **more: object) -> None:
        """Write `model.safetensors` and `config.json` (the network's settings and `more`) into `folder`."""
        config = {
            "track": "scratch",
            "vocabulary": self.vocabulary,
            "classes": self.classes,
            "network": asdict(self.options),
            **more,
        }
        write_text(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        with atomic(folder / "model.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, temporary)

    @classmethod
    def load(cls, folder: Path) -> "EmbeddingBagClassifier":
        """The network that `save` wrote into `folder`."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = cls(config["vocabulary"], config["classes"], NetworkConfig(**config["network"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model
