"""Duplicates across splits: a test text that was also trained on measures memory, not learning.

Inputs: the splits. Outputs: the number of duplicates for each pair of splits. Two texts are duplicates if they have the
same words in the same order; case, punctuation and spacing do not matter.
"""

import hashlib
from itertools import combinations

import numpy as np

from minitext.data.dataset import Splits
from minitext.data.words import words
from minitext.utils.errors import UserError


def check_duplicates(splits: Splits, drop: bool) -> tuple[Splits, str]:
    """Count duplicates, as `train/valid 17, train/test 114` or `none`, and remove those of train if `drop`."""
    counts, duplicated = count_duplicates(splits)
    if drop:
        train = splits.train.subset(np.flatnonzero(~duplicated))
        for label, name in enumerate(train.class_names):
            if label not in train.labels:
                problem = f"every train text of class {name!r} also occurs in validation or test"
                raise UserError(f"--drop-duplicates: {problem}; add texts of this class, or drop the flag")
        splits = splits._replace(train=train)
    return splits, ", ".join(f"{pair} {count:,}" for pair, count in counts.items() if count) or "none"


def count_duplicates(splits: Splits) -> tuple[dict[str, int], np.ndarray]:
    """The number of texts of the later split for each pair of splits, and the mask (train texts,) of duplicates."""
    keys = {name: [words_digest(text) for text in part.texts] for name, part in splits._asdict().items()}
    distinct = {name: set(part) - {b""} for name, part in keys.items()}  # texts without a word are not compared
    counts = {f"{a}/{b}": sum(key in distinct[a] for key in keys[b]) for a, b in combinations(keys, 2)}
    held_out = distinct["valid"] | distinct["test"]
    return counts, np.array([key in held_out for key in keys["train"]], dtype=bool)


def words_digest(text: str) -> bytes:
    """16 bytes that are equal for equal words, to save memory: a million texts collide with probability 1e-27."""
    joined = " ".join(words(text))
    return hashlib.blake2b(joined.encode("utf-8", "surrogatepass"), digest_size=16).digest() if joined else b""
