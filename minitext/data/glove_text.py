"""Decimal text to float32, a block of lines at a time: what makes a GloVe file quick to read.

In: blocks of `word number … number` lines. Out: words and their rows. Whole columns of digits are converted by numpy,
on all cores (numpy lets go of the interpreter lock); what does not look like a plain decimal goes to Python's `float`.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from minitext.utils.errors import UserError
from minitext.utils.parallel import cores, map_ahead

BLOCK = 1 << 20  # bytes of text converted at once: the working arrays stay in the processor's cache
LONGEST = 17  # characters of a number that the quick way takes
POWERS = 10.0 ** np.arange(LONGEST)
SPACE, NEWLINE, RETURN, DOT, MINUS, ZERO = b" \n\r.-0"


class Block(NamedTuple):
    """Some lines of a file."""

    numbers: Sequence[int]  # each line's number, counted from 1
    text: bytes  # whole lines, each ended by a newline


class Rows(NamedTuple):
    """What a block holds, in the file's order."""

    words: list[bytes]
    table: np.ndarray  # (words, D) float32


def parse_blocks(blocks: Iterable[Block], width: int, name: str) -> Iterator[Rows]:
    """Convert blocks on all cores, in order. `width` is D, `name` the file's for messages.

    Raises UserError with file and line for a line with too few numbers, or with something that is no finite number.
    """
    with ThreadPoolExecutor(cores()) as pool:
        yield from map_ahead(pool, partial(parse_block, width=width, name=name), blocks)


def read_blocks(file: BinaryIO, first_line: int) -> Iterator[Block]:
    """Cut a file into blocks of whole lines; a last line without its newline gets one."""
    rest = b""
    while data := file.read(BLOCK):
        whole, newline, tail = data.rpartition(b"\n")
        if not newline:
            rest += data
            continue
        text = b"".join((rest, whole, newline))
        block = Block(range(first_line, first_line + text.count(b"\n")), text)
        first_line = block.numbers.stop
        rest = tail
        yield block
    if rest:
        yield Block([first_line], rest + b"\n")


def keep_lines(blocks: Iterable[Block], firsts: Container[bytes]) -> Iterator[Block]:
    """Only the lines whose first field is among `firsts`; the others are neither converted nor checked."""
    for block in blocks:
        lines = block.text.split(b"\n")
        kept = [i for i in range(len(block.numbers)) if lines[i].split(b" ", 1)[0].rstrip() in firsts]
        if kept:
            yield Block([block.numbers[i] for i in kept], b"\n".join([lines[i] for i in kept]) + b"\n")


def parse_block(block: Block, width: int, name: str) -> Rows:
    """One block: the plain lines all at once, the others one by one."""
    text = block.text
    first_line = text[: text.index(b"\n")]
    if first_line.endswith((b" ", b"\r")):  # then most likely all do: word2vec ends its lines with a space
        text = text.replace(b"\r\n", b"\n").replace(b" \n", b"\n")
    characters = np.frombuffer(text, dtype=np.uint8)
    spaces = np.flatnonzero(characters == SPACE)
    line_ends = np.flatnonzero(characters == NEWLINE)
    line_starts = np.concatenate(([0], line_ends[:-1] + 1))
    spaces_before = np.searchsorted(spaces, np.concatenate((line_starts, [len(text)])))  # (lines + 1,)
    plain = np.diff(spaces_before) == width  # a word without spaces, and D numbers

    table = np.empty((len(line_ends), width), dtype=np.float32)
    first_space = spaces_before[:-1][plain]  # (plain lines,)
    starts = spaces[first_space[:, None] + np.arange(width)] + 1  # (plain lines, D)
    stops = np.concatenate((starts[:, 1:] - 1, line_ends[plain][:, None]), axis=1)
    values, sure = parse_decimals(characters, starts.ravel(), stops.ravel())
    table[plain] = values.reshape(-1, width)
    plain[plain] = sure.reshape(-1, width).all(axis=1)

    lines = text.split(b"\n")[:-1]
    words = [line[: line.find(b" ")] for line in lines]
    for i in np.flatnonzero(~plain):
        words[i], table[i] = parse_line(lines[i], width, f"{name}, line {block.numbers[i]}")
    if not all(words):
        raise UserError(
            f"{name}, line {block.numbers[words.index(b'')]}: expected a word before its numbers; remove the line"
        )
    return Rows(words, table)


def parse_decimals(characters: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Plain decimals such as `-0.25` at `characters[start:stop]` to float32, each rounded as `float32(float(…))`.

    An integer below 2**53 divided by a power of ten up to 10**22 is one correctly rounded operation (Clinger 1990, "How
    to read floating point numbers accurately"). Returns the values and a mask, both (N,): False where a number has
    another form (an exponent, over 15 digits, no digit at all), so that its value says nothing.
    """
    negative = characters[starts] == MINUS
    at = starts + negative
    digits = np.zeros(len(starts))  # the digits so far as one integer; float64 holds 15 of them exactly
    count = np.zeros(len(starts), dtype=np.int8)
    dot = np.full(len(starts), LONGEST, dtype=np.int8)  # digits before the dot
    dots = np.zeros(len(starts), dtype=np.int8)
    longest = min(int((stops - at).max(initial=0)), LONGEST)
    length = stops - at
    last = len(characters) - 1
    for k in range(longest):
        character = characters[np.minimum(at + k, last)]
        digit = character - np.uint8(ZERO)
        inside = k < length
        is_digit = (digit < 10) & inside
        is_dot = (character == DOT) & inside
        digits = np.where(is_digit, digits * 10 + digit, digits)
        dot = np.where(is_dot, count, dot)
        count += is_digit
        dots += is_dot
    decimals = np.where(dots == 1, count - dot, 0)
    values = digits / POWERS[np.clip(decimals, 0, LONGEST - 1)]
    sure = (count + dots == length) & (dots <= 1) & (count > 0) & (count <= 15)
    return np.where(negative, -values, values).astype(np.float32), sure


def parse_line(line: bytes, width: int, place: str) -> tuple[bytes, np.ndarray]:
    """The slow way, from the right: the last D fields are the vector, and all before them is the word."""
    word, *fields = line.rstrip(b" \r").rsplit(b" ", width)
    if len(fields) < width:
        raise UserError(f"{place}: expected a word and {width} numbers, found {len(fields)} numbers; mend the line")
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, and is refused as such
            values = np.array([float(field) for field in fields]).astype(np.float32)
    except ValueError as error:
        raise UserError(f"{place}: {str(error).split(': ')[-1]} is not a number; mend or remove the line") from error
    if not np.isfinite(values).all():
        raise UserError(f"{place}: the vector holds NaN or infinity; mend or remove the line")
    return word, values
