"""Proves that decimal text becomes exactly the float32 that Python's `float` gives, however the text is cut into
blocks, and that a line which holds no vector is named by its number.
"""

import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.data import glove_text
from minitext.data.glove_text import Block, Rows, keep_lines, parse_block, parse_blocks, parse_decimals, read_blocks
from minitext.utils.errors import UserError

# sign, up to 20 digits with a dot anywhere or nowhere, and perhaps an exponent
DECIMALS = st.from_regex(
    r"[+-]?([0-9]{1,20}(\.[0-9]{0,20})?|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", fullmatch=True
).filter(lambda text: abs(float(text)) < 3e38)  # the largest float32 is 3.4e38


def parse(text: bytes, width: int) -> Rows:
    return parse_block(Block(range(1, text.count(b"\n") + 1), text), width, "vectors.txt")


def parse_file(text: bytes, width: int) -> tuple[list[bytes], list[list[float]]]:
    """All blocks of a file, joined."""
    rows = list(parse_blocks(read_blocks(io.BytesIO(text), 1), width, "vectors.txt"))
    return [word for part in rows for word in part.words], [row for part in rows for row in part.table.tolist()]


def bits(values: np.ndarray) -> list[int]:
    """What float32 numbers are made of: unlike `==`, it tells 0.0 from -0.0."""
    return np.asarray(values, dtype=np.float32).view(np.uint32).tolist()


@given(st.lists(DECIMALS, min_size=1, max_size=8))
def test_every_decimal_parses_to_what_float_gives(numbers: list[str]):
    rows = parse(f"word {' '.join(numbers)}\n".encode(), len(numbers))
    assert bits(rows.table[0]) == bits([np.float32(float(number)) for number in numbers])


@pytest.mark.parametrize(
    "number", ["0", "-0", "-0.0", "+1", ".5", "-.5", "1.", "-1.", "1e-3", "2.5E+2", "12345678901234567890",
               "0.00000000000000000001", "123456789012345", "1234567890123456", "0.1", "-0.33333333333333331", "1e-46"]
)  # fmt: skip
def test_unusual_forms_of_a_number_are_exact(number: str):
    assert bits(parse(f"word {number}\n".encode(), 1).table[0]) == bits([np.float32(float(number))])


@pytest.mark.parametrize("number", [b"0.25", b"-0.25", b"7", b"-7.", b".5", b"123456789012.345"])
def test_the_quick_way_takes_a_plain_decimal(number: bytes):
    characters = np.frombuffer(number + b"\n", dtype=np.uint8)
    values, sure = parse_decimals(characters, np.array([0]), np.array([len(number)]))
    assert sure.tolist() == [True]
    assert values.tolist() == [np.float32(float(number))]


@pytest.mark.parametrize(
    "number", [b"1e5", b"+1", b"1234567890123456", b"1.2.3", b"-", b".", b"", b"--1", b"nan", b"1" * 300]
)
def test_the_quick_way_leaves_any_other_form_to_float(number: bytes):
    characters = np.frombuffer(number + b"\n", dtype=np.uint8)
    assert parse_decimals(characters, np.array([0]), np.array([len(number)]))[1].tolist() == [False]


def test_a_token_with_spaces_keeps_its_vector():
    rows = parse(b"a 1 2\n. . . 3 4\nat name@domain.com 5 6\nb 7 8\n", 2)
    assert rows.words == [b"a", b". . .", b"at name@domain.com", b"b"]
    assert rows.table.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_a_token_that_is_a_number_is_a_word():
    rows = parse(b"1999 1 2\n0.5 3 4\n-1e3 5 6\n", 2)
    assert rows.words == [b"1999", b"0.5", b"-1e3"]
    assert rows.table.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_a_token_with_spaces_and_a_number_is_read_from_the_right():
    rows = parse(b"route 66 1 2\n", 2)
    assert (rows.words, rows.table.tolist()) == ([b"route 66"], [[1, 2]])


