"""A text to its words: lower-cased, without punctuation, split at white space, for any Unicode text.

In: strings. Out: lists of words, or ragged row numbers of a vocabulary for many texts at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import chain, islice, repeat

import numpy as np

from minitext.utils.parallel import cores, map_ahead

UNKNOWN = -1  # stands for a word that the vocabulary lacks


APOSTROPHES = "'\u2019\u02bc"


@cache
def replacements() -> dict[int, str | None]:
    """For `str.translate`: apostrophes vanish, every other punctuation mark (Unicode category P) and symbol (S) becomes
    a space, so that `well-made` and `end.Start` are two words each (0.3 points more on IMDB than joining them).
    """
    marks = {code: " " for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] in "PS"}
    return marks | dict.fromkeys(map(ord, APOSTROPHES))


def words(text: str) -> list[str]:
    """`"It's GREAT, isn't it?"` gives `["its", "great", "isnt", "it"]`; a text without words gives `[]`."""
    text, table = text.lower(), replacements()
    if text.isascii():
        return text.translate(table).split()  # by a table of 128 bytes: ten times as fast as any other way
    for character in set(text):
        if (code := ord(character)) in table:
            text = text.replace(character, table[code] or "")
    return text.split()


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
    number_of, unknown = index.get, repeat(UNKNOWN)
    ids = array("i")
    offsets = [0]
    for text in texts:
        ids.extend(map(number_of, words(text), unknown))
        offsets.append(len(ids))
    return np.frombuffer(ids, dtype=np.int32) if ids else np.empty(0, np.int32), np.array(offsets, dtype=np.int64)


def word_ids_in_chunks(
    texts: Iterable[str], index: Mapping[str, int], chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`word_ids` of `chunk` texts at a time, on all cores where there is more than one chunk; memory stays bounded."""
    texts = iter(texts)
    chunks = iter(lambda: list(islice(texts, chunk)), [])
    first = list(islice(chunks, 2))
    chunks = chain(first, chunks)
    if len(first) < 2 or not sys.platform.startswith("linux"):
        yield from (word_ids(some, index) for some in chunks)
        return
    # processes, since words are Python objects and threads would take turns; forked ones, since these share the index
    # and start at once. They touch neither torch nor its threads, which a fork does not copy.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(cores(), context, initializer=share_index, initargs=(index,)) as pool:
        yield from map_ahead(pool, shared_word_ids, chunks)


def share_index(index: Mapping[str, int]) -> None:
    """In a worker process: keep the index that it was forked with; end with the parent, and only with it."""
    global shared_index
    shared_index = index
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent answers it
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """In a worker process: a killed parent cannot stop its workers, which would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def shared_word_ids(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """In a worker process: `word_ids` with its index."""
    return word_ids(texts, shared_index)
