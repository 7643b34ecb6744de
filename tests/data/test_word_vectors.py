"""Word vectors are the same whatever a file is packed in, for all words or some; a broken line is an error with its
number; numbers are exactly what Python's `float` gives.
"""

import gzip
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import Hub, run_child, serve
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import word_vectors
from minitext.data.word_vectors import PUBLISHED, Line, WordVectors, load_word_vectors, locate_word_vectors
from minitext.utils.errors import UserError

TEXT = b"the 0.25 -1\ncat 2 0.5\nsat 3e-1 .5\n"
WORDS = ["the", "cat", "sat"]
TABLE = torch.tensor([[0.25, -1], [2, 0.5], [0.3, 0.5]])


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.txt", content)
    return path


def assert_same(vectors: WordVectors, words: list[str] = WORDS, table: torch.Tensor = TABLE) -> None:
    assert vectors.words == words
    assert vectors.table.dtype == torch.float32
    assert torch.equal(vectors.table, table)


# File formats


def test_a_plain_file_gives_words_and_rows(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.txt", TEXT)))


def test_a_header_line_is_not_a_word(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.txt", b"3 2\n" + TEXT)))


@pytest.mark.parametrize("header", [b"", b"3 2\n"], ids=["without header", "with header"])
def test_a_byte_order_mark_is_not_part_of_the_first_word(tmp_path, header: bytes):
    assert_same(load_word_vectors(write(tmp_path / "v.txt", b"\xef\xbb\xbf" + header + TEXT)))


def test_a_gzipped_file_is_unpacked(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.txt.gz", gzip.compress(TEXT))))


def test_a_gzipped_file_may_have_a_header(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.gz", gzip.compress(b"3 2\n" + TEXT))))


def test_the_only_member_of_a_zip_needs_no_name(tmp_path):
    assert_same(load_word_vectors(write_zip(tmp_path / "v.zip", only=TEXT)))


def test_a_member_of_a_zip_is_named_after_a_colon(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=b"dog 1 2 3\n", large=TEXT)
    assert_same(load_word_vectors(f"{path}:large.txt"))
    assert load_word_vectors(f"{path}:small.txt").words == ["dog"]


def test_a_zip_with_several_members_and_no_name_is_an_error_that_lists_them(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=TEXT, large=TEXT)
    with pytest.raises(UserError, match=r"v\.zip.*small\.txt, large\.txt"):
        load_word_vectors(path)


def test_an_unknown_member_of_a_zip_is_an_error_that_lists_the_members(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=TEXT, large=TEXT)
    with pytest.raises(UserError, match=r"small\.txt, large\.txt"):
        load_word_vectors(f"{path}:huge.txt")


@pytest.mark.parametrize("header", [b"", b"3 2\n"])
@pytest.mark.parametrize("end", [b"\r\n", b" \n"], ids=["CRLF", "trailing space of word2vec"])
def test_line_ends_do_not_matter(tmp_path, header: bytes, end: bytes):
    assert_same(load_word_vectors(write(tmp_path / "v.txt", (header + TEXT).replace(b"\n", end))))


def test_the_last_line_needs_no_newline(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.txt", TEXT[:-1])))


def test_a_token_with_spaces_keeps_its_vector(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"a 1 2\nnew york 3 4\n. . . 5 6\n"))
    assert_same(vectors, ["a", "new york", ". . ."], torch.tensor([[1.0, 2], [3, 4], [5, 6]]))


def test_a_first_token_with_spaces_does_not_change_the_width(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b". . . 5 6\na 1 2\n"))
    assert_same(vectors, [". . .", "a"], torch.tensor([[5.0, 6], [1, 2]]))


def test_a_first_token_that_is_a_number_does_not_change_the_width(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"1999 5 6 7\na 1 2 3\n"))
    assert_same(vectors, ["1999", "a"], torch.tensor([[5.0, 6, 7], [1, 2, 3]]))


def test_the_first_of_two_lines_with_the_same_word_is_used(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"a 1 2\nb 3 4\na 5 6\na 7 8\n"))
    assert_same(vectors, ["a", "b"], torch.tensor([[1.0, 2], [3, 4]]))


def test_a_duplicate_in_a_later_block_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "BLOCK_LINES", 2)
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"a 1 2\nb 3 4\na 5 6\nc 7 8\n"))
    assert_same(vectors, ["a", "b", "c"], torch.tensor([[1.0, 2], [3, 4], [7, 8]]))


