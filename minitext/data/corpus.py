"""Unlabeled texts for word vectors and language models, without those that later validate or test a classifier.

Inputs: sources of texts. Outputs: their texts. The parts that a training script with the same source, seed and split
options uses for validation and test are left out, and so is every other text with the same words as one of them.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from minitext.data.dataset import DataConfig, SplitConfig, load_dataset
from minitext.data.duplicates import words_digest
from minitext.data.imdb import imdb_archive, read_imdb_unlabeled
from minitext.data.readers import read_unlabeled
from minitext.utils.config import option


@dataclass(frozen=True)
class CorpusConfig(SplitConfig):
    """data"""

    data: tuple[str, ...] = option(("sample",), "labeled texts, or .txt files with one text per line", metavar="DATA")
    keep_duplicates: bool = option(False, "keep texts with the same words as one that validates or tests")


def load_corpus(config: CorpusConfig, seed: int) -> tuple[list[str], str]:
    """The texts of all sources, and a line that counts what was left out. Texts without any word character are kept.

    Of labeled texts only the training part is used; of the IMDB archive also the reviews without a label.
    """
    texts: list[str] = []
    held_out: list[str] = []
    for source in config.data:
        used, unused = read_source(source, config, seed)
        texts += used
        held_out += unused
    kept = texts if config.keep_duplicates else drop_duplicates(texts, held_out)
    duplicates = len(texts) - len(kept)
    return kept, f"{len(kept):,} texts; left out: {len(held_out):,} that validate or test, {duplicates:,} duplicates"


def read_source(source: str, config: CorpusConfig, seed: int) -> tuple[list[str], list[str]]:
    """The texts of one source that may be used, and those of its validation and test parts."""
    if source.endswith((".txt", ".txt.gz")):
        return read_unlabeled(Path(source), config.encoding), []
    if source == "imdb":
        source = str(imdb_archive())
    options = {entry.name: getattr(config, entry.name) for entry in fields(SplitConfig)} | {"data": source}
    train, valid, test = load_dataset(DataConfig(**options), seed)
    unlabeled = read_imdb_unlabeled(Path(source)) if source.endswith((".tar.gz", ".tgz")) else []
    return train.texts + unlabeled, valid.texts + test.texts


def drop_duplicates(texts: list[str], others: list[str]) -> list[str]:
    """The texts whose words are not those of one of `others`."""
    digests = {words_digest(text) for text in others} - {words_digest("")}
    return [text for text in texts if words_digest(text) not in digests]
