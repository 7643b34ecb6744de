"""Proves that the sample that travels with the package is what its users are told: 600 written reviews, half of them
positive, no two alike, and vectors that know their words.
"""

import gzip
from collections import Counter

import numpy as np
import pytest

from minitext import glove, glove_train
from minitext.corpus import Corpus, DataOptions, load
from minitext.duplicates import find_twins
from minitext.sources import SAMPLE, json_records
from minitext.words import words


@pytest.fixture(scope="module")
def records() -> list[dict]:
    return [record for _, record in json_records(SAMPLE, SAMPLE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def texts(records) -> list[str]:
    return [record["text"] for record in records]


def test_600_reviews_half_of_them_positive(records):
    assert Counter(record["label"] for record in records) == {"pos": 300, "neg": 300}


def test_a_review_has_25_to_120_words(texts):
    assert [text for text in texts if not 25 <= len(text.split()) <= 120] == []


def test_there_are_six_tags_and_each_has_both_labels(records):
    found = {(record["tag"], record["label"]) for record in records}
    assert len({tag for tag, _ in found}) == 6
    assert len(found) == 12


@pytest.mark.parametrize("seed", [0, 1])
def test_the_test_part_is_fixed_and_validation_is_carved_from_train(records, seed: int):
    splits = load(DataOptions(data="sample"), seed)
    assert [len(part) for part in splits] == [404, 46, 150]
    assert splits.test.texts == [record["text"] for record in records if record["split"] == "test"]


def test_every_part_is_half_positive():
    for part in load(DataOptions(data="sample"), 0):
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2


def test_no_review_stands_there_twice_exactly_or_nearly(texts):
    apart = [Corpus([text], np.zeros(1, np.int64), ("any",), [str(i)]) for i, text in enumerate(texts)]
    exact, near = (np.concatenate(tables) for tables in find_twins(apart))  # (600, 600) each
    assert exact.sum() == 600  # each is its own twin
    assert not (near & ~exact).any()


def test_no_two_reviews_open_with_the_same_six_words(texts):
    openings = Counter(tuple(words(text)[:6]) for text in texts)
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_the_vectors_are_20000_of_width_100():
    vectors = glove.read("sample")
    assert (len(vectors.words), vectors.table.shape, vectors.duplicates) == (20_000, (20_000, 100), 0)
    assert vectors.table.isfinite().all()


def test_the_vectors_file_is_gzipped_text_with_a_word_and_100_numbers_a_line():
    with gzip.open(glove.SAMPLE, "rt", encoding="utf-8") as file:
        assert {len(line.split(" ")) for line in file} == {101}


def test_the_vectors_know_over_90_percent_of_the_samples_words(texts):
    known = set(glove.read("sample").words)
    found = [word in known for text in texts for word in words(text)]
    assert sum(found) / len(found) > 0.9


def test_vectors_are_trained_on_the_train_part_of_the_sample_only(records):
    assert glove_train.read_texts("sample") == [record["text"] for record in records if record["split"] == "train"]
