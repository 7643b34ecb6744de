"""Word vectors in text files (Pennington, Socher & Manning 2014, "GloVe"): read, look up, write.

In: a path, or the name of a public table. Out: words and a (V, D) float32 table. A whole file that was read once is
afterwards mapped from a cache; asked for only a corpus's own words, reading converts only their lines.
"""

import gzip
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from minitext.data import glove_cache
from minitext.data.glove_text import Block, keep_lines, parse_blocks, read_blocks
from minitext.utils.download import Remote, fetch
from minitext.utils.errors import UserError
from minitext.utils.io import atomic, cache_folder

HEAD = 10  # lines that are looked at to find the width: most of them decide
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
GLOVE_6B = Remote(
    "https://nlp.stanford.edu/data/glove.6B.zip", 862_182_613, "056ea991adb4740ac6bf1b6d9b50408b"
)  # 400,000 words from Wikipedia 2014 and Gigaword 5
GIGAWORD = "https://github.com/RaRe-Technologies/gensim-data/releases/download/{0}/{0}.gz"
NAMED = {f"glove.6B.{width}d": GLOVE_6B for width in (50, 100, 200, 300)} | {
    name: Remote(GIGAWORD.format(name), size, md5)  # the same vectors, one width a file, with a header line
    for name, size, md5 in (
        ("glove-wiki-gigaword-50", 69_182_535, "c289bc5d7f2f02c6dc9f2f9b67641813"),
        ("glove-wiki-gigaword-100", 134_300_434, "40ec481866001177b8cd4cb0df92924f"),
        ("glove-wiki-gigaword-200", 264_336_934, "59652db361b7a87ee73834a6c391dfc1"),
        ("glove-wiki-gigaword-300", 394_362_229, "29e9329ac2241937d55b852e8284e89b"),
    )
}
SAMPLE = Path(__file__).parent / "sample" / "vectors.txt.gz"


