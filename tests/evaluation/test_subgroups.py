"""Accuracy by subgroup, and the most confident errors."""

import csv

import numpy as np

from minitext.data.dataset import Dataset
from minitext.evaluation.subgroups import by_quartile, subgroup_accuracy, write_mistakes


def dataset(texts: list[str], labels: list[int], tags: list[str] | tuple = ()) -> Dataset:
    return Dataset(texts, np.array(labels), ("neg", "pos"), [f"t.csv:{i}" for i in range(len(texts))], tags)


TRAIN = dataset(["good bad", "film"], [1, 0])
TEST = dataset(
    ["good", "good film", "bad bad film", "new bad film good"], [1, 1, 0, 0], ["plain", "", "irony", "plain"]
)
PROBABILITIES = np.array([[0.1, 0.9], [0.8, 0.2], [0.7, 0.3], [0.05, 0.95]])  # right, wrong, right, wrong
PREDICTED = PROBABILITIES.argmax(1)


def rows_by(by: str) -> dict[str, tuple[int, float]]:
    rows = subgroup_accuracy(TEST, TRAIN, PREDICTED)
    return {row["subgroup"]: (row["count"], row["accuracy"]) for row in rows if row["by"] == by}


def test_each_class_has_its_accuracy():
    assert rows_by("class") == {"neg": (2, 0.5), "pos": (2, 0.5)}


def test_each_tag_has_its_accuracy_and_texts_without_one_are_a_subgroup():
    assert rows_by("tag") == {"(none)": (1, 0.0), "irony": (1, 1.0), "plain": (2, 0.5)}


def test_a_dataset_without_tags_has_no_rows_by_tag():
    untagged = dataset(TEST.texts, TEST.labels.tolist())
    assert not [row for row in subgroup_accuracy(untagged, TRAIN, PREDICTED) if row["by"] == "tag"]


def test_lengths_are_grouped_by_quartile():
    assert rows_by("length") == {"1 words": (1, 1.0), "2 words": (1, 0.0), "3 words": (1, 1.0), "4 words": (1, 0.0)}


def test_words_that_occur_in_no_training_text_are_counted():
    assert rows_by("words not in train") == {"0.0%": (3, 2 / 3), "25.0%": (1, 0.0)}


def test_each_subgroup_has_an_interval_around_its_accuracy():
    for row in subgroup_accuracy(TEST, TRAIN, PREDICTED):
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1


def test_quartiles_contain_every_text_once():
    values = np.random.default_rng(0).integers(0, 30, 101)
    parts = [inside for _, inside in by_quartile(values, "{:.0f} words")]
    assert (sum(part.astype(int) for part in parts) == 1).all() and len(parts) == 4


def test_a_quartile_is_named_by_its_lowest_and_highest_value():
    assert next(name for name, _ in by_quartile(np.arange(1000, 1008), "{:,.0f} words")) == "1,000 to 1,001 words"


def test_mistakes_are_written_with_their_texts_the_most_confident_first(tmp_path):
    write_mistakes(tmp_path / "m.csv", TEST, PREDICTED, PROBABILITIES)
    with open(tmp_path / "m.csv", encoding="utf-8", newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {"id": "t.csv:3", "label": "neg", "predicted": "pos", "probability": "0.9500",
                     "text": "new bad film good"}  # fmt: skip
    assert second["id"] == "t.csv:1"


def test_a_run_without_mistakes_writes_only_the_header(tmp_path):
    write_mistakes(tmp_path / "m.csv", TEST, TEST.labels, np.eye(2)[TEST.labels])
    assert (tmp_path / "m.csv").read_text().splitlines() == ["id,label,predicted,probability,text"]
