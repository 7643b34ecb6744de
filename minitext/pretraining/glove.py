"""Word vectors from raw texts (Pennington, Socher & Manning 2014, "GloVe: Global Vectors for Word Representation").

In: texts without labels. Out: `WordVectors`, in a text file, most frequent word first. Letters: V words, D vector
width, N ordered pairs of words that occur together, B pairs in a batch, U distinct words among one side of a batch.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from minitext.data.imdb import imdb_archive, read_imdb_unlabelled
from minitext.data.readers import read_rows, read_text
from minitext.data.word_vectors import WordVectors
from minitext.data.words import word_ids, words
from minitext.pretraining.cooccurrence import Pairs, count_pairs
from minitext.utils.config import option
from minitext.utils.errors import UserError
from minitext.utils.io import atomic

BLOCK = 4096  # pairs scored at once: their vectors stay in the cache of the processor
NOT_IN_A_CHECKPOINT = ("data", "out", "epochs", "digits", "resume", "quiet")  # these may differ when a run goes on


@dataclass(frozen=True)
class TrainOptions:
    """word vectors from texts"""

    data: tuple[str, ...] = option(
        ("sample",),
        "labelled texts as train_static.py reads them, or .txt files (or .gz) with a text a line",
        metavar="DATA",
    )
    out: str = option("vectors.txt.gz", "the file to write, .txt or .txt.gz")
    width: int = option(100, "numbers in a vector")
    window: int = option(10, "words on either side that count as context")
    min_count: int = option(5, "rarer words get no vector")
    vocab_size: int = option(400_000, "the most words that get a vector; the most frequent ones do")
    epochs: int = option(20, "passes over all pairs of words")
    lr: float = option(0.05, "learning rate")
    x_max: float = option(100.0, "co-occurrences from which on a pair has full weight")
    alpha: float = option(0.75, "exponent of the weight below x_max")
    batch_size: int = option(65_536, "pairs of words in one update")
    digits: int = option(4, "significant digits in the file")
    seed: int = option(0, "of the first vectors and the order of the pairs")
    resume: bool = option(False, "go on from the last whole epoch of a run that died")
    quiet: bool = option(False, "print nothing but errors")

    def __post_init__(self) -> None:
        if not self.out.endswith((".txt", ".txt.gz")):
            raise UserError(f"--out {self.out}: give a name that ends in .txt or .txt.gz")
        for name, value in asdict(self).items():
            if type(value) in (int, float) and name != "seed" and not value > 0:  # "not" catches NaN as well
                raise UserError(f"--{name.replace('_', '-')} {value}: must be above 0")
        if self.seed < 0:
            raise UserError(f"--seed {self.seed}: must not be negative")


class State(NamedTuple):
    """What training changes. A column for each bias makes the model's score one product (equation 7):
    [w, b, 1] . [w~, 1, b~] = w . w~ + b + b~.
    """

    word: Tensor  # (V, D + 2) float32, [w, b, 1]
    context: Tensor  # (V, D + 2) float32, [w~, 1, b~]
    word_squares: Tensor  # (V, D + 2) float32, AdaGrad's sums
    context_squares: Tensor  # (V, D + 2) float32


def train_vectors(options: TrainOptions) -> WordVectors:
    """Count, train, write `options.out`, and return the vectors.

    One seed gives the same vectors on one machine, however often the run was killed and resumed.
    """
    out, sources = Path(options.out), ", ".join(options.data)
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}; make it first")
    texts = [text for source in options.data for text in read_texts(source)]
    names = frequent_words(texts, options.min_count, options.vocab_size)
    ids, offsets = word_ids(texts, {name: number for number, name in enumerate(names)})
    pairs = count_pairs(ids, offsets, len(names), options.window, options.quiet)
    if not len(pairs.counts):
        raise UserError(
            f"{sources}: in {len(texts):,} texts no two words that occur at least {options.min_count} times stand "
            "in one text; give more texts or a lower --min-count"
        )
    if not options.quiet:
        print(
            f"{len(texts):,} texts, {len(ids):,} words, {len(names):,} vectors, {len(pairs.counts):,} pairs", flush=True
        )
    checkpoint = out.with_name(out.name + ".checkpoint")
    state = fit(pairs, names, options, checkpoint)
    vectors = WordVectors(names, (state.word + state.context)[:, : options.width].contiguous())  # section 4.2
    vectors.write(out, options.digits)
    checkpoint.unlink(missing_ok=True)
    return vectors


# Texts and words


def read_texts(source: str) -> list[str]:
    """The texts to learn from: never those that the source itself puts into validation or test."""
    if source.endswith((".txt", ".txt.gz")):
        if not Path(source).is_file():
            raise UserError(f"{source}: there is no such file")
        return read_text(Path(source)).splitlines()
    texts = [row.text for row in read_rows(source) if row.split in ("train", "")]
    if source == "imdb":
        source = str(imdb_archive())
    return texts + read_imdb_unlabelled(Path(source)) if source.endswith((".tar.gz", ".tgz")) else texts


def frequent_words(texts: Sequence[str], min_count: int, most: int) -> list[str]:
    """The `most` most frequent words, most frequent first; of two equally frequent ones, the one that came first."""
    tally: Counter[str] = Counter()
    for text in texts:
        tally.update(words(text))
    return [word for word, count in tally.most_common(most) if count >= min_count]


# Training


def fit(pairs: Pairs, names: Sequence[str], options: TrainOptions, checkpoint: Path) -> State:
    """All epochs, with a checkpoint after each; with `options.resume`, from where `checkpoint` stands."""
    identity = fingerprint(pairs, names, options)
    state, done = initial_state(len(names), options.width, options.seed), 0
    if options.resume and checkpoint.exists():
        state, done = load_checkpoint(checkpoint, identity)
    total, seen = options.epochs * len(pairs.counts), done * len(pairs.counts)
    with tqdm(None, "vectors", total, initial=seen, unit="pair", unit_scale=True, disable=options.quiet or None) as bar:
        for epoch in range(done + 1, options.epochs + 1):
            begun = time.perf_counter()
            loss = train_epoch(state, pairs, options, epoch, bar)
            if not np.isfinite(loss):
                raise UserError(f"epoch {epoch}: the loss is {loss}; give a lower --lr than {options.lr}")
            if not options.quiet:
                speed = len(pairs.counts) / (time.perf_counter() - begun)
                bar.write(f"epoch {epoch}: loss {loss:.5f}, {speed / 1e6:.2f} million updates/s")
            save_checkpoint(checkpoint, state, epoch, identity)
    return state


def initial_state(vocabulary: int, width: int, seed: int) -> State:
    """As the authors' program begins: vectors and biases uniform in (-0.5, 0.5) / D, squared gradients at 1."""
    generator = torch_generator(seed, 0)
    word, context = ((torch.rand(vocabulary, width + 2, generator=generator) - 0.5) / width for _ in range(2))
    word[:, -1] = context[:, -2] = 1
    return State(word, context, torch.ones_like(word), torch.ones_like(context))


