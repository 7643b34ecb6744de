"""Proves that a vector file gives the same words and rows in whatever shape it comes, whole or for some words only,
that a wrong file is refused with its line, and that neighbours and written files are right.
"""

import gzip
import hashlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import glove_text
from minitext.data import word_vectors as glove
from minitext.data.word_vectors import Vectors, locate, read
from minitext.utils.download import Remote
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


def assert_same(vectors: Vectors, words: list[str] = WORDS, table: torch.Tensor = TABLE) -> None:
    assert vectors.words == words
    assert vectors.table.dtype == torch.float32
    assert torch.equal(vectors.table, table)


# Shapes in which a file comes


def test_a_plain_file_gives_words_and_rows(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", TEXT)))


def test_a_header_line_is_not_a_word(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", b"3 2\n" + TEXT)))


def test_a_gzipped_file_is_unpacked(tmp_path):
    assert_same(read(write(tmp_path / "v.txt.gz", gzip.compress(TEXT))))


def test_a_gzipped_file_may_have_a_header(tmp_path):
    assert_same(read(write(tmp_path / "v.gz", gzip.compress(b"3 2\n" + TEXT))))


def test_the_only_member_of_a_zip_needs_no_name(tmp_path):
    assert_same(read(write_zip(tmp_path / "v.zip", only=TEXT)))


def test_a_member_of_a_zip_is_named_after_a_colon(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=b"dog 1 2 3\n", large=TEXT)
    assert_same(read(f"{path}:large.txt"))
    assert read(f"{path}:small.txt").words == ["dog"]


def test_a_zip_with_several_members_asks_for_one_and_lists_them(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=TEXT, large=TEXT)
    with pytest.raises(UserError, match=r"v\.zip.*small\.txt, large\.txt"):
        read(path)


def test_an_unknown_member_of_a_zip_lists_the_members(tmp_path):
    path = write_zip(tmp_path / "v.zip", small=TEXT, large=TEXT)
    with pytest.raises(UserError, match=r"small\.txt, large\.txt"):
        read(f"{path}:huge.txt")


def test_a_byte_order_mark_is_no_part_of_the_first_word(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", b"\xef\xbb\xbf" + TEXT)))


def test_a_byte_order_mark_may_stand_before_a_header(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", b"\xef\xbb\xbf3 2\n" + TEXT)))


@pytest.mark.parametrize("header", [b"", b"3 2\n"])
@pytest.mark.parametrize("end", [b"\r\n", b" \n"], ids=["CRLF", "trailing space of word2vec"])
def test_line_ends_do_not_matter(tmp_path, header: bytes, end: bytes):
    assert_same(read(write(tmp_path / "v.txt", (header + TEXT).replace(b"\n", end))))


def test_the_last_line_needs_no_newline(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", TEXT[:-1])))


def test_a_token_with_spaces_keeps_its_vector(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"a 1 2\nnew york 3 4\n. . . 5 6\n"))
    assert_same(vectors, ["a", "new york", ". . ."], torch.tensor([[1.0, 2], [3, 4], [5, 6]]))


def test_a_first_token_with_spaces_does_not_change_the_width(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b". . . 5 6\na 1 2\n"))
    assert_same(vectors, [". . .", "a"], torch.tensor([[5.0, 6], [1, 2]]))


def test_a_first_token_that_is_a_number_does_not_change_the_width(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"1999 5 6 7\na 1 2 3\n"))
    assert_same(vectors, ["1999", "a"], torch.tensor([[5.0, 6, 7], [1, 2, 3]]))


def test_the_first_of_two_lines_with_one_word_wins_and_the_other_is_counted(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"a 1 2\nb 3 4\na 5 6\na 7 8\n"))
    assert_same(vectors, ["a", "b"], torch.tensor([[1.0, 2], [3, 4]]))
    assert vectors.duplicates == 2


def test_a_duplicate_in_a_later_block_is_left_out_too(tmp_path, monkeypatch):
    monkeypatch.setattr(glove_text, "BLOCK", 6)
    vectors = read(write(tmp_path / "v.txt", b"a 1 2\nb 3 4\na 5 6\nc 7 8\n"))
    assert_same(vectors, ["a", "b", "c"], torch.tensor([[1.0, 2], [3, 4], [7, 8]]))
    assert vectors.duplicates == 1


def test_bytes_that_are_not_utf8_are_replaced_and_counted(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"caf\xe9 1 2\ncaf\xc3\xa9 3 4\n"))
    assert vectors.words == ["caf\ufffd", "café"]
    assert vectors.replaced == 1


