"""Classifiers on texts that are the mean of their words' vectors: logistic regression and MLP.

Inputs: raw texts, words and their vectors. Outputs: `(B, C)` logits.
Shapes: B texts, N words of the texts that have a vector, D vector width, V vocabulary, H hidden units, C classes.
Sources: Wieting et al. 2016, "Towards universal paraphrastic sentence embeddings"; Iyyer et al. 2015, "Deep unordered
composition rivals syntactic methods for text classification" (the MLP); Arora et al. 2017 (SIF).
"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from minitext.data.words import UNKNOWN, word_ids, word_ids_in_chunks
from minitext.utils.io import atomic, read_json, write_json, write_text

CHUNK = 4096  # texts encoded at once: bounds the memory, whatever the number of texts
SIF_A = 1e-3  # Arora et al. 2017, section 4.1: between 1e-3 and 1e-4 works


class Encoding(NamedTuple):
    """Vectors of texts, and how many of their words have a vector."""

    vectors: Tensor  # (B, D)
    num_known: int
    num_words: int


class EncodedTexts(NamedTuple):
    """Vectors of texts with their labels: what a classifier is fitted to."""

    vectors: Tensor  # (B, D) float32
    labels: Tensor  # (B,) int64


class MeanEncoder(nn.Module):
    """The mean of the vectors of a text's words. Words without a vector are skipped; a text without any gives zeros.

    With `word_weights` and `common` it is the SIF embedding (Arora, Liang & Ma 2017, "A simple but tough-to-beat
    baseline for sentence embeddings", algorithm 1): each word is weighted by a / (a + p(word)), then the projection on
    the common direction of all texts is subtracted.
    """

    def __init__(
        self, words: Sequence[str], table: Tensor, word_weights: Tensor | None = None, common: Tensor | None = None
    ):
        super().__init__()
        self.words = list(words)
        self.index = {word: row for row, word in enumerate(self.words)}
        self.register_buffer("table", table)  # (V, D)
        self.register_buffer("word_weights", word_weights)  # (V,)
        self.register_buffer("common", common)  # (D,) of length one

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Encode texts from the rows `ids` (N,) of their known words; text i owns `ids[offsets[i]:offsets[i + 1]]`."""
        if self.word_weights is None:
            vectors = F.embedding_bag(ids, self.table, offsets[:-1], mode="mean")  # (B, D)
        else:
            weights = self.word_weights[ids]  # (N,)
            sums = F.embedding_bag(ids, self.table, offsets[:-1], mode="sum", per_sample_weights=weights)  # (B, D)
            vectors = sums / offsets.diff().clamp_min(1)[:, None]
        if self.common is not None:
            vectors = vectors - (vectors @ self.common)[:, None] * self.common
        return vectors

    @torch.no_grad()
    def encode(self, texts: Iterable[str]) -> Encoding:
        """Encode a stream of raw texts, CHUNK at a time and in order, into `(B, D)` vectors."""
        vectors, num_known, num_words = [self.table.new_zeros(0, self.table.shape[1])], 0, 0
        for ids, offsets in word_ids_in_chunks(texts, self.index, CHUNK):
            known_before = np.concatenate(([0], np.cumsum(ids != UNKNOWN)))
            known_offsets = torch.from_numpy(known_before[offsets].astype(np.int32))  # int32, like the ids
            vectors.append(self(torch.from_numpy(ids[ids != UNKNOWN]), known_offsets))
            num_known, num_words = num_known + int(known_before[-1]), num_words + len(ids)
        return Encoding(torch.cat(vectors), num_known, num_words)


def fit_sif(words: Sequence[str], table: Tensor, texts: Sequence[str]) -> MeanEncoder:
    """The SIF encoder whose word frequencies and common direction come from the training `texts`."""
    index = {word: row for row, word in enumerate(words)}
    ids, _ = word_ids(texts, index)
    counts = torch.from_numpy(np.bincount(ids[ids != UNKNOWN], minlength=len(index)))
    weights = SIF_A / (SIF_A + counts / max(len(ids), 1))  # (V,)
    vectors = MeanEncoder(words, table, weights.to(table)).encode(texts).vectors.double()  # (B, D)
    common = torch.linalg.svd(vectors.T @ vectors).U[:, 0]  # the first right singular vector of `vectors`
    return MeanEncoder(words, table, weights.to(table), common.to(table))


def time_encoding(encoder: MeanEncoder, sentence: str) -> str:
    """Encode one short sentence, as the course report does; returns a line with shape, time and known words."""
    encoder.encode([sentence])  # the first call builds tables that later calls reuse
    start = time.perf_counter()
    encoding = encoder.encode([sentence])
    milliseconds, shape = 1000 * (time.perf_counter() - start), tuple(encoding.vectors.shape)
    known = f"{encoding.num_known} of {encoding.num_words} words known"
    return f"encoded {sentence!r} to shape {shape} in {milliseconds:.2f} ms, {known}"


class LogisticRegression(nn.Module):
    """Linear logits. Two classes share one weight vector: the logit of class 0 is zero."""

    def __init__(self, input_size: int, num_classes: int):
        super().__init__()
        self.output = nn.Linear(input_size, 1 if num_classes == 2 else num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        return all_logits(self.output(vectors))  # (B, C)


def all_logits(logits: Tensor) -> Tensor:
    """Add the zero logit of class 0 to `(B, 1)` logits of two classes; `(B, C)` logits are returned as they are."""
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


class Standardize(nn.Module):
    """Scale inputs to mean 0 and standard deviation 1 on the training texts."""

    def __init__(self, input_size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("deviation", torch.ones(input_size))

    def fit(self, vectors: Tensor) -> None:
        """Take mean and deviation from (B, D) `vectors`; a constant column keeps deviation 1."""
        deviation = vectors.std(dim=0, correction=0)
        self.mean.copy_(vectors.mean(dim=0))
        self.deviation.copy_(deviation.where(deviation > 0, 1.0))

    def forward(self, vectors: Tensor) -> Tensor:
        return (vectors - self.mean) / self.deviation


class MLP(nn.Module):
    """One hidden layer with ReLU and dropout on standardized inputs."""

    def __init__(self, input_size: int, hidden_size: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.standardize = Standardize(input_size)
        self.hidden = nn.Linear(input_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_size, num_classes)

    def forward(self, vectors: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(self.standardize(vectors)))  # (B, H)
        return self.output(self.dropout(hidden))  # (B, C)


class StaticClassifier(nn.Module):
    """Encoder and classifier together: raw texts to logits. This is what a run directory holds."""

    def __init__(self, encoder: MeanEncoder, classifier: LogisticRegression | MLP, class_names: Sequence[str]):
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.class_names = tuple(class_names)

    @torch.no_grad()
    def logits(self, texts: Iterable[str]) -> Tensor:
        """`(B, C)` logits of raw texts."""
        self.eval()
        return self.classifier(self.encoder.encode(texts).vectors)

    def save(self, folder: Path) -> None:
        """Write `config.json`, `words.txt` and `model.safetensors` into `folder`."""
        kind = "logistic" if isinstance(self.classifier, LogisticRegression) else "mlp"
        write_json(folder / "config.json", {"track": "static", "classifier": kind, "class_names": self.class_names})
        write_text(folder / "words.txt", "".join(f"{word}\n" for word in self.encoder.words))
        with atomic(folder / "model.safetensors") as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.state_dict().items()}, temporary)

    @classmethod
    def load(cls, folder: Path) -> "StaticClassifier":
        """The classifier that `save` wrote into `folder`. Raises if files are missing or do not fit together."""
        config = read_json(folder / "config.json")
        words = (folder / "words.txt").read_text(encoding="utf-8").split("\n")[:-1]
        tensors = load_file(folder / "model.safetensors")
        table = tensors["encoder.table"]
        if len(words) != len(table):
            raise ValueError(f"words.txt has {len(words):,} words for {len(table):,} vectors")
        encoder = MeanEncoder(words, table, tensors.get("encoder.word_weights"), tensors.get("encoder.common"))
        input_size, num_classes = table.shape[1], len(config["class_names"])
        if config["classifier"] == "logistic":
            classifier: LogisticRegression | MLP = LogisticRegression(input_size, num_classes)
        else:
            classifier = MLP(input_size, len(tensors["classifier.hidden.weight"]), num_classes)
        model = cls(encoder, classifier, config["class_names"])
        model.load_state_dict(tensors)
        return model
