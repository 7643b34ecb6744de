"""Where labelled texts come from: tables (CSV, TSV, JSONL), folders of text files, the IMDB archive.

In: a path. Out: rows that know the place they came from, so that any later complaint can name it.
"""

import csv
import gzip
import html
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from minitext.utils.download import Remote, fetch
from minitext.utils.errors import UserError
from minitext.utils.io import cache_folder

IMDB = Remote(  # Maas et al. 2011, "Learning Word Vectors for Sentiment Analysis"
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", 84_125_825, "7c2ac02c03563afcf9b574c7e56c153a"
)
SAMPLE = Path(__file__).parent / "sample" / "reviews.jsonl"
TEXT_COLUMNS = ("text", "review", "sentence", "content")
LABEL_COLUMNS = ("label", "sentiment", "class", "target")
SPLIT_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Row(NamedTuple):
    """One labelled text as it was found."""

    place: str  # "reviews.csv:17" or "test/pos/0_10.txt"
    text: str
    label: str
    split: str = ""  # "train", "valid", "test", or "" where the source does not say
    tag: str = ""  # what kind of text it is, where a table has a column `tag`


def read_rows(source: str, text_column: str | None = None, label_column: str | None = None) -> list[Row]:
    """Read every labelled text of `source`: `sample`, `imdb`, a table, a folder, or the IMDB archive."""
    if source == "imdb":
        return read_imdb_archive(imdb_archive())
    path = SAMPLE if source == "sample" else Path(source)
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; give a path, or one of: sample, imdb")
    if path.is_dir():
        rows = read_folder(path)
    elif path.name.endswith((".tar.gz", ".tgz")):
        rows = read_imdb_archive(path)
    else:
        rows = read_table(path, text_column, label_column)
    if not rows:
        raise UserError(f"{path}: holds no labelled text")
    return rows


def imdb_archive() -> Path:
    """The public IMDB archive in the cache, downloaded when it is not there."""
    return fetch(IMDB, cache_folder() / "aclImdb_v1.tar.gz")


# Tables


def read_table(path: Path, text_column: str | None, label_column: str | None) -> list[Row]:
    """Read a `.csv`, `.tsv` or `.jsonl` file, each optionally with `.gz`."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in (*TABLE_DELIMITERS, ".jsonl"):
        raise UserError(f"{path}: unknown kind {kind!r}; minitext reads .csv, .tsv, .jsonl (each also .gz) and .tar.gz")
    content = read_text(path)
    records = json_records(path, content) if kind == ".jsonl" else csv_records(path, content, TABLE_DELIMITERS[kind])
    rows, text_key, label_key = [], None, None
    for line, record in records:
        if text_key is None:  # the first record shows the columns
            text_key = find_column(path, list(record), text_column, TEXT_COLUMNS, "--text-column")
            label_key = find_column(path, list(record), label_column, LABEL_COLUMNS, "--label-column")
            split_key, tag_key = (
                next((name for name in record if name.lower() == column), None) for column in ("split", "tag")
            )
        place = f"{path.name}:{line}"
        for key in (text_key, label_key):
            if not isinstance(record.get(key), str | int | float):
                raise UserError(f"{path}, line {line}: no value for {key!r}; complete the row or remove it")
        label = str(record[label_key]).strip()
        if not label:
            raise UserError(f"{path}, line {line}: the label is empty; fill {label_key!r} or remove the row")
        split = str(record.get(split_key) or "").strip().lower() if split_key else ""
        if split and split not in SPLIT_NAMES:
            raise UserError(f"{path}, line {line}: split {split!r} is none of {', '.join(SPLIT_NAMES)}")
        tag = str(record.get(tag_key) or "").strip() if tag_key else ""
        rows.append(Row(place, str(record[text_key]), label, SPLIT_NAMES.get(split, ""), tag))
    return rows


def csv_records(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, dict]]:
    """Yield (line number, record) of a delimited table whose first row names the columns."""
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if None in record:
                raise UserError(
                    f"{path}, line {reader.line_num}: more fields than the {len(record) - 1} columns of the header; "
                    "put quotes around texts that hold the delimiter"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: {error}") from error  # the line that could not be read


def json_records(path: Path, content: str) -> Iterator[tuple[int, dict]]:
    """Yield (line number, record) of a file with one JSON object a line; blank lines are passed over."""
    for line, string in enumerate(content.split("\n"), start=1):  # splitlines would break at U+2028 inside a string
        if not string.strip():
            continue
        try:
            record = json.loads(string)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(record, dict):
            raise UserError(f'{path}, line {line}: expected an object such as {{"text": …, "label": …}}')
        yield line, record


def find_column(path: Path, columns: list[str], wanted: str | None, usual: tuple[str, ...], flag: str) -> str:
    """The column named by the user, else the first of the usual names that the table has."""
    by_lower_name = {column.lower(): column for column in reversed(columns)}
    for name in (wanted,) if wanted else usual:
        if name.lower() in by_lower_name:
            return by_lower_name[name.lower()]
    sought = repr(wanted) if wanted else "any of " + ", ".join(usual)
    raise UserError(f"{path}, line 1: no column {sought} among: {', '.join(columns)}; name it with {flag}")


def read_text(path: Path) -> str:
    """A whole file, gunzipped by its name, as UTF-8 with or without a byte-order mark."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); copy or compress it again") from error
    return decode(str(path), data)


