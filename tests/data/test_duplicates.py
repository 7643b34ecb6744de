"""Duplicates across splits are found whatever their case and punctuation, counted per pair of splits, and removed."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.dataset import Dataset, Splits
from minitext.data.duplicates import check_duplicates, count_duplicates
from minitext.data.readers import read_rows
from minitext.data.words import words
from minitext.utils.errors import UserError

NONE = {"train/valid": 0, "train/test": 0, "valid/test": 0}


def dataset(texts: list[str], labels: list[int] | None = None) -> Dataset:
    labels = labels or [0] * len(texts)
    return Dataset(texts, np.array(labels, dtype=np.int64), ("neg", "pos"), ["here"] * len(texts))


def count(train: list[str], valid: list[str], test: list[str]) -> tuple[dict[str, int], list[bool]]:
    counts, duplicated = count_duplicates(Splits(dataset(train), dataset(valid), dataset(test)))
    return counts, duplicated.tolist()


@pytest.mark.parametrize(
    "other", ["It's a good film.", "IT'S A GOOD FILM!", "its  a\ngood film", '"It\u2019s" a (good) film\u2026']
)
def test_case_punctuation_and_spaces_make_no_difference(other: str):
    assert count(["It's a good film."], [], [other]) == (NONE | {"train/test": 1}, [True])


@pytest.mark.parametrize("other", ["good", "good film good", "film good", "good films", "goodfilm"])
def test_other_words_or_another_order_are_no_duplicate(other: str):
    assert count(["good film"], [], [other]) == (NONE, [False])


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_texts_without_a_word_are_no_duplicates(text: str):
    assert count([text, text], ["", text], ["...", text]) == (NONE, [False, False])


def test_duplicates_are_counted_per_pair_of_splits_in_the_later_one():
    counts, duplicated = count(
        train=["One film", "one film", "only here"],
        valid=["One, film!", "of validation"],
        test=["one FILM", "One film?", "Of validation", "new"],
    )
    assert counts == {"train/valid": 1, "train/test": 2, "valid/test": 3}
    assert duplicated == [True, True, False]


def test_invisible_characters_and_composed_letters_make_no_difference():
    assert count(["caf\u00e9"], [], ["\ufeffcafe\u0301", "ca\u00adf\u00e9"])[0]["train/test"] == 2


def test_a_lone_surrogate_is_compared_like_any_other_character():
    assert count(["a \ud83d"], [], ["a \ud83d", "a \ud83e"])[0]["train/test"] == 1


def test_repeats_within_one_split_are_not_counted():
    assert count(["again", "again"], ["b"], ["c", "c"]) == (NONE, [False, False])


@pytest.mark.oracle
@given(st.tuples(*[st.lists(st.text("aB .", max_size=6), max_size=6)] * 3))
def test_counts_equal_those_of_a_comparison_of_all_pairs(parts: tuple[list[str], ...]):
    def occurs(text: str, others: list[str]) -> bool:
        return any(words(text) == words(other) != [] for other in others)

    train, valid, test = parts
    counts, duplicated = count(train, valid, test)
    assert counts == {
        "train/valid": sum(occurs(text, train) for text in valid),
        "train/test": sum(occurs(text, train) for text in test),
        "valid/test": sum(occurs(text, valid) for text in test),
    }
    assert duplicated == [occurs(text, valid + test) for text in train]


def test_dropping_duplicates_removes_them_from_train_alone():
    generator = random.Random(1)
    pool = [f"film {i}" for i in range(6)] + ["short", "Short!", ""]
    train, valid, test = ([*generator.choices(pool, k=9), f"own {name}"] for name in Splits._fields)
    splits = Splits(dataset(train, [0, 1] * 5), dataset(valid), dataset(test))
    assert count_duplicates(splits)[0]["train/test"] > 0
    splits = splits._replace(train=dataset([*train, "pos alone", "neg alone"], [0, 1] * 6))
    kept, line = check_duplicates(splits, drop=True)
    assert "own train" in kept.train.texts
    assert kept.valid is splits.valid
    assert kept.test is splits.test
    counts, duplicated = count_duplicates(kept)
    assert counts["train/valid"] == counts["train/test"] == 0
    assert not duplicated.any()
    assert line == check_duplicates(splits, drop=False)[1] != "none"


def test_without_drop_the_splits_are_returned_as_they_are():
    splits = Splits(dataset(["a"]), dataset(["b"]), dataset(["a"]))
    assert check_duplicates(splits, drop=False) == (splits, "train/test 1")


def test_dropping_all_texts_of_a_class_is_an_error_that_names_it():
    splits = Splits(dataset(["a", "b", "c"], [0, 1, 0]), dataset(["a"]), dataset(["B!"], [1]))
    with pytest.raises(UserError, match="class 'pos' also occurs in validation or test"):
        check_duplicates(splits, drop=True)


def test_counts_are_described_in_one_line():
    splits = Splits(dataset(["a", "b"]), dataset(["a"]), dataset(["b"] * 2000))
    assert check_duplicates(splits, drop=False)[1] == "train/valid 1, train/test 2,000"
    assert check_duplicates(splits._replace(train=dataset(["c"])), drop=False)[1] == "none"


@pytest.mark.slow
def test_duplicates_of_imdb(imdb: Path):
    """123 test reviews occur in train word for word; case and punctuation hide no further one."""
    rows = read_rows(str(imdb))
    train, test = ([row.text for row in rows if row.split == split] for split in ("train", "test"))
    assert count(train, [], test)[0]["train/test"] == 123
