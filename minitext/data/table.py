"""Rows of texts from a file and rows of results to a file, a row at a time: memory does not grow with the file.

In: `.csv`, `.tsv`, `.jsonl`, or any other file as a text a line, each also `.gz`. Out: rows that know the line where
they begin and what is wrong with them; and the text of `.csv`, `.tsv` and `.jsonl` rows.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from minitext.data.readers import TABLE_DELIMITERS, TEXT_COLUMNS, find_column
from minitext.utils.errors import UserError

LONGEST_FIELD = 1 << 26  # characters: a quote that is never closed stops here instead of filling the memory
KINDS = (*TABLE_DELIMITERS, ".jsonl")


class TextRow(NamedTuple):
    """One text as it was found. A row that holds none is still a row, so that none is lost."""

    line: int  # where it begins, from 1
    text: str
    note: str = ""  # why there is nothing to predict from; the text is then ""
    kept: tuple = ()  # what is carried along from other columns; None where the row lacks it


def text_row(line: int, text: object, kept: tuple = ()) -> TextRow:
    """A row whose text may be missing (None, a list: "no text"), empty or nothing but white space ("empty text")."""
    if not isinstance(text, str | int | float):
        return TextRow(line, "", "no text", kept)
    text = str(text)
    if not text.isascii():  # JSON can spell half a character ("\ud83d"), which no tokenizer and no file takes
        text = text.encode("utf-8", "replace").decode("utf-8")
    return TextRow(line, text, "", kept) if text.strip() else TextRow(line, "", "empty text", kept)


def table_kind(path: Path) -> str:
    """`.csv`, `.tsv` or `.jsonl` by the name, with or without `.gz`; else `.txt`: a text a line."""
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    return kind if kind in KINDS else ".txt"


def read_rows(
    path: Path, file: BinaryIO, text_column: str | None = None, keep: Sequence[str] = ()
) -> Iterator[TextRow]:
    """Yield the rows of `file`, opened from `path`, whose name says what it is; bytes that are not UTF-8 become U+FFFD.

    A row that cannot be read but whose end is known is yielded with a note. Raises UserError where it is not known
    (a quote that does not close, a gzip file that is cut short), and where a named column is not there.
    """
    kind = table_kind(path)
    if kind == ".txt" and (text_column or keep):
        raise UserError(f"{path}: has a text a line and no columns; leave --text-column and --keep-columns away")
    data = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    # csv sees line ends as they are, for those inside quotes; JSON ends at \n alone; plain lines at \n, \r\n and \r
    newline = {".txt": None, ".jsonl": "\n"}.get(kind, "")
    lines = io.TextIOWrapper(data, encoding="utf-8-sig", errors="replace", newline=newline)
    try:
        if kind == ".txt":
            yield from line_rows(lines)
        elif kind == ".jsonl":
            yield from json_rows(path, lines, text_column, keep)
        else:
            yield from csv_rows(path, lines, TABLE_DELIMITERS[kind], text_column, keep)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not a whole gzip file ({error}); copy or compress it again") from error
    finally:
        if not file.closed:  # rows may be given up after it
            lines.detach()  # else `file`, which is the caller's, would be closed with it


def line_rows(lines: Iterable[str]) -> Iterator[TextRow]:
    """Each line is a text."""
    for number, line in enumerate(lines, start=1):
        yield text_row(number, line.rstrip("\n"))


def csv_rows(
    path: Path, lines: TextIO, delimiter: str, text_column: str | None, keep: Sequence[str]
) -> Iterator[TextRow]:
    """The rows of a delimited table whose first row names the columns. Blank lines are passed over, but in a table of
    one column, where they are empty texts.
    """
    csv.field_size_limit(LONGEST_FIELD)  # the default refuses texts over 128 KiB
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    columns: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UserError(
                f"{path}, line {line}: {error}; the row that begins there has a quote too many or too few"
            ) from error
        if not columns:
            columns = fields
            text_at, *kept_at = column_places(path, columns, text_column, keep)
        elif len(fields) > len(columns):  # which of them is the text, nobody knows
            yield TextRow(line, "", f"{len(fields)} fields for {len(columns)} columns", (None,) * len(keep))
        elif fields or len(columns) == 1:
            fields += [""] * (1 - len(fields))
            kept = tuple(fields[at] if at < len(fields) else None for at in kept_at) if keep else ()
            yield text_row(line, fields[text_at] if text_at < len(fields) else None, kept)
    if not columns:
        raise UserError(f"{path}, line 1: no column names; write them into the first line")


def column_places(path: Path, columns: list[str], text_column: str | None, keep: Sequence[str]) -> list[int]:
    """Where the text stands, then each column that is kept."""
    names = [find_column(path, columns, text_column, TEXT_COLUMNS, "--text-column")]
    names += [find_column(path, columns, name, (), "--keep-columns") for name in keep]
    return [columns.index(name) for name in names]


def json_rows(path: Path, lines: TextIO, text_column: str | None, keep: Sequence[str]) -> Iterator[TextRow]:
    """A file with one JSON object a line, the first of which shows the columns; blank lines are passed over."""
    text_key = None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # ValueError: not JSON, or a number of more digits than Python reads
            record = None
        if not isinstance(record, dict):
            yield TextRow(number, "", "not a JSON object", (None,) * len(keep))
            continue
        if text_key is None:
            columns = list(record)
            text_key = find_column(path, columns, text_column, TEXT_COLUMNS, "--text-column")
            kept_keys = [find_column(path, columns, name, (), "--keep-columns") for name in keep]
        yield text_row(number, record.get(text_key), tuple(plain(record.get(key)) for key in kept_keys))


def plain(value: object) -> str | int | float | None:
    """A JSON value that fits into a cell of a table: a list or an object is carried as its JSON."""
    return value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False)


def format_rows(kind: str, columns: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Rows as lines of a `.csv`, `.tsv` or `.jsonl` file; None is an empty field, or JSON's null."""
    if kind == ".jsonl":
        records = (dict(zip(columns, row, strict=True)) for row in rows)
        return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=TABLE_DELIMITERS[kind]).writerows(rows)
    return buffer.getvalue()
