"""GloVe word vectors from texts (Pennington, Socher & Manning 2014, "GloVe: Global Vectors for Word Representation").

Inputs: texts without labels. Outputs: `WordVectors`, in a text file, most frequent word first.
Shapes: V words, D vector width, N co-occurring pairs, B pairs in a batch, U distinct words in one column of a batch.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from minitext.data.corpus import CorpusConfig, load_corpus
from minitext.data.word_vectors import WordVectors
from minitext.data.words import word_ids, words
from minitext.pretraining.cooccurrence import Pairs, count_pairs
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.io import check_output, lock_output
from minitext.utils.run_dir import log


@dataclass(frozen=True)
class GloveConfig:
    """word vectors"""

    out: str = option("vectors.txt.gz", "output file, .txt or .txt.gz")
    overwrite: bool = option(False, "replace an existing --out")
    embedding_dim: int = option(100, "dimension of the vectors")
    window: int = option(10, "context words on either side")
    min_count: int = option(5, "minimum number of occurrences of a word")
    vocab_size: int = option(400_000, "maximum vocabulary size (most frequent words)")
    epochs: int = option(20, "passes over all pairs of words")
    lr: float = option(0.05, "learning rate")
    x_max: float = option(100.0, "x_max of the GloVe weighting function (eq. 9)")
    alpha: float = option(0.75, "alpha of the GloVe weighting function (eq. 9)")
    batch_size: int = option(65_536, "pairs of words per update")
    digits: int = option(4, "significant digits in the file")
    seed: int = option(0, "random seed for the initial vectors and the order of the pairs")
    quiet: bool = option(False, "print only errors")

    def __post_init__(self) -> None:
        if not self.out.endswith((".txt", ".txt.gz")):
            raise UserError(f"--out must end in .txt or .txt.gz (got {self.out})")
        numbers = [name for name, value in asdict(self).items() if type(value) in (int, float) and name != "seed"]
        require(self, lambda value: value > 0, "> 0", *numbers)
        require(self, lambda value: value >= 0, ">= 0", "seed")
        check_output("--out", Path(self.out), self.overwrite)


class State(NamedTuple):
    """The parameters and AdaGrad's sums. One product of a word and a context row is the model's score (eq. 7):
    [w, b, 1] . [w~, 1, b~] = w . w~ + b + b~.
    """

    word: Tensor  # (V, D + 2) float32, [w, b, 1]
    context: Tensor  # (V, D + 2) float32, [w~, 1, b~]
    word_squares: Tensor  # (V, D + 2) float32, sums of squared gradients
    context_squares: Tensor  # (V, D + 2) float32


def train_vectors(config: GloveConfig, data: CorpusConfig) -> WordVectors:
    """Count pairs, train, write `config.out`, and return the vectors.

    Raises UserError if no two words co-occur, the loss is not finite, or another process writes `config.out`.
    """
    out = Path(config.out)
    with lock_output(out):
        check_output("--out", out, config.overwrite, data.data)
        vectors = train(config, data)
        check_output("--out", out, config.overwrite)  # again: it may have been created since
        vectors.write(out, config.digits)
    return vectors


def train(config: GloveConfig, data: CorpusConfig) -> WordVectors:
    """The vectors of the words in the texts."""
    texts, note = load_corpus(data, config.seed)
    log(note, config.quiet)
    vocab = frequent_words(texts, config.min_count, config.vocab_size)
    ids, offsets = word_ids(texts, {word: number for number, word in enumerate(vocab)})
    pairs = count_pairs(ids, offsets, len(vocab), config.window)
    if not len(pairs.counts):
        problem = f"no two words with at least {config.min_count} occurrences share a text ({len(texts):,} texts)"
        raise UserError(f"{', '.join(data.data)}: {problem}; give more texts or lower --min-count")
    log(f"{len(texts):,} texts, {len(ids):,} words, {len(vocab):,} vectors, {len(pairs.counts):,} pairs", config.quiet)
    state = fit(pairs, len(vocab), config)
    return WordVectors(vocab, (state.word + state.context)[:, : config.embedding_dim].contiguous())  # section 4.2


def frequent_words(texts: Sequence[str], min_count: int, vocab_size: int) -> list[str]:
    """The most frequent words, most frequent first; equally frequent ones in order of first appearance."""
    counts = Counter(word for text in texts for word in words(text))
    return [word for word, count in counts.most_common(vocab_size) if count >= min_count]


def fit(pairs: Pairs, vocab_size: int, config: GloveConfig) -> State:
    """Train all epochs; each uses every pair once, in random order."""
    generator, total = torch.Generator().manual_seed(config.seed), len(pairs.counts)
    state = initial_state(vocab_size, config.embedding_dim, generator)
    with tqdm(
        None, "vectors", config.epochs * total, unit="pair", unit_scale=True, disable=config.quiet or None
    ) as bar:
        for epoch in range(1, config.epochs + 1):
            loss = 0.0
            for indices in torch.randperm(total, generator=generator).split(config.batch_size):
                indices = indices.sort().values  # pairs are sorted by row, so each batch is sorted too
                batch = Pairs(*(part.index_select(0, indices) for part in pairs))
                loss += train_step(state, batch, config.lr, config.x_max, config.alpha) / total
                bar.update(len(indices))
            if not math.isfinite(loss):
                raise UserError(f"epoch {epoch}: the loss is {loss}; lower --lr (now {config.lr})")
            if not config.quiet:
                bar.write(f"epoch {epoch}: loss {loss:.5f}")
    return state


def initial_state(vocab_size: int, embedding_dim: int, generator: torch.Generator) -> State:
    """As in the authors' program: vectors and biases uniform in (-0.5, 0.5) / D, squared gradients 1."""
    shape = (vocab_size, embedding_dim + 2)
    word, context = ((torch.rand(shape, generator=generator) - 0.5) / embedding_dim for _ in range(2))
    word[:, -1] = context[:, -2] = 1
    return State(word, context, torch.ones_like(word), torch.ones_like(context))


