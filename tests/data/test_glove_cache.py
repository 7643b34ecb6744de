"""Proves that a vector file is parsed once and mapped afterwards, that the cache follows its source, and that a damaged
cache file is never believed.
"""

import os
import zipfile
from pathlib import Path

import pytest
import torch

from minitext.data import glove_cache
from minitext.data import word_vectors as glove
from minitext.data.word_vectors import read

TEXT = b"a 1 2\nb 3 4\na 5 6\ncaf\xe9 7 8\nd 9 10\n"  # one duplicate, one word that is not UTF-8


@pytest.fixture
def source(tmp_path) -> Path:
    """A vector file that was read once."""
    path = tmp_path / "v.txt"
    path.write_bytes(TEXT)
    read(path)
    return path


@pytest.fixture
def no_parsing(monkeypatch) -> None:
    """From now on, whoever parses text fails."""

    def fail(*_):
        raise AssertionError("the text was parsed again")

    monkeypatch.setattr(glove, "read_text", fail)


def change(path: Path, content: bytes, same_time: bool) -> None:
    """New content, with the old modification time or one that is surely another."""
    time = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(time, time if same_time else time + 1_000_000_000))


def test_the_second_read_does_not_parse(source, no_parsing):
    vectors = read(source)
    assert vectors.words == ["a", "b", "caf\ufffd", "d"]
    assert vectors.table.tolist() == [[1, 2], [3, 4], [7, 8], [9, 10]]


def test_what_was_met_while_parsing_is_remembered(source, no_parsing):
    assert (read(source).duplicates, read(source).replaced) == (1, 1)


def test_some_words_are_taken_from_the_cache(source, no_parsing):
    vectors = read(source, ["d", "a", "nowhere"])
    assert (vectors.words, vectors.table.tolist()) == (["a", "d"], [[1, 2], [9, 10]])


def test_same_size_and_time_mean_the_same_source(source):
    change(source, TEXT.replace(b"9", b"0"), same_time=True)
    assert read(source).table[-1].tolist() == [9, 10]


def test_another_size_means_another_source(source):
    change(source, TEXT + b"e 11 12\n", same_time=True)
    assert read(source).words[-1] == "e"


def test_another_content_at_another_time_is_parsed_again(source):
    change(source, TEXT.replace(b"9", b"0"), same_time=False)
    assert read(source).table[-1].tolist() == [0, 10]


def test_another_time_alone_keeps_the_cache(source, no_parsing):
    change(source, TEXT, same_time=False)
    assert read(source).table[-1].tolist() == [9, 10]


def test_a_rebuilt_cache_is_used(source, monkeypatch):
    change(source, TEXT.replace(b"9", b"0"), same_time=False)
    read(source)
    monkeypatch.setattr(glove, "read_text", None)
    assert read(source).table[-1].tolist() == [0, 10]


def test_a_table_in_use_survives_the_rebuilding_of_its_cache(source):
    mapped = read(source).table
    change(source, TEXT.replace(b"9", b"0"), same_time=False)
    read(source)
    assert mapped.tolist() == [[1, 2], [3, 4], [7, 8], [9, 10]]


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(1000), b"\xff" * 1000], ids=["empty", "word", "0", "255"])
def test_a_cache_of_garbage_is_rebuilt(source, content: bytes, monkeypatch):
    glove_cache.cache_path(source, None).write_bytes(content)
    assert read(source).table.tolist() == [[1, 2], [3, 4], [7, 8], [9, 10]]
    monkeypatch.setattr(glove, "read_text", None)
    assert read(source).table.tolist() == [[1, 2], [3, 4], [7, 8], [9, 10]]


def test_a_cache_cut_short_anywhere_is_not_believed(source):
    path = glove_cache.cache_path(source, None)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert glove_cache.load(source, None) is None, f"cut to {length} of {len(whole)} bytes"


def test_a_flipped_bit_never_changes_what_is_read(source):
    path = glove_cache.cache_path(source, None)
    whole = path.read_bytes()
    good = glove_cache.load(source, None)
    good_table = good.table.clone()
    for position in range(len(whole)):
        for bit in (0, 6):  # the first turns digits into digits, the other into letters
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            stored = glove_cache.load(source, None)
            if stored is not None:  # a bit that says nothing, such as one of the source's time
                assert stored.words == good.words and torch.equal(stored.table, good_table), f"{position}, bit {bit}"
                assert stored.notes == good.notes, f"byte {position}, bit {bit}: {whole[position - 40 : position + 9]}"


@pytest.mark.parametrize("words", [1, 2, 3, 5])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_table_of_any_size_comes_back(tmp_path, words: int, width: int, monkeypatch):
    path = tmp_path / "v.txt"  # 4 bytes a number: an odd count leaves the words at an address that 8 does not divide
    path.write_text("".join(f"w{i}" + f" {i}.5" * width + "\n" for i in range(words)))
    parsed = read(path)
    monkeypatch.setattr(glove, "read_text", None)
    assert read(path).words == parsed.words
    assert torch.equal(read(path).table, parsed.table)


def test_words_with_other_line_ends_inside_come_back(tmp_path, monkeypatch):
    path = tmp_path / "v.txt"
    path.write_bytes("x\u2028y 1 2\np\rq 3 4\nn\u0085m 5 6\n".encode())
    read(path)
    monkeypatch.setattr(glove, "read_text", None)
    assert read(path).words == ["x\u2028y", "p\rq", "n\u0085m"]


def test_two_members_of_a_zip_are_kept_apart(tmp_path):
    path = tmp_path / "v.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one.txt", "a 1 2\n")
        archive.writestr("two.txt", "b 3 4\n")
    for _ in range(2):
        assert read(f"{path}:one.txt").words == ["a"]
        assert read(f"{path}:two.txt").words == ["b"]


def test_two_files_of_one_name_are_kept_apart(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "v.txt").write_text(f"{folder} 1 2\n")
    for _ in range(2):
        assert read(tmp_path / "one" / "v.txt").words == ["one"]
        assert read(tmp_path / "two" / "v.txt").words == ["two"]


def test_reading_some_words_stores_nothing(tmp_path, own_cache):
    (tmp_path / "v.txt").write_bytes(TEXT)
    read(tmp_path / "v.txt", ["a"])
    assert list(own_cache.rglob("*.safetensors")) == []


def test_without_the_cache_nothing_is_stored(tmp_path, own_cache):
    (tmp_path / "v.txt").write_bytes(TEXT)
    read(tmp_path / "v.txt", cache=False)
    assert list(own_cache.rglob("*")) == []


def test_without_the_cache_what_is_stored_is_not_looked_at(source):
    change(source, TEXT.replace(b"9", b"0"), same_time=True)
    assert read(source, cache=False).table[-1].tolist() == [0, 10]


def test_the_cache_folder_holds_no_leftovers(source, own_cache):
    assert [path for path in own_cache.rglob("*") if path.is_file()] == [glove_cache.cache_path(source, None)]
