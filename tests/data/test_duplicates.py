"""Proves that a text which stands in two splits is found: exactly, whatever its case and punctuation, and nearly, as
often as comparing every pair of texts by brute force finds it.
"""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.dataset import Dataset, Splits
from minitext.data.duplicates import NEAR, SHINGLE, describe_twins, find_twins, report_duplicates
from minitext.data.readers import read_rows
from minitext.data.words import words


def corpus(texts: list[str]) -> Dataset:
    return Dataset(texts, np.zeros(len(texts), dtype=np.int64), ("neg", "pos"), ["here"] * len(texts))


def report(train: list[str], valid: list[str], test: list[str]) -> tuple[dict[str, dict[str, int]], list[bool]]:
    counts, mask = report_duplicates(Splits(corpus(train), corpus(valid), corpus(test)))
    return counts, mask.tolist()


def twins(one: str, other: str) -> tuple[bool, bool]:
    """Whether `other` has an exact twin, and a near one, where `one` is all there is beside it."""
    exact, near = find_twins([corpus([one]), corpus([other])])
    return bool(exact[1][0, 0]), bool(near[1][0, 0])


def long_text(length: int, *changed: int) -> str:
    """`w0 w1 w2 …`, with other words at the places `changed`."""
    return " ".join(f"{'other' if i in changed else 'w'}{i}" for i in range(length))


# Exact twins


@pytest.mark.parametrize(
    "other", ["It's a good film.", "IT'S A GOOD FILM!", "its  a\ngood film", '"It\u2019s" a (good) film\u2026']
)
def test_case_punctuation_and_spaces_make_no_difference(other: str):
    assert twins("It's a good film.", other) == (True, False)


@pytest.mark.parametrize("other", ["good", "good film good", "film good", "good films"])
def test_other_words_or_another_order_are_no_exact_twin(other: str):
    assert twins("good film", other) == (False, False)


@pytest.mark.parametrize("text", ["", "  ", "?!"])
def test_texts_without_a_word_have_no_twins(text: str):
    counts, mask = report([text, text], ["", text], ["...", text])
    assert all(kinds == {"exact": 0, "near": 0} for kinds in counts.values())
    assert mask == [False, False]


def test_texts_without_a_word_do_not_hide_the_twins_around_them():
    counts, mask = report(["", long_text(80), "good film", "?"], ["...", "other"], ["", "Good film", long_text(80, 40)])
    assert counts["train/test"] == {"exact": 1, "near": 1}
    assert mask == [False, True, True, False]


# Near twins


def test_one_changed_word_in_a_long_text_leaves_a_near_twin():
    assert twins(long_text(100), long_text(100, 50)) == (False, True)


def test_the_border_is_a_similarity_of_nine_tenths():
    """A changed word is in 3 shingles: of N words, N - 5 shingles are shared and N + 1 there are in all."""
    assert twins(long_text(59), long_text(59, 30)) == (False, True)  # 54 / 60
    assert twins(long_text(58), long_text(58, 30)) == (False, False)  # 53 / 59


def test_four_changed_words_in_a_text_of_a_hundred_are_too_many():
    assert twins(long_text(100), long_text(100, 20, 40, 60, 80)) == (False, False)


def test_a_cut_off_end_leaves_a_near_twin():
    assert twins(long_text(100), long_text(95)) == (False, True)  # 93 / 98


def test_the_same_words_in_another_order_are_no_near_twin():
    shuffled = long_text(100).split()
    random.Random(0).shuffle(shuffled)
    assert twins(long_text(100), " ".join(shuffled)) == (False, False)


def shingle_set(text: str) -> set[tuple[str, ...]]:
    sequence = words(text)
    return {tuple(sequence[i : i + SHINGLE]) for i in range(max(len(sequence) - SHINGLE + 1, 1))} if sequence else set()


