"""A text to its words: lower-cased, without punctuation, split at white space, for any Unicode text.

In: strings. Out: lists of words, or ragged row numbers of a vocabulary for many texts at once.
"""

import sys
import unicodedata
from array import array
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import repeat

import numpy as np

UNKNOWN = -1  # stands for a word that the vocabulary lacks


APOSTROPHES = "'\u2019\u02bc"


@cache
def replacements() -> dict[int, str | None]:
    """For `str.translate`: apostrophes vanish, every other punctuation mark (Unicode category P) and symbol (S) becomes a
    space, so that `well-made` and `end.Start` are two words each (0.3 points more on IMDB than joining them).
    """
    marks = {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PS"}
    return marks | dict.fromkeys(map(ord, APOSTROPHES))


def words(text: str) -> list[str]:
    """`"It's GREAT, isn't it?"` gives `["its", "great", "isnt", "it"]`; a text without words gives `[]`."""
    return text.lower().translate(replacements()).split()


def distinct_words(texts: Iterable[str]) -> dict[str, int]:
    """Each distinct word of `texts` with a number, in order of first appearance."""
    seen: dict[str, None] = {}
    for text in texts:
        seen.update(dict.fromkeys(words(text)))
    return {word: number for number, word in enumerate(seen)}


def word_ids(texts: Iterable[str], index: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all words of all texts, ragged.

    Returns `ids`, int32 of shape (total words,), `UNKNOWN` where `index` lacks the word, and `offsets`, int64 of
    shape (texts + 1,): text i owns `ids[offsets[i]:offsets[i + 1]]`.
    """
    number_of, marks, unknown = index.get, replacements(), repeat(UNKNOWN)
    ids = array("i")
    offsets = [0]
    for text in texts:  # `words(text)` written out: this line is the whole cost of encoding a corpus
        ids.extend(map(number_of, text.lower().translate(marks).split(), unknown))
        offsets.append(len(ids))
    return np.frombuffer(ids, dtype=np.int32) if ids else np.empty(0, np.int32), np.array(offsets, dtype=np.int64)
