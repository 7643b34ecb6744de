"""Rows of tables: CSV and other delimiters, TSV, JSONL, one text per line (fastText's `__label__x text` included).

Inputs: an open file and its path, whose suffix decides on the kind. Outputs: records, column to value, with their line.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from minitext.data.text_input import MAX_TEXT, check_encoding, read_lines, replace_surrogates
from minitext.utils.errors import UserError
from minitext.utils.terminal import note

TABLE_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TABLE_KINDS = (*TABLE_DELIMITERS, ".jsonl")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
MAX_COLUMNS = 10_000
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
FASTTEXT = re.compile(r"((?:__label__\S+\s+)*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class TableFormat:
    """How a file differs from what its suffix says."""

    no_header: bool = False  # the first line is data; columns are numbered from 1
    delimiter: str | None = None  # makes a table of any file
    encoding: str | None = None  # None: UTF-8, or what the byte-order mark says

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_encoding(self.encoding)
        if self.delimiter is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            raise UserError(f"--delimiter must be one character, or tab (got {self.delimiter!r})")

    @property
    def is_table(self) -> bool:
        """Whether any file is read as a table, whatever its suffix."""
        return self.no_header or self.delimiter is not None

    def refuse_options(self, path: Path) -> None:
        """Raise UserError if an option is given that does nothing for a source that is no table."""
        if self.is_table:
            raise UserError(f"{path}: --no-header and --delimiter are for tables such as .csv; drop them")

    @property
    def separator(self) -> str | None:
        """The delimiter itself; a shell makes it hard to type a tab."""
        return "\t" if self.delimiter in ("tab", r"\t") else self.delimiter


class Column(NamedTuple):
    """A column that is sought."""

    flag: str
    usual: tuple[str, ...] = ()  # names that are tried, in order
    wanted: str | None = None  # the user's choice; several names, separated by commas, are joined


class Record(NamedTuple):
    """A row of a table."""

    line: int  # where it begins, from 1
    values: dict[str, Any]  # by column
    problem: str = ""  # why it could not be read; `values` is then empty
    remedy: str = ""


def table_kind(path: Path, table_format: TableFormat = TableFormat()) -> str:
    """`jsonl`, `table` (columns separated by a delimiter) or `lines` (one text per line); `.gz` does not matter."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in JSON_SUFFIXES:
        return "jsonl"
    return "table" if suffix in TABLE_DELIMITERS or table_format.is_table else "lines"


def read_records(
    path: Path, file: BinaryIO, strict: bool, table_format: TableFormat, sought: Sequence[Column]
) -> Iterator[Record]:
    """The records of `file`, opened from `path`. If `strict`, bytes that cannot be decoded are an error."""
    kind, no_header = table_kind(path, table_format), table_format.no_header
    # csv needs line ends as they are, for those inside quotes; JSON ends at \n alone; others end at \n, \r\n and \r
    newline = {"table": "", "jsonl": "\n", "lines": None}[kind]
    lines = read_lines(file, str(path), table_format.encoding, strict, newline)
    if kind == "jsonl":
        table_format.refuse_options(path)
        return json_records(path, lines)
    if kind == "lines":
        return text_records(lines)
    first = next(lines, "")
    delimiter = table_format.separator or sniff_delimiter(path, first, no_header, sought)
    lines = chain([first] if first else [], lines)
    # RFC 4180 has no spaces around fields, but a header `text, label` announces them
    skip_spaces = not no_header and f"{delimiter} " in first
    rows = split_tabs(lines) if delimiter == "\t" else split_csv(path, lines, delimiter, skip_spaces)
    return table_records(path, rows, no_header)


def sniff_delimiter(path: Path, first: str, no_header: bool, sought: Sequence[Column]) -> str:
    """The delimiter that the suffix tells, or the one with which the first line has all columns that are sought."""
    expected = TABLE_DELIMITERS.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "\t")
    for delimiter in (expected, *DELIMITERS):
        names = [name.strip().strip('"') for name in first.split(delimiter)]
        if no_header:
            names = [str(i) for i in range(1, len(names) + 1)]
        if all(match_column(names, column) for column in sought):
            if delimiter != expected:
                note(f"{path}: columns are separated by {DELIMITERS[delimiter]}")
            return delimiter
    return expected


