"""Labelled texts, split so that the test set stays untouched until the end.

In: rows from `sources`. Out: train, validation and test, with labels 0..C-1 and the names of the classes. The
validation part is carved from train by class; model choice uses it, so that test is looked at once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minitext.data.readers import Row, read_rows
from minitext.utils.config import option
from minitext.utils.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """N texts with their labels."""

    texts: list[str]
    labels: np.ndarray  # (N,) int64, values 0..C-1
    class_names: tuple[str, ...]  # the C classes' names
    ids: list[str]  # where each text was found, such as "reviews.csv:17"
    tags: Sequence[str] = ()  # what kind of text each is; none at all where the source does not say

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, chosen: np.ndarray) -> "Dataset":
        """The texts at the indices `chosen`, (M,) int64, in that order."""
        return Dataset(
            [self.texts[i] for i in chosen], self.labels[chosen], self.class_names, [self.ids[i] for i in chosen],
            [self.tags[i] for i in chosen] if self.tags else (),
        )  # fmt: skip

    def fingerprint(self) -> str:
        """A SHA-256 over texts, labels and names: two runs with the same one saw the same data."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for text in self.texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


class Splits(NamedTuple):
    """The three parts of a corpus."""

    train: Dataset
    valid: Dataset
    test: Dataset


@dataclass(frozen=True)
class DataConfig:
    """data"""

    data: str = option("sample", "sample, imdb, a .csv, .tsv or .jsonl file (or .gz), a folder, or the IMDB .tar.gz")
    test_data: str | None = option(None, "test texts, where --data holds none")
    valid_data: str | None = option(None, "validation texts; without them a share of train is carved off")
    text_column: str | None = option(None, "the column of the texts, where it has no usual name")
    label_column: str | None = option(None, "the column of the labels, where it has no usual name")
    valid_fraction: float = option(0.1, "share of train that becomes validation")
    test_fraction: float = option(0.2, "share that becomes test, where --data says nothing of a test part")
    subset: tuple[float, float] = option(
        (1.0, 1.0), "share of train (validation with it) and of test to use, by class", metavar=("TRAIN", "TEST")
    )
    drop_duplicates: bool = option(False, "remove from train the texts that also stand in validation or test")

    def __post_init__(self) -> None:
        for flag, share in (("--valid-fraction", self.valid_fraction), ("--test-fraction", self.test_fraction)):
            if not 0 < share < 1:
                raise UserError(f"{flag} {share}: a share lies between 0 and 1, both excluded")
        if not all(0 < share <= 1 for share in self.subset):
            raise UserError(f"--subset {self.subset[0]} {self.subset[1]}: a fraction is above 0 and at most 1")


def load(options: DataConfig, seed: int) -> Splits:
    """Read, split and cut the data as `options` say; what is drawn depends on `seed` alone.

    Validation is carved before the fractions are drawn, and a smaller fraction's texts are among a larger one's: a
    text that validates a run on 4 % of the data never trains a run on all of it.
    """
    rows = read_rows(options.data, options.text_column, options.label_column)
    parts: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    for row in rows:
        parts[row.split or "train"].append(row)
    for name, source in (("test", options.test_data), ("valid", options.valid_data)):
        if source:
            parts[name] = read_rows(source, options.text_column, options.label_column)
    if not parts["train"]:
        raise UserError(f"{options.data}: holds no training text")

    names = class_names(options.data, parts)
    train, valid, test = (to_corpus(parts[name], names) for name in ("train", "valid", "test"))
    if not len(test):
        train, test = split_off(train, options.test_fraction, [seed, 0], options.data)
    if not len(valid):
        train, valid = split_off(train, options.valid_fraction, [seed, 1], options.data)
    train_share, test_share = options.subset
    return Splits(
        draw(train, train_share, [seed, 2]), draw(valid, train_share, [seed, 3]), draw(test, test_share, [seed, 4])
    )


def describe_splits(splits: Splits) -> str:
    """One line for people: `train 22,500, valid 2,500, test 25,000; classes neg, pos`."""
    counts = ", ".join(f"{name} {len(part):,}" for name, part in zip(Splits._fields, splits, strict=True))
    return f"{counts}; classes {', '.join(splits.train.class_names)}"


def class_names(source: str, parts: dict[str, list[Row]]) -> tuple[str, ...]:
    """The classes that occur in train: sorted by value where all are whole numbers, else by name."""
    names = {row.label for row in parts["train"]}
    for row in parts["valid"] + parts["test"]:
        if row.label not in names:
            raise UserError(f"{row.origin}: label {row.label!r} does not occur in train ({', '.join(sorted(names))})")
    if len(names) < 2:
        raise UserError(f"{source}: all labels are {names.pop()!r}; a classifier needs at least two classes")
    whole_numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(sorted(names), key=int if whole_numbers else str))


def to_corpus(rows: list[Row], names: tuple[str, ...]) -> Dataset:
    number = {name: i for i, name in enumerate(names)}
    labels = np.array([number[row.label] for row in rows], dtype=np.int64)
    tags = [row.tag for row in rows] if any(row.tag for row in rows) else ()
    return Dataset([row.text for row in rows], labels, names, [row.origin for row in rows], tags)


def split_off(corpus: Dataset, share: float, seed: list[int], source: str) -> tuple[Dataset, Dataset]:
    """Split by class into (what stays, what is carved off: `share` of each class, at least one text)."""
    smallest = np.bincount(corpus.labels, minlength=len(corpus.class_names))
    if smallest.min() < 2:
        name = corpus.class_names[int(smallest.argmin())]
        raise UserError(f"{source}: class {name!r} has too few texts to be split; give it more, or give the splits")
    carved = choose_by_class(corpus.labels, share, seed)
    stays = np.setdiff1d(np.arange(len(corpus)), carved)
    return corpus.subset(stays), corpus.subset(carved)


def draw(corpus: Dataset, share: float, seed: list[int]) -> Dataset:
    """`share` of each class, at least one text."""
    return corpus if share == 1 else corpus.subset(choose_by_class(corpus.labels, share, seed))


def choose_by_class(labels: np.ndarray, share: float, seed: list[int]) -> np.ndarray:
    """Sorted indices of `share` of each class. For one seed, a smaller share is a subset of a larger one."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = max(
            1, min(round(share * len(members)), len(members) - 1)
        )  # never none, and all only where there is one
        chosen.append(members[:count])
    return np.sort(np.concatenate(chosen))
