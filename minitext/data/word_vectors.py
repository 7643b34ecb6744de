"""Word vectors in text files: read, look up, write.

Inputs: a path, or the name of published vectors. Outputs: V words and their table (V, D) float32. Format: GloVe's
(Pennington, Socher & Manning 2014), one word and its D numbers per line, or word2vec's, with a first line "V D".
"""

import gzip
import io
import zipfile
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minitext.data.text_input import DAMAGE, BoundedReader, check_regular, open_regular, unpack
from minitext.utils.download import download_from_hub
from minitext.utils.errors import UserError
from minitext.utils.io import atomic
from minitext.utils.terminal import note

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
BLOCK_NUMBERS = 1 << 21  # numbers converted at once: 8 MiB
MAX_LINE = 1 << 20  # bytes
MAX_WIDTH = 1 << 14  # numbers of a vector; published ones have 25 to 4,096
MAX_INT = 10**18
MAX_SHOWN = 10  # members of a zip file in the message of an error
NOT_VECTORS = "give a file of word vectors in the GloVe text format, or word2vec's"
CONVERT = "gensim's KeyedVectors.load_word2vec_format('x.bin', binary=True).save_word2vec_format('x.txt')"


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
        lines = raw_lines(file, path.name)
        head = list(islice(lines, HEAD_LINES + 1))
        header = read_head([single_spaces(line) for line in head], path.name)
        tables = [np.empty((0, header.width), np.float32)]
        lines = chain(head[header.first_line - 1 :], lines)
        found = read_vector_lines(lines, header, None if words is None else set(words), path.name)
        while block := list(islice(found, max(1, min(BLOCK_LINES, BLOCK_NUMBERS // header.width)))):
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
    if not path.exists():
        raise UserError(f"{path}: no such file; give a path, or one of: sample, {', '.join(PUBLISHED)}")
    check_regular(path)
    return path, member or None


@contextmanager
def open_vectors(path: Path, member: str | None) -> Iterator[BinaryIO]:
    """Open the text file itself, unpacked if necessary."""
    with open_regular(path) as file:
        if path.suffix != ".zip":
            yield unpack(file, str(path))
            return
        try:
            archive = zipfile.ZipFile(file)
            info = zip_member(archive, path, member)
            unpacked = archive.open(info)
        except (*DAMAGE, NotImplementedError, ValueError) as error:
            problem = f"damaged, or packed by a method that Python lacks ({error})"
            raise UserError(f"{path}: {problem}; download it again, or unpack it") from error
        with archive, unpacked:
            yield io.BufferedReader(BoundedReader(unpacked, str(path), lambda: info.compress_size))


def zip_member(archive: zipfile.ZipFile, path: Path, member: str | None) -> zipfile.ZipInfo:
    """The named member, or the only file that is a table of vectors."""
    files = [info for info in archive.infolist() if not info.is_dir() and not info.filename.startswith("__MACOSX/")]
    tables = [info for info in files if info.filename.endswith((".txt", ".vec"))] or files
    found = [info for info in files if info.filename == member] if member else tables
    if len(found) != 1:
        names = ", ".join(info.filename for info in files[:MAX_SHOWN]) or "no file"
        raise UserError(f"{path}: contains {names}; name one of them after a colon ({path}:NAME)")
    if found[0].flag_bits & 1:
        raise UserError(f"{path}: {found[0].filename} is encrypted; unpack it with its password, and give that file")
    return found[0]


class Header(NamedTuple):
    """The sizes of a table of vectors."""

    first_line: int  # the line of the first vector, from 1
    width: int  # D
    num_words: int | None  # V, if the file has a header


def raw_lines(file: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the lines of a file of vectors, without a byte-order mark. Raises UserError for one that is too long."""
    for number in count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise UserError(f"{name}, line {number}: longer than {MAX_LINE:,} bytes; {NOT_VECTORS}")
        yield line.removeprefix(BOM_UTF8) if number == 1 else line


def single_spaces(line: bytes) -> bytes:
    """A line without its end, with single spaces for tabs and repeated spaces."""
    line = line.rstrip()
    if b"\t" in line or b"  " in line:
        line = (b" " if line[:1].isspace() else b"") + b" ".join(line.split())
    return line


def read_head(lines: list[bytes], name: str) -> Header:
    """The width D from a header `V D` and the first lines; most lines decide. Raises UserError for other files."""
    fields = lines[0].split(b" ") if lines else [b""]
    if fields == [b""]:
        raise UserError(f"{name}, line 1: the file is empty or starts with an empty line; give a file of word vectors")
    has_header = len(fields) == 2 and all(field.isdigit() for field in fields)
    widths = Counter(count_numbers(line) for line in lines[1 if has_header else 0 :])
    found = max(widths, key=lambda width: (widths[width], width), default=0)
    if any(b"\0" in line for line in lines) or not found and (name.endswith(".bin") or has_header and widths):
        raise UserError(f"{name}: is binary, perhaps word2vec's or fastText's format; convert it to text: {CONVERT}")
    if not has_header:
        if not found:
            raise UserError(f"{name}, line 1: expected a word and its numbers; {NOT_VECTORS}")
        return Header(1, checked_width(found, name), None)
    num_words, width = (int(field) if len(field) < 19 else MAX_INT for field in fields)
    width = checked_width(width, name)
    if widths and width not in widths:
        raise UserError(f"{name}, line 1: header declares dimension {width} but rows have {found}; fix the header")
    return Header(2, width, num_words)


def checked_width(width: int, name: str) -> int:
    """The width. Raises UserError if no word vectors have so many numbers."""
    if not 1 <= width <= MAX_WIDTH:
        shown = f"{width:,}" if width < MAX_INT else "a number of more than 18 digits"
        raise UserError(f"{name}, line 1: the dimension is {shown}, expected 1 to {MAX_WIDTH:,}; {NOT_VECTORS}")
    return width


def count_numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers; counted from the right, since a word may contain spaces."""
    fields = line.split(b" ")[1:]
    for number, field in enumerate(reversed(fields)):
        try:
            float(field)
        except ValueError:
            return number
    return len(fields)


class Line(NamedTuple):
    """A line of the file."""

    number: int  # from 1
    word: str
    numbers: bytes  # D numbers, separated by spaces


def read_vector_lines(lines: Iterable[bytes], header: Header, wanted: set[str] | None, name: str) -> Iterator[Line]:
    """Yield the lines of the `wanted` words, or all; of two lines with the same word only the first."""
    width, number = header.width, header.first_line - 1
    first_fields = None if wanted is None else {word.split(" ")[0].encode("utf-8", "replace") for word in wanted}
    seen: set[str] = set()
    for number, line in enumerate(lines, header.first_line):
        raw_word, _, numbers = line.partition(b" ")
        if b"\t" in raw_word or not numbers:
            raw_word = single_spaces(line).partition(b" ")[0]
        if first_fields is not None and raw_word not in first_fields:
            continue
        line = single_spaces(line)
        raw_word, _, numbers = line.partition(b" ")
        if not numbers or numbers.count(b" ") != width - 1:  # a word with spaces, or a broken line
            raw_word, *fields = line.rsplit(b" ", width)
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
    found = number - header.first_line + 1
    if header.num_words is not None and found != header.num_words:
        note(f"{name}: the header declares {header.num_words:,} vectors, the file has {found:,}; it may be cut short")


def parse_numbers(lines: list[Line], name: str) -> np.ndarray:
    """Convert the numbers of lines to (lines, D) float32. Raises UserError for what is no finite number."""
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinity, an error below
        try:
            table = np.loadtxt([line.numbers for line in lines], np.float32, comments=None, delimiter=" ", ndmin=2)
            if len(table) != len(lines):  # a line end inside a line
                raise ValueError
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
