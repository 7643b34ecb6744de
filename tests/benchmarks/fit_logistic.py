"""Fits a logistic regression for three penalties: minitext and scikit-learn's two solvers, alternating in one run.

    PYTHONPATH=. python tests/benchmarks/fit_logistic.py [--imdb aclImdb_v1.tar.gz] [--rounds 5]

The data are the IMDB training reviews, encoded with the bundled vectors, or random vectors of the same size without the
archive. newton-cholesky gets our tolerance; lbfgs keeps its default, as it does not reach ours. Prints medians, ratios,
and how far the coefficients differ.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from minitext.data.dataset import load_dataset
from minitext.data.word_vectors import load_word_vectors
from minitext.evaluation.predict import classification_metrics
from minitext.models.static import EncodedTexts, MeanEncoder
from minitext.training import fit_static
from minitext.training.fit_static import LogisticConfig, fit_logistic

PENALTIES = LogisticConfig().l2
LBFGS_TOLERANCE = 1e-4  # scikit-learn's default


def imdb_texts(archive: str) -> tuple[EncodedTexts, EncodedTexts]:
    splits = load_dataset(archive)
    vectors = load_word_vectors("sample")
    encoder = MeanEncoder(vectors.words, vectors.table)
    parts = (splits.train, splits.valid)
    train, valid = (EncodedTexts(encoder.encode(part.texts).vectors, torch.from_numpy(part.labels)) for part in parts)
    return train, valid


def random_texts() -> tuple[EncodedTexts, EncodedTexts]:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(25_000, 100, generator=generator)
    logits = vectors @ torch.randn(100, generator=generator) / 5
    labels = (logits > torch.randn(25_000, generator=generator)).long()
    return EncodedTexts(vectors[:22_500], labels[:22_500]), EncodedTexts(vectors[22_500:], labels[22_500:])


def fit_sklearn(train: EncodedTexts, solver: str, tolerance: float) -> list[np.ndarray]:
    vectors, labels = train.vectors.double().numpy(), train.labels.numpy()
    fits = [LogisticRegression(C=1 / l2, solver=solver, tol=tolerance, max_iter=10_000) for l2 in PENALTIES]
    return [fit.fit(vectors, labels).coef_ for fit in fits]


def fit_minitext(train: EncodedTexts, valid: EncodedTexts) -> list[np.ndarray]:
    how = {"class_weights": torch.ones(2), "select_by": "loss", "evaluate": classification_metrics}
    model = fit_logistic(train, valid, LogisticConfig(), **how).model
    return [model.output.weight.detach().double().numpy()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imdb", default="../shared/data/aclImdb_v1.tar.gz")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = Path(arguments.imdb).exists()
    train, valid = imdb_texts(arguments.imdb) if found else random_texts()
    newton = fit_static.NEWTON_TOLERANCE
    solvers: dict[str, Callable[[], list[np.ndarray]]] = {
        "minitext": lambda: fit_minitext(train, valid),
        "newton-cholesky": lambda: fit_sklearn(train, "newton-cholesky", newton),
        "lbfgs": lambda: fit_sklearn(train, "lbfgs", LBFGS_TOLERANCE),
    }
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    weights = {}
    for _ in range(arguments.rounds):
        for name, solve in solvers.items():
            start = time.perf_counter()
            weights[name] = solve()
            seconds[name].append(time.perf_counter() - start)
    ours = weights["minitext"][0]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    size = f"{'IMDB' if found else 'random data'}, {len(train.labels):,} x {train.vectors.shape[1]}"
    print(f"{size}, {len(PENALTIES)} penalties, {arguments.rounds} rounds, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        difference = min(np.abs(ours - theirs).max() for theirs in weights[name])  # of the selected penalty
        print(
            f"{name:16} median {median:7.3f} s, fastest {min(seconds[name]):7.3f} s, "
            f"{median / medians['minitext']:6.2f} x minitext, coefficients differ by {difference:.1e}"
        )


if __name__ == "__main__":
    main()