def train_step(state: State, batch: Pairs, lr: float, x_max: float, alpha: float) -> float:
    """One AdaGrad update with B pairs, sorted by row; returns the sum of their losses f(X) * error^2 (eq. 8)."""
    rows, columns, counts = batch
    weights = (counts / x_max).clamp(max=1) ** alpha  # eq. 9
    # index_select is faster on the CPU than indexing by brackets
    scores = torch.einsum("bd,bd->b", state.word.index_select(0, rows), state.context.index_select(0, columns))
    errors = scores - counts.log()  # (B,)
    factors = lr * weights * errors  # (B,), as in the authors' program: lr inside AdaGrad's sums, no factor 2
    by_column = columns.argsort(stable=True)
    # all gradients are computed before the first update
    word_gradients = gradients(rows, columns, factors, state.context)
    context_gradients = gradients(columns[by_column], rows[by_column], factors[by_column], state.word)
    adagrad_step(state.word, state.word_squares, *word_gradients, constant=-1)
    adagrad_step(state.context, state.context_squares, *context_gradients, constant=-2)
    return (weights * errors.square()).sum().item()


def gradients(own: Tensor, other: Tensor, factors: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the pairs' gradients per row: each is its factor times the other vector.

    `own` (B,) is sorted, `others` is (V, D + 2). Returns the distinct rows (U,), the sums of their gradients and of the
    squared gradients, both (U, D + 2). `embedding_bag` needs no (B, D + 2) array and is deterministic.
    """
    unique, sizes = torch.unique_consecutive(own, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).int()
    sums = F.embedding_bag(other, others, starts, mode="sum", per_sample_weights=factors)
    squares = F.embedding_bag(other, others.square(), starts, mode="sum", per_sample_weights=factors.square())
    return unique, sums, squares


def adagrad_step(
    table: Tensor, squares: Tensor, rows: Tensor, gradient_sums: Tensor, gradient_squares: Tensor, constant: int
) -> None:
    """AdaGrad (Duchi et al. 2011): step by gradient / sqrt(sum of squares). The column `constant` stays 1."""
    gradient_sums[:, constant] = 0
    squares.index_add_(0, rows, gradient_squares)
    table.index_add_(0, rows, gradient_sums.div_(squares.index_select(0, rows).sqrt_()), alpha=-1)
