"""Readers of texts: tables (CSV, TSV, JSONL), one text per line, folders of text files, the IMDB archive.

Inputs: a path; `.gz` files are unpacked. Outputs: rows that carry their origin (file:line) for error messages.
`read_rows` raises an error for a row that is not a labeled text; `stream_texts` yields a row with a note instead.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from minitext.data.imdb import clean_html, imdb_archive, read_imdb
from minitext.utils.errors import UserError

SAMPLE = Path(__file__).parent / "sample" / "reviews.jsonl"
TEXT_COLUMNS = ("text", "review", "sentence", "content")
LABEL_COLUMNS = ("label", "sentiment", "class", "target")
SPLIT_NAMES = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_KINDS = (*TABLE_DELIMITERS, ".jsonl")
MAX_FIELD = 1 << 26  # characters: a quote that is never closed stops here instead of filling the memory


class Row(NamedTuple):
    """A labeled text."""

    origin: str  # "reviews.csv:17" or "test/pos/0_10.txt"
    text: str
    label: str
    split: str = ""  # "train", "valid", "test", or "" if the source has no splits
    tag: str = ""  # the kind of text, from a table's column `tag`


class TextRow(NamedTuple):
    """A row of a file of texts."""

    line: int  # where it begins, from 1
    text: str
    note: str = ""  # why there is no text; `text` is then ""
    kept: tuple = ()  # the values of other columns; None where the row has no value


class Record(NamedTuple):
    """A row of a table."""

    line: int  # where it begins, from 1
    values: dict[str, Any]  # by column
    problem: str = ""  # why it could not be read; `values` is then empty
    remedy: str = ""


def read_rows(source: str, text_column: str | None = None, label_column: str | None = None) -> list[Row]:
    """All labeled texts of `sample`, `imdb`, a table, a folder or the IMDB archive; UserError for any other row."""
    if source == "imdb":
        source = str(imdb_archive())
    path = SAMPLE if source == "sample" else Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a path, or one of: sample, imdb")
    if path.is_dir():
        rows = read_folder(path)
    elif path.name.endswith((".tar.gz", ".tgz")):
        rows = [Row(*review) for review in read_imdb(path)]
    else:
        rows = list(read_table(path, text_column, label_column))
    if not rows:
        expected = "a table with rows, a folder per class (such as positive/1.txt), or the IMDB archive"
        raise UserError(f"{path}: has no labeled text; give {expected}")
    return rows


def read_table(path: Path, text_column: str | None, label_column: str | None) -> Iterator[Row]:
    """Yield the rows of a `.csv`, `.tsv` or `.jsonl` file."""
    if table_kind(path) not in TABLE_KINDS:
        raise UserError(f"{path}: unknown kind {path.suffix!r}; supported: .csv, .tsv, .jsonl (each also .gz), .tar.gz")
    text_key = None
    with open(path, "rb") as file:
        for line, values, problem, remedy in read_records(path, file, strict=True):
            place = f"{path}, line {line}"
            if problem:
                raise UserError(f"{place}: {problem}; {remedy}")
            if text_key is None:  # the first record has the columns
                text_key = find_column(path, list(values), text_column, TEXT_COLUMNS, "--text-column")
                label_key = find_column(path, list(values), label_column, LABEL_COLUMNS, "--label-column")
                lower = {key.lower(): key for key in reversed(values)}
                split_key, tag_key = lower.get("split"), lower.get("tag")
            for key in (text_key, label_key):
                if not isinstance(values.get(key), str | int | float):
                    raise UserError(f"{place}: no value for {key!r}; complete the row or remove it")
            label = str(values[label_key]).strip()
            if not label:
                raise UserError(f"{place}: the label is empty; fill {label_key!r} or remove the row")
            split = str(values.get(split_key) or "").strip().lower()
            if split and split not in SPLIT_NAMES:
                raise UserError(f"{place}: split {split!r} is none of {', '.join(SPLIT_NAMES)}; fix the row")
            tag = str(values.get(tag_key) or "").strip()
            yield Row(f"{path.name}:{line}", str(values[text_key]), label, SPLIT_NAMES.get(split, ""), tag)


def stream_texts(
    path: Path, file: BinaryIO, text_column: str | None = None, keep: Sequence[str] = ()
) -> Iterator[TextRow]:
    """Yield a row for each row of `file`, opened from `path`, whose name decides on the kind (`table_kind`).

    Bytes that are not UTF-8 become U+FFFD. Raises UserError for a missing column, an open quote, or a damaged `.gz`.
    """
    if table_kind(path) == ".txt" and (text_column or keep):
        raise UserError(f"{path}: has one text per line and no columns; drop --text-column and --keep-columns")
    text_key, kept_keys = None, []
    for line, values, problem, _ in read_records(path, file, strict=False):
        if problem:
            yield TextRow(line, "", problem, (None,) * len(keep))
            continue
        if text_key is None:  # the first record has the columns
            text_key = find_column(path, list(values), text_column, TEXT_COLUMNS, "--text-column")
            kept_keys = [find_column(path, list(values), name, (), "--keep-columns") for name in keep]
        yield text_row(line, values.get(text_key), tuple(to_cell(values.get(key)) for key in kept_keys))


def line_rows(lines: Iterable[str]) -> Iterator[TextRow]:
    """A row for each line, which is a text."""
    return (text_row(number, line.rstrip("\n")) for number, line in enumerate(lines, start=1))


def text_row(line: int, text: Any, kept: tuple = ()) -> TextRow:
    """A row whose text may be missing (None, a list: "no text") or have nothing but white space ("empty text")."""
    if not isinstance(text, str | int | float):
        return TextRow(line, "", "no text", kept)
    text = str(text)
    if not text.isascii():  # JSON can contain half a character ("\ud83d"), which tokenizers and files do not accept
        text = text.encode("utf-8", "replace").decode("utf-8")
    return TextRow(line, text, "", kept) if text.strip() else TextRow(line, "", "empty text", kept)


def to_cell(value: Any) -> str | int | float | None:
    """A JSON value that fits into a cell of a table: a list or an object as its JSON."""
    return value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False)


def table_kind(path: Path) -> str:
    """`.csv`, `.tsv` or `.jsonl`, with or without `.gz`; otherwise `.txt`, one text per line."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    return kind if kind in TABLE_KINDS else ".txt"


