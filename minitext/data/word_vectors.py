"""Word vectors in text files: read, look up, write.

Inputs: a path, or the name of published vectors. Outputs: V words and their table (V, D) float32. Format: GloVe's
(Pennington, Socher & Manning 2014), one word and its D numbers per line, or word2vec's, with a first line "V D".
"""

import gzip
import io
import zipfile
import zlib
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minitext.utils.download import download_from_hub
from minitext.utils.errors import UserError
from minitext.utils.io import atomic

SAMPLE = Path(__file__).parent / "sample" / "vectors.txt.gz"
PUBLISHED = {  # by name: the zip file in the Hub's repository stanfordnlp/glove, and its member
    **{f"glove.6B.{width}d": ("glove.6B.zip", f"glove.6B.{width}d.txt") for width in (50, 100, 200, 300)},
    # gensim's names of the same vectors
    **{f"glove-wiki-gigaword-{width}": ("glove.6B.zip", f"glove.6B.{width}d.txt") for width in (50, 100, 200, 300)},
    "glove.42B.300d": ("glove.42B.300d.zip", "glove.42B.300d.txt"),
    "glove.840B.300d": ("glove.840B.300d.zip", "glove.840B.300d.txt"),
}
HEAD_LINES = 10  # lines from which the width D is determined
BLOCK_LINES = 4096  # lines converted at once