def test_bytes_that_are_not_utf8_are_replaced(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"caf\xe9 1 2\ncaf\xc3\xa9 3 4\n"))
    assert vectors.words == ["caf\ufffd", "café"]


def test_of_words_that_become_equal_by_replacing_bytes_the_first_is_used(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"\xe9 1 2\n\xea 3 4\nb 5 6\n"))
    assert_same(vectors, ["\ufffd", "b"], torch.tensor([[1.0, 2], [5, 6]]))


def test_many_blocks_keep_the_order_of_the_file(tmp_path):
    count = 2 * word_vectors.BLOCK_LINES + 5
    lines = b"".join(b"w%d %d\n" % (i, i) for i in range(count))
    vectors = load_word_vectors(write(tmp_path / "v.txt", lines))
    assert_same(vectors, [f"w{i}" for i in range(count)], torch.arange(count, dtype=torch.float32)[:, None])


@pytest.mark.parametrize("lines", [1, 2, 3, 4])
def test_blocks_of_any_size_give_the_same_table(tmp_path, monkeypatch, lines: int):
    monkeypatch.setattr(word_vectors, "BLOCK_LINES", lines)
    assert_same(load_word_vectors(write(tmp_path / "v.txt", b"3 2\r\n" + TEXT.replace(b"\n", b"\r\n"))))


@pytest.mark.parametrize("space", [b"\t", b"  ", b" \t "])
@pytest.mark.parametrize("header", [b"", b"3 2\n", b"3\t2\n"])
def test_any_spaces_and_tabs_separate_a_word_and_its_numbers(tmp_path, space: bytes, header: bytes):
    after_the_word = re.sub(rb"(?m)^(\w+) ", lambda match: match[1] + space, TEXT)
    for content in (after_the_word, TEXT.replace(b" ", space)):
        path = write(tmp_path / "v.txt", header + content)
        assert_same(load_word_vectors(path))
        assert_same(load_word_vectors(path, WORDS))


def test_unicode_line_separators_and_vertical_tabs_end_no_line(tmp_path):
    for mark in ("\u2028", "\x85", "\v", "\f"):
        word = f"a{mark}b"
        assert load_word_vectors(write(tmp_path / "v.txt", f"2 2\n{word} 1 2\nc 3 4\n".encode())).words == [word, "c"]


@pytest.mark.parametrize("name", ["v.vec", "folder/x.vec", "v.bin.txt"])
def test_the_only_file_of_a_zip_may_have_another_suffix(tmp_path, name: str):
    with zipfile.ZipFile(tmp_path / "x.vec.zip", "w") as archive:
        archive.writestr(name, TEXT)
        archive.writestr("__MACOSX/._v.vec", b"\0")
        archive.writestr("folder/", b"")
    assert_same(load_word_vectors(tmp_path / "x.vec.zip"))


# Numbers

# sign, up to 20 digits with a dot anywhere or nowhere, and perhaps an exponent
DECIMALS = st.from_regex(
    r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", fullmatch=True
).filter(lambda text: abs(float(text)) < 3e38)  # the largest float32 is 3.4e38


def parse(numbers: list[str]) -> np.ndarray:
    return word_vectors.parse_numbers([Line(1, "word", " ".join(numbers).encode())], "v.txt")[0]


def bits(values: np.ndarray) -> list[int]:
    """The bits of float32 numbers: unlike `==`, they distinguish 0.0 from -0.0."""
    return np.asarray(values, dtype=np.float32).view(np.uint32).tolist()


@given(st.lists(DECIMALS, min_size=1, max_size=8))
def test_every_decimal_is_what_float_gives(numbers: list[str]):
    assert bits(parse(numbers)) == bits([np.float32(float(number)) for number in numbers])