def torch_generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.default_rng([seed, epoch]).integers(2**63)))


def train_epoch(state: State, pairs: Pairs, options: TrainOptions, epoch: int, bar: tqdm) -> float:
    """Every pair once, in an order that depends on (seed, epoch) alone; returns the mean loss."""
    order = torch.randperm(len(pairs.counts), generator=torch_generator(options.seed, epoch))
    loss, seen = 0.0, 0
    for chosen in order.split(options.batch_size):
        chosen = chosen.sort().values  # pairs lie by row, so each batch does as well
        batch = Pairs(*(part.index_select(0, chosen) for part in pairs))
        loss += train_step(state, batch, options.lr, options.x_max, options.alpha)
        seen += len(chosen)
        bar.set_postfix(epoch=epoch, loss=f"{loss / seen:.5f}", refresh=False)
        bar.update(len(chosen))
    return loss / seen


def train_step(state: State, batch: Pairs, lr: float, x_max: float, alpha: float) -> float:
    """One AdaGrad update with B pairs, sorted by row; returns the sum of their losses f(X) * error^2 (equation 8).

    All gradients are taken at the same point, the values before the step.
    """
    rows, columns, counts = batch
    weights = (counts / x_max).clamp(max=1) ** alpha  # equation 9
    scores = torch.cat(  # (B,), a cache-sized block at a time; index_select is faster on the CPU than brackets
        [
            state.word.index_select(0, row_block).mul_(state.context.index_select(0, column_block)).sum(dim=1)
            for row_block, column_block in zip(rows.split(BLOCK), columns.split(BLOCK), strict=True)
        ]
    )
    errors = scores - counts.log()
    pulls = lr * weights * errors  # (B,), as in the authors' program: lr inside AdaGrad's sums, no factor 2
    by_column = columns.argsort(stable=True)
    word_slopes = slopes(rows, columns, pulls, state.context)
    context_slopes = slopes(columns[by_column], rows[by_column], pulls[by_column], state.word)
    descend(state.word, state.word_squares, *word_slopes, constant=-1)
    descend(state.context, state.context_squares, *context_slopes, constant=-2)
    return (weights * errors.square()).sum().item()


