"""Proves that each source (table, folder, archive) gives every labelled text once, unchanged, with its place, and that
a source which cannot be read is refused with the file, the line and the remedy.
"""

import gzip
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from minitext.data.readers import SPLIT_NAMES, Row, clean_html, imdb_archive, read_imdb_unlabelled, read_rows
from minitext.utils.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, gzipped where its name ends so; text goes in as UTF-8 with its line ends as they are."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def labelled(path: Path, **columns: str) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in read_rows(str(path), **columns)]


def refusal(path: Path, **columns: str) -> str:
    """The message of the error that reading `path` ends in."""
    with pytest.raises(UserError) as caught:
        read_rows(str(path), **columns)
    return str(caught.value)


# Tables

SAME_ROWS = {
    ".csv": 'text,label\n"dull, long",neg\ngood,pos\n',
    ".tsv": "text\tlabel\ndull, long\tneg\ngood\tpos\n",
    ".jsonl": '{"text": "dull, long", "label": "neg"}\n{"text": "good", "label": "pos"}\n',
}


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("kind", SAME_ROWS)
def test_each_kind_of_table_gives_the_same_rows(tmp_path: Path, kind: str, gz: str):
    path = write(tmp_path / f"reviews{kind}{gz}", SAME_ROWS[kind])
    assert labelled(path) == [("dull, long", "neg"), ("good", "pos")]


@pytest.mark.parametrize(("kind", "lines"), [(".csv", [2, 3]), (".tsv", [2, 3]), (".jsonl", [1, 2])])
def test_a_row_knows_its_file_and_line(tmp_path: Path, kind: str, lines: list[int]):
    rows = read_rows(str(write(tmp_path / f"reviews{kind}", SAME_ROWS[kind])))
    assert [row.place for row in rows] == [f"reviews{kind}:{line}" for line in lines]


