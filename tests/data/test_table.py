"""A row in the file is a row that is read, whatever is wrong with it; and reading takes in no more than it must."""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import table
from minitext.data.table import TextRow, format_rows, read_rows
from minitext.utils.errors import UserError


def rows(name: str, content: str | bytes, **settings: object) -> list[TextRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(read_rows(Path(name), io.BytesIO(data), **settings))


# What is read


def test_a_row_knows_the_line_where_it_begins():
    found = rows("a.csv", 'text,id\n"two\nlines",1\nnext,2\n')
    assert found == [TextRow(2, "two\nlines"), TextRow(4, "next")]


def test_the_kinds_are_told_by_the_name():
    assert rows("a.tsv", 'id\tReview\n1\t"a\tb"\n') == [TextRow(2, "a\tb")]
    assert rows("a.jsonl", '{"sentence": "x"}\n\n{"sentence": 7}\n') == [TextRow(1, "x"), TextRow(3, "7")]
    assert rows("a.txt", "x, y\r\n\r\nz") == [TextRow(1, "x, y"), TextRow(2, "", "empty text"), TextRow(3, "z")]
    assert rows("a.log", "x\n") == [TextRow(1, "x")]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".txt"])
def test_a_gzipped_file_has_the_rows_of_the_file(kind: str):
    content = b'{"text": "good"}\n' if kind == ".jsonl" else b"text\ngood\n"
    assert rows("a" + kind + ".gz", gzip.compress(content)) == rows("a" + kind, content)


def test_a_byte_order_mark_is_no_part_of_the_first_column_or_text():
    assert rows("a.csv", b"\xef\xbb\xbftext\ngood\n") == [TextRow(2, "good")]
    assert rows("a.txt", b"\xef\xbb\xbfgood\n") == [TextRow(1, "good")]


def test_bytes_that_are_not_utf8_are_replaced_where_they_stand():
    assert rows("a.csv", b"text,id\ncaf\xe9,1\n", keep=["id"]) == [TextRow(2, "caf\ufffd", "", ("1",))]


def test_half_a_character_in_json_becomes_a_question_mark():
    assert rows("a.jsonl", '{"text": "a \\ud83d"}') == [TextRow(1, "a ?")]


def test_a_line_separator_inside_a_json_string_ends_no_row():
    assert rows("a.jsonl", '{"text": "a\u2028b"}\n{"text": "c"}') == [TextRow(1, "a\u2028b"), TextRow(2, "c")]


def test_a_text_column_may_be_named():
    assert rows("a.csv", "text,body\nno,yes\n", text_column="body") == [TextRow(2, "yes")]


def test_kept_columns_come_along_and_what_is_no_cell_as_its_json():
    assert rows("a.csv", "id,text,n\n1,x\n", keep=["n", "id"]) == [TextRow(2, "x", "", (None, "1"))]
    found = rows("a.jsonl", '{"text": "x", "id": 7, "tags": ["é"]}\n{"text": "y"}', keep=["id", "tags"])
    assert [row.kept for row in found] == [(7, '["é"]'), (None, None)]


# What is wrong with a row


@pytest.mark.parametrize(
    ("content", "note"),
    [("1,\n", "empty text"), ('1,"  "\n', "empty text"), ("1\n", "no text"), ("1,a,b\n", "3 fields for 2 columns")],
)
def test_a_csv_row_without_a_text_has_a_note_and_the_next_row_is_read(content: str, note: str):
    assert rows("a.csv", "id,text\n" + content + "2,good\n") == [TextRow(2, "", note), TextRow(3, "good")]


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ('{"text": ""}', "empty text"),
        ('{"text": null}', "no text"),
        ('{"text": ["a"]}', "no text"),
        ('{"other": "a"}', "no text"),
        ('"a"', "not a JSON object"),
        ('{"text": "a"', "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),  # deeper than Python goes
        ('{"text": ' + "9" * 5_000 + "}", "not a JSON object"),  # more digits than Python reads
    ],
)
def test_a_json_row_without_a_text_has_a_note_and_the_next_row_is_read(line: str, note: str):
    found = rows("a.jsonl", f'{{"text": "x"}}\n{line}\n{{"text": "good"}}\n')
    assert found == [TextRow(1, "x"), TextRow(2, "", note), TextRow(3, "good")]