def decode(place: str, data: bytes) -> str:
    """UTF-8 with or without a byte-order mark; the error names `place` and the line in it."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{place}, line {line}: byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        ) from error


# Folders


def read_folder(folder: Path) -> list[Row]:
    """Read `folder/<class>/*.txt`, or `folder/<split>/<class>/*.txt`; the unpacked IMDB is of the second kind."""
    subfolders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    splits = [entry for entry in subfolders if entry.name.lower() in SPLIT_NAMES]
    imdb = all((folder / split / label).is_dir() for split in ("train", "test") for label in ("pos", "neg"))
    rows = []
    for split_folder in splits or [folder]:
        split = SPLIT_NAMES[split_folder.name.lower()] if splits else ""
        for class_folder in sorted(entry for entry in split_folder.iterdir() if entry.is_dir()):
            if imdb and class_folder.name == "unsup":
                continue
            for path in sorted(class_folder.glob("*.txt")):
                text = clean_html(read_text(path)) if imdb else read_text(path)
                rows.append(Row(path.relative_to(folder).as_posix(), text, class_folder.name, split))
    if not rows:
        raise UserError(f"{folder}: holds no .txt file in a folder per class (such as {folder}/positive/1.txt)")
    return rows


# The IMDB archive

TAR_BLOCK = 512  # bytes
IMDB_MEMBER = re.compile(r"(?:.*/)?((train|test)/(pos|neg|unsup)/[^/]+\.txt)")


def read_imdb_archive(path: Path) -> list[Row]:
    """The 50,000 labelled reviews of `aclImdb_v1.tar.gz`, in the archive's order."""
    rows = [
        Row(place, clean_html(text), label, split) for place, split, label, text in imdb_members(path, {"pos", "neg"})
    ]
    if not rows:
        raise UserError(f"{path}: holds no reviews (members such as aclImdb/train/pos/0_9.txt)")
    return rows


def read_imdb_unlabelled(path: Path) -> list[str]:
    """The 50,000 reviews without a label, for word vectors and language models."""
    return [clean_html(text) for _, _, _, text in imdb_members(path, {"unsup"})]


def imdb_members(path: Path, labels: set[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (place, split, label, text) of an archive that is read as a stream: nothing is unpacked to disk."""
    try:
        with gzip.open(path) as stream:
            for name, content in tar_files(stream):
                if name.startswith("/") or ".." in name.split("/"):
                    raise UserError(f"{path}: member {name!r} points outside; this is not the IMDB archive")
                match = IMDB_MEMBER.fullmatch(name)
                if match and match[3] in labels:
                    yield match[1], match[2], match[3], decode(f"{path}, {match[1]}", content)
            while stream.read(1 << 20):  # to the end, where gzip keeps its checksum
                pass
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole tar.gz archive ({error}); download it again") from error


def tar_files(stream: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of the regular files of a tar stream (POSIX.1-1988 "ustar" headers of 512 bytes).

    Python's `tarfile` spends 1.7 s on the headers of IMDB's 100,000 members, this 0.1 s. Links, folders and extended
    headers are passed over; nothing is written, so that no name can do harm. Raises ValueError for another format.
    """
    while (header := stream.read(TAR_BLOCK)).strip(b"\0"):  # a block of zeros ends the archive
        if len(header) < TAR_BLOCK or header[257:262] != b"ustar":
            raise ValueError("no tar header where one should be")
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        content = stream.read(size)
        stream.read(-size % TAR_BLOCK)  # members are padded to whole blocks
        if header[156:157] in (b"0", b"\0"):
            prefix, name = (header[part].split(b"\0")[0].decode() for part in (slice(345, 500), slice(0, 100)))
            yield f"{prefix}/{name}" if prefix else name, content
    if len(header) < TAR_BLOCK:
        raise ValueError("no end mark")


def clean_html(text: str) -> str:
    """IMDB's reviews were cut from web pages: `<br />` becomes a space, `&amp;` becomes `&`."""
    return html.unescape(re.sub(r"<br\s*/?>", " ", text)) if "<" in text or "&" in text else text
