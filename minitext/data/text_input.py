"""Bytes to text: every file of texts is opened, unpacked and decoded here.

Inputs: a path, or an open binary file. Outputs: lines, read one by one. Memory is bounded by one line, and a line, a
field and a text by `MAX_TEXT` characters, so that no file can fill the memory by what it unpacks to.
"""

import codecs
import gzip
import io
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minitext.utils.errors import UserError

MAX_TEXT = 1 << 24  # characters: five times "War and Peace"
MAX_RATIO = 100  # unpacked to packed bytes; text has 3 to 10, a gzip bomb has 1,000
MIN_BOUND = 1 << 24  # bytes that may be unpacked whatever the ratio
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, lzma.LZMAError, struct.error)
HEAD = 1024  # bytes that decide what a file is
GZIP = b"\x1f\x8b"
BOMS = {  # the longer one first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class Unreadable(NamedTuple):
    """A kind of file that is not text."""

    kind: str
    magic: bytes  # its first bytes; b"" if only the suffix is known
    suffixes: tuple[str, ...]
    remedy: str


PANDAS = "convert it with pandas: read_{}(…).to_csv('texts.csv', index=False)"
UNREADABLE = (
    Unreadable("a Parquet file", b"PAR1", (".parquet", ".pq"), PANDAS.format("parquet")),
    Unreadable("an Arrow file", b"ARROW1", (".arrow", ".feather"), PANDAS.format("feather")),
    Unreadable("an Excel workbook", b"\xd0\xcf\x11\xe0", (".xlsx", ".xls"), "save it as CSV UTF-8"),
    Unreadable("a zip archive or an Excel workbook", b"PK\x03\x04", (".zip",), "unpack it, or save it as CSV UTF-8"),
    Unreadable("packed with bzip2", b"BZh91AY&SY", (".bz2",), "unpack it, or pack it with gzip"),
    Unreadable("packed with xz", b"\xfd7zXZ\x00", (".xz",), "unpack it, or pack it with gzip"),
    Unreadable("packed with Zstandard", b"\x28\xb5\x2f\xfd", (".zst",), "unpack it, or pack it with gzip"),
    Unreadable("a 7z archive", b"7z\xbc\xaf\x27\x1c", (".7z",), "unpack it"),
    Unreadable("a tar archive", b"", (".tar",), "unpack it"),
    Unreadable("a PDF document", b"%PDF-", (".pdf",), "save its text"),
    Unreadable("a SQLite database", b"SQLite format 3", (".sqlite", ".db"), "export its table as CSV"),
    Unreadable("a pickle", b"", (".pkl", ".pickle"), PANDAS.format("pickle")),
)


def check_regular(path: Path) -> None:
    """Raise UserError unless `path` is a regular file: a pipe or a device may block, or never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path}: no such file") from error
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder; give a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is a pipe, a socket or a device; copy its content to a file and give that file")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading bytes."""
    check_regular(path)
    return open(path, "rb")


class BoundedReader(io.RawIOBase):
    """Reads `file`, and raises UserError where it is damaged or unpacks to too much. Closing it leaves `file` open.

    `packed_size` returns the number of packed bytes (so far) if `file` unpacks them.
    """

    def __init__(self, file: BinaryIO, name: str, packed_size: Callable[[], int] | None = None):
        self.name, self.num_bytes, self.packed_size = name, 0, packed_size
        self.read_some = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        try:
            data = self.read_some(len(buffer))
        except (*DAMAGE, OSError) as error:
            if getattr(error, "errno", None) is not None:  # the disk; bz2 raises an OSError without a number
                raise
            raise UserError(f"{self.name}: damaged or cut short ({error}); copy or compress it again") from error
        self.num_bytes += len(data)
        if self.packed_size and self.num_bytes > max(MIN_BOUND, MAX_RATIO * self.packed_size()):
            problem = f"unpacks to more than {MAX_RATIO} times its size, as no text does"
            raise UserError(f"{self.name}: {problem}; if it is one, unpack it and give the unpacked file")
        buffer[: len(data)] = data
        return len(data)


def unpack(file: BinaryIO, name: str, gzipped: bool | None = None) -> io.BufferedReader:
    """The bytes of an open file, unpacked if `gzipped` (None: if it begins as gzip does, or is named `.gz`)."""
    raw = BoundedReader(file, name)
    packed = io.BufferedReader(raw, 1 << 16)
    if gzipped is None:
        gzipped = name.endswith(".gz") or packed.peek(2).startswith(GZIP)
    if not gzipped:
        return packed
    unpacked = BoundedReader(gzip.GzipFile(fileobj=packed), name, lambda: raw.num_bytes)
    return io.BufferedReader(unpacked, 1 << 16)


def read_lines(
    file: BinaryIO, name: str, encoding: str | None = None, strict: bool = True, newline: str | None = None
) -> Iterator[str]:
    """Yield the lines of an open file with their ends, unpacked if it is gzipped.

    `encoding`: by default UTF-8, or UTF-16 or UTF-32 with a byte-order mark. `newline` is that of `open`: None ends
    lines at \\n, \\r\\n and \\r and writes them as \\n, "" leaves them as they are, "\\n" ends lines at \\n alone.
    Bytes that cannot be decoded raise UserError if `strict`, otherwise they become U+FFFD.
    """
    data = unpack(file, name)
    head = data.peek(HEAD)[:HEAD]
    check_readable(name, head, encoding)
    encoding = encoding or next((codec for bom, codec in BOMS.items() if head.startswith(bom)), "utf-8")
    text = io.TextIOWrapper(data, encoding, "minitext.mark" if strict else "replace", newline)
    number = 0
    try:
        while line := text.readline(MAX_TEXT + 1):
            number += 1
            if len(line) > MAX_TEXT:
                raise UserError(f"{name}, line {number}: longer than {MAX_TEXT:,} characters; break the line up")
            if strict:
                line.encode()  # raises an error for the marks of `mark_undecodable`
            yield line.lstrip("\ufeff") if number == 1 else line
    except UnicodeEncodeError as error:
        byte = ord(line[error.start]) - 0xDC00
        problem = f"byte {byte:#04x} is not {encoding.upper()}"
        raise UserError(f"{name}, line {number}: {problem}; pass its --encoding, or save the file as UTF-8") from error
    except UnicodeError as error:  # some codecs know no error handlers
        raise UserError(f"{name}, line {number + 1}: not {encoding} ({error}); pass another --encoding") from error


def mark_undecodable(error: UnicodeError) -> tuple[str, int]:
    """A handler of codec errors: the byte becomes a lone surrogate, which no codec gives for text."""
    return chr(0xDC00 + error.object[error.start]), error.end


codecs.register_error("minitext.mark", mark_undecodable)


def check_readable(name: str, head: bytes, encoding: str | None) -> None:
    """Raise UserError for a file that is not text, by its first bytes or by its suffix."""
    suffix = Path(name.removesuffix(".gz")).suffix.lower()
    for entry in UNREADABLE:
        if suffix in entry.suffixes or entry.magic and head.startswith(entry.magic):
            raise UserError(f"{name}: is {entry.kind}, not text; {entry.remedy}")
    if b"\0" in head and not encoding and not head.startswith(tuple(BOMS)):
        raise UserError(f"{name}: is binary, or UTF-16 without a byte-order mark; for that, pass --encoding utf-16-le")


def check_encoding(encoding: str) -> None:
    """Raise UserError for an unknown encoding, or one that does not turn bytes into text, such as base64."""
    try:
        "a".encode(encoding)
    except (LookupError, ValueError) as error:
        known = "such as latin-1, cp1252, utf-16, gb18030 or shift_jis"
        raise UserError(
            f"--encoding {encoding}: not an encoding of text that Python knows; pass one {known}"
        ) from error


def read_text(path: Path, encoding: str | None = None) -> str:
    """The text of a whole file, with its line ends as they are."""
    parts, size = [], 0
    with open_regular(path) as file:
        for line in read_lines(file, str(path), encoding, newline=""):
            parts.append(line)
            size += len(line)
            if size > MAX_TEXT:
                raise UserError(f"{path}: a text of more than {MAX_TEXT:,} characters; split it into several files")
    return "".join(parts)


def replace_surrogates(text: str) -> str:
    r"""Replace halves of characters, such as JSON's "\ud83d", by U+FFFD: files and tokenizers accept none."""
    return text if text.isascii() else LONE_SURROGATES.sub("\ufffd", text)
