"""Readers of texts: tables, folders of text files, the IMDB archive.

Inputs: a path; `.gz` files are unpacked. Outputs: rows that carry their origin (file:line) for error messages.
`read_rows` raises an error for a row that is not a labeled text; `stream_texts` yields a row with a note instead.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from minitext.data.folders import SPLIT_NAMES, read_folder
from minitext.data.imdb import imdb_archive, read_imdb
from minitext.data.tables import (
    Column,
    TableFormat,
    describe_value,
    find_column,
    joined_text,
    read_records,
    table_kind,
    text_records,
    to_text,
)
from minitext.data.text_input import open_regular, read_lines, replace_surrogates
from minitext.utils.errors import UserError

SAMPLE = Path(__file__).parent / "sample" / "reviews.jsonl"
TEXT_COLUMNS = ("text", "review", "sentence", "content")
LABEL_COLUMNS = ("label", "sentiment", "class", "target")
MAX_LABEL = 1000  # characters
NO_LABEL = (
    "give a table (.csv, .tsv, .jsonl, or any file with --delimiter), "
    'or start each line with its label, as in "__label__pos a good film"'
)
DEFAULT_FORMAT = TableFormat()


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


def read_rows(
    source: str,
    text_column: str | None = None,
    label_column: str | None = None,
    table_format: TableFormat = DEFAULT_FORMAT,
) -> list[Row]:
    """All labeled texts of `sample`, `imdb`, a table, a folder or the IMDB archive; UserError for any other row."""
    if source == "imdb":
        source = str(imdb_archive())
    path = SAMPLE if source == "sample" else Path(source)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; give a path, or one of: sample, imdb")
    is_archive = path.name.endswith((".tar.gz", ".tgz"))
    if path.is_dir() or is_archive:
        table_format.refuse_options(path)
    if path.is_dir():
        rows = [Row(*text) for text in read_folder(path, table_format.encoding)]
    elif is_archive:
        rows = [Row(*review) for review in read_imdb(path)]
    else:
        rows = list(read_table(path, text_column, label_column, table_format))
    if not rows:
        expected = "a table with rows, a folder per class (such as positive/1.txt), or the IMDB archive"
        raise UserError(f"{path}: has no labeled text; give {expected}")
    return rows


def read_table(
    path: Path, text_column: str | None, label_column: str | None, table_format: TableFormat
) -> Iterator[Row]:
    """Yield the rows of a table, or of a file with lines `__label__x text`."""
    sought = (
        Column("--text-column", TEXT_COLUMNS, text_column),
        Column("--label-column", LABEL_COLUMNS, label_column),
    )
    one_text_per_line = table_kind(path, table_format) == "lines"
    text_keys = None
    with open_regular(path) as file:
        for record in read_records(path, file, True, table_format, sought):
            line, values, problem, remedy = record
            place = f"{path}, line {line}"
            if problem:
                raise UserError(f"{place}: {problem}; {remedy}")
            if one_text_per_line and "label" not in values:
                if not values["text"].strip():
                    continue
                raise UserError(f"{place}: the text has no label; {NO_LABEL}")
            if text_keys is None:  # the first record has the columns
                text_keys, label_keys = (find_column(path, record, column, table_format.no_header) for column in sought)
                lower = {key.lower(): key for key in reversed(values)}
                split_key, tag_key = lower.get("split"), lower.get("tag")
            text, label = joined_text(values, text_keys), joined_text(values, label_keys)
            for value, keys in ((text, text_keys), (label, label_keys)):
                if value is None:
                    raise UserError(f"{place}: {describe_value(values.get(keys[0]), keys[0])}")
            split = (to_text(values.get(split_key)) or "").strip().lower()
            if split and split not in SPLIT_NAMES:
                raise UserError(f"{place}: split {split!r} is none of {', '.join(SPLIT_NAMES)}; fix the row")
            tag = (to_text(values.get(tag_key)) or "").strip()
            # interned: a million rows share one string per class
            label, tag = sys.intern(check_label(label.strip(), label_keys[0], place)), sys.intern(tag)
            yield Row(f"{path.name}:{line}", text, label, SPLIT_NAMES.get(split, ""), tag)


def check_label(label: str, key: str, place: str) -> str:
    """The label. Raises UserError if it is empty, or too long to name a class."""
    if not label:
        raise UserError(f"{place}: the label is empty; fill {key!r} or remove the row")
    if len(label) > MAX_LABEL:
        raise UserError(f"{place}: the label has {len(label):,} characters; pass the --label-column of short names")
    return label


def stream_texts(
    path: Path,
    file: BinaryIO,
    text_column: str | None = None,
    keep: Sequence[str] = (),
    table_format: TableFormat = DEFAULT_FORMAT,
) -> Iterator[TextRow]:
    """Yield a row for each row of `file`, opened from `path`, whose name decides on the kind (`table_kind`).

    Bytes that cannot be decoded become U+FFFD. Raises UserError for a missing column, an open quote, a line that is
    too long, or a file that is damaged or no text.
    """
    if table_kind(path, table_format) == "lines" and (text_column or keep):
        raise UserError(f"{path}: has one text per line and no columns; drop --text-column and --keep-columns")
    sought = (
        Column("--text-column", TEXT_COLUMNS, text_column),
        *(Column("--keep-columns", (), name) for name in keep),
    )
    text_keys, kept_keys = None, []
    for record in read_records(path, file, False, table_format, sought):
        if record.problem:
            yield TextRow(record.line, "", record.problem, (None,) * len(keep))
            continue
        if text_keys is None:  # the first record has the columns
            text_keys, *kept = (find_column(path, record, column, table_format.no_header) for column in sought)
            kept_keys = [keys[0] for keys in kept]
        kept_values = tuple(to_cell(record.values.get(key)) for key in kept_keys)
        yield text_row(record.line, joined_text(record.values, text_keys), kept_values)


def read_unlabeled(path: Path, encoding: str | None = None) -> list[str]:
    """The texts of a file with one text per line, without blank lines."""
    with open_regular(path) as file:
        texts = [record.values["text"] for record in text_records(read_lines(file, str(path), encoding))]
    return [text for text in texts if text.strip()]


def line_rows(lines: Iterable[str]) -> Iterator[TextRow]:
    """A row for each line, which is a text."""
    return (text_row(number, line.rstrip("\n")) for number, line in enumerate(lines, start=1))


def text_row(line: int, text: str | None, kept: tuple = ()) -> TextRow:
    """A row whose text may be missing (None: "no text") or have nothing but white space ("empty text")."""
    if text is None:
        return TextRow(line, "", "no text", kept)
    text = replace_surrogates(text)  # of arguments that are not UTF-8
    return TextRow(line, text, "", kept) if text.strip() else TextRow(line, "", "empty text", kept)


def to_cell(value: Any) -> str | int | float | None:
    """A JSON value that fits into a cell of a table: a list or an object as its JSON."""
    return value if isinstance(value, str | int | float | None) else json.dumps(value, ensure_ascii=False)
