"""Tables of single classes on test: their scores, the weakest first, and the most frequent confusions.

Inputs: `per_class` of `scores.json`, confusion matrices (C, C) of runs on the same texts. Outputs: a header and rows of
strings. C classes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from minitext.evaluation.intervals import score
from minitext.evaluation.metrics import class_counts, class_limits, class_scores
from minitext.reporting.formats import format_score

MAX_CLASSES = 20  # in a table; of more, the weakest are shown first
MOST = 10  # weakest classes, and confusions
CONFUSIONS = "Texts of the true class that were predicted as the other class, and their fraction of the true class."
MAX_FRACTIONS, MAX_ANNOTATED = 8, 20  # classes; more leave no room for fractions, or for numbers, in the cells


def class_rows(per_class: Mapping[str, Mapping]) -> list[list[str]]:
    """A header and one row per class of one run, with Wilson intervals."""
    rows = [["class", "precision", "recall", "F1", "texts"]]
    for name, values in per_class.items():
        cells = (format_score(values[key], True) for key in ("precision", "recall", "f1"))
        rows.append([name, *cells, f"{values['support']:,}"])
    return rows


def f1_rows(names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> list[list[str]]:
    """A header and one row per class with its F1 (Wilson interval) in each run, by name of the run."""
    rows = [["class (texts)"]]
    support = next(iter(matrices.values())).sum(1)
    rows += [[f"{name} ({count:,})"] for name, count in zip(names, support, strict=True)]
    for run, matrix in matrices.items():
        counts = class_counts(matrix)
        values, (low, high) = class_scores(*counts)["f1"], class_limits(*counts)["f1"]
        cells = [format_score(score(*row), True) for row in zip(values, low, high, strict=True)]
        for row, cell in zip(rows, [run, *cells], strict=True):
            row.append(cell)
    return rows


def weakest_first(matrices: Sequence[np.ndarray]) -> list[int]:
    """The classes with texts, ordered by their mean F1 over the runs, the lowest first."""
    means = np.mean([class_scores(*class_counts(matrix))["f1"] for matrix in matrices], axis=0)
    return [int(c) for c in np.argsort(means, kind="stable") if matrices[0][c].any()]


def confusion_rows(names: Sequence[str], matrices: Mapping[str, np.ndarray]) -> list[list[str]]:
    """A header and the most frequent confusions of a class with another, over all runs: their number of texts in each
    run, by its name, and the fraction of the texts of the true class.
    """
    rows, total = [["true class", "predicted class", *matrices]], sum(matrices.values())
    errors = total - np.diag(np.diagonal(total))
    for cell in np.argsort(-errors, axis=None, kind="stable")[:MOST]:
        true, predicted = divmod(int(cell), len(names))
        if errors[true, predicted]:
            counts = [(matrix[true, predicted], matrix[true].sum()) for matrix in matrices.values()]
            cells = [f"{count:,} ({100 * count / texts:.1f} %)" for count, texts in counts]
            rows.append([names[true], names[predicted], *cells])
    return rows


def describe_cells(classes: int) -> str:
    """The caption of the figure of a confusion matrix: what a cell holds."""
    cell = "no number; the table of confusions has the counts"
    if classes <= MAX_ANNOTATED:
        cell = "the number of texts"
    if classes <= MAX_FRACTIONS:
        cell = "the number of texts, and their fraction of the true class"
    return f"True classes in rows, predicted ones in columns. A cell holds {cell}. Shade: fraction of the true class."
