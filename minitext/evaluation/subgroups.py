"""Where a classifier is right and where it is wrong: accuracy by kind of text, and its most confident mistakes.

In: the test texts, the training texts, probabilities (N, C). Out: rows for `scores.json` and `mistakes.csv`. A mean
hides what it is made of: a model can be right on long texts and guess on short ones, or know one class only.
"""

import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from minitext.data.dataset import Dataset
from minitext.data.words import UNKNOWN, distinct_words, word_ids
from minitext.evaluation.calibration import wilson
from minitext.utils.io import atomic

QUARTERS = (0.25, 0.5, 0.75)
MISTAKES = 50  # kept in mistakes.csv


def subgroup_accuracy(test: Dataset, train: Dataset, probabilities: np.ndarray) -> list[dict]:
    """Accuracy in each part of the test texts, rows `{"by", "slice", "count", "accuracy", "low", "high"}`.

    By class; by tag where the corpus has tags; by length in words, and by the share of words that no training text
    holds, in by_quartile of the texts. Intervals are Wilson's, 95 %.
    """
    right = probabilities.argmax(1) == test.labels
    ids, offsets = word_ids(test.texts, distinct_words(train.texts))
    lengths = np.diff(offsets)
    new_before = np.concatenate(([0], np.cumsum(ids == UNKNOWN)))
    new = np.diff(new_before[offsets]) / np.maximum(lengths, 1)
    rows = []
    for by, parts in (
        ("class", named(np.array(test.class_names, dtype=object)[test.labels])),
        ("tag", named(np.array(test.tags, dtype=object)) if test.tags else ()),
        ("length", by_quartile(lengths, "{:,.0f} words")),
        ("words not in train", by_quartile(new, "{:.1%}")),
    ):
        for name, inside in parts:
            found = accuracy_of(right[inside])
            rows.append({"by": by, "slice": name, "count": int(inside.sum()), "accuracy": found["value"],
                         "low": found["low"], "high": found["high"]})  # fmt: skip
    return rows


def accuracy_of(right: np.ndarray) -> dict[str, float]:
    """The share of `right`, (n,) bool, with Wilson's 95 % interval."""
    low, high = wilson(int(right.sum()), len(right))
    return {"value": float(right.mean()), "low": low, "high": high}


def named(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Each value with the texts that have it, (N,) bool."""
    for value in sorted(set(values.tolist())):
        yield value or "(none)", values == value


def by_quartile(values: np.ndarray, form: str) -> Iterator[tuple[str, np.ndarray]]:
    """Four parts of as many texts each, from the lowest values; fewer where many texts have one value."""
    edges = [-np.inf, *np.quantile(values, QUARTERS, method="lower"), np.inf]
    for below, upto in pairwise(edges):
        inside = (values > below) & (values <= upto)
        if inside.any():
            least, most = form.format(values[inside].min()), form.format(values[inside].max())
            yield least if least == most else f"{least.split()[0]} to {most}", inside


def mistakes(test: Dataset, probabilities: np.ndarray) -> np.ndarray:
    """Indices of wrong predictions, the most confident first, at most MISTAKES."""
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != test.labels)
    return wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MISTAKES]


def write_mistakes(path: Path, test: Dataset, probabilities: np.ndarray) -> None:
    """The most confident mistakes with their texts: either the model's faults or the labels'."""
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "predicted", "probability", "text"])
        for i in mistakes(test, probabilities):
            c = probabilities[i].argmax()
            writer.writerow([test.ids[i], test.class_names[test.labels[i]], test.class_names[c], f"{probabilities[i, c]:.4f}",
                             test.texts[i]])  # fmt: skip