@pytest.mark.parametrize("end", [b"\n", b" \n", b"\r\n", b" \r\n", b"  \n"])
def test_line_ends_do_not_change_the_vectors(end: bytes):
    rows = parse(b"a 1 -2" + end + b"b c 3 4" + end + b"d 5e0 6" + end, 2)
    assert rows.words == [b"a", b"b c", b"d"]
    assert rows.table.tolist() == [[1, -2], [3, 4], [5, 6]]


def test_lines_may_end_differently_within_a_block():
    rows = parse(b"a 1 2\nb 3 4 \nc 5 6\r\nd 7 8 \r\n", 2)
    assert rows.words == [b"a", b"b", b"c", b"d"]
    assert rows.table.tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"b 3", "expected a word and 2 numbers, found 1"),
        (b"b", "expected a word and 2 numbers, found 0"),
        (b"", "expected a word and 2 numbers, found 0"),
        (b"b 3 oops", "oops"),
        (b"b 3 1.2.3", "1.2.3"),
        (b"b 3 ", "expected a word and 2 numbers, found 1"),
        (b"b  3", "is not a number"),
        (b"b nan 3", "NaN or infinity"),
        (b"b 3 inf", "NaN or infinity"),
        (b"b -Infinity 3", "NaN or infinity"),
        (b" 3 4", "expected a word before its numbers"),
    ],
)
def test_a_line_without_a_vector_is_named(line: bytes, complaint: str):
    with pytest.raises(UserError, match=r"^vectors\.txt, line 2: .*" + re.escape(complaint)):
        parse(b"a 1 2\n" + line + b"\nc 5 6\n", 2)


def test_a_number_beyond_float32_is_refused_as_infinity():
    with pytest.raises(UserError, match=r"^vectors\.txt, line 2: .*infinity"):
        parse(b"a 1 2\nb 1e39 3\n", 2)


def test_blocks_of_any_size_give_the_same_rows(monkeypatch):
    text = b"a 1 2\nb c 3 4\nd -0.5 1e2 \nlonger-than-most 7 8\n9 9 9\nlast 10 11"
    words = [b"a", b"b c", b"d", b"longer-than-most", b"9", b"last"]
    table = [[1, 2], [3, 4], [-0.5, 100], [7, 8], [9, 9], [10, 11]]
    for size in range(1, len(text) + 2):
        monkeypatch.setattr(glove_text, "BLOCK", size)
        assert parse_file(text, 2) == (words, table), f"blocks of {size} bytes"


def test_a_broken_line_in_a_later_block_keeps_its_number(monkeypatch):
    text = b"".join(b"w%d 1 2\n" % i for i in range(1, 41)) + b"w41 1 oops\n"
    for size in (3, 7, 50, 1000):
        monkeypatch.setattr(glove_text, "BLOCK", size)
        with pytest.raises(UserError, match=r"^vectors\.txt, line 41: .*oops"):
            parse_file(text, 2)


def test_many_blocks_come_back_in_the_order_of_the_file(monkeypatch):
    monkeypatch.setattr(glove_text, "BLOCK", 64)
    words, table = parse_file(b"".join(b"w%d %d\n" % (i, i) for i in range(2000)), 1)
    assert words == [b"w%d" % i for i in range(2000)]
    assert table == [[i] for i in range(2000)]


def test_a_last_line_without_a_newline_gets_one():
    assert [block.text for block in read_blocks(io.BytesIO(b"a 1\nb 2"), 1)] == [b"a 1\n", b"b 2\n"]


def test_blocks_count_their_lines_from_the_first(monkeypatch):
    monkeypatch.setattr(glove_text, "BLOCK", 4)
    assert [list(block.numbers) for block in read_blocks(io.BytesIO(b"a 1\nb 2\nc 3\n"), 2)] == [[2], [3], [4]]


def test_kept_lines_keep_their_numbers():
    block = Block(range(5, 8), b"a 1\nb 2\nc 3\n")
    assert list(keep_lines([block], {b"a", b"c"})) == [Block([5, 7], b"a 1\nc 3\n")]


def test_a_block_without_a_wanted_word_is_dropped():
    assert list(keep_lines([Block(range(1, 3), b"a 1\nb 2\n")], {b"z"})) == []