def read_records(path: Path, file: BinaryIO, strict: bool) -> Iterator[Record]:
    """The records of `file`, opened from `path`. If `strict`, bytes that are not UTF-8 are an error."""
    kind = table_kind(path)
    # csv needs line ends as they are, for those inside quotes; JSON ends at \n alone; texts end at \n, \r\n and \r
    lines = decode_lines(path, file, strict, newline={".txt": None, ".jsonl": "\n"}.get(kind, ""))
    if kind == ".jsonl":
        return json_records(lines)
    if kind in TABLE_DELIMITERS:
        return csv_records(path, lines, TABLE_DELIMITERS[kind])
    return (Record(number, {"text": line.rstrip("\n")}) for number, line in enumerate(lines, start=1))


def decode_lines(path: Path, file: BinaryIO, strict: bool, newline: str | None = "\n") -> Iterator[str]:
    """Yield the lines of `file`, unpacked. Bytes that are not UTF-8 raise UserError if `strict`, else become U+FFFD."""
    data = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    errors = "surrogateescape" if strict else "replace"
    stream = io.TextIOWrapper(data, encoding="utf-8-sig", errors=errors, newline=newline)
    try:
        for number, line in enumerate(stream, start=1):
            if strict:
                line.encode()  # raises an error for what "surrogateescape" let pass
            yield line
    except UnicodeEncodeError as error:
        place, byte = f"{path}, line {number}", ord(line[error.start]) - 0xDC00
        raise UserError(f"{place}: byte {byte:#04x} is not UTF-8; save the file as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error}); copy or compress it again") from error
    finally:
        if not file.closed:
            stream.detach()  # otherwise `file`, which belongs to the caller, would be closed with it


def csv_records(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[Record]:
    """Yield the records of a table. Blank lines are skipped; with a single column they are empty texts."""
    csv.field_size_limit(MAX_FIELD)  # the default refuses texts over 128 KiB
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns, line = [], 1
    try:
        for fields in reader:
            if not columns:
                columns = fields
            elif len(fields) > len(columns):  # it is unknown which of them is the text
                problem = f"{len(fields)} fields for {len(columns)} columns"
                yield Record(line, {}, problem, "put quotes around texts that contain the delimiter")
            elif fields or len(columns) == 1:
                yield Record(line, dict(zip_longest(columns, fields or [""])))
            line = reader.line_num + 1  # where the next row begins
    except csv.Error as error:
        raise UserError(f"{path}, line {line}: {error}; fix the quotes of the row that begins there") from error
    if not columns:
        raise UserError(f"{path}, line 1: no column names; write them into the first line")


def json_records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield the records of a file with one JSON object per line; blank lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        problem, remedy = "not a JSON object", 'expected an object such as {"text": …, "label": …}'
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            values, remedy = None, f"{error.msg} at column {error.colno}"
        except (ValueError, RecursionError):  # a number of more digits, or deeper lists, than Python reads
            values = None
        yield Record(number, values) if isinstance(values, dict) else Record(number, {}, problem, remedy)


def find_column(path: Path, columns: list[str], wanted: str | None, usual: tuple[str, ...], flag: str) -> str:
    """The column that the user names, otherwise the first of the usual names; case does not matter."""
    by_lower_name = {column.lower(): column for column in reversed(columns)}
    for name in (wanted,) if wanted else usual:
        if name.lower() in by_lower_name:
            return by_lower_name[name.lower()]
    sought = repr(wanted) if wanted else "any of " + ", ".join(usual)
    raise UserError(f"{path}, line 1: no column {sought} among: {', '.join(columns)}; name it with {flag}")


def read_folder(folder: Path) -> list[Row]:
    """Read `folder/<class>/*.txt`, or `folder/<split>/<class>/*.txt`; the unpacked IMDB is of the second kind."""
    splits = [entry for entry in sorted(folder.glob("*/")) if entry.name.lower() in SPLIT_NAMES]
    imdb = all((folder / split / label).is_dir() for split in ("train", "test") for label in ("pos", "neg"))
    rows = []
    for split_folder in splits or [folder]:
        split = SPLIT_NAMES[split_folder.name.lower()] if splits else ""
        for class_folder in sorted(split_folder.glob("*/")):
            if imdb and class_folder.name == "unsup":
                continue
            for path in sorted(class_folder.glob("*.txt")):
                text = clean_html(read_text(path)) if imdb else read_text(path)
                rows.append(Row(path.relative_to(folder).as_posix(), text, class_folder.name, split))
    return rows


def read_text(path: Path) -> str:
    """A whole file as UTF-8, with or without a byte-order mark."""
    with open(path, "rb") as file:
        return "".join(decode_lines(path, file, strict=True))