def test_blank_lines_of_a_table_are_passed_over_but_counted(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\n\n\ngood,pos\n")
    assert read_rows(str(path)) == [Row("reviews.csv:4", "good", "pos")]


@pytest.mark.parametrize("text", ["text", "review", "sentence", "content", "Text", "REVIEW"])
@pytest.mark.parametrize("label", ["label", "sentiment", "class", "target", "Label"])
def test_usual_column_names_are_found(tmp_path: Path, text: str, label: str):
    path = write(tmp_path / "reviews.csv", f"id,{label},{text}\n7,pos,good\n")
    assert labelled(path) == [("good", "pos")]


def test_a_named_column_wins_over_a_usual_one(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label,Body,stars\nsummary,pos,whole,5\n")
    assert labelled(path, text_column="body", label_column="stars") == [("whole", "5")]


def test_of_columns_that_differ_in_case_alone_the_first_is_taken(tmp_path: Path):
    assert labelled(write(tmp_path / "reviews.csv", "TEXT,text,label\nfirst,second,pos\n")) == [("first", "pos")]


def test_a_missing_column_is_refused_with_the_columns_that_there_are(tmp_path: Path):
    message = refusal(write(tmp_path / "reviews.csv", "id,body,stars\n1,good,5\n"))
    assert "text, review, sentence, content" in message
    assert "among: id, body, stars" in message
    assert "--text-column" in message


def test_a_misspelt_named_column_is_refused_with_the_columns_that_there_are(tmp_path: Path):
    message = refusal(write(tmp_path / "reviews.csv", "text,stars\ngood,5\n"), label_column="star")
    assert "'star' among: text, stars" in message
    assert "--label-column" in message


def test_a_quoted_field_keeps_its_newlines_delimiters_and_quotes(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", 'text,label\n"one\ntwo, ""three""\r\nfour",pos\nplain,neg\n')
    assert labelled(path) == [('one\ntwo, "three"\r\nfour', "pos"), ("plain", "neg")]


def test_windows_line_ends_leave_no_trace(tmp_path: Path):
    assert labelled(write(tmp_path / "reviews.csv", "text,label\r\ngood,pos\r\n")) == [("good", "pos")]


def test_a_text_over_the_csv_module_s_limit_is_read(tmp_path: Path):
    text = "word " * 40_000  # 200,000 characters; the csv module stops at 131,072
    assert labelled(write(tmp_path / "reviews.csv", f"text,label\n{text},pos\n")) == [(text, "pos")]


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_a_unicode_line_separator_stays_inside_its_text(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", SAME_ROWS[kind].replace("good", "go\u2028od\x85"))
    assert labelled(path)[1] == ("go\u2028od\x85", "pos")


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", b"\xef\xbb\xbf" + SAME_ROWS[kind].encode())
    assert labelled(path)[0] == ("dull, long", "neg")


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path, gz: str):
    path = write(tmp_path / f"reviews.csv{gz}", b"text,label\ngood,pos\ncaf\xe9,neg\n")
    message = refusal(path)
    assert f"{path}, line 3" in message
    assert "0xe9" in message


@pytest.mark.parametrize("kind", SAME_ROWS)
def test_an_empty_label_is_refused_with_its_line(tmp_path: Path, kind: str):
    path = write(tmp_path / f"reviews{kind}", SAME_ROWS[kind].replace("pos", "  "))
    line = 2 if kind == ".jsonl" else 3
    assert f"{path}, line {line}: the label is empty" in refusal(path)


def test_spaces_around_a_label_make_no_new_class(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nfine, pos \n")
    assert [label for _, label in labelled(path)] == ["pos", "pos"]


def test_an_empty_text_is_kept(tmp_path: Path):
    assert labelled(write(tmp_path / "reviews.csv", "text,label\n,pos\n")) == [("", "pos")]


def test_too_many_fields_are_refused_with_their_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nlong, and dull,neg\n")
    message = refusal(path)
    assert f"{path}, line 3" in message
    assert "2 columns" in message
    assert "quotes" in message


def test_too_few_fields_are_refused_with_their_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\ngood,pos\nno label here\n")
    assert f"{path}, line 3: no value for 'label'" in refusal(path)


@pytest.mark.parametrize("bad", ['"never closed,neg\nfine,pos', '"closed" too early,neg'])
def test_a_misplaced_quote_is_refused_with_the_line_it_stands_on(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.csv", f"text,label\ngood,pos\n{bad}\n")
    assert f"{path}, line 3" in refusal(path)


@pytest.mark.parametrize("bad", ['{"text": "x", "label": ', "text,label", "{'text': 1}"])
def test_a_line_that_is_not_json_is_refused_with_its_number(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n\n' + bad + "\n")
    assert f"{path}, line 3: not JSON" in refusal(path)


@pytest.mark.parametrize("bad", ['["good", "pos"]', '"good"', "null"])
def test_json_that_is_no_object_is_refused_with_its_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n' + bad + "\n")
    assert f"{path}, line 2: expected an object" in refusal(path)


@pytest.mark.parametrize("bad", ['{"text": "x"}', '{"text": "x", "label": null}', '{"text": ["x"], "label": "pos"}'])
def test_a_record_without_a_usable_value_is_refused_with_its_line(tmp_path: Path, bad: str):
    path = write(tmp_path / "reviews.jsonl", '{"text": "good", "label": "pos"}\n' + bad + "\n")
    assert f"{path}, line 2: no value for" in refusal(path)


def test_a_json_number_is_a_label(tmp_path: Path):
    assert labelled(write(tmp_path / "reviews.jsonl", '{"text": "good", "label": 5}\n')) == [("good", "5")]


def test_blank_lines_of_jsonl_are_passed_over_but_counted(tmp_path: Path):
    path = write(tmp_path / "reviews.jsonl", '\n{"text": "good", "label": "pos"}\n\n')
    assert read_rows(str(path)) == [Row("reviews.jsonl:2", "good", "pos")]


@pytest.mark.parametrize("written", [*SPLIT_NAMES, " Train ", "TEST"])
def test_the_split_column_is_read(tmp_path: Path, written: str):
    path = write(tmp_path / "reviews.csv", f"text,label,Split\ngood,pos,{written}\n")
    assert [row.split for row in read_rows(str(path))] == [SPLIT_NAMES[written.strip().lower()]]


def test_an_unknown_split_is_refused_with_its_line(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label,split\ngood,pos,train\nbad,neg,holdout\n")
    assert f"{path}, line 3: split 'holdout' is none of train" in refusal(path)


def test_html_of_a_table_is_left_as_it_is(tmp_path: Path):
    path = write(tmp_path / "reviews.csv", "text,label\nR&amp;B<br />soul,pos\n")
    assert labelled(path) == [("R&amp;B<br />soul", "pos")]


@pytest.mark.parametrize("content", ["", "text,label\n"])
def test_a_table_without_rows_is_refused(tmp_path: Path, content: str):
    assert "holds no labelled text" in refusal(write(tmp_path / "reviews.csv", content))


def test_an_unknown_kind_of_file_is_refused_with_the_known_kinds(tmp_path: Path):
    message = refusal(write(tmp_path / "reviews.xlsx", b"PK"))
    assert "'.xlsx'" in message
    assert ".csv, .tsv, .jsonl" in message


def test_a_path_that_is_not_there_is_refused(tmp_path: Path):
    assert f"{tmp_path / 'nowhere.csv'}: there is no such file" in refusal(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("kept", [5, -9, -1])  # inside the header, inside the data, inside the checksum
def test_a_truncated_gzip_table_is_refused(tmp_path: Path, kept: int):
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\ngood,pos\n")[:kept])
    assert "not a whole gzip file" in refusal(path)


def test_a_gz_that_is_no_gzip_is_refused(tmp_path: Path):
    path = tmp_path / "reviews.csv.gz"
    path.write_bytes(b"text,label\ngood,pos\n")
    assert "not a whole gzip file" in refusal(path)


# Folders


def test_a_folder_per_class_gives_its_texts_without_a_split(tmp_path: Path):
    write(tmp_path / "pos" / "b.txt", "good\n")
    write(tmp_path / "pos" / "a.txt", "fine")
    write(tmp_path / "neg" / "1.txt", "b<br />ad")
    assert read_rows(str(tmp_path)) == [
        Row("neg/1.txt", "b<br />ad", "neg"),
        Row("pos/a.txt", "fine", "pos"),
        Row("pos/b.txt", "good\n", "pos"),
    ]


def test_a_folder_per_split_and_class_gives_both(tmp_path: Path):
    for split in ("train", "Dev", "test"):
        write(tmp_path / split / "sport" / "1.txt", f"goal {split}")
    assert {(row.text, row.label, row.split) for row in read_rows(str(tmp_path))} == {
        ("goal train", "sport", "train"),
        ("goal Dev", "sport", "valid"),
        ("goal test", "sport", "test"),
    }


def test_files_that_are_no_text_are_passed_over(tmp_path: Path):
    write(tmp_path / "README", "about")
    write(tmp_path / "pos" / "1.txt", "good")
    write(tmp_path / "pos" / "scores.csv", "1,2")
    assert labelled(tmp_path) == [("good", "pos")]


def test_a_folder_without_texts_is_refused_with_an_example(tmp_path: Path):
    write(tmp_path / "1.txt", "a text, but in no class")
    assert f"{tmp_path}/positive/1.txt" in refusal(tmp_path)


def test_a_text_file_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path):
    path = write(tmp_path / "pos" / "1.txt", b"good\ncaf\xe9\n")
    assert f"{path}, line 2" in refusal(tmp_path)


# IMDB, unpacked and as an archive

MEMBERS = {  # a small aclImdb; the file name holds the review's number and its rating
    "aclImdb/README": "Large Movie Review Dataset",
    "aclImdb/train/labeledBow.feat": "9 0:9",
    "aclImdb/train/urls_pos.txt": "http://www.imdb.com/title/tt0210075/usercomments",
    "aclImdb/test/pos/0_10.txt": "Great<br /><br />fun",
    "aclImdb/test/neg/0_2.txt": "R&amp;B was &quot;dull&quot;",
    "aclImdb/train/pos/0_9.txt": "good",
    "aclImdb/train/neg/0_3.txt": "bad",
    "aclImdb/train/unsup/0_0.txt": "who<br/>knows",
    "aclImdb/train/unsup/1_0.txt": "nobody",
}
ROWS = {
    Row("test/pos/0_10.txt", "Great  fun", "pos", "test"),
    Row("test/neg/0_2.txt", 'R&B was "dull"', "neg", "test"),
    Row("train/pos/0_9.txt", "good", "pos", "train"),
    Row("train/neg/0_3.txt", "bad", "neg", "train"),
}


def archive(path: Path, members: dict[str, str | bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def everything_below(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_the_unpacked_imdb_gives_its_labelled_reviews_cleaned(tmp_path: Path):
    for name, content in MEMBERS.items():
        write(tmp_path / name, content)
    rows = read_rows(str(tmp_path / "aclImdb"))
    assert set(rows) == ROWS
    assert len(rows) == len(ROWS)


@pytest.mark.parametrize("name", ["aclImdb_v1.tar.gz", "imdb.tgz"])
def test_the_archive_gives_the_same_rows_as_the_unpacked_folder(tmp_path: Path, name: str):
    rows = read_rows(str(archive(tmp_path / name, MEMBERS)))
    assert set(rows) == ROWS
    assert len(rows) == len(ROWS)


def test_reading_the_archive_unpacks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    read_rows(str(path))
    assert everything_below(tmp_path) == [path]


def test_the_archive_s_unlabelled_reviews_are_reachable(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    assert read_imdb_unlabelled(path) == ["who knows", "nobody"]


def test_imdb_in_the_cache_is_not_downloaded_again(own_cache: Path):
    path = archive(own_cache / "aclImdb_v1.tar.gz", MEMBERS)
    assert imdb_archive() == path
    assert set(read_rows("imdb")) == ROWS


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_an_archive_cut_short_is_refused(tmp_path: Path, share: float):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    message = refusal(path)
    assert str(path) in message
    assert "not a whole tar.gz archive" in message


def test_an_archive_without_its_checksum_is_refused(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    path.write_bytes(path.read_bytes()[:-8])  # gzip ends with a CRC-32 and a length, 4 bytes each
    assert "not a whole tar.gz archive" in refusal(path)


@pytest.mark.parametrize("name", ["../train/pos/1_9.txt", "aclImdb/../../train/pos/1_9.txt", "/train/pos/1_9.txt"])
def test_an_archive_whose_member_points_outside_is_refused(tmp_path: Path, name: str):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS | {name: "outside"})
    message = refusal(path)
    assert repr(name) in message
    assert "points outside" in message


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path):
    secret = write(tmp_path / "secret.txt", "secret")
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    assert "holds no reviews" in refusal(tmp_path / "aclImdb_v1.tar.gz")


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", gzip.compress(b"<html>moved</html>" * 100)])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(content)
    assert "not a whole tar.gz archive" in refusal(path)


def test_an_archive_of_something_else_is_refused(tmp_path: Path):
    path = archive(tmp_path / "other.tar.gz", {"other/data.txt": "text"})
    assert "holds no reviews" in refusal(path)


def test_a_review_that_is_not_utf_8_is_refused_with_its_member(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS | {"aclImdb/train/pos/1_9.txt": b"caf\xe9"})
    message = refusal(path)
    assert "train/pos/1_9.txt" in message
    assert "UTF-8" in message


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("one<br />two<br/>three<br>four", "one two three four"),
        ("caf&eacute; &amp; bar &lt;3", "café & bar <3"),
        ("&lt;br /&gt;", "<br />"),  # what the writer wrote as text is text
        ("a < b & c", "a < b & c"),
        ("plain", "plain"),
    ],
)
def test_breaks_become_spaces_and_entities_characters(raw: str, clean: str):
    assert clean_html(raw) == clean


# The real IMDB


@pytest.fixture(scope="module")
def imdb_rows(imdb: Path) -> list[Row]:
    return read_rows(str(imdb))


@pytest.mark.slow
def test_imdb_holds_12_500_reviews_of_each_split_and_class(imdb_rows: list[Row]):
    assert Counter((row.split, row.label) for row in imdb_rows) == {
        (split, label): 12_500 for split in ("train", "test") for label in ("pos", "neg")
    }


@pytest.mark.slow
def test_imdb_places_are_distinct(imdb_rows: list[Row]):
    assert len({row.place for row in imdb_rows}) == 50_000


@pytest.mark.slow
def test_no_break_tag_is_left_in_imdb(imdb_rows: list[Row]):
    assert [row.place for row in imdb_rows if re.search(r"<br\s*/?>", row.text)] == []


@pytest.mark.slow
def test_imdb_has_50_000_unlabelled_reviews(imdb: Path):
    assert len(read_imdb_unlabelled(imdb)) == 50_000


@pytest.mark.slow
def test_imdb_s_known_repeats_are_found(imdb_rows: list[Row]):
    """Of the cleaned texts, word for word; the counts belong to the published archive and never change."""
    train = [row.text for row in imdb_rows if row.split == "train"]
    test = [row.text for row in imdb_rows if row.split == "test"]
    trained_on = set(train)
    assert sum(text in trained_on for text in test) == 123
    assert len(train) - len(trained_on) == 96
    assert len(test) - len(set(test)) == 199


def test_a_column_of_tags_is_read_and_other_tables_have_none(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,tag\ngood,pos,plain\nbad,neg,\n")
    (tmp_path / "b.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    assert [row.tag for row in read_rows(str(tmp_path / "a.csv"))] == ["plain", ""]
    assert [row.tag for row in read_rows(str(tmp_path / "b.csv"))] == ["", ""]