@dataclass(frozen=True)
class Vectors:
    """V words with a vector each."""

    words: list[str]
    table: Tensor  # (V, D) float32
    duplicates: int = 0  # lines left out because their word had come before
    replaced: int = 0  # words with bytes that are not UTF-8; those became U+FFFD

    @cached_property
    def index(self) -> dict[str, int]:
        """Each word's row."""
        return dict(zip(self.words, range(len(self.words)), strict=True))

    def nearest(self, word: str, k: int = 10) -> list[tuple[str, float]]:
        """The k words of highest cosine similarity to `word`, best first, without the word itself."""
        if word not in self.index:
            raise UserError(f"{word!r} is not among the {len(self.words):,} words of these vectors")
        norms = self.table.norm(dim=1).clamp_min(1e-12)
        row = self.index[word]
        similarity = (self.table @ self.table[row]) / (norms * norms[row])  # (V,)
        similarity[row] = -torch.inf
        best = similarity.topk(min(k, len(self.words) - 1))
        return [(self.words[i], value) for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def write(self, path: Path, digits: int = 6) -> None:
        """Write the GloVe text format, atomically; gzipped when the name ends in `.gz`."""
        with atomic(path) as temporary:
            compressed = path.suffix == ".gz"
            # no name and no time inside: the same vectors give the same bytes
            with open(temporary, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) if compressed else raw as file:
                for word, vector in zip(self.words, self.table.tolist(), strict=True):
                    numbers = " ".join(f"{value:.{digits}g}" for value in vector)
                    file.write(f"{word} {numbers}\n".encode())


def read(source: str | Path, words: Iterable[str] | None = None, cache: bool = True) -> Vectors:
    """Read vectors from a text file, plain, `.gz`, or a `.zip`'s member (`file.zip:member`), or by name from `NAMED`.

    With `words`, only theirs are read: other lines are neither converted nor checked. Without, a whole file is kept in
    the cache folder for the next time (`cache=False` neither looks there nor writes).

    Raises UserError, with file and line, for a line with too few numbers or with something that is no finite number.
    """
    path, member = locate(str(source))
    stored = glove_cache.load(path, member) if cache else None
    if stored is None:
        vectors = read_text(path, member, None if words is None else set(words))
        if cache and words is None:
            glove_cache.save(path, member, vectors.words, vectors.table, (vectors.duplicates, vectors.replaced))
        return vectors
    vectors = Vectors(stored.words, stored.table, *stored.notes)
    if words is None:
        return vectors
    wanted = set(words)
    rows = [row for row, word in enumerate(vectors.words) if word in wanted]
    return Vectors([vectors.words[row] for row in rows], vectors.table[rows], *stored.notes)


def locate(source: str) -> tuple[Path, str | None]:
    """The file behind a source, and the zip member in it: a public table is downloaded where the cache lacks it."""
    if source == "sample":
        return SAMPLE, None
    if source in NAMED:
        remote = NAMED[source]
        path = fetch(remote, cache_folder() / remote.url.rsplit("/", 1)[-1])
        return path, f"{source}.txt" if path.suffix == ".zip" else None
    path, _, member = source.partition(".zip:")
    path = Path(path + ".zip" if member else source)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; give a path, or one of: sample, {', '.join(NAMED)}")
    return path, member or None


def read_text(path: Path, member: str | None, wanted: set[str] | None) -> Vectors:
    """Convert the file's lines; the first of two lines with the same word wins."""
    with open_vectors(path, member) as file:
        first_line, promised, width = read_head(file, path.name)
        blocks: Iterable[Block] = read_blocks(file, first_line)
        if wanted is not None:
            blocks = keep_lines(blocks, {word.split(" ")[0].encode("utf-8", "replace") for word in wanted})
        table = np.empty((1 << 14, width), dtype=np.float32)
        index: dict[str, int] = {}
        duplicates = replaced = 0
        for rows in parse_blocks(blocks, width, path.name):
            size, fresh = len(index), []
            for row, raw in enumerate(rows.words):
                word = raw.decode("utf-8", "replace")
                if wanted is not None and word not in wanted:
                    continue  # only the first field of a longer token was among the wanted words
                if word in index:
                    duplicates += 1
                else:
                    index[word] = len(index)
                    fresh.append(row)
                    replaced += "\ufffd" in word
            while len(index) > len(table):  # grown in place (realloc), so that the table never stands twice in memory
                table.resize((2 * len(table), width), refcheck=False)
            table[size : len(index)] = rows.table[fresh]
    if wanted is None and promised not in (None, len(index) + duplicates):
        raise UserError(
            f"{path.name}, line 1: the header promises {promised:,} vectors, the file holds "
            f"{len(index) + duplicates:,}; download it again"
        )
    table.resize((len(index), width), refcheck=False)
    return Vectors(list(index), torch.from_numpy(table), duplicates, replaced)


@contextmanager
def open_vectors(path: Path, member: str | None) -> Iterator[BinaryIO]:
    """The bytes of the text file itself, whatever it is wrapped in."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                yield io.BufferedReader(file)
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive, archive.open(zip_member(archive, path, member)) as file:
                yield io.BufferedReader(file)
        else:
            with open(path, "rb") as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download it again") from error


def zip_member(archive: zipfile.ZipFile, path: Path, member: str | None) -> str:
    """The named member, else the only text file."""
    names = [name for name in archive.namelist() if name.endswith(".txt")]
    if member is None and len(names) == 1:
        return names[0]
    if member not in archive.namelist():
        raise UserError(
            f"{path}: name one of its members, such as {path}:{names[0] if names else 'vectors.txt'}; "
            f"it holds: {', '.join(archive.namelist())}"
        )
    return member


def read_head(file: BinaryIO, name: str) -> tuple[int, int | None, int]:
    """Leave `file` at its first vector; returns (that line's number, words promised by a header or None, width D)."""
    start = len(BYTE_ORDER_MARK) if file.read(3) == BYTE_ORDER_MARK else 0
    file.seek(start)
    line = file.readline().rstrip(b" \r\n")
    fields = line.split(b" ")
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        start, promised, width = file.tell(), int(fields[0]), int(fields[1])
        found = {count_numbers(line) for line in islice(file, HEAD)}
        file.seek(start)
        if width < 1 or found and width not in found:
            raise UserError(
                f"{name}, line 1: the header promises {width} numbers a word, the lines hold {max(found, default=0)}; "
                "mend the header"
            )
        return 2, promised, width
    if not line:
        raise UserError(f"{name}, line 1: the file is empty or opens with an empty line; give a file of word vectors")
    widths = Counter(count_numbers(line) for line in (line, *islice(file, HEAD - 1)))
    file.seek(start)
    width = max(widths, key=lambda width: (widths[width], width))
    if not width:
        raise UserError(f"{name}, line 1: expected a word and its numbers; give a file in the GloVe text format")
    return 1, None, width


def count_numbers(line: bytes) -> int:
    """How many fields at the end of a line are numbers; counted from the right, since a word may hold spaces."""
    fields = line.rstrip(b" \r\n").split(b" ")[1:]
    return next((count for count, field in enumerate(reversed(fields)) if not is_number(field)), len(fields))


def is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
