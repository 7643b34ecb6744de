"""Labeled texts in three splits.

Inputs: rows from `readers`. Outputs: train, validation and test, with labels 0..C-1 and the names of the classes.
Validation and test, if the source does not have them, are split off from train, stratified by class.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minitext.data.readers import Row, read_rows
from minitext.data.tables import TableFormat
from minitext.utils.config import option, require
from minitext.utils.errors import UserError
from minitext.utils.terminal import list_names

SOURCES = "sample, imdb, a .csv, .tsv, .jsonl or fastText file (or .gz), a folder, or the IMDB .tar.gz"


@dataclass(frozen=True)
class Dataset:
    """B labeled texts."""

    texts: list[str]
    labels: np.ndarray  # (B,) int64, values 0..C-1
    class_names: tuple[str, ...]  # C names
    ids: list[str]  # the origin of each text, such as "reviews.csv:17"
    tags: Sequence[str] = ()  # the kind of each text; empty if the source has no tags

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: np.ndarray) -> "Dataset":
        """The texts at `indices`, (M,) int64, in that order."""
        texts, ids = [self.texts[i] for i in indices], [self.ids[i] for i in indices]
        tags = [self.tags[i] for i in indices] if self.tags else ()
        return Dataset(texts, self.labels[indices], self.class_names, ids, tags)

    def fingerprint(self) -> str:
        """The SHA-256 of texts, labels and class names: equal if two runs used the same data."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for text in self.texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        return digest.hexdigest()


class Splits(NamedTuple):
    """The three parts of the data."""

    train: Dataset
    valid: Dataset
    test: Dataset

    def summary(self) -> dict[str, dict[str, int | str]]:
        """For each part its number of texts and its fingerprint, for the settings of a run."""
        return {name: {"texts": len(part), "fingerprint": part.fingerprint()} for name, part in self._asdict().items()}


@dataclass(frozen=True)
class SourceConfig:
    """data"""

    data: str = option("sample", SOURCES)
    text_column: str | None = option(
        None, "column of the texts (default: text, review, sentence or content); title,text joins two"
    )
    label_column: str | None = option(None, "column of the labels (default: label, sentiment, class or target)")
    no_header: bool = option(False, "the first line is data; name columns by number: --text-column 2 --label-column 1")
    delimiter: str | None = option(None, "what separates columns, such as ; or tab; makes a table of any file")
    encoding: str | None = option(None, "such as latin-1 (default: UTF-8, or UTF-16 with a byte-order mark)")

    def __post_init__(self) -> None:
        self.table_format()

    def table_format(self) -> TableFormat:
        """How the files differ from what their suffixes say. Raises UserError for an unknown encoding or delimiter."""
        return TableFormat(self.no_header, self.delimiter, self.encoding)


@dataclass(frozen=True)
class SplitConfig(SourceConfig):
    """data"""

    test_data: str | None = option(None, "file of test texts, if --data has none")
    valid_data: str | None = option(None, "file of validation texts; by default they are split off from train")
    valid_fraction: float = option(0.1, "fraction of train to split off as validation, if the data have none")
    test_fraction: float = option(0.2, "fraction to split off as test, if the data have none")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, lambda value: 0 < value < 1, "strictly between 0 and 1", "valid_fraction", "test_fraction")


@dataclass(frozen=True)
class DataConfig(SplitConfig):
    """data"""

    subset: tuple[float, float] = option((1.0, 1.0), "fraction used, stratified by class", metavar=("TRAIN", "TEST"))
    drop_duplicates: bool = option(False, "remove train texts that also occur in validation or test")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < value <= 1 for value in self.subset):
            raise UserError(f"--subset must be two fractions in (0, 1] (got {self.subset[0]} {self.subset[1]})")


