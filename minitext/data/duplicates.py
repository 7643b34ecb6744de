"""Duplicates across splits: a test text that was also trained on measures memory, not learning.

Inputs: the splits. Outputs: the number of duplicates for each pair of splits. Two texts are duplicates if they have the
same words in the same order; case, punctuation and spacing do not matter.
"""

from itertools import combinations

import numpy as np

from minitext.data.dataset import Splits
from minitext.data.words import words
from minitext.utils.errors import UserError


def check_duplicates(splits: Splits, drop: bool) -> tuple[Splits, str]:
    """Count duplicates across splits, and remove those of train if `drop`.

    Returns the splits, and a line such as `train/valid 17, train/test 114`, or `none`.
    """
    counts, duplicated = count_duplicates(splits)
    line = ", ".join(f"{pair} {count:,}" for pair, count in counts.items() if count) or "none"
    return drop_duplicates(splits, duplicated) if drop else splits, line


def count_duplicates(splits: Splits) -> tuple[dict[str, int], np.ndarray]:
    """Count the texts of a later split that occur in an earlier one; texts without a word are not compared.

    Returns the counts `{"train/valid": …, "train/test": …, "valid/test": …}`, and a bool mask (train texts,): occurs in
    validation or test.
    """
    keys = {name: [" ".join(words(text)) for text in part.texts] for name, part in splits._asdict().items()}
    distinct = {name: set(part) - {""} for name, part in keys.items()}
    counts = {f"{a}/{b}": sum(key in distinct[a] for key in keys[b]) for a, b in combinations(keys, 2)}
    held_out = distinct["valid"] | distinct["test"]
    return counts, np.array([key in held_out for key in keys["train"]], dtype=bool)


def drop_duplicates(splits: Splits, duplicated: np.ndarray) -> Splits:
    """Remove the `duplicated` train texts. Raises UserError if a class would vanish."""
    train = splits.train.subset(np.flatnonzero(~duplicated))
    for label, name in enumerate(train.class_names):
        if label not in train.labels:
            raise UserError(
                f"--drop-duplicates: every train text of class {name!r} also occurs in validation or test; "
                "add texts of this class, or drop the flag"
            )
    return splits._replace(train=train)