def split_tabs(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields). TSV has no quotes: a field has neither a tab nor a line end (IANA's definition of it)."""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        yield number, line.split("\t") if line else []


def split_csv(path: Path, lines: Iterable[str], delimiter: str, skip_spaces: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where the row begins, fields)."""
    csv.field_size_limit(MAX_TEXT)  # the default refuses texts over 128 KiB
    last = [""]  # the line that was read last, for the message of an error

    def remembered() -> Iterator[str]:
        for text in lines:
            last[0] = text
            yield text

    reader, line = csv.reader(remembered(), delimiter=delimiter, strict=True, skipinitialspace=skip_spaces), 1
    try:
        for fields in reader:
            yield line, fields
            line = reader.line_num + 1  # where the next row begins
    except csv.Error as error:
        remedy = "fix the quotes of the row that begins there"
        if '\\"' in last[0]:
            remedy = r'write a quote inside quotes as "" instead of \"'
        raise UserError(f"{path}, line {line}: {error}; {remedy}") from error


def table_records(path: Path, rows: Iterable[tuple[int, list[str]]], no_header: bool) -> Iterator[Record]:
    """Yield the records of a table. Blank lines are skipped; with a single column they are empty texts."""
    columns: list[str] = []
    for line, fields in rows:
        if not columns:
            columns = [str(i) for i in range(1, len(fields) + 1)] if no_header else [name.strip() for name in fields]
            if len(columns) > MAX_COLUMNS:
                raise UserError(f"{path}, line {line}: more than {MAX_COLUMNS:,} columns; check the --delimiter")
            if not no_header:
                continue
        if len(fields) > len(columns):  # it is unknown which of them is the text
            problem = f"{len(fields)} fields for {len(columns)} columns"
            yield Record(line, {}, problem, "put quotes around texts with the delimiter; in TSV, replace tabs")
        elif fields or len(columns) == 1:
            yield Record(line, dict(zip_longest(columns, fields or [""])))
    if not columns:
        raise UserError(f"{path}, line 1: no column names; write them into the first line")


def json_records(path: Path, lines: Iterable[str]) -> Iterator[Record]:
    """Yield the records of a file with one JSON object per line; blank lines are skipped."""
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if first and line.lstrip().startswith("["):
            remedy = f"write one object per line: jq -c '.[]' {path.name} > texts.jsonl"
            raise UserError(f"{path}, line {number}: is a JSON array; {remedy}")
        first = False
        problem, remedy = "not a JSON object", 'expected an object such as {"text": …, "label": …}'
        try:
            values = json.loads(line)
            if SURROGATE.search(line):  # an escape such as "\ud83d" may be half a character
                values = json.loads(replace_surrogates(json.dumps(values, ensure_ascii=False)))
        except json.JSONDecodeError as error:
            values, remedy = None, f"{error.msg} at column {error.colno}"
        except (ValueError, RecursionError):  # a number of more digits, or deeper lists, than Python reads
            values = None
        yield Record(number, values) if isinstance(values, dict) else Record(number, {}, problem, remedy)


def text_records(lines: Iterable[str]) -> Iterator[Record]:
    """Yield one record per line. Of fastText's lines `__label__x text` the label is a value, or a list of several."""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\n")
        if not line.startswith("__label__"):
            yield Record(number, {"text": line})
            continue
        prefix, text = FASTTEXT.fullmatch(line + " ").groups()
        labels = [label.removeprefix("__label__") for label in prefix.split()]
        yield Record(number, {"text": text[:-1], "label": labels[0] if len(labels) == 1 else labels})


def match_column(names: Sequence[str], column: Column) -> list[str]:
    """The names of a column that is sought; empty if it is not among `names`. Case does not matter."""
    by_lower_name = {name.lower(): name for name in reversed(names)}
    if column.wanted is None:
        return next(([by_lower_name[name]] for name in column.usual if name in by_lower_name), [])
    if column.wanted.lower() in by_lower_name:
        return [by_lower_name[column.wanted.lower()]]
    parts = [by_lower_name.get(part.strip().lower()) for part in column.wanted.split(",")]
    return [] if None in parts else parts


def find_column(path: Path, record: Record, column: Column, no_header: bool = False) -> list[str]:
    """The names of a column in the first record. Raises UserError that names the likeliest remedy if there is none."""
    names = list(record.values)
    found = match_column(names, column)
    if found:
        return found
    sought = repr(column.wanted) if column.wanted else "any of " + ", ".join(column.usual)
    remedy = f"name it with {column.flag}"
    if no_header:
        remedy = f"--no-header needs column numbers, such as {column.flag} {len(names)}"
    elif len(names) == 1 and (other := next((mark for mark in DELIMITERS if mark in names[0]), None)):
        remedy = f"if columns are separated by {DELIMITERS[other]}: --delimiter {other!r}, and {column.flag}"
    elif any(looks_like_data(name) for name in names):
        longest = max(range(len(names)), key=lambda i: len(names[i])) + 1
        other = next((i for i in range(1, len(names) + 1) if i != longest), 1)
        remedy = f"if the first line is data: --no-header --text-column {longest} --label-column {other}"
    shown = ", ".join(name[:40] for name in names[:20])
    raise UserError(f"{path}, line 1: no column {sought} among: {shown}; {remedy}")


def looks_like_data(name: str) -> bool:
    """Whether a column's name is a number or a sentence."""
    return name.isdecimal() or name.count(" ") > 2


def joined_text(values: dict[str, Any], keys: Sequence[str]) -> str | None:
    """The text of one or more columns, separated by spaces; None if none of them has a text."""
    parts = [part for key in keys if (part := to_text(values.get(key))) is not None]
    return " ".join(parts) if parts else None


def to_text(value: Any) -> str | None:
    """A string, or a number or a truth value as JSON writes it; None for what is neither, such as a list or NaN."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and isfinite(value) else None


def describe_value(value: Any, key: str) -> str:
    """What is wrong with a value that is no text, and what to do."""
    if value is None:
        return f"no value for {key!r}; complete the row or remove it"
    kind = {list: "a list", dict: "an object"}.get(type(value), "not a number")
    shown = ascii(value)
    return f"{key!r} is {kind} ({shown[:40]}); write one text or number, or remove the row"
