"""The IMDB archive gives every review once and cleaned, without unpacking; a damaged or other file is an error."""

import gzip
import io
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from minitext.data import imdb as imdb_module
from minitext.data.imdb import clean_html, imdb_archive, read_imdb, read_imdb_unlabeled
from minitext.data.readers import Row, read_rows
from minitext.utils.errors import UserError


def error_of(path: Path) -> str:
    """The message of the error that reading `path` raises."""
    with pytest.raises(UserError) as caught:
        read_rows(str(path))
    return str(caught.value)


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


def test_the_unpacked_imdb_gives_its_labeled_reviews_cleaned(tmp_path: Path):
    for name, content in MEMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
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


def test_unlabeled_reviews_are_read_separately(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    assert read_imdb_unlabeled(path) == ["who knows", "nobody"]


def test_the_labels_to_read_may_be_given(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    assert [text for _, text, _, _ in read_imdb(path, ("neg",))] == ['R&B was "dull"', "bad"]


def test_the_archive_in_the_cache_is_read(own_cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imdb_module, "URL", "http://127.0.0.1:1/nowhere")
    path = archive(own_cache / "aclImdb_v1.tar.gz", MEMBERS)
    assert imdb_archive() == path
    assert set(read_rows("imdb")) == ROWS


def test_an_archive_that_is_not_in_the_cache_is_downloaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(imdb_module, "URL", "http://127.0.0.1:1/nowhere")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(UserError, match="127.0.0.1:1/nowhere: cannot be downloaded"):
        read_rows("imdb")


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_an_archive_that_is_cut_short_is_an_error(tmp_path: Path, kept: float):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    message = error_of(path)
    assert str(path) in message
    assert "damaged or cut short" in message


def test_an_archive_without_its_checksum_is_an_error(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS)
    path.write_bytes(path.read_bytes()[:-8])  # gzip ends with a CRC-32 and a length, 4 bytes each
    assert "damaged or cut short" in error_of(path)


def test_a_link_in_the_archive_is_not_followed(tmp_path: Path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as tar:
        link = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    assert "has no labeled text" in error_of(tmp_path / "aclImdb_v1.tar.gz")


@pytest.mark.parametrize("content", [b"", b"<html>moved</html>", gzip.compress(b"<html>moved</html>" * 100)])
def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path, content: bytes):
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(content)
    message = error_of(path)
    assert "not a complete tar.gz archive" in message or "damaged or cut short (Not a gzipped file" in message


def test_an_archive_without_reviews_is_an_error(tmp_path: Path):
    path = archive(tmp_path / "other.tar.gz", {"other/data.txt": "text"})
    assert "has no labeled text" in error_of(path)


def test_a_review_that_is_not_utf_8_is_an_error_that_names_its_member(tmp_path: Path):
    path = archive(tmp_path / "aclImdb_v1.tar.gz", MEMBERS | {"aclImdb/train/pos/1_9.txt": b"caf\xe9"})
    message = error_of(path)
    assert "train/pos/1_9.txt" in message
    assert "UTF-8" in message


def test_a_member_that_claims_more_than_a_text_has_is_an_error(tmp_path: Path):
    entry = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
    entry.size = 8 << 30
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(gzip.compress(entry.tobuf() + bytes(10_240)))
    assert "train/pos/1_9.txt: claims 8,589,934,592 bytes, a text has at most 16,777,216" in error_of(path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_no_file_is_not_read(tmp_path: Path, kind: bytes):
    with tarfile.open(tmp_path / "aclImdb_v1.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
        entry.type, entry.linkname = kind, "/etc/hostname"
        tar.addfile(entry)
    assert "has no labeled text" in error_of(tmp_path / "aclImdb_v1.tar.gz")


def test_an_archive_of_zeros_is_refused_before_it_is_unpacked(tmp_path: Path):
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(gzip.compress(bytes(1 << 28), 1))
    assert "unpacks to more than 100 times its size" in error_of(path)


@pytest.mark.parametrize("name", ["README", "train/neg/1_1.txt/", "train/unsup/0_0.txt"])
@pytest.mark.parametrize("size", [1 << 28, 1 << 40, 1 << 80])
def test_a_member_that_claims_more_than_the_archive_can_hold_is_an_error(tmp_path: Path, name: str, size: int):
    entry = tarfile.TarInfo(f"aclImdb/{name}")
    entry.size = size
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(gzip.compress(entry.tobuf(tarfile.GNU_FORMAT) + bytes(10_240)))
    assert f"not a complete tar.gz archive (aclImdb/{name} claims {size:,} bytes)" in error_of(path)


def test_an_archive_of_headers_without_members_is_an_error(tmp_path: Path):
    """tarfile reads the headers of one member by recursion."""
    header = tarfile.TarInfo.create_pax_global_header({"comment": "x"})
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(gzip.compress(1000 * header + bytes(1024)))
    assert "not a complete tar.gz archive" in error_of(path)


@pytest.mark.parametrize("place", [124, 148, 100, 156])  # of a header: size, checksum, mode, type
def test_a_damaged_header_is_an_error_or_no_review(tmp_path: Path, place: int):
    data = bytearray(gzip.decompress(archive(tmp_path / "whole.tar.gz", {"train/pos/1_9.txt": "good"}).read_bytes()))
    data[place : place + 4] = b"\xff\xfezz"
    path = tmp_path / "aclImdb_v1.tar.gz"
    path.write_bytes(gzip.compress(bytes(data)))
    with pytest.raises(UserError, match="not a complete tar.gz archive|has no labeled text|damaged|claims"):
        read_rows(str(path))


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
def test_br_tags_become_spaces_and_entities_characters(raw: str, clean: str):
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
def test_imdb_origins_are_distinct(imdb_rows: list[Row]):
    assert len({row.origin for row in imdb_rows}) == 50_000


@pytest.mark.slow
def test_no_br_tag_is_left_in_imdb(imdb_rows: list[Row]):
    assert [row.origin for row in imdb_rows if re.search(r"<br\s*/?>", row.text)] == []


@pytest.mark.slow
def test_imdb_has_50_000_unlabeled_reviews(imdb: Path):
    assert len(read_imdb_unlabeled(imdb)) == 50_000


@pytest.mark.slow
def test_imdb_has_its_known_duplicates(imdb_rows: list[Row]):
    """Of the cleaned texts, word for word; the counts belong to the published archive and never change."""
    train = [row.text for row in imdb_rows if row.split == "train"]
    test = [row.text for row in imdb_rows if row.split == "test"]
    trained_on = set(train)
    assert sum(text in trained_on for text in test) == 123
    assert len(train) - len(trained_on) == 96
    assert len(test) - len(set(test)) == 199
