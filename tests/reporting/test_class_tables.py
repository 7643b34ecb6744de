"""Tables of single classes: F1 as in the scores of a run, the weakest and the most frequent confusions first."""

import numpy as np
import pytest

from minitext.evaluation import bootstrap
from minitext.evaluation.metrics import classification_scores, confusion_matrix
from minitext.reporting.class_tables import class_rows, confusion_rows, describe_cells, f1_rows, weakest_first

NAMES = ["a", "b", "c"]
MATRIX = np.array([[8, 2, 0], [1, 3, 1], [0, 0, 1000]])  # true classes in rows


def test_f1_of_several_runs_is_that_of_their_scores(monkeypatch):
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)
    generator = np.random.default_rng(0)
    labels, predicted = generator.integers(3, size=(2, 60))
    scores = classification_scores(labels, predicted, np.eye(3)[predicted], NAMES, seed=0)
    rows = f1_rows(NAMES, {"first": confusion_matrix(labels, predicted, 3), "second": np.diag(np.bincount(labels))})
    assert rows[0] == ["class (texts)", "first", "second"]
    assert [row[1] for row in rows[1:]] == [row[3] for row in class_rows(scores["per_class"])[1:]]
    assert [row[0] for row in rows[1:]] == [f"{name} ({(labels == c).sum()})" for c, name in enumerate(NAMES)]
    assert all(row[2].startswith("100.0 % [") for row in rows[1:])


def test_the_weakest_classes_have_the_lowest_mean_f1():
    assert weakest_first([MATRIX]) == [1, 0, 2]
    assert weakest_first([MATRIX, np.array([[0, 10, 0], [0, 5, 0], [0, 0, 1000]])]) == [0, 1, 2]


def test_a_class_without_texts_is_not_weak():
    assert weakest_first([np.array([[3, 1, 0], [0, 0, 0], [0, 0, 2]])]) == [0, 2]


def test_the_most_frequent_confusions_come_first_and_correct_predictions_are_none():
    other = np.array([[9, 1, 0], [0, 5, 0], [0, 1, 999]])
    assert confusion_rows(NAMES, {"first": MATRIX, "second": other}) == [
        ["true class", "predicted class", "first", "second"],
        ["a", "b", "2 (20.0 %)", "1 (10.0 %)"],
        ["b", "a", "1 (20.0 %)", "0 (0.0 %)"],
        ["b", "c", "1 (20.0 %)", "0 (0.0 %)"],
        ["c", "b", "0 (0.0 %)", "1 (0.1 %)"],
    ]


def test_at_most_ten_confusions_are_shown():
    assert len(confusion_rows([str(c) for c in range(5)], {"run": np.ones((5, 5), dtype=int)})) == 1 + 10


def test_without_errors_there_are_no_confusions():
    assert confusion_rows(NAMES, {"run": np.diag([1, 2, 3])}) == [["true class", "predicted class", "run"]]


@pytest.mark.parametrize(("classes", "cell"), [(2, "fraction"), (20, "number of texts."), (77, "no number")])
def test_the_caption_depends_on_the_number_of_classes(classes: int, cell: str):
    assert cell in describe_cells(classes).partition("A cell holds ")[2].partition("Shade")[0]
