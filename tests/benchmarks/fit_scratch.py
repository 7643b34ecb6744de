"""All of IMDB from random weights: minitext's scratch track, fastText with bigrams, tf-idf bigrams + logistic
regression, alternating.

    pip install fasttext scikit-learn
    python tests/benchmarks/fit_scratch.py aclImdb_v1.tar.gz [--rounds 3] [--subset 0.04 0.02]

Prints medians of the seconds from texts in memory to a fitted model (ours: tokenizer, encoding, training, evaluations
and checkpoints included), their ratio to fastText's, and test accuracy. The peers learn from all of train;
minitext keeps a tenth of it for validation. Also: encoding 25,000 texts against the tokenizers library alone.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import fasttext
import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from minitext.data.batching import PackCollator
from minitext.data.dataset import DataConfig, Splits, load_dataset
from minitext.data.tokenizer import TokenizerConfig, encode, train_tokenizer
from minitext.data.words import words
from minitext.evaluation.predict import classification_metrics, predict_logits
from minitext.models.embedding_bag import EmbeddingBagClassifier, NetworkConfig
from minitext.training.loop import TrainConfig, fit

RECIPE = (  # chosen on validation
    NetworkConfig(embedding_dim=16, hidden_size=32, ngrams=3, binary_counts=True, buckets=1 << 21),
    TrainConfig(epochs=3),
)
FEW_LABELS = (
    NetworkConfig(buckets=1 << 18),
    TrainConfig(epochs=16, lr=5e-3, label_smoothing=0.1),
)  # as in train_scratch.py


def fit_minitext(splits: Splits, few: bool) -> Callable[[list[str]], np.ndarray]:
    network, loop = FEW_LABELS if few else RECIPE
    tokens = TokenizerConfig()
    tokenizer = train_tokenizer(splits.train.texts, tokens.vocab_size)

    torch.manual_seed(0)
    model = EmbeddingBagClassifier(tokenizer.get_vocab_size(), 2, network)
    device, dtype = torch.device("cpu"), torch.float32

    def collator(texts: list[str], labels: np.ndarray) -> PackCollator:
        ids = encode(tokenizer, texts, tokens.max_length, tokens.truncate)
        return PackCollator(model.features(ids), torch.from_numpy(labels))

    def logits(data: PackCollator) -> torch.Tensor:
        return predict_logits(model, data, 64, device, dtype)

    train, valid = (collator(part.texts, part.labels) for part in splits[:2])
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, train, lambda: classification_metrics(logits(valid), valid.labels), loop, seed=0, device=device,
            dtype=dtype, run_dir=Path(folder), class_weights=torch.ones(2), log=lambda line: None, quiet=True,
        )  # fmt: skip
    return lambda texts: logits(collator(texts, np.zeros(len(texts), dtype=np.int64))).argmax(dim=1).numpy()


def fit_fasttext(splits: Splits, few: bool, width: int = 100) -> Callable[[list[str]], np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        texts, labels = all_of_train(splits)
        order = np.random.default_rng(0).permutation(len(texts))  # fastText reads its file in order; IMDB's is by class
        path.write_text("".join(f"__label__{labels[i]} {' '.join(words(texts[i]))}\n" for i in order))
        start = time.perf_counter()
        model = fasttext.train_supervised(
            str(path), wordNgrams=2, epoch=25 if few else 5, lr=0.5, dim=width, thread=2, verbose=0
        )
        fit_fasttext.seconds = time.perf_counter() - start  # without writing its input file
    return lambda texts: np.array(
        [int(model.f.predict(" ".join(words(text)) + "\n", 1, 0.0, "strict")[0][1][-1]) for text in texts]
    )


def fit_tfidf(splits: Splits, few: bool) -> Callable[[list[str]], np.ndarray]:
    texts, labels = all_of_train(splits)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(vectorizer.fit_transform(texts), labels)
    return lambda texts: model.predict(vectorizer.transform(texts))


def all_of_train(splits: Splits) -> tuple[list[str], np.ndarray]:
    return splits.train.texts + splits.valid.texts, np.concatenate((splits.train.labels, splits.valid.labels))


def compare_encoding(texts: list[str], tokenizer_texts: list[str], rounds: int) -> None:
    tokenizer = train_tokenizer(tokenizer_texts, 30_000)
    alone, ours = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        alone.append(time.perf_counter() - start)
        start = time.perf_counter()
        encode(tokenizer, texts, 4096, "head")
        ours.append(time.perf_counter() - start)
    a, b = statistics.median(alone), statistics.median(ours)
    print(f"encoding {len(texts):,} texts: tokenizers alone {a:.2f} s, minitext {b:.2f} s, {b / a:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("imdb")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--subset", type=float, nargs=2, default=(1.0, 1.0))
    arguments = parser.parse_args()
    splits = load_dataset(DataConfig(data=arguments.imdb, subset=tuple(arguments.subset)), seed=0)
    few = len(splits.train) < 5000
    ways = {
        "fastText bigrams": fit_fasttext,
        "fastText, 10 wide": partial(fit_fasttext, width=10),
        "tf-idf bigrams + LR": fit_tfidf,
        "minitext": fit_minitext,
    }
    seconds, accuracy = {way: [] for way in ways}, {way: [] for way in ways}
    for _ in range(arguments.rounds):
        for way, fit_way in ways.items():
            start = time.perf_counter()
            predict = fit_way(splits, few)
            took = time.perf_counter() - start
            seconds[way].append(fit_fasttext.seconds if way.startswith("fastText") else took)
            accuracy[way].append(float((predict(splits.test.texts) == splits.test.labels).mean()))
    base = statistics.median(seconds["fastText bigrams"])
    print(f"{len(splits.train) + len(splits.valid):,} training texts, {len(splits.test):,} test texts")
    for way in ways:
        median = statistics.median(seconds[way])
        print(
            f"{way:20} {median:6.2f} s  {median / base:5.2f} x fastText  "
            f"test accuracy {statistics.median(accuracy[way]):.2%}"
        )
    compare_encoding(splits.test.texts, splits.train.texts, arguments.rounds)


if __name__ == "__main__":
    main()