def similarity(one: str, other: str) -> float:
    a, b = shingle_set(one), shingle_set(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def every_pair(parts: list[list[str]]) -> tuple[list[list[list[bool]]], list[list[list[bool]]]]:
    """What `find_twins` finds, by comparing each text with each other text that is not itself."""

    def table(alike) -> list[list[list[bool]]]:
        return [
            [
                [any(alike(text, other) for j, other in enumerate(theirs) if (a, i) != (b, j)) for b, theirs in
                 enumerate(parts)]
                for i, text in enumerate(mine)
            ]
            for a, mine in enumerate(parts)
        ]  # fmt: skip

    return (
        table(lambda one, other: words(one) == words(other) != []),
        table(lambda one, other: words(one) != words(other) and similarity(one, other) >= NEAR),
    )


def assert_as_every_pair(parts: list[list[str]]) -> None:
    """In other splits; what a table says of a text's own split is not used."""
    expected = every_pair(parts)
    for kind, found in zip(expected, find_twins([corpus(part) for part in parts]), strict=True):
        for own, (rows, table) in enumerate(zip(kind, found, strict=True)):
            elsewhere = [k for k in range(len(parts)) if k != own]
            assert table[:, elsewhere].tolist() == [[row[k] for k in elsewhere] for row in rows]


@pytest.mark.oracle
@given(st.tuples(*[st.lists(st.text("ab .", max_size=12), min_size=1, max_size=6)] * 3))
def test_short_texts_of_two_letters_have_the_twins_of_a_comparison_of_all_pairs(parts: tuple[list[str], ...]):
    assert_as_every_pair(list(parts))


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(4))
def test_edited_texts_have_the_twins_of_a_comparison_of_all_pairs(seed: int):
    """Twelve families of edited copies, on both sides of a similarity of 0.9, dealt out to three splits."""
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(300)]
    family = []
    for _ in range(12):
        original = draw.choices(vocabulary, k=draw.randrange(40, 130))
        for _ in range(5):
            copy = list(original)
            for _ in range(draw.randrange(4)):
                copy[draw.randrange(len(copy))] = draw.choice(vocabulary)
            family.append(" ".join(copy[draw.randrange(3) :]))
    draw.shuffle(family)
    similarities = [similarity(a, b) for i, a in enumerate(family) for b in family[:i]]
    assert sum(0.8 < s < NEAR for s in similarities) >= 10  # else the test would not tell the sides apart
    assert sum(NEAR <= s < 1 for s in similarities) >= 10
    assert_as_every_pair([family[:30], family[30:40], family[40:]])


# The report


def test_twins_are_counted_per_pair_of_splits_in_the_later_one():
    near, nearer = long_text(80), long_text(80, 40)
    counts, mask = report(
        train=["One film", "one film", near, "only here"],
        valid=["One, film!", "of validation"],
        test=["one FILM", "One film?", nearer, "Of validation", "new"],
    )
    assert counts == {
        "train/valid": {"exact": 1, "near": 0},
        "train/test": {"exact": 2, "near": 1},
        "valid/test": {"exact": 3, "near": 0},
    }
    assert mask == [True, True, True, False]


def test_a_text_that_is_an_exact_and_a_near_twin_counts_once_as_exact():
    counts, _ = report([long_text(80), long_text(80, 40)], ["nothing"], [long_text(80)])
    assert counts["train/test"] == {"exact": 1, "near": 0}


def test_repeats_inside_one_split_are_not_reported():
    counts, mask = report(["again", "again", long_text(80), long_text(80, 9)], ["b"], ["c", "c"])
    assert all(kinds == {"exact": 0, "near": 0} for kinds in counts.values())
    assert mask == [False] * 4


def test_train_without_the_masked_texts_has_no_twins_left():
    draw = random.Random(1)
    pool = [long_text(70, draw.randrange(70)) for _ in range(6)] + ["short", "Short!", ""]
    train, valid, test = ([draw.choice(pool) for _ in range(9)] + [f"own {name}"] for name in Splits._fields)
    counts, mask = report(train, valid, test)
    assert counts["train/test"]["exact"] > 0
    kept = [text for text, is_twin in zip(train, mask, strict=True) if not is_twin]
    assert "own train" in kept
    counts, mask = report(kept, valid, test)
    assert counts["train/valid"] == counts["train/test"] == {"exact": 0, "near": 0}
    assert not any(mask)


def test_many_identical_texts_do_not_explode():
    """As pairs these would be 450 million; as one group they are none."""
    counts, mask = report(
        ["the same text again"] * 10_000, ["The same text again"] * 10_000, ["the same text"] * 10_000
    )
    assert counts["train/valid"] == {"exact": 10_000, "near": 0}
    assert counts["train/test"] == {"exact": 0, "near": 0}
    assert all(mask)


def test_the_counts_are_described_in_one_line():
    counts = {"train/valid": {"exact": 1, "near": 0}, "train/test": {"exact": 20, "near": 3}}
    assert describe_twins(counts) == "train/valid 1 exact + 0 near, train/test 20 exact + 3 near"


# The real IMDB


@pytest.mark.slow
def test_imdb_s_known_leaks_are_found(imdb: Path):
    """123 test reviews stand in train word for word; case and punctuation hide no further one, and no edited one is
    left.
    """
    rows = read_rows(str(imdb))
    parts = [corpus([row.text for row in rows if row.split == split]) for split in ("train", "test")]
    exact, near = find_twins(parts)
    assert int(exact[1][:, 0].sum()) == 123
    assert int((near[1][:, 0] & ~exact[1][:, 0]).sum()) == 0
