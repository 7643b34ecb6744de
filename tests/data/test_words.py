"""Texts are split into words in any script with any punctuation, and look-up sees the same words as `words`."""

import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.words import UNKNOWN, distinct_words, without_long_words, word_ids, word_ids_in_chunks, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's GREAT, isn't it?", ["its", "great", "isnt", "it"]),
        ("isn\u2019t don\u02bct", ["isnt", "dont"]),  # typographic apostrophes
        ("the \u2018best\u2019 of", ["the", "best", "of"]),
        ("well-made end.Start a/b", ["well", "made", "end", "start", "a", "b"]),
        ("snake_case e-mail@home.org", ["snake", "case", "e", "mail", "home", "org"]),
        ("$5 + 3 = 8 \u20ac", ["5", "3", "8"]),
        ("\u00abCaf\u00e9\u00bb \u2014 na\u00efve\u2026", ["caf\u00e9", "na\u00efve"]),
        ("\u00bfQu\u00e9? \u00a1No!", ["qu\u00e9", "no"]),
        ("\u041f\u0420\u0418\u0412\u0415\u0422, \u043c\u0438\u0440", ["\u043f\u0440\u0438\u0432\u0435\u0442",
        "\u043c\u0438\u0440"]), ("\u826f\u3044\u3001\u6620\u753b\u3002", ["\u826f\u3044", "\u6620\u753b"]),
        ("great\U0001f600film", ["great", "film"]),  # an emoji is a symbol
        ("tab\tline\nsep\u2028nbsp\u00a0end", ["tab", "line", "sep", "nbsp", "end"]),
        ("cafe\u0301 E\u0301te\u0301", ["caf\u00e9", "\u00e9t\u00e9"]),  # a letter and its mark are composed (NFC)
        ("\u0938\u0930\u094d", ["\u0938\u0930\u094d"]),  # a mark without a composed letter stays with its letter
        ("\ufeffgood film\ufeff", ["good", "film"]),  # a byte-order mark
        ("ki\u00adno-\u00adbe\u00adsuch", ["kino", "besuch"]),  # soft hyphens
        ("good\u200bfilm \u200etrue\u200f \u2060", ["goodfilm", "true"]),  # zero-width and direction marks
        ("e\u200b\u0301", ["\u00e9"]),
        ("good\x85film\x96bad\x92s", ["good", "film", "bad", "s"]),  # C1 controls: cp1252 read as latin-1
        ("10/10 would", ["10", "10", "would"]),
    ],
)  # fmt: skip
def test_a_text_is_split_into_lower_case_words_without_marks(text: str, expected: list[str]):
    assert words(text) == expected


@pytest.mark.parametrize("text", ["", " \n\t", "...", "'", "\u2019\u2019", "?! \u2014 \u20ac"])
def test_a_text_without_words_gives_an_empty_list(text: str):
    assert words(text) == []


def test_distinct_words_are_numbered_in_order_of_first_appearance():
    assert distinct_words(["The film", "the BAD film", "", "good"]) == {"the": 0, "film": 1, "bad": 2, "good": 3}


def test_word_ids_of_known_unknown_and_empty_texts():
    ids, offsets = word_ids(["Good film!", "", "bad film, good"], {"good": 7, "film": 3})
    assert ids.tolist() == [7, 3, UNKNOWN, 3, 7]
    assert offsets.tolist() == [0, 2, 2, 5]


def test_word_ids_are_int32_and_offsets_int64():
    ids, offsets = word_ids(["good"], {"good": 0})
    assert (ids.dtype, offsets.dtype) == (np.int32, np.int64)


@pytest.mark.parametrize(("texts", "offsets"), [([], [0]), ([""], [0, 0]), (["?", "!"], [0, 0, 0])])
def test_word_ids_without_any_word_are_empty(texts: list[str], offsets: list[int]):
    ids, found = word_ids(texts, {})
    assert ids.shape == (0,)
    assert ids.dtype == np.int32
    assert found.tolist() == offsets


def test_word_ids_take_texts_from_a_generator():
    ids, offsets = word_ids((text for text in ("good", "bad good")), {"good": 0, "bad": 1})
    assert ids.tolist() == [0, 1, 0]
    assert offsets.tolist() == [0, 1, 3]


ANY_TEXT = st.text(st.characters() | st.sampled_from(" \n'.-\u2019\u0130\u00dfaAbB"), max_size=20)


@given(st.lists(ANY_TEXT, max_size=6))
def test_word_ids_are_the_numbers_of_each_text_s_words(texts: list[str]):
    index = distinct_words(texts)
    ids, offsets = word_ids(texts, index)
    by_number = list(index)
    assert [[by_number[i] for i in ids[a:b]] for a, b in pairwise(offsets)] == [words(text) for text in texts]


@given(ANY_TEXT)
def test_the_words_of_joined_words_are_the_same_words(text: str):
    once = words(text)
    assert words(" ".join(once)) == once


@pytest.mark.parametrize("chunk", [1, 2, 3, 10])
def test_chunks_of_word_ids_join_to_the_word_ids_of_all_texts(chunk: int):
    texts = ["Good film!", "", "bad film, good", "?", "new film"]
    index = {"good": 7, "film": 3, "bad": 0}
    parts = list(word_ids_in_chunks(iter(texts), index, chunk))
    assert [len(offsets) - 1 for _, offsets in parts] == [min(chunk, 5 - start) for start in range(0, 5, chunk)]
    assert np.concatenate([ids for ids, _ in parts]).tolist() == word_ids(texts, index)[0].tolist()
    assert np.concatenate([np.diff(offsets) for _, offsets in parts]).tolist() == [2, 0, 3, 0, 2]


def test_word_ids_in_chunks_take_one_chunk_of_a_stream_at_a_time():
    texts = iter(["a", "b", "c"])
    next(word_ids_in_chunks(texts, {}, 2))
    assert list(texts) == ["c"]


def test_no_texts_give_no_chunks():
    assert list(word_ids_in_chunks([], {}, 4)) == []


@given(st.text(st.characters(max_codepoint=127), max_size=30))
def test_ascii_words_are_those_of_lower_case_without_marks(text: str):
    """The bundled word vectors were trained with this tokenization."""
    kept = "".join(" " if c in string.punctuation and c != "'" else c for c in text.lower())
    assert words(text) == kept.replace("'", "").split()


@pytest.mark.parametrize("length", [1, 1000])
def test_texts_with_ordinary_words_are_unchanged_by_leaving_out_long_ones(length: int):
    texts = ["a" * length, f"a {'b' * length}, c" * 3, "caf\u00e9 " * 500]
    assert without_long_words(texts) == texts


@pytest.mark.parametrize("word", ["a" * 1001, "ab" * 600, "\u00e9" * 20_000_000])
def test_a_word_of_more_letters_than_any_word_has_is_left_out(word: str):
    assert without_long_words([f"a {word} b", f"({word})"]) == ["a   b", "( )"]
