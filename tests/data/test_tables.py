"""Tables as people have them: without a header, with other delimiters, TSV without quotes, fastText's lines; for a file
that is not understood the message names the likeliest remedy.
"""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data.readers import TextRow, read_rows, stream_texts
from minitext.data.tables import TableFormat
from minitext.utils.errors import UserError


def labeled(folder: Path, name: str, content: str | bytes, *columns: str, **options: object) -> list[tuple[str, str]]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(row.text, row.label) for row in read_rows(str(path), *columns, table_format=TableFormat(**options))]


def error_of(folder: Path, name: str, content: str, *columns: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        labeled(folder, name, content, *columns, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def texts(name: str, content: str, **options: object) -> list[TextRow]:
    columns = {key: options.pop(key) for key in ("text_column", "keep") if key in options}
    file = io.BytesIO(content.encode())
    return list(stream_texts(Path(name), file, **columns, table_format=TableFormat(**options)))


# Files without a header


@pytest.mark.parametrize(
    ("name", "content", "columns", "options", "rows"),
    [
        # Amazon and Yelp polarity: label, title, text
        ("train.csv", '"2","Fine","A ""good"" lamp"\n"1","Bad","dull"\n', ("3", "1"), {}, ['A "good" lamp', "dull"]),
        ("train.csv", '"2","Fine","A lamp"\n"1","Bad","dull"\n', ("2,3", "1"), {}, ["Fine A lamp", "Bad dull"]),
        # Sentiment140: label, id, date, query, user, text, in latin-1
        ("s140.csv", b'"4","1","Mon","NO","me","caf\xe9"\n', ("6", "1"), {"encoding": "latin-1"}, ["café"]),
        # the SMS spam collection: label<TAB>text
        ("SMSSpamCollection", 'ham\t"Go, now\nspam\tWIN, now\n', ("2", "1"), {}, ['"Go, now', "WIN, now"]),
        ("data.txt", "pos|good\nneg|bad\n", ("2", "1"), {"delimiter": "|"}, ["good", "bad"]),
    ],
)
def test_columns_of_a_file_without_a_header_are_named_by_number(tmp_path, name, content, columns, options, rows):
    found = labeled(tmp_path, name, content, *columns, no_header=True, **options)
    assert [text for text, _ in found] == rows


def test_the_first_line_of_a_file_without_a_header_is_predicted():
    found = texts("a.csv", "1,good\n2,bad\n", text_column="2", keep=["1"], no_header=True)
    assert found == [TextRow(1, "good", "", ("1",)), TextRow(2, "bad", "", ("2",))]


def test_a_column_number_that_does_not_exist_is_an_error(tmp_path):
    message = error_of(tmp_path, "a.csv", "pos,good\n", "3", "1", no_header=True)
    assert "no column '3' among: 1, 2; --no-header needs column numbers" in message
    assert "--no-header needs column numbers" in error_of(tmp_path, "a.csv", "pos,good\n", no_header=True)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.csv", '"2","Great lamp","It shines all day long"\n', "--no-header --text-column 3 --label-column 1"),
        ("a.csv", "0,1,Mon,NO,me,is upset that he cannot go\n", "--no-header --text-column 6 --label-column 1"),
        ("a.tsv", "ham\tGo until we say so\n", "--no-header --text-column 2 --label-column 1"),
        ("a.csv", "It was a very good lamp,1\n", "--no-header --text-column 1 --label-column 2"),
    ],
)
def test_a_missing_header_is_named_as_the_likeliest_reason(tmp_path, name: str, content: str, remedy: str):
    assert remedy in error_of(tmp_path, name, content + content)


# Delimiters


@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_a_delimiter_that_the_header_shows_is_used_and_reported(tmp_path, capsys, delimiter: str, name: str):
    content = "id;text;label\n1;good, but long;pos\n".replace(";", delimiter)
    assert labeled(tmp_path, "a.csv", content) == [("good, but long", "pos")]
    assert f"a.csv: columns are separated by {name}" in capsys.readouterr().err
    assert [row.text for row in texts("a.csv", content)] == ["good, but long"]