@pytest.mark.parametrize(
    "number", ["0", "-0", "-0.0", "+1", ".5", "-.5", "1.", "-1.", "1e-3", "2.5E+2", "12345678901234567890",
               "0.00000000000000000001", "123456789012345", "1234567890123456", "0.1", "-0.33333333333333331", "1e-46"]
)  # fmt: skip
def test_unusual_forms_of_a_number_are_exact(number: str):
    assert bits(parse([number])) == bits([np.float32(float(number))])


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"b 3", "expected a word and 2 numbers, found 1"),
        (b"b", "expected a word and 2 numbers, found 0"),
        (b"", "expected a word and 2 numbers, found 0"),
        (b"b 3 oops", "'oops' is not a number"),
        (b"b 3 1.2.3", "'1.2.3' is not a number"),
        (b"b 3 \xe9", "'\ufffd' is not a number"),
        (b"b 3 ", "expected a word and 2 numbers, found 1"),
        (b"b  3", "expected a word and 2 numbers, found 1"),
        (b"b\t3", "expected a word and 2 numbers, found 1"),
        (b"b nan 3", "NaN or infinity"),
        (b"b 3 inf", "NaN or infinity"),
        (b"b -Infinity 3", "NaN or infinity"),
        (b"b 1e39 3", "NaN or infinity"),  # beyond float32
        (b" 3 4", "expected a word before its numbers"),
    ],
)
def test_a_line_without_a_vector_is_an_error_with_its_number(tmp_path, line: bytes, complaint: str):
    path = write(tmp_path / "v.txt", b"a 1 2\n" + line + b"\nc 5 6\nd 7 8\n")
    with pytest.raises(UserError, match=r"^v\.txt, line 2: .*" + re.escape(complaint)):
        load_word_vectors(path)


def test_a_file_of_width_one_may_not_have_a_bare_word(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 2: expected a word and 1 numbers, found 0"):
        load_word_vectors(write(tmp_path / "v.txt", b"a 1\nb\nc 3\n"))


# Some words

MIXED = b"a 1 2\nnew york 3 4\nb 5 6\nnew 7 8\na 9 10\nc 11 12\n1999 13 14\n"


@pytest.mark.parametrize("wanted", [["a"], ["c", "a"], ["new"], ["1999", "nowhere"], ["new york", "b"], []], ids=str)
def test_some_words_have_the_rows_of_the_whole_file(tmp_path, wanted: list[str]):
    path = write(tmp_path / "v.txt", MIXED)
    full, some = load_word_vectors(path), load_word_vectors(path, wanted)
    rows = [row for row, word in enumerate(full.words) if word in wanted]
    assert_same(some, [full.words[row] for row in rows], full.table[rows])


@pytest.mark.parametrize("line", [b"z 1", b"z oops 2", b"z nan 2", b"z"])
def test_broken_lines_of_other_words_are_not_checked(tmp_path, line: bytes):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"a 1 2\n" + line + b"\nb 3 4\n"), ["a", "b"])
    assert_same(vectors, ["a", "b"], torch.tensor([[1.0, 2], [3, 4]]))


def test_a_bare_word_that_starts_with_a_wanted_word_is_skipped(tmp_path):
    assert_same(
        load_word_vectors(write(tmp_path / "v.txt", b"cat 1 2\ncats\n"), ["cat"]), ["cat"], torch.tensor([[1.0, 2]])
    )


@pytest.mark.parametrize("line", [b"b 1", b"b oops 2", b"b inf 2", b"b"])
def test_a_broken_line_of_a_wanted_word_is_an_error(tmp_path, line: bytes):
    with pytest.raises(UserError, match=r"v\.txt, line 3"):
        load_word_vectors(write(tmp_path / "v.txt", b"a 1 2\nz 1 2\n" + line + b"\n"), ["a", "b"])


# Errors


@pytest.mark.parametrize("line", [b"b 1", b"b", b"b 1 oops", b"b 1 nan", b"b -inf 1", b""])
@pytest.mark.parametrize("block", [1, 4096], ids=["small blocks", "one block"])
def test_a_broken_line_is_an_error_with_its_number(tmp_path, monkeypatch, line: bytes, block: int):
    monkeypatch.setattr(word_vectors, "BLOCK_LINES", block)
    path = write(tmp_path / "v.txt", b"".join(b"a%d 1 2\n" % i for i in range(9)) + line + b"\nc 5 6\n")
    with pytest.raises(UserError, match=r"^v\.txt, line 10: "):
        load_word_vectors(path)