def test_words_that_become_equal_by_replacing_bytes_count_as_duplicates(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"\xe9 1 2\n\xea 3 4\nb 5 6\n"))
    assert_same(vectors, ["\ufffd", "b"], torch.tensor([[1.0, 2], [5, 6]]))


def test_a_table_larger_than_the_first_guess_grows(tmp_path):
    count = 40_000  # twice past the 16,384 rows that reading starts with
    lines = b"".join(b"w%d %d\n" % (i, i) for i in range(count))
    vectors = read(write(tmp_path / "v.txt", lines), cache=False)
    assert vectors.words[-1] == f"w{count - 1}"
    assert torch.equal(vectors.table[:, 0], torch.arange(count, dtype=torch.float32))


def test_blocks_of_any_size_give_the_same_table(tmp_path, monkeypatch):
    path = write(tmp_path / "v.txt", b"3 2\r\n" + TEXT.replace(b"\n", b"\r\n"))
    for size in range(1, 45):
        monkeypatch.setattr(glove_text, "BLOCK", size)
        assert_same(read(path, cache=False))


# Some words only

MIXED = b"a 1 2\nnew york 3 4\nb 5 6\nnew 7 8\na 9 10\nc 11 12\n1999 13 14\n"


@pytest.mark.parametrize("wanted", [["a"], ["c", "a"], ["new"], ["1999", "nowhere"], ["new york", "b"], []], ids=str)
def test_words_gives_the_rows_of_the_full_read(tmp_path, wanted: list[str]):
    path = write(tmp_path / "v.txt", MIXED)
    full, some = read(path, cache=False), read(path, wanted, cache=False)
    rows = [row for row, word in enumerate(full.words) if word in wanted]
    assert_same(some, [full.words[row] for row in rows], full.table[rows])


@pytest.mark.parametrize("line", [b"z 1", b"z oops 2", b"z nan 2", b"z"])
def test_words_does_not_mind_broken_lines_of_other_words(tmp_path, line: bytes):
    vectors = read(write(tmp_path / "v.txt", b"a 1 2\n" + line + b"\nb 3 4\n"), ["a", "b"])
    assert_same(vectors, ["a", "b"], torch.tensor([[1.0, 2], [3, 4]]))


def test_words_does_not_mind_a_bare_word_that_is_one_letter_longer(tmp_path):
    assert_same(read(write(tmp_path / "v.txt", b"cat 1 2\ncats\n"), ["cat"]), ["cat"], torch.tensor([[1.0, 2]]))


@pytest.mark.parametrize("line", [b"b 1", b"b oops 2", b"b inf 2", b"b"])
def test_words_names_a_broken_line_of_its_own_words(tmp_path, line: bytes):
    with pytest.raises(UserError, match=r"v\.txt, line 3"):
        read(write(tmp_path / "v.txt", b"a 1 2\nz 1 2\n" + line + b"\n"), ["a", "b"])


# Wrong files


@pytest.mark.parametrize("line", [b"b 1", b"b", b"b 1 oops", b"b 1 nan", b"b -inf 1", b""])
@pytest.mark.parametrize("block", [5, 1 << 20], ids=["small blocks", "one block"])
def test_a_broken_line_is_named(tmp_path, monkeypatch, line: bytes, block: int):
    monkeypatch.setattr(glove_text, "BLOCK", block)
    path = write(tmp_path / "v.txt", b"a 1 2\n" * 9 + line + b"\nc 5 6\n")
    with pytest.raises(UserError, match=r"^v\.txt, line 10: "):
        read(path)


