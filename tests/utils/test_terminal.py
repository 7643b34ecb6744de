"""What reaches the terminal cannot act on it, and other text is unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.utils.terminal import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31mred", "\\x9b31mred"),  # C1: the one-character form of ESC [
        ("\x07\x08\x7f", "\\x07\\x08\\x7f"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("a\u2028b", "a\\u2028b"),
        ("\u202etxt.exe", "\\u202etxt.exe"),  # shown from right to left
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["plain", "café", "日本", "👩\u200d💻", "a\\b", "it's"])
def test_other_text_is_unchanged(text: str):
    assert printable(text) == text


def test_line_ends_of_a_message_may_be_kept():
    assert printable("a\tb\n\x1b[2J", keep="\n\t") == "a\tb\n\\x1b[2J"


@given(st.text(st.characters()))
def test_any_text_becomes_one_line_that_can_be_encoded(text: str):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()
