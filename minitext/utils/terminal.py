"""Text for the terminal: escaped control characters, shortened names, aligned columns; remarks go to stderr."""

import re
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

MAX_LISTED = 10  # names in a list, such as those of classes

# C0 and C1 controls (terminals act on them), lone surrogates (cannot be written), line separators, and the marks
# that reverse the order of what is shown (Boucher & Anderson 2021, "Trojan Source")
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    r"""Escape characters that a terminal would act on: `"\x1b[31m"` becomes `"\\x1b[31m"`.

    The characters in `keep` are not escaped, such as `"\n\t"` for a message of several lines.
    """
    return UNSAFE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def text_width(text: str) -> int:
    """The columns of a text on a terminal: two for a wide character, such as a Chinese one, and none for an accent."""
    return len(text) if text.isascii() else sum(map(character_width, text))


def character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "FW" else 1


def pad(text: str, width: int) -> str:
    """The text and spaces, so that it takes `width` columns."""
    return text + " " * (width - text_width(text))


def shorten(text: str, width: int) -> str:
    """The text in at most `width` columns. Its middle is left out, as names of classes often begin alike."""
    if text_width(text) <= width:
        return text
    return f"{beginning(text, width // 2)}…{beginning(text[::-1], (width - 1) // 2)[::-1]}"


def beginning(text: str, width: int) -> str:
    """The longest beginning that takes at most `width` columns."""
    return text[: bisect_right(list(accumulate(map(character_width, text))), width)]


def list_names(names: Sequence[str], most: int = MAX_LISTED) -> str:
    """`neg, pos`, or the first of more than `most` names: `a, b, c, … (77 in all)`."""
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, … ({len(names):,} in all)"


def note(message: str) -> None:
    """Print a remark that is no error to stderr, which leaves the output of a command as it is."""
    print(f"note: {printable(message)}", file=sys.stderr, flush=True)