def test_lines_are_counted_with_the_header(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 3: "):
        load_word_vectors(write(tmp_path / "v.txt", b"2 2\na 1 2\nb 1\n"))


@pytest.mark.parametrize("line", [b"a nan 2", b"a 1 inf"])
def test_a_first_line_without_finite_numbers_is_an_error(tmp_path, line: bytes):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: "):
        load_word_vectors(write(tmp_path / "v.txt", line + b"\nb 3 4\n"))


def test_the_width_is_that_of_most_lines(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*oops"):
        load_word_vectors(write(tmp_path / "v.txt", b"a oops 2\nb 3 4\nc 5 6\n"))


@pytest.mark.parametrize("content", [b"", b"\n"], ids=["empty", "newline"])
def test_an_empty_file_is_an_error(tmp_path, content: bytes):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*empty"):
        load_word_vectors(write(tmp_path / "v.txt", content))


def test_a_file_of_prose_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*GloVe text format"):
        load_word_vectors(write(tmp_path / "v.txt", b"It was a dark and stormy night.\n"))


def test_a_file_may_have_no_words(tmp_path):
    vectors = load_word_vectors(write(tmp_path / "v.txt", b"0 3\n"))
    assert (vectors.words, vectors.table.shape) == ([], (0, 3))


@pytest.mark.parametrize("name", ["v.gz", "v.zip"])
def test_a_file_that_is_not_packed_as_its_name_says_is_an_error(tmp_path, name: str):
    with pytest.raises(UserError, match=re.escape(name) + ".*damaged"):
        load_word_vectors(write(tmp_path / name, TEXT))


def test_a_gzipped_file_that_is_cut_short_is_an_error(tmp_path):
    content = gzip.compress(b"".join(b"w%d %d\n" % (i, i) for i in range(1000)))
    with pytest.raises(UserError, match=r"v\.gz.*cut short"):
        load_word_vectors(write(tmp_path / "v.gz", content[:-20]))


@pytest.mark.parametrize("header", [b"3 1000000000000", b"3 " + b"9" * 5000, b"3 200000", b"3 0", b"9 " + b"9" * 18])
def test_a_header_with_an_impossible_dimension_is_an_error(tmp_path, header: bytes):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: the dimension is .*, expected 1 to 16,384"):
        load_word_vectors(write(tmp_path / "v.txt", header + b"\n" + TEXT))


def test_rows_with_too_many_columns_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: the dimension is 200,000, expected 1 to 16,384"):
        load_word_vectors(write(tmp_path / "v.txt", (b"a" + b" 1" * 200_000 + b"\n") * 2))


@pytest.mark.parametrize("count", [b"1", b"7", b"9" * 5000])
def test_a_header_with_another_number_of_vectors_is_reported(tmp_path, capsys, count: bytes):
    path = write(tmp_path / "v.txt", count + b" 2\n" + TEXT)
    assert_same(load_word_vectors(path))
    assert "the file has 3; it may be cut short" in capsys.readouterr().err
    load_word_vectors(path, ["cat"])  # the other lines are counted as well
    assert "the file has 3" in capsys.readouterr().err
    load_word_vectors(write(tmp_path / "v.txt", b"3 2\n" + TEXT))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["v.bin", "v.txt"])
def test_word2vecs_binary_format_is_an_error_that_says_how_to_convert_it(tmp_path, name: str):
    table = np.random.default_rng(0).normal(size=(20, 50)).astype("<f4")
    rows = b"".join(b"w%d " % i + row.tobytes() + b"\n" for i, row in enumerate(table))
    for content in (b"20 50\n" + rows, b"20 50\n" + rows.replace(b"\0", b"\1"), b"\xba\x16\x4f\x2f\x0c\0\0\0"):
        with pytest.raises(UserError, match="is binary, .* convert it to text: gensim"):
            load_word_vectors(write(tmp_path / name, content))


def test_text_may_be_named_bin(tmp_path):
    assert_same(load_word_vectors(write(tmp_path / "v.bin", TEXT)))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_line_without_end_is_refused_while_it_is_read(tmp_path, suffix: str):
    content = b"the " + b"0" * 50_000_000
    path = write(tmp_path / f"v.txt{suffix}", gzip.compress(content, 1) if suffix else content)
    with pytest.raises(UserError, match=r"line 1: longer than 1,048,576 bytes"):
        load_word_vectors(path)


def damaged_zip(path: Path, method: int, change: Callable[[bytearray], None]) -> Path:
    """A zip file with one member, packed by `method`, whose bytes are changed."""
    numbers = np.random.default_rng(0).normal(size=2000)
    text = b"".join(b"w%d %f\n" % (i, value) for i, value in enumerate(numbers))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("v.txt", text)
    data = bytearray(path.read_bytes())
    change(data)
    return write(path, bytes(data))


def overwrite(place: int, value: bytes) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[place : place + len(value)] = value

    return change


def set_in_directory(offset: int, value: bytes) -> Callable[[bytearray], None]:
    """Change a field of the member's entry in the central directory."""

    def change(data: bytearray) -> None:
        start = data.index(b"PK\x01\x02") + offset
        data[start : start + len(value)] = value

    return change


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("place", [35, 45, 1000])  # the start of the packed bytes, and inside
def test_a_damaged_member_of_a_zip_is_an_error(tmp_path, method: int, place: int):
    path = damaged_zip(tmp_path / "v.zip", method, overwrite(place, b"\xff" * 40))
    with pytest.raises(UserError, match=r"v\.zip: damaged"):
        load_word_vectors(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in_directory(8, b"\1\0"), "v.txt is encrypted; unpack it with its password"),
        (set_in_directory(10, b"\x63\0"), "damaged, or packed by a method that Python lacks"),
        (set_in_directory(42, b"\xff\xff\xff\x7f"), "damaged"),  # where the member begins
        (lambda data: data.__delitem__(slice(-10, None)), "damaged"),
    ],
    ids=["encrypted", "unknown method", "offset", "cut short"],
)
def test_a_zip_that_cannot_be_unpacked_is_an_error(tmp_path, change: Callable[[bytearray], None], message: str):
    with pytest.raises(UserError, match=message):
        load_word_vectors(damaged_zip(tmp_path / "v.zip", zipfile.ZIP_DEFLATED, change))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v.zip", "v.txt.gz"])