def slopes(own: Tensor, other: Tensor, pulls: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A pair's gradient for its vector is its pull times the other vector. `own` (B,) is sorted, `others` (V, D + 2).

    Returns the distinct numbers in `own` (U,), the sums of their gradients, and of the squares of these (U, D + 2).
    `embedding_bag` is a weighted sum of rows in one kernel: no (B, D + 2) array, and the same bits every time.
    """
    touched, sizes = torch.unique_consecutive(own, return_counts=True)
    starts = (sizes.cumsum(0) - sizes).int()
    gradients = F.embedding_bag(other, others, starts, mode="sum", per_sample_weights=pulls)
    squares = F.embedding_bag(other, others.square(), starts, mode="sum", per_sample_weights=pulls.square())
    return touched, gradients, squares


def descend(table: Tensor, sums: Tensor, touched: Tensor, gradients: Tensor, squares: Tensor, constant: int) -> None:
    """AdaGrad (Duchi et al. 2011): add each pair's squares, then step by gradient / sqrt(sums). `constant` stays 1."""
    gradients[:, constant] = 0
    sums.index_add_(0, touched, squares)
    table.index_add_(0, touched, gradients.div_(sums.index_select(0, touched).sqrt_()), alpha=-1)


# Checkpoints


def fingerprint(pairs: Pairs, names: Iterable[str], options: TrainOptions) -> str:
    """A SHA-256 over the words, the pairs and the settings that training depends on."""
    settings = {name: value for name, value in asdict(options).items() if name not in NOT_IN_A_CHECKPOINT}
    digest = hashlib.sha256(repr((settings, list(names))).encode())
    for part in pairs:
        digest.update(part.numpy())
    return digest.hexdigest()


def save_checkpoint(path: Path, state: State, epoch: int, identity: str) -> None:
    with atomic(path) as temporary:
        save_file(state._asdict(), temporary, {"epoch": str(epoch), "identity": identity})


def load_checkpoint(path: Path, identity: str) -> tuple[State, int]:
    """The state after the last whole epoch, and that epoch's number."""
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata()
            state = State(*(file.get_tensor(name) for name in State._fields))
    except SafetensorError as error:
        raise UserError(f"{path}: damaged ({error}); start again without --resume") from error
    if notes["identity"] != identity:
        raise UserError(f"{path}: is from other texts or settings; give the same ones, or leave --resume away")
    return state, int(notes["epoch"])
