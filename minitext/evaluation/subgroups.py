"""Accuracy by subgroup, and the most confident errors.

Inputs: test and training texts, predicted classes (B,), probabilities (B, C). Outputs: rows for `scores.json` and
`mistakes.csv`. Shapes: B test texts, C classes.
"""

import csv
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from minitext.data.dataset import Dataset
from minitext.data.words import UNKNOWN, distinct_words, word_ids
from minitext.evaluation.intervals import proportion
from minitext.utils.io import atomic

QUARTILES = (0.25, 0.5, 0.75)
MISTAKES = 50  # rows of mistakes.csv


def subgroup_accuracy(test: Dataset, train: Dataset | None, predicted: np.ndarray) -> list[dict]:
    """Accuracy in subgroups of the test texts, rows `{"by", "subgroup", "count", "accuracy", "low", "high"}` (Wilson).

    By class; by tag if the texts have tags; by quartile of the length in words, and, if the training texts are known,
    of the fraction of words that occur in none of them.
    """
    correct = predicted == test.labels
    ids, offsets = word_ids(test.texts, distinct_words(train.texts if train else ()))
    lengths = np.diff(offsets)
    unknown_before = np.concatenate(([0], np.cumsum(ids == UNKNOWN)))
    unknown = np.diff(unknown_before[offsets]) / np.maximum(lengths, 1)
    subgroups = {
        "class": by_value(np.array(test.class_names, dtype=object)[test.labels]),
        "tag": by_value(np.array(test.tags, dtype=object)) if test.tags else (),
        "length": by_quartile(lengths, "{:,.0f} words"),
        "words not in train": by_quartile(unknown, "{:.1%}") if train else (),
    }
    rows = []
    for by, name, members in ((by, *subgroup) for by, found in subgroups.items() for subgroup in found):
        score = proportion(int(correct[members].sum()), int(members.sum()))
        row = {"by": by, "subgroup": name, "count": int(members.sum()), "accuracy": score["value"]}
        rows.append(row | {"low": score["low"], "high": score["high"]})
    return rows


def by_value(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each value with the mask (B,) bool of the texts that have it."""
    for value in sorted(set(values.tolist())):
        yield value or "(none)", values == value


def by_quartile(values: np.ndarray, form: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield four groups of equal size by value, as name and mask (B,) bool; fewer if many texts have one value."""
    edges = [-np.inf, *np.quantile(values, QUARTILES, method="lower"), np.inf]
    for low, high in pairwise(edges):
        members = (values > low) & (values <= high)
        if members.any():
            least, most = form.format(values[members].min()), form.format(values[members].max())
            yield least if least == most else f"{least.split()[0]} to {most}", members


def write_mistakes(path: Path, test: Dataset, predicted: np.ndarray, probabilities: np.ndarray) -> None:
    """Write the most confident errors, at most MISTAKES, with their texts: errors of the model or of the labels."""
    wrong = np.flatnonzero(predicted != test.labels)
    order = np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")
    with atomic(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "predicted", "probability", "text"])
        for i in wrong[order][:MISTAKES]:
            names = test.class_names[test.labels[i]], test.class_names[predicted[i]]
            writer.writerow([test.ids[i], *names, f"{probabilities[i, predicted[i]]:.4f}", test.texts[i]])