def test_a_bomb_is_refused(tmp_path, name: str):
    content = b"word 1\n" * 10_000_000
    path = write_zip(tmp_path / name, v=content) if name == "v.zip" else write(tmp_path / name, gzip.compress(content))
    with pytest.raises(UserError, match="unpacks to more than 100 times its size"):
        load_word_vectors(path)


def test_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "v.txt")
    with pytest.raises(UserError, match="is a pipe"):
        load_word_vectors(tmp_path / "v.txt")


def test_a_missing_file_is_an_error_that_lists_the_published_names(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: no such file.*glove\.6B\.100d"):
        load_word_vectors(tmp_path / "nowhere.txt")


# Names


@pytest.mark.parametrize("width", [50, 100, 200, 300])
def test_gensims_names_are_other_names_of_the_same_vectors(width: int):
    assert PUBLISHED[f"glove.6B.{width}d"] == ("glove.6B.zip", f"glove.6B.{width}d.txt")
    assert PUBLISHED[f"glove-wiki-gigaword-{width}"] == PUBLISHED[f"glove.6B.{width}d"]


def test_published_vectors_are_downloaded_once_from_the_hub(tmp_path):
    archive = write_zip(tmp_path / "made.zip", **{"glove.6B.50d": b"dog 1 2 3\n", "glove.6B.100d": TEXT})
    code = (
        "from minitext.data.word_vectors import load_word_vectors as load\n"
        "print(load('glove.6B.100d').words, load('glove-wiki-gigaword-100').words, load('glove.6B.50d').words)"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "no_proxy": "127.0.0.1",
    }
    with serve(Hub({"stanfordnlp/glove": {"glove.6B.zip": archive.read_bytes()}})) as hub:
        output, status = run_child(code, environment | {"HF_ENDPOINT": hub.address}, tmp_path / "output")
        assert (output, status) == (f"{WORDS} {WORDS} ['dog']\n", 0)
        assert hub.asked.count("GET /stanfordnlp/glove/resolve/main/glove.6B.zip") == 1


def test_a_path_is_its_own_location(tmp_path):
    path = write(tmp_path / "v.txt", TEXT)
    assert locate_word_vectors(str(path)) == (path, None)


def test_a_path_into_a_zip_is_split_at_the_colon(tmp_path):
    path = write_zip(tmp_path / "v.zip", a=TEXT)
    assert locate_word_vectors(f"{path}:a.txt") == (path, "a.txt")


# Neighbours

COMPASS = WordVectors(["north", "northeast", "east", "south"], torch.tensor([[0.0, 1], [5, 5], [1, 0], [0, -2]]))


def test_nearest_words_have_the_highest_cosine():
    found = COMPASS.nearest("north", 3)
    assert [word for word, _ in found] == ["northeast", "east", "south"]
    # by hand: cos 45°, cos 90°, cos 180°; float32 has 7 digits
    assert [value for _, value in found] == pytest.approx([0.5**0.5, 0, -1], abs=1e-6)


def test_nearest_excludes_the_word_itself():
    assert "north" not in [word for word, _ in COMPASS.nearest("north")]


def test_nearest_gives_at_most_all_other_words():
    assert len(COMPASS.nearest("north", 100)) == 3


def test_nearest_of_an_unknown_word_is_an_error():
    with pytest.raises(UserError, match="'west' is not among the 4 words"):
        COMPASS.nearest("west")


def test_a_zero_vector_has_similarity_zero():
    vectors = WordVectors(["a", "zero", "b"], torch.tensor([[1.0, 1], [0, 0], [1, 2]]))
    assert dict(vectors.nearest("a"))["zero"] == 0
    assert [value for _, value in vectors.nearest("zero")] == [0, 0]


# Writing

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
def test_nine_digits_restore_every_float32(tmp_path_factory, rows: list[tuple[float, float]]):
    path = tmp_path_factory.mktemp("written") / "v.txt"
    vectors = WordVectors([f"w{i}" for i in range(len(rows))], torch.tensor(rows, dtype=torch.float32))
    vectors.write(path, digits=9)
    back = load_word_vectors(path)
    assert back.words == vectors.words
    assert np.array_equal(back.table.numpy().view(np.uint32), vectors.table.numpy().view(np.uint32))  # signs of 0 too


def test_six_digits_are_written_by_default(tmp_path):
    WordVectors(["pi", "new york"], torch.tensor([[3.14159265, -1], [0.5, 1e-7]])).write(tmp_path / "v.txt")
    assert (tmp_path / "v.txt").read_text() == "pi 3.14159 -1\nnew york 0.5 1e-07\n"


def test_a_written_gz_file_is_read_back(tmp_path):
    WordVectors(WORDS, TABLE).write(tmp_path / "v.txt.gz", digits=9)
    assert_same(load_word_vectors(tmp_path / "v.txt.gz"))


def test_the_same_vectors_write_the_same_gz_bytes(tmp_path):
    WordVectors(WORDS, TABLE).write(tmp_path / "first.gz")
    WordVectors(WORDS, TABLE).write(tmp_path / "second.gz")
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()
    assert (tmp_path / "first.gz").read_bytes()[4:8] == bytes(4)  # RFC 1952: bytes 4 to 7 are the time


# Oracles


@pytest.mark.oracle
@pytest.mark.parametrize("header", [b"", b"40 3\n"])
def test_gensim_reads_the_same_table(tmp_path, header: bytes):
    from gensim.models import KeyedVectors

    numbers = np.random.default_rng(0).normal(size=(40, 3))
    lines = [f"w{i} " + " ".join(f"{value:.5f}" for value in row) for i, row in enumerate(numbers)]
    path = write(tmp_path / "v.txt", header + "\n".join(lines).encode() + b"\n")
    expected = KeyedVectors.load_word2vec_format(path, no_header=not header)
    assert_same(load_word_vectors(path), expected.index_to_key, torch.from_numpy(expected.vectors))


@pytest.mark.oracle
def test_gensim_finds_the_same_neighbours():
    from gensim.models import KeyedVectors

    words = [f"w{i}" for i in range(50)]
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    expected = KeyedVectors(8)
    expected.add_vectors(words, table.numpy())
    for word in words:
        ours, theirs = WordVectors(words, table).nearest(word, 5), expected.most_similar(word, topn=5)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        # float32 sums of 8 products, in another order
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-6)


# Real data


@pytest.mark.slow
def test_real_vectors_equal_those_parsed_by_float(real_vectors):
    vectors = load_word_vectors(real_vectors)
    lines = real_vectors.read_text(encoding="utf-8").splitlines()
    expected = {}
    for line in lines:
        word, *numbers = line.rsplit(" ", 100)
        expected.setdefault(word, [float(number) for number in numbers])
    assert vectors.words == list(expected)
    assert torch.equal(vectors.table, torch.tensor(list(expected.values()), dtype=torch.float64).float())