def test_lines_are_counted_with_the_header(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 3: "):
        read(write(tmp_path / "v.txt", b"2 2\na 1 2\nb 1\n"))


@pytest.mark.parametrize("line", [b"a nan 2", b"a 1 inf"])
def test_a_first_line_without_finite_numbers_is_named(tmp_path, line: bytes):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: "):
        read(write(tmp_path / "v.txt", line + b"\nb 3 4\n"))


def test_a_broken_first_line_does_not_decide_the_width(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*oops"):
        read(write(tmp_path / "v.txt", b"a oops 2\nb 3 4\nc 5 6\n"))


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf"], ids=["empty", "newline", "byte order mark"])
def test_an_empty_file_is_refused(tmp_path, content: bytes):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*empty"):
        read(write(tmp_path / "v.txt", content))


def test_a_file_of_prose_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*GloVe text format"):
        read(write(tmp_path / "v.txt", b"It was a dark and stormy night.\n"))


def test_a_header_that_promises_more_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*promises 4 vectors, the file holds 3"):
        read(write(tmp_path / "v.txt", b"4 2\n" + TEXT))


def test_a_header_that_promises_less_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^v\.txt, line 1: .*promises 2 vectors, the file holds 3"):
        read(write(tmp_path / "v.txt", b"2 2\n" + TEXT))


def test_a_header_counts_duplicate_lines(tmp_path):
    assert read(write(tmp_path / "v.txt", b"3 2\na 1 2\na 3 4\nb 5 6\n")).words == ["a", "b"]


def test_a_table_of_no_words_is_a_table(tmp_path):
    vectors = read(write(tmp_path / "v.txt", b"0 3\n"))
    assert (vectors.words, vectors.table.shape) == ([], (0, 3))


@pytest.mark.parametrize("name", ["v.gz", "v.zip"])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, name: str):
    with pytest.raises(UserError, match=re.escape(name) + ".*damaged"):
        read(write(tmp_path / name, TEXT))


def test_a_gzipped_file_that_is_cut_short_is_refused(tmp_path):
    content = gzip.compress(b"".join(b"w%d %d\n" % (i, i) for i in range(1000)))
    with pytest.raises(UserError, match=r"v\.gz.*cut short"):
        read(write(tmp_path / "v.gz", content[:-20]))


def test_a_missing_file_names_the_tables_one_can_ask_for(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: there is no such file.*glove\.6B\.100d"):
        read(tmp_path / "nowhere.txt")


# Names


@contextmanager
def served(content: bytes) -> Iterator[str]:
    """A web server of our own with one file, whatever the path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("width", [50, 100, 200, 300])
def test_glove_6b_is_fetched_from_stanford(width: int):
    assert glove.NAMED[f"glove.6B.{width}d"].url == "https://nlp.stanford.edu/data/glove.6B.zip"


@pytest.mark.parametrize("width", [50, 100, 200, 300])
def test_gigaword_vectors_are_fetched_from_gensims_release(width: int):
    name = f"glove-wiki-gigaword-{width}"
    release = "https://github.com/RaRe-Technologies/gensim-data/releases/download"
    assert glove.NAMED[name].url == f"{release}/{name}/{name}.gz"


def test_a_named_table_is_downloaded_once(own_cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    content = gzip.compress(b"3 2\n" + TEXT)
    with served(content) as address:
        remote = Remote(f"{address}/tiny.gz", len(content), hashlib.md5(content).hexdigest())
        monkeypatch.setattr(glove, "NAMED", {"tiny": remote})
        assert locate("tiny") == (own_cache / "tiny.gz", None)
    assert (own_cache / "tiny.gz").read_bytes() == content
    assert_same(read("tiny"))  # the server is gone


def test_a_named_table_in_a_zip_is_the_member_of_that_name(tmp_path, own_cache, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    archive = write_zip(tmp_path / "made.zip", **{"tiny.2d": TEXT, "tiny.3d": b"dog 1 2 3\n"})
    content = archive.read_bytes()
    with served(content) as address:
        remote = Remote(f"{address}/tiny.zip", len(content), hashlib.md5(content).hexdigest())
        monkeypatch.setattr(glove, "NAMED", {"tiny.2d": remote, "tiny.3d": remote})
        assert locate("tiny.2d") == (own_cache / "tiny.zip", "tiny.2d.txt")
        assert_same(read("tiny.2d"))
        assert read("tiny.3d").words == ["dog"]


def test_a_path_is_left_as_it_is(tmp_path):
    path = write(tmp_path / "v.txt", TEXT)
    assert locate(str(path)) == (path, None)


def test_a_path_into_a_zip_is_taken_apart(tmp_path):
    path = write_zip(tmp_path / "v.zip", a=TEXT)
    assert locate(f"{path}:a.txt") == (path, "a.txt")


# Neighbours

COMPASS = Vectors(["north", "northeast", "east", "south"], torch.tensor([[0.0, 1], [5, 5], [1, 0], [0, -2]]))


def test_nearest_is_by_angle_not_by_length():
    found = COMPASS.nearest("north", 3)
    assert [word for word, _ in found] == ["northeast", "east", "south"]
    # by hand: cos 45°, cos 90°, cos 180°; float32 has 7 digits
    assert [value for _, value in found] == pytest.approx([0.5**0.5, 0, -1], abs=1e-6)


def test_nearest_leaves_out_the_word_itself():
    assert "north" not in [word for word, _ in COMPASS.nearest("north")]


def test_nearest_gives_no_more_words_than_there_are():
    assert len(COMPASS.nearest("north", 100)) == 3


def test_nearest_of_an_unknown_word_says_so():
    with pytest.raises(UserError, match="'west' is not among the 4 words"):
        COMPASS.nearest("west")


def test_a_word_with_a_zero_vector_is_near_to_nothing():
    vectors = Vectors(["a", "zero", "b"], torch.tensor([[1.0, 1], [0, 0], [1, 2]]))
    assert dict(vectors.nearest("a"))["zero"] == 0
    assert [value for _, value in vectors.nearest("zero")] == [0, 0]


# Writing

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5))
def test_nine_digits_bring_every_float32_back(tmp_path_factory, rows: list[tuple[float, float]]):
    path = tmp_path_factory.mktemp("written") / "v.txt"
    vectors = Vectors([f"w{i}" for i in range(len(rows))], torch.tensor(rows, dtype=torch.float32))
    vectors.write(path, digits=9)
    back = read(path, cache=False)
    assert back.words == vectors.words
    assert np.array_equal(back.table.numpy().view(np.uint32), vectors.table.numpy().view(np.uint32))  # signs of 0 too


def test_six_digits_are_what_a_person_reads(tmp_path):
    Vectors(["pi", "new york"], torch.tensor([[3.14159265, -1], [0.5, 1e-7]])).write(tmp_path / "v.txt")
    assert (tmp_path / "v.txt").read_text() == "pi 3.14159 -1\nnew york 0.5 1e-07\n"


def test_a_written_gz_file_is_read_back(tmp_path):
    Vectors(WORDS, TABLE).write(tmp_path / "v.txt.gz", digits=9)
    assert_same(read(tmp_path / "v.txt.gz"))


def test_the_same_vectors_write_the_same_gz_bytes(tmp_path):
    Vectors(WORDS, TABLE).write(tmp_path / "first.gz")
    Vectors(WORDS, TABLE).write(tmp_path / "second.gz")
    assert (tmp_path / "first.gz").read_bytes() == (tmp_path / "second.gz").read_bytes()
    assert (tmp_path / "first.gz").read_bytes()[4:8] == bytes(4)  # RFC 1952: the time stands in bytes 4 to 7


# Oracles


@pytest.mark.oracle
@pytest.mark.parametrize("header", [b"", b"40 3\n"])
def test_gensim_reads_the_same_table(tmp_path, header: bytes):
    from gensim.models import KeyedVectors

    numbers = np.random.default_rng(0).normal(size=(40, 3))
    lines = [f"w{i} " + " ".join(f"{value:.5f}" for value in row) for i, row in enumerate(numbers)]
    path = write(tmp_path / "v.txt", header + "\n".join(lines).encode() + b"\n")
    expected = KeyedVectors.load_word2vec_format(path, no_header=not header)
    assert_same(read(path), expected.index_to_key, torch.from_numpy(expected.vectors))


@pytest.mark.oracle
def test_gensim_finds_the_same_neighbours():
    from gensim.models import KeyedVectors

    words = [f"w{i}" for i in range(50)]
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    expected = KeyedVectors(8)
    expected.add_vectors(words, table.numpy())
    for word in words:
        ours, theirs = Vectors(words, table).nearest(word, 5), expected.most_similar(word, topn=5)
        assert [name for name, _ in ours] == [name for name, _ in theirs]
        # float32 sums of 8 products, in another order
        assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], abs=1e-6)


# Real data


@pytest.mark.slow
def test_the_real_vectors_are_read_as_float_reads_them(real_vectors):
    vectors = read(real_vectors, cache=False)
    lines = real_vectors.read_text(encoding="utf-8").splitlines()
    expected = {}
    for line in lines:
        word, *numbers = line.rsplit(" ", 100)
        expected.setdefault(word, [float(number) for number in numbers])
    assert vectors.words == list(expected)
    assert torch.equal(vectors.table, torch.tensor(list(expected.values()), dtype=torch.float64).float())