def test_the_delimiter_of_the_suffix_comes_first_and_is_not_reported(tmp_path, capsys):
    assert labeled(tmp_path, "a.csv", "text,label,x;y\na;b,c,d\n") == [("a;b", "c")]
    assert texts("a.csv", "text\na;b\n") == [TextRow(2, "a;b")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("delimiter", ["tab", r"\t", "\t"])
def test_a_tab_may_be_written_in_three_ways(tmp_path, delimiter: str):
    assert labeled(tmp_path, "a.data", "text\tlabel\na\tpos\n", delimiter=delimiter) == [("a", "pos")]


def test_a_delimiter_that_the_header_does_not_show_may_be_given(tmp_path):
    content = "body;stars\ngood;5\n"
    assert labeled(tmp_path, "a.csv", content, "body", "stars", delimiter=";") == [("good", "5")]
    assert "if columns are separated by semicolons: --delimiter ';'" in error_of(tmp_path, "a.csv", content)


@pytest.mark.parametrize("source", ["a.jsonl", "folder", "a.tar.gz"])
@pytest.mark.parametrize("options", [{"delimiter": ";"}, {"no_header": True}])
def test_options_of_tables_are_refused_for_other_sources(tmp_path, source: str, options: dict):
    path = tmp_path / source
    path.mkdir() if source == "folder" else path.write_text('{"text": "a", "label": "b"}')
    with pytest.raises(UserError, match="--no-header and --delimiter are for tables"):
        read_rows(str(path), table_format=TableFormat(**options))


# TSV


@pytest.mark.parametrize("quote", ['"open quote', 'two "" quotes', '"', '"closed" too early', "\\"])
def test_quotes_of_tsv_are_text(tmp_path, quote: str):
    content = f"text\tlabel\n{quote}\tpos\n" + "fine\tneg\n" * 19
    rows = labeled(tmp_path, "a.tsv", content)
    assert len(rows) == 20
    assert rows[0] == (quote, "pos")


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n"), min_size=1, max_size=8)


@given(st.lists(st.tuples(CELL, CELL), max_size=8))
def test_every_row_of_tsv_has_the_fields_between_its_tabs(cells: list[tuple[str, str]]):
    content = "".join(f"{a}\t{b}\r\n" for a, b in [("id", "text"), *cells])
    found = texts("a.tsv", content, keep=["id"])
    assert [(row.kept[0], row.text) for row in found] == [(a, b if b.strip() else "") for a, b in cells]


# CSV


def test_spaces_around_column_names_are_ignored(tmp_path):
    assert labeled(tmp_path, "a.csv", 'text, label \n"good, long", "pos"\nbad, neg\n') == [
        ("good, long", "pos"),
        ("bad", "neg"),
    ]
    assert labeled(tmp_path, "b.tsv", "text\t label\ngood\tpos\n") == [("good", "pos")]


def test_a_backslash_before_a_quote_is_an_error_that_says_how_to_write_it(tmp_path):
    message = error_of(tmp_path, "a.csv", 'text,label\n"a \\"good\\" lamp",pos\n')
    assert "a.csv, line 2" in message
    assert r'write a quote inside quotes as "" instead of \"' in message


def test_more_columns_than_a_table_has_are_an_error(tmp_path):
    assert "more than 10,000 columns" in error_of(tmp_path, "a.csv", "text,label" + ",x" * 10_000 + "\na,b\n")


# Values that are no texts or labels


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ('["a", "b"]', "'label' is a list (['a', 'b']); write one text or number"),
        ('{"name": "a"}', "'label' is an object"),
        ("NaN", "'label' is not a number (nan)"),
        ("-Infinity", "'label' is not a number (-inf)"),
        ("null", "no value for 'label'; complete the row"),
        ('"' + "long " * 300 + '"', "the label has 1,499 characters; pass the --label-column"),
    ],
)
def test_a_json_value_that_is_no_label_is_an_error_with_the_line(tmp_path, value: str, problem: str):
    message = error_of(tmp_path, "a.jsonl", f'{{"text": "a", "label": "x"}}\n{{"text": "b", "label": {value}}}\n')
    assert f"a.jsonl, line 2: {problem}" in message


@pytest.mark.parametrize("value", ["NaN", "[1]", "{}", "null"])
def test_a_json_value_that_is_no_text_is_no_text_when_predicted(value: str):
    assert texts("a.jsonl", f'{{"text": {value}}}\n') == [TextRow(1, "", "no text")]


def test_json_numbers_and_truth_values_are_labels_as_json_writes_them(tmp_path):
    rows = "".join(f'{{"text": "a", "label": {value}}}\n' for value in ("true", "false", "7", "2.5"))
    assert [label for _, label in labeled(tmp_path, "a.jsonl", rows)] == ["true", "false", "7", "2.5"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson"])
def test_a_json_array_is_an_error_that_says_how_to_convert_it(tmp_path, name: str):
    message = error_of(tmp_path, name, '[{"text": "a", "label": "b"},\n{"text": "c", "label": "d"}]')
    assert f"is a JSON array; write one object per line: jq -c '.[]' {name} > texts.jsonl" in message
    with pytest.raises(UserError, match="is a JSON array"):
        texts(name, '[\n{"text": "a"}\n]')


@pytest.mark.parametrize("name", ["a.json", "a.ndjson", "a.JSON"])
def test_a_json_file_with_one_object_per_line_is_jsonl(tmp_path, name: str):
    assert labeled(tmp_path, name, '{"text": "a", "label": "b"}\n') == [("a", "b")]


# fastText


def test_lines_of_fasttext_are_labeled_texts(tmp_path):
    content = "__label__pos a good lamp\n\n__label__neg  bad , dull\r\n__label__pos\n"
    for name in ("cooking.train", "a.txt", "a.ft.txt"):
        assert labeled(tmp_path, name, content) == [("a good lamp", "pos"), ("bad , dull", "neg"), ("", "pos")]


def test_a_line_of_fasttext_with_several_labels_is_an_error(tmp_path):
    message = error_of(tmp_path, "a.txt", "__label__a x\n__label__a __label__b y\n")
    assert "a.txt, line 2: 'label' is a list (['a', 'b']); write one text or number" in message


def test_the_labels_of_fasttext_are_no_part_of_the_text_that_is_predicted():
    found = texts("a.txt", "__label__a good\n__label__a __label__b bad\nthe __label__ stays\n__label__a\n")
    assert [(row.text, row.note) for row in found] == [
        ("good", ""), ("bad", ""), ("the __label__ stays", ""), ("", "empty text")
    ]  # fmt: skip


def test_a_text_file_without_labels_is_an_error_that_names_the_formats(tmp_path):
    message = error_of(tmp_path, "a.txt", "__label__pos good\nbad\n")
    assert "a.txt, line 2: the text has no label; give a table" in message
    assert '"__label__pos a good film"' in message
