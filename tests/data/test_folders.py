"""Each file of a folder is one text of the class that its folder names; hidden files are skipped, and what is not read
is reported.
"""

from pathlib import Path

import pytest

from minitext.data.readers import Row, read_rows
from minitext.utils.errors import UserError


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def labeled(path: Path) -> list[tuple[str, str]]:
    return [(row.text, row.label) for row in read_rows(str(path))]


def error_of(path: Path) -> str:
    """The message of the error that reading `path` raises."""
    with pytest.raises(UserError) as caught:
        read_rows(str(path))
    return str(caught.value)


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


def test_files_that_are_no_texts_are_skipped(tmp_path: Path):
    write(tmp_path / "README", "about")
    write(tmp_path / "pos" / "1.txt", "good")
    write(tmp_path / "pos" / "scores.csv", "1,2")
    assert labeled(tmp_path) == [("good", "pos")]


def test_a_folder_without_texts_is_an_error_with_an_example(tmp_path: Path):
    write(tmp_path / "1.txt", "a text, but in no class")
    assert "a folder per class (such as positive/1.txt)" in error_of(tmp_path)


def test_a_text_file_that_is_not_utf_8_is_an_error_with_the_line(tmp_path: Path):
    path = write(tmp_path / "pos" / "1.txt", b"good\ncaf\xe9\n")
    assert f"{path}, line 2" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Val"])
def test_every_usual_name_of_validation_is_a_split(tmp_path: Path, name: str):
    for split in ("train", name, "test"):
        write(tmp_path / split / "pos" / "1.txt", split)
    assert {row.text: row.split for row in read_rows(str(tmp_path))} == {
        "train": "train", name: "valid", "test": "test"
    }  # fmt: skip


@pytest.mark.parametrize(
    "hidden",
    [".ipynb_checkpoints/1.txt", "pos/._1.txt", "pos/.ipynb_checkpoints/1.txt", "__MACOSX/pos/1.txt", ".git/a.txt"],
)
def test_hidden_files_and_folders_are_skipped(tmp_path: Path, capsys, hidden: str):
    write(tmp_path / "pos" / "1.txt", "good")
    write(tmp_path / hidden, b"\0\xff")
    assert labeled(tmp_path) == [("good", "pos")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["part1/1.txt", "1.TXT", "a/b/1.Txt"])
def test_files_in_folders_of_a_class_and_with_capital_suffixes_are_read(tmp_path: Path, name: str):
    write(tmp_path / "pos" / name, "good")
    assert read_rows(str(tmp_path)) == [Row(f"pos/{name}", "good", "pos")]


def test_files_and_folders_that_are_not_read_are_reported(tmp_path: Path, capsys):
    for name in ("train/pos/1.txt", "train/pos/1.md", "train/pos/x/2.html", "holdout/pos/1.txt"):
        write(tmp_path / name, "good")
    assert len(read_rows(str(tmp_path))) == 1
    reported = capsys.readouterr().err
    assert "files that do not end in .txt were skipped: 2" in reported
    assert "only train were read, not holdout" in reported


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_part_of_imdb_has_two_classes_and_cleaned_texts(tmp_path: Path, part: str):
    folder = tmp_path / "aclImdb" / part
    write(folder / "pos" / "0_9.txt", "R&amp;B<br />soul")
    write(folder / "neg" / "0_3.txt", "bad")
    write(folder / "labeledBow.feat", "9 0:9")
    if part == "train":
        write(folder / "unsup" / "0_0.txt", "unknown")
    assert labeled(folder) == [("bad", "neg"), ("R&B soul", "pos")]


def test_two_classes_named_as_those_of_imdb_are_not_cleaned(tmp_path: Path):
    write(tmp_path / "pos" / "1.txt", "R&amp;B")
    write(tmp_path / "neg" / "1.txt", "bad")
    assert labeled(tmp_path) == [("bad", "neg"), ("R&amp;B", "pos")]


def test_a_name_that_is_not_utf_8_can_be_written(tmp_path: Path):
    try:
        write(tmp_path / "caf\udce9" / "1\udcff.txt", "good")
    except OSError:
        pytest.skip("this file system refuses names that are not UTF-8")
    assert read_rows(str(tmp_path)) == [Row("caf\ufffd/1\ufffd.txt", "good", "caf\ufffd")]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path):
    write(tmp_path / "pos" / "1.txt", "good")
    (tmp_path / "pos" / "again").symlink_to(tmp_path / "pos")
    assert labeled(tmp_path) == [("good", "pos")]
