"""Every file of texts is decoded to the same lines whatever its encoding and packing; what is no text is refused in one
line; a file cannot fill the memory by what it unpacks to, and a pipe cannot block.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import socket
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import text_input
from minitext.data.readers import read_rows, stream_texts
from minitext.data.text_input import check_encoding, open_regular, read_lines, read_text, replace_surrogates
from minitext.utils.errors import UserError

TEXT = "café, 日本\nsecond \U0001f600\n"


def lines(data: bytes, name: str = "a.txt", **settings: object) -> list[str]:
    return list(read_lines(io.BytesIO(data), name, **settings))


def error_of(data: bytes, name: str = "a.txt", **settings: object) -> str:
    """The message of the error that reading these bytes raises."""
    with pytest.raises(UserError) as caught:
        lines(data, name, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Encodings


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(encoding: str, gz: str):
    data = TEXT.encode(encoding)
    assert lines(gzip.compress(data) if gz else data, f"a.txt{gz}") == TEXT.splitlines(keepends=True)


def test_utf_16_of_both_byte_orders_is_read():
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        assert lines(mark + TEXT.encode(encoding)) == TEXT.splitlines(keepends=True)
        assert lines(mark + TEXT.encode(encoding), encoding=encoding) == TEXT.splitlines(keepends=True)


@pytest.mark.parametrize(("encoding", "text"), [("latin-1", "café\n"), ("cp1251", "мир\n"), ("gb18030", "电影\n")])
def test_other_encodings_are_read_by_name(encoding: str, text: str):
    assert lines(text.encode(encoding), encoding=encoding) == [text]


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "rot13", "undefined", ""])
def test_a_name_that_is_no_encoding_of_text_is_an_error(encoding: str):
    with pytest.raises(UserError, match="not an encoding of text that Python knows"):
        check_encoding(encoding)


@pytest.mark.parametrize(
    ("data", "encoding", "problem"),
    [
        (b"a\ncaf\xe9\n", None, "line 2: byte 0xe9 is not UTF-8"),
        (b"a\nb\n\x81\n", "cp1252", "line 3: byte 0x81 is not CP1252"),
        (b"\xff\xfea\0\n\0\x00\xd8\n\0", None, "line 2: byte 0x00 is not UTF-16"),  # half a surrogate pair
        (b"a\n\xed\xa0\xbd\n", None, "line 2: byte 0xed is not UTF-8"),  # a surrogate as UTF-8
    ],
)
def test_bytes_that_cannot_be_decoded_are_an_error_with_the_line_or_replaced(data, encoding, problem: str):
    assert problem in error_of(data, encoding=encoding)
    assert "\ufffd" in "".join(lines(data, encoding=encoding, strict=False))


@given(st.text(st.characters()))
def test_text_without_surrogates_can_be_encoded_and_other_text_is_unchanged(text: str):
    replaced = replace_surrogates(text)
    assert replaced.encode("utf-8").decode("utf-8") == replaced
    assert len(replaced) == len(text)
    assert all(a == b or (b == "\ufffd" and "\ud800" <= a <= "\udfff") for a, b in zip(text, replaced, strict=True))


# Line ends


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\v", "\f", "\x1c"])
def test_only_newlines_end_a_line(mark: str):
    assert lines(f"a{mark}b\r\nc\n".encode()) == [f"a{mark}b\n", "c\n"]


# Files that are not text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", b"PAR1\x15\x04", "is a Parquet file, not text; convert it with pandas"),
        ("a.csv", b"PAR1\x15\x04", "is a Parquet file"),
        ("a.xlsx", b"PK\x03\x04", "is an Excel workbook, not text; save it as CSV UTF-8"),
        ("a.csv", b"PK\x03\x04", "is a zip archive or an Excel workbook"),
        ("a.zip", b"", "is a zip archive"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1", "is an Excel workbook"),
        ("a.csv", bz2.compress(b"text"), "is packed with bzip2, not text; unpack it"),
        ("a.csv.xz", lzma.compress(b"text"), "is packed with xz"),
        ("a.tar", b"", "is a tar archive"),
        ("a.jsonl", "text".encode("utf-16-le"), "or UTF-16 without a byte-order mark; for that, pass --encoding"),
        ("model.bin", b"\x00\x01\x02", "is binary"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_file_that_is_not_text_is_an_error_with_a_remedy(name: str, data: bytes, message: str, strict: bool):
    assert f"{name}: {message}" in error_of(data, name, strict=strict) or message in error_of(data, name, strict=strict)


def test_a_gzipped_file_needs_no_suffix():
    assert lines(gzip.compress(b"a\nb\n"), "a.txt") == ["a\n", "b\n"]


@pytest.mark.parametrize("cut", [5, -9, -1])  # inside the header, inside the data, inside the checksum
def test_a_gzip_file_that_is_cut_short_is_an_error(cut: int):
    assert "a.gz: damaged or cut short" in error_of(gzip.compress(b"some text\n" * 9)[:cut], "a.gz")


def test_a_gzip_file_with_a_wrong_byte_is_an_error():
    data = bytearray(gzip.compress(os.urandom(3000).hex().encode()))
    data[1000] ^= 0xFF
    assert "a.gz: damaged or cut short" in error_of(bytes(data), "a.gz")


def test_only_regular_files_are_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(UserError, match="is a pipe, a socket or a device"):
                open_regular(path)
    with pytest.raises(UserError, match="is a folder"):
        open_regular(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        open_regular(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["a.csv", "a.txt", "pos/1.txt"])
def test_a_pipe_given_as_data_is_refused_at_once(tmp_path: Path, name: str):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe"):
        read_rows(str(tmp_path / name if "/" not in name else tmp_path))


# Bounds


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_a_line_over_the_bound_is_refused_while_it_is_read(monkeypatch, name: str):
    monkeypatch.setattr(text_input, "MAX_TEXT", 1000)
    file = io.BytesIO(b"x" * 10_000_000)
    with pytest.raises(UserError, match=rf"{name}, line 1: longer than 1,000 characters"):
        list(stream_texts(Path(name), file))
    assert file.tell() < 300_000  # buffers hold 64 KiB


def test_a_text_over_the_bound_is_refused_while_it_is_read(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(text_input, "MAX_TEXT", 1000)
    (tmp_path / "a.txt").write_text("short\n" * 200)
    with pytest.raises(UserError, match="a text of more than 1,000 characters"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("line", [b"a\n", b"\0" * 5000 + b"\n", b"one two three\n"])
def test_a_gzip_bomb_is_refused_when_it_unpacks_to_more_than_a_text_does(monkeypatch, line: bytes):
    monkeypatch.setattr(text_input, "MIN_BOUND", 100_000)
    bomb = io.BytesIO(gzip.compress(line * (20_000_000 // len(line))))
    num_read = 0
    with pytest.raises(UserError, match=r"a\.gz: unpacks to more than 100 times its size"):
        for found in read_lines(bomb, "a.gz", "latin-1"):
            num_read += len(found)
    assert num_read < 8_000_000  # a buffer of 64 KiB holds a third of the packed bytes


def test_a_gzip_file_of_ordinary_text_is_read_whole(monkeypatch):
    monkeypatch.setattr(text_input, "MIN_BOUND", 1000)
    text = "".join(f"the film {number} was {number % 7} of 7\n" for number in range(20_000))
    assert "".join(lines(gzip.compress(text.encode()), "a.gz")) == text


def test_a_zip_file_is_not_mistaken_for_text(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "reviews.csv", "w") as archive:
        archive.writestr("reviews.csv", "text,label\n")
    with pytest.raises(UserError, match="is a zip archive or an Excel workbook, not text; unpack it"):
        read_rows(str(tmp_path / "reviews.csv"))