@dataclass(frozen=True)
class WordVectors:
    """V words, each with a vector."""

    words: list[str]
    table: Tensor  # (V, D) float32

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each word."""
        return {word: row for row, word in enumerate(self.words)}

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k words of highest cosine similarity to `word`, best first, without the word itself."""
        if word not in self.index:
            raise UserError(f"{word!r} is not among the {len(self.words):,} words of these vectors; give another word")
        unit = torch.nn.functional.normalize(self.table)  # (V, D); zeros stay zeros
        similarity = unit @ unit[self.index[word]]  # (V,)
        similarity[self.index[word]] = -torch.inf
        best = similarity.topk(min(k, len(self.words) - 1))
        return [(self.words[i], value) for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def write(self, path: Path, digits: int = 6) -> None:
        """Write the GloVe text format, atomically; gzipped if the name ends in `.gz`."""
        with atomic(path) as temporary, open(temporary, "wb") as raw:
            # no name and no time in the header: the same vectors give the same bytes
            file = gzip.GzipFile("", "wb", 9, raw, 0) if path.suffix == ".gz" else raw
            for word, vector in zip(self.words, self.table.tolist(), strict=True):
                numbers = " ".join(f"{value:.{digits}g}" for value in vector)
                file.write(f"{word} {numbers}\n".encode())
            file.close()


def load_word_vectors(source: str | Path, words: Iterable[str] | None = None) -> WordVectors:
    """Read all word vectors, or those of `words` alone; other lines are then neither converted nor checked.

    `source`: a text file, plain or `.gz`; a `.zip` file, or its member `file.zip:member`; `sample`; or a name of
    published vectors such as `glove.6B.100d`, downloaded once. Raises UserError for a line without D finite numbers.
    """
    path, member = locate_word_vectors(str(source))
    names: list[str] = []
    with open_vectors(path, member) as file:
        first_line, width = read_head(file, path.name)
        tables = [np.empty((0, width), np.float32)]
        lines = read_lines(file, first_line, width, None if words is None else set(words), path.name)
        while block := list(islice(lines, BLOCK_LINES)):
            names += [line.word for line in block]
            tables.append(parse_numbers(block, path.name))
    return WordVectors(names, torch.from_numpy(np.concatenate(tables)))


def locate_word_vectors(source: str) -> tuple[Path, str | None]:
    """The file of a source, and its member if it is a zip file; published vectors are downloaded if necessary."""
    if source == "sample":
        return SAMPLE, None
    if source in PUBLISHED:
        name, member = PUBLISHED[source]
        return download_from_hub("stanfordnlp/glove", name), member
    path, _, member = source.partition(".zip:")
    path = Path(path + ".zip" if member else source)
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a path, or one of: sample, {', '.join(PUBLISHED)}")
    return path, member or None


@contextmanager
def open_vectors(path: Path, member: str | None) -> Iterator[BinaryIO]:
    """Open the text file itself, unpacked if necessary."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(zip_member(archive, path, member)) as file:
                yield io.BufferedReader(file)
        else:
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
                yield io.BufferedReader(file)
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from error


def zip_member(archive: zipfile.ZipFile, path: Path, member: str | None) -> str:
    """The named member, or the only text file."""
    names = archive.namelist()
    texts = [name for name in names if name.endswith(".txt")]
    if member is None and len(texts) == 1:
        return texts[0]
    if member not in names:
        raise UserError(f"{path}: contains {', '.join(names)}; name one of them after a colon ({path}:NAME)")
    return member


def read_head(file: BinaryIO, name: str) -> tuple[int, int]:
    """Skip a header, and leave `file` at its first vector. Returns the number of that line, from 1, and the width D."""
    first_line = file.readline()
    begin = len(BOM_UTF8) if first_line.startswith(BOM_UTF8) else 0
    fields = first_line[begin:].rstrip().split(b" ")
    if fields == [b""]:
        raise UserError(f"{name}, line 1: the file is empty or starts with an empty line; give a file of word vectors")
    header = len(fields) == 2 and all(field.isdigit() for field in fields)
    start = file.tell() if header else begin
    file.seek(start)
    widths = Counter(count_numbers(line) for line in islice(file, HEAD_LINES))
    file.seek(start)
    if not header:
        width = max(widths, key=lambda width: (widths[width], width))  # most lines decide
        if not width:
            raise UserError(f"{name}, line 1: expected a word and its numbers; give a file in the GloVe text format")
        return 1, width
    width = int(fields[1])
    if width < 1 or widths and width not in widths:
        found = max(widths, default=0)
        raise UserError(f"{name}, line 1: header declares dimension {width} but rows have {found}; fix the header")
    return 2, width


def count_numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers; counted from the right, since a word may contain spaces."""
    fields = line.rstrip().split(b" ")[1:]
    for count, field in enumerate(reversed(fields)):
        try:
            float(field)
        except ValueError:
            return count
    return len(fields)


class Line(NamedTuple):
    """A line of the file."""

    number: int  # from 1
    word: str
    numbers: bytes  # D numbers, separated by spaces


def read_lines(file: BinaryIO, first_line: int, width: int, wanted: set[str] | None, name: str) -> Iterator[Line]:
    """Yield the lines of the `wanted` words, or all; of two lines with the same word only the first."""
    first_fields = None if wanted is None else {word.split(" ")[0].encode("utf-8", "replace") for word in wanted}
    seen: set[str] = set()
    for number, line in enumerate(file, first_line):
        raw_word, _, numbers = line.rstrip().partition(b" ")
        if first_fields is not None and raw_word not in first_fields:
            continue
        if not numbers or numbers.count(b" ") != width - 1:  # a word with spaces, or a broken line
            raw_word, *fields = line.rstrip().rsplit(b" ", width)
            if len(fields) < width:
                problem = f"expected a word and {width} numbers, found {len(fields)}"
                raise UserError(f"{name}, line {number}: {problem}; fix or remove the line")
            numbers = b" ".join(fields)
        if not raw_word:
            raise UserError(f"{name}, line {number}: expected a word before its numbers; remove the line")
        word = raw_word.decode("utf-8", "replace")
        if word not in seen and (wanted is None or word in wanted):
            seen.add(word)
            yield Line(number, word, numbers)


def parse_numbers(lines: list[Line], name: str) -> np.ndarray:
    """Convert the numbers of lines to (lines, D) float32. Raises UserError for what is no finite number."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, an error below
        try:
            table = np.loadtxt([line.numbers for line in lines], np.float32, comments=None, delimiter=" ", ndmin=2)
        except ValueError:  # numpy does not know the file's line: convert one by one
            rows = ((line.numbers.split(b" "), f"{name}, line {line.number}") for line in lines)
            table = np.array([[to_float(field, place) for field in fields] for fields, place in rows], np.float32)
    finite = np.isfinite(table).all(axis=1)  # (lines,)
    if not finite.all():
        number = lines[finite.argmin()].number
        raise UserError(f"{name}, line {number}: the vector has NaN or infinity; fix or remove the line")
    return table


def to_float(field: bytes, place: str) -> float:
    """Convert one number. Raises UserError with `place` for what is no number."""
    try:
        return float(field)
    except ValueError as error:
        shown = field.decode("utf-8", "replace")
        raise UserError(f"{place}: {shown!r} is not a number; fix or remove the line") from error
