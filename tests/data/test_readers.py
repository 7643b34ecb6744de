"""Every source gives each text once, unchanged, with its origin; errors name file, line and remedy. A stream of texts
has a row for each row of the file, whatever is wrong with it, and memory does not grow with the file.
"""

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import tables
from minitext.data.folders import SPLIT_NAMES
from minitext.data.readers import Row, TextRow, line_rows, read_rows, stream_texts
from minitext.utils.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, gzipped where its name ends so; text goes in as UTF-8 with its line ends as they are."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def labeled(path: Path, **columns: str) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in read_rows(str(path), **columns)]


def error_of(path: Path, **columns: str) -> str:
    """The message of the error that reading `path` raises."""
    with pytest.raises(UserError) as caught:
        read_rows(str(path), **columns)
    return str(caught.value)


# Labeled tables

SAME_ROWS = {
    ".csv": 'text,label\n"dull, long",neg\ngood,pos\n',
    ".tsv": "text\tlabel\ndull, long\tneg\ngood\tpos\n",
    ".jsonl": '{"text": "dull, long", "label": "neg"}\n{"text": "good", "label": "pos"}\n',
}


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("kind", SAME_ROWS)
def test_each_kind_of_table_gives_the_same_rows(tmp_path: Path, kind: str, gz: str):
    path = write(tmp_path / f"reviews{kind}{gz}", SAME_ROWS[kind])
    assert labeled(path) == [("dull, long", "neg"), ("good", "pos")]


@pytest.mark.parametrize(("kind", "lines"), [(".csv", [2, 3]), (".tsv", [2, 3]), (".jsonl", [1, 2])])
def test_a_row_has_its_file_and_line(tmp_path: Path, kind: str, lines: list[int]):
    rows = read_rows(str(write(tmp_path / f"reviews{kind}", SAME_ROWS[kind])))
    assert [row.origin for row in rows] == [f"reviews{kind}:{line}" for line in lines]