def test_a_broken_first_line_of_json_does_not_hide_the_columns():
    assert rows("a.jsonl", '{\n{"text": "good"}\n', keep=[]) == [
        TextRow(1, "", "not a JSON object"),
        TextRow(2, "good"),
    ]


def test_a_row_that_cannot_be_read_keeps_nothing_since_its_columns_may_have_moved():
    assert [row.kept for row in rows("a.csv", "text,id\na,b,1\nc,2\n", keep=["id"])] == [(None,), ("2",)]


def test_a_blank_line_is_an_empty_text_only_where_the_text_is_the_one_column():
    assert rows("a.csv", "text\na\n\nb\n") == [TextRow(2, "a"), TextRow(3, "", "empty text"), TextRow(4, "b")]
    assert rows("a.csv", "text,id\na,1\n\nb,2\n") == [TextRow(2, "a"), TextRow(4, "b")]


# What stops the reading


def test_a_quote_that_does_not_close_is_named_by_the_line_where_its_row_begins():
    with pytest.raises(UserError, match=r"a\.csv, line 3: .*quote"):
        rows("a.csv", 'text,id\ngood,1\n"bad,2\nfine,3\n')


def test_a_quote_that_does_not_close_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(table, "LONGEST_FIELD", 50)
    file = io.BytesIO(b'text\n"' + b"word\n" * 1_000_000)
    with pytest.raises(UserError, match=r"a\.csv, line 2: field larger than field limit \(50\)"):
        list(read_rows(Path("a.csv"), file))
    assert file.tell() < 100_000


def test_a_gzip_file_that_is_cut_short_is_named():
    content = gzip.compress(b"".join(b"text %d\n" % number for number in range(10_000)))
    with pytest.raises(UserError, match=r"a\.txt\.gz: not a whole gzip file"):
        rows("a.txt.gz", content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a\.txt\.gz: not a whole gzip file"):
        rows("a.txt.gz", b"plain text\n")


def test_missing_columns_are_named():
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column any of text, .* --text-column"):
        rows("a.csv", "id,words\n1,x\n")
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column 'author' .* --keep-columns"):
        rows("a.csv", "id,text\n1,x\n", keep=["author"])
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column names"):
        rows("a.csv", "")
    with pytest.raises(UserError, match=r"a\.txt: has a text a line and no columns"):
        rows("a.txt", "x\n", keep=["id"])


# Memory


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.csv.gz"])
def test_the_first_row_takes_in_a_small_piece_of_a_large_file(name: str):
    line = json.dumps({"text": "good"}) + "\n" if name == "a.jsonl" else "text\n"
    data = line.encode() * 1_000_000
    file = io.BytesIO(gzip.compress(data, 0) if name.endswith(".gz") else data)  # 0: stored, so that bytes can be told
    next(read_rows(Path(name), file))
    assert file.tell() < 300_000  # of 5 million or more; buffers hold 8 to 128 KiB


# Laws

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=8), st.sampled_from([".csv", ".tsv"]))
def test_every_row_that_csv_writes_is_read_with_its_cells(cells: list[tuple[str, str]], kind: str):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=table.TABLE_DELIMITERS[kind]).writerows([("id", "text"), *cells])
    found = rows("a" + kind, file.getvalue(), keep=["id"])
    assert [(row.kept[0], row.text) for row in found] == [(id_, text if text.strip() else "") for id_, text in cells]
    assert [bool(row.note) for row in found] == [not text.strip() for _, text in cells]


@given(st.lists(st.one_of(TEXT, TEXT.map(lambda text: json.dumps({"text": text}))), max_size=8))
def test_every_line_of_json_that_is_not_blank_is_a_row(lines: list[str]):
    lines = ['{"text": "first"}', *(line.replace("\n", "") for line in lines)]
    assert [row.line for row in rows("a.jsonl", "\n".join(lines))] == [
        number for number, line in enumerate(lines, start=1) if line.strip()
    ]


@given(st.lists(st.tuples(TEXT, st.one_of(st.none(), TEXT, st.floats(allow_nan=False))), max_size=6))
def test_what_is_written_is_read_back(cells: list[tuple]):
    columns = ("a", "b")
    read = list(csv.reader(io.StringIO(format_rows(".tsv", columns, cells), newline=""), delimiter="\t", strict=True))
    assert read == [[a, "" if b is None else str(b)] for a, b in cells]
    lines = format_rows(".jsonl", columns, cells).split("\n")
    assert [tuple(json.loads(line).values()) for line in lines[:-1]] == cells