def load_dataset(config: DataConfig | str, seed: int = 0) -> Splits:
    """Read the data and split them. `config` may be a source alone, such as "imdb".

    Validation is split off before the subsets are taken, and a smaller subset is part of a larger one: a text that
    validates a run on 4 % of the data never trains a run on all of it. Raises UserError for rows that cannot be used.
    """
    if isinstance(config, str):
        config = DataConfig(data=config)
    parts: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
    how = (config.text_column, config.label_column, config.table_format())
    for row in read_rows(config.data, *how):
        parts[row.split or "train"].append(row)
    for name, source in (("test", config.test_data), ("valid", config.valid_data)):
        if source:
            parts[name] = read_rows(source, *how)
    if not parts["train"]:
        raise UserError(f"{config.data}: has no training text; mark some rows as split train")

    names = find_class_names(config.data, parts)
    train, valid, test = (to_dataset(rows, names) for rows in parts.values())
    if not len(test):
        train, test = split_off(train, config.test_fraction, [seed, 0], config.data)
    if not len(valid):
        train, valid = split_off(train, config.valid_fraction, [seed, 1], config.data)
    train_fraction, test_fraction = config.subset
    return Splits(
        subsample(train, train_fraction, [seed, 2]),
        subsample(valid, train_fraction, [seed, 3]),
        subsample(test, test_fraction, [seed, 4]),
    )


def describe_splits(splits: Splits) -> str:
    """Format the sizes and classes as `train 22,500, valid 2,500, test 25,000; classes neg, pos`."""
    counts = ", ".join(f"{name} {len(part):,}" for name, part in splits._asdict().items())
    return f"{counts}; classes {list_names(splits.train.class_names)}"


def find_class_names(source: str, parts: dict[str, list[Row]]) -> tuple[str, ...]:
    """The classes of train: sorted by value if all are whole numbers, otherwise by name."""
    names = {row.label for row in parts["train"]}
    by_value: dict[float | str, str] = {}
    for name in sorted(names):
        other = by_value.setdefault(label_value(name), name)
        if other != name:
            raise UserError(f"{source}: labels {other!r} and {name!r} are the same number; write them alike")
    check_labels(parts["valid"] + parts["test"], names, "train")
    if len(names) < 2:
        raise UserError(f"{source}: all labels are {names.pop()!r}; a classifier needs at least two classes")
    whole_numbers = all(name.removeprefix("-").isdecimal() for name in names)
    return tuple(sorted(sorted(names), key=int if whole_numbers else str))


def check_labels(rows: Iterable[Row], names: Collection[str], owner: str) -> None:
    """Raises UserError, naming the row, for a label that is not one of the classes `names` of `owner`."""
    known_names, by_value = set(names), {label_value(name): name for name in names}
    for row in rows:
        if row.label in known_names:
            continue
        if other := by_value.get(label_value(row.label)):
            problem = f"label {row.label!r} is the number {other!r} of {owner}; write them alike"
            raise UserError(f"{row.origin}: {problem}")
        known = list_names(sorted(names))
        raise UserError(f"{row.origin}: label {row.label!r} does not occur in {owner} ({known}); fix the row")


def label_value(name: str) -> float | str:
    """The number that a label writes (`true` is 1, `false` 0), by which labels of one number are found; else itself."""
    try:
        return {"true": 1.0, "false": 0.0}[name] if name in ("true", "false") else float(name)
    except ValueError:
        return name


def to_dataset(rows: list[Row], names: tuple[str, ...]) -> Dataset:
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.array([label_of[row.label] for row in rows], dtype=np.int64)
    tags = [row.tag for row in rows] if any(row.tag for row in rows) else ()
    return Dataset([row.text for row in rows], labels, names, [row.origin for row in rows], tags)


def split_off(dataset: Dataset, fraction: float, seed: list[int], source: str) -> tuple[Dataset, Dataset]:
    """Split by class into (the rest, `fraction` of each class, at least one text). `source` is for error messages."""
    for name, count in zip(dataset.class_names, np.bincount(dataset.labels), strict=True):
        if count < 2:
            raise UserError(f"{source}: class {name!r} has fewer than 2 texts to split; add texts or give all splits")
    indices = sample_by_class(dataset.labels, fraction, seed)
    rest = np.setdiff1d(np.arange(len(dataset)), indices)
    return dataset.subset(rest), dataset.subset(indices)


def subsample(dataset: Dataset, fraction: float, seed: list[int]) -> Dataset:
    return dataset if fraction == 1 else dataset.subset(sample_by_class(dataset.labels, fraction, seed))


def sample_by_class(labels: np.ndarray, fraction: float, seed: list[int]) -> np.ndarray:
    """Sorted indices of `fraction` of each class. For one seed, a smaller fraction is a subset of a larger one."""
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(round(fraction * len(members)), len(members) - 1)
        chosen.append(members[: max(1, count)])  # never none, and all only if there is a single one
    return np.sort(np.concatenate(chosen))