def test_blank_lines_of_a_table_are_skipped_but_counted(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\n\n\ngood,pos\n")
    assert read_rows(str(path)) == [Row("reviews.csv:4", "good", "pos")]


@pytest.mark.parametrize("text", ["text", "review", "sentence", "content", "Text", "REVIEW"])
@pytest.mark.parametrize("label", ["label", "sentiment", "class", "target", "Label"])
def test_usual_column_names_are_found(tmp_path: Path, text: str, label: str):
    path = write(tmp_path / "reviews.csv", f"id,{label},{text}\n7,pos,good\n")
    assert labeled(path) == [("good", "pos")]


def test_a_named_column_wins_over_a_usual_one(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label,Body,stars\nsummary,pos,whole,5\n")
    assert labeled(path, text_column="body", label_column="stars") == [("whole", "5")]


def test_the_first_of_columns_that_differ_only_in_case_is_taken(tmp_path: Path):
    assert labeled(write(tmp_path / "reviews.csv", "TEXT,text,label\nfirst,second,pos\n")) == [("first", "pos")]


def test_a_missing_column_is_an_error_that_lists_the_columns(tmp_path: Path):
    message = error_of(write(tmp_path / "reviews.csv", "id,body,stars\n1,good,5\n"))
    assert "text, review, sentence, content" in message
    assert "among: id, body, stars" in message
    assert "--text-column" in message


def test_a_misspelled_column_is_an_error_that_lists_the_columns(tmp_path: Path):
    message = error_of(write(tmp_path / "reviews.csv", "text,stars\ngood,5\n"), label_column="star")
    assert "'star' among: text, stars" in message
    assert "--label-column" in message


def test_a_quoted_field_keeps_its_newlines_delimiters_and_quotes(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", 'text,label\n"one\ntwo, ""three""\r\nfour",pos\nplain,neg\n')
    assert labeled(path) == [('one\ntwo, "three"\r\nfour', "pos"), ("plain", "neg")]


def test_windows_line_ends_are_not_part_of_a_value(tmp_path: Path):
    assert labeled(write(tmp_path / "reviews.csv", "text,label\r\ngood,pos\r\n")) == [("good", "pos")]


def test_a_text_longer_than_the_default_csv_limit_is_read(tmp_path: Path):
    text = "word " * 40_000  # 200,000 characters; the csv module stops at 131,072
    assert labeled(write(tmp_path / "reviews.csv", f"text,label\n{text},pos\n")) == [(text, "pos")]


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_a_unicode_line_separator_stays_inside_its_text(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", SAME_ROWS[kind].replace("good", "go\u2028od\x85"))
    assert labeled(path)[1] == ("go\u2028od\x85", "pos")


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_a_byte_order_mark_is_not_part_of_the_first_column(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", b"\xef\xbb\xbf" + SAME_ROWS[kind].encode())
    assert labeled(path)[0] == ("dull, long", "neg")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_bytes_that_are_not_utf_8_are_an_error_with_the_line(tmp_path: Path, gz: str):
    path = write(tmp_path / f"reviews.csv{gz}", b"text,label\ngood,pos\ncaf\xe9,neg\n")
    message = error_of(path)
    assert f"{path}, line 3" in message
    assert "0xe9" in message


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_an_empty_label_is_an_error_with_the_line(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", SAME_ROWS[kind].replace("pos", "  "))
    line = 2 if kind == ".jsonl" else 3
    assert f"{path}, line {line}: the label is empty" in error_of(path)


def test_spaces_around_a_label_are_ignored(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nfine, pos \n")
    assert [label for _, label in labeled(path)] == ["pos", "pos"]


def test_an_empty_text_is_kept(tmp_path: Path):
    assert labeled(write(tmp_path / "reviews.csv", "text,label\n,pos\n")) == [("", "pos")]


def test_too_many_fields_are_an_error_with_the_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nlong, and dull,neg\n")
    message = error_of(path)
    assert f"{path}, line 3" in message
    assert "2 columns" in message
    assert "quotes" in message


def test_too_few_fields_are_an_error_with_the_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nno label here\n")
    assert f"{path}, line 3: no value for 'label'" in error_of(path)


@pytest.mark.parametrize("bad", ['"never closed,neg\nfine,pos', '"closed" too early,neg'])
def test_a_misplaced_quote_is_an_error_with_the_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.csv", f"text,label\ngood,pos\n{bad}\n")
    assert f"{path}, line 3" in error_of(path)


@pytest.mark.parametrize("bad", ['{"text": "x", "label": ', "text,label", "{'text': 1}"])
def test_a_line_that_is_not_json_is_an_error_with_the_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n\n' + bad + "\n")
    assert f"{path}, line 3: not a JSON object" in error_of(path)


@pytest.mark.parametrize("bad", ['["good", "pos"]', '"good"', "null"])
def test_json_that_is_no_object_is_an_error_with_the_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n' + bad + "\n")
    assert f"{path}, line 2: not a JSON object; expected an object" in error_of(path)


@pytest.mark.parametrize("bad", ['{"text": "x"}', '{"text": "x", "label": null}', '{"label": "pos"}'])
def test_a_record_without_a_value_is_an_error_with_the_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n' + bad + "\n")
    assert f"{path}, line 2: no value for" in error_of(path)


def test_a_json_number_is_a_label(tmp_path: Path):
    assert labeled(write(tmp_path / "reviews.jsonl", '{"text": "good", "label": 5}\n')) == [("good", "5")]


def test_blank_lines_of_jsonl_are_skipped_but_counted(tmp_path: Path):
    path = write(tmp_path / "reviews.jsonl", '\n{"text": "good", "label": "pos"}\n\n')
    assert read_rows(str(path)) == [Row("reviews.jsonl:2", "good", "pos")]


@pytest.mark.parametrize("written", [*SPLIT_NAMES, " Train ", "TEST"])
def test_the_split_column_is_read(tmp_path: Path, written: str):
    path = write(tmp_path / "reviews.csv", f"text,label,Split\ngood,pos,{written}\n")
    assert [row.split for row in read_rows(str(path))] == [SPLIT_NAMES[written.strip().lower()]]


def test_an_unknown_split_is_an_error_with_the_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label,split\ngood,pos,train\nbad,neg,holdout\n")
    assert f"{path}, line 3: split 'holdout' is none of train" in error_of(path)


def test_the_tag_column_is_read_if_there_is_one(tmp_path: Path):
    (tmp_path / "a.csv").write_text("text,label,tag\ngood,pos,plain\nbad,neg,\n")
    (tmp_path / "b.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    assert [row.tag for row in read_rows(str(tmp_path / "a.csv"))] == ["plain", ""]
    assert [row.tag for row in read_rows(str(tmp_path / "b.csv"))] == ["", ""]


def test_html_in_a_table_is_kept(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\nR&amp;B<br />soul,pos\n")
    assert labeled(path) == [("R&amp;B<br />soul", "pos")]


def test_a_table_without_rows_is_an_error(tmp_path: Path):
    assert "has no labeled text" in error_of(write(tmp_path / "reviews.csv", "text,label\n"))


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_table_without_column_names_is_an_error(tmp_path: Path, content: str):
    assert "line 1: no column names" in error_of(write(tmp_path / "reviews.csv", content))


def test_an_unknown_kind_of_file_is_an_error_that_lists_the_known_kinds(tmp_path: Path):
    message = error_of(write(tmp_path / "reviews.log", "a text\n"))
    assert "line 1: the text has no label" in message
    assert ".csv, .tsv, .jsonl, or any file with --delimiter" in message


def test_a_missing_path_is_an_error(tmp_path: Path):
    assert f"{tmp_path / 'nowhere.csv'}: no such file" in error_of(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("kept", [5, -9, -1])  # inside the header, inside the data, inside the checksum
def test_a_truncated_gzip_table_is_an_error(tmp_path: Path, kept: int):
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\ngood,pos\n")[:kept])
    assert "damaged or cut short" in error_of(path)


def test_a_gz_file_that_is_not_gzipped_is_an_error(tmp_path: Path):
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(b"text,label\ngood,pos\n")
    assert "damaged or cut short" in error_of(path)


# Streams of texts


def rows(name: str, content: str | bytes, **settings: object) -> list[TextRow]:
    data = content.encode() if isinstance(content, str) else content
    return list(stream_texts(Path(name), io.BytesIO(data), **settings))


def test_a_text_row_has_the_line_where_it_begins():
    found = rows("a.csv", 'text,id\n"two\nlines",1\nnext,2\n')
    assert found == [TextRow(2, "two\nlines"), TextRow(4, "next")]


def test_the_name_decides_on_the_kind():
    assert rows("a.tsv", 'id\tReview\n1\t"a" b\n') == [TextRow(2, '"a" b')]
    assert rows("a.jsonl", '{"sentence": "x"}\n\n{"sentence": 7}\n') == [TextRow(1, "x"), TextRow(3, "7")]
    assert rows("a.txt", "x, y\r\n\r\nz") == [TextRow(1, "x, y"), TextRow(2, "", "empty text"), TextRow(3, "z")]
    assert rows("a.log", "x\n") == [TextRow(1, "x")]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl", ".txt"])
def test_a_gzipped_stream_has_the_same_rows(kind: str):
    content = b'{"text": "good"}\n' if kind == ".jsonl" else b"text\ngood\n"
    assert rows("a" + kind + ".gz", gzip.compress(content)) == rows("a" + kind, content)


def test_a_byte_order_mark_is_not_part_of_the_stream():
    assert rows("a.csv", b"\xef\xbb\xbftext\ngood\n") == [TextRow(2, "good")]
    assert rows("a.txt", b"\xef\xbb\xbfgood\n") == [TextRow(1, "good")]


def test_bytes_that_are_not_utf8_are_replaced_in_a_stream():
    assert rows("a.csv", b"text,id\ncaf\xe9,1\n", keep=["id"]) == [TextRow(2, "caf\ufffd", "", ("1",))]


HALVES = [("a \\ud83d", "a \ufffd"), ("\\uDE00!", "\ufffd!"), ("\\ud83d\\ude00 \\ud83d", "\U0001f600 \ufffd")]


@pytest.mark.parametrize(("written", "text"), HALVES)
def test_half_a_character_in_json_becomes_the_replacement_character(tmp_path: Path, written: str, text: str):
    assert rows("a.jsonl", f'{{"text": "{written}"}}') == [TextRow(1, text)]
    path = write(tmp_path / "a.jsonl", f'{{"text": "{written}", "label": "{written}", "tag": "{written}"}}\n')
    assert read_rows(str(path)) == [Row("a.jsonl:1", text, text, "", text)]


def test_half_a_character_in_an_argument_becomes_the_replacement_character():
    assert list(line_rows(["caf\udce9"])) == [TextRow(1, "caf\ufffd")]


def test_a_line_separator_inside_a_json_string_ends_no_row():
    assert rows("a.jsonl", '{"text": "a\u2028b"}\n{"text": "c"}') == [TextRow(1, "a\u2028b"), TextRow(2, "c")]


def test_a_text_column_may_be_named():
    assert rows("a.csv", "text,body\nno,yes\n", text_column="body") == [TextRow(2, "yes")]


def test_kept_columns_have_their_values_or_their_json():
    assert rows("a.csv", "id,text,n\n1,x\n", keep=["n", "id"]) == [TextRow(2, "x", "", (None, "1"))]
    found = rows("a.jsonl", '{"text": "x", "id": 7, "tags": ["é"]}\n{"text": "y"}', keep=["id", "tags"])
    assert [row.kept for row in found] == [(7, '["é"]'), (None, None)]


# Rows without a text


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


def test_columns_are_found_after_a_broken_first_line_of_json():
    assert rows("a.jsonl", '{\n{"text": "good"}\n', keep=[]) == [
        TextRow(1, "", "not a JSON object"),
        TextRow(2, "good"),
    ]


def test_a_row_with_too_many_fields_keeps_no_values():
    assert [row.kept for row in rows("a.csv", "text,id\na,b,1\nc,2\n", keep=["id"])] == [(None,), ("2",)]


def test_a_blank_line_is_an_empty_text_only_in_a_table_of_one_column():
    assert rows("a.csv", "text\na\n\nb\n") == [TextRow(2, "a"), TextRow(3, "", "empty text"), TextRow(4, "b")]
    assert rows("a.csv", "text,id\na,1\n\nb,2\n") == [TextRow(2, "a"), TextRow(4, "b")]


# Errors of a stream


def test_an_unclosed_quote_is_an_error_with_the_line_where_its_row_begins():
    with pytest.raises(UserError, match=r"a\.csv, line 3: .*quote"):
        rows("a.csv", 'text,id\ngood,1\n"bad,2\nfine,3\n')


def test_an_unclosed_quote_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(tables, "MAX_TEXT", 50)
    file = io.BytesIO(b'text\n"' + b"word\n" * 1_000_000)
    with pytest.raises(UserError, match=r"a\.csv, line 2: field larger than field limit \(50\)"):
        list(stream_texts(Path("a.csv"), file))
    assert file.tell() < 100_000


def test_a_gzip_stream_that_is_cut_short_is_an_error():
    content = gzip.compress(b"".join(b"text %d\n" % number for number in range(10_000)))
    with pytest.raises(UserError, match=r"a\.txt\.gz: damaged or cut short"):
        rows("a.txt.gz", content[: len(content) // 2])
    with pytest.raises(UserError, match=r"a\.txt\.gz: damaged or cut short"):
        rows("a.txt.gz", b"plain text\n")


def test_missing_columns_of_a_stream_are_errors():
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column any of text, .* --text-column"):
        rows("a.csv", "id,words\n1,x\n")
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column 'author' .* --keep-columns"):
        rows("a.csv", "id,text\n1,x\n", keep=["author"])
    with pytest.raises(UserError, match=r"a\.csv, line 1: no column names"):
        rows("a.csv", "")
    with pytest.raises(UserError, match=r"a\.txt: has one text per line and no columns"):
        rows("a.txt", "x\n", keep=["id"])


# Memory


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.csv.gz"])
def test_the_first_row_is_read_without_the_rest_of_the_file(name: str):
    line = json.dumps({"text": "good"}) + "\n" if name == "a.jsonl" else "text\n"
    data = line.encode() * 1_000_000
    file = io.BytesIO(
        gzip.compress(data, 0) if name.endswith(".gz") else data
    )  # 0: stored, so that bytes can be counted
    next(stream_texts(Path(name), file))
    assert file.tell() < 300_000  # of 5 million or more; buffers hold 8 to 128 KiB


# Laws

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)  # a file with NUL is binary


@given(st.lists(st.tuples(TEXT, TEXT), max_size=8), st.sampled_from([",", ";", "|"]))
def test_every_row_that_csv_writes_is_read_with_its_values(cells: list[tuple[str, str]], delimiter: str):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows([("id", "text"), *cells])
    found = rows("a.csv", file.getvalue(), keep=["id"])
    assert [(row.kept[0], row.text) for row in found] == [(id_, text if text.strip() else "") for id_, text in cells]
    assert [bool(row.note) for row in found] == [not text.strip() for _, text in cells]


@given(st.lists(st.one_of(TEXT, TEXT.map(lambda text: json.dumps({"text": text}))), max_size=8))
def test_every_line_of_json_that_is_not_blank_is_a_row(lines: list[str]):
    lines = ['{"text": "first"}', *(line.replace("\n", "") for line in lines)]
    assert [row.line for row in rows("a.jsonl", "\n".join(lines))] == [
        number for number, line in enumerate(lines, start=1) if line.strip()
    ]
