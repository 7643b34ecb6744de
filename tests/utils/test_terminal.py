"""What reaches the terminal cannot act on it, and other text is unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitext.utils.terminal import list_names, note, pad, printable, shorten, text_width


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


def test_a_note_goes_to_stderr_in_one_line(capsys):
    note("a\x1b[2J\nb")
    assert capsys.readouterr() == ("", "note: a\\x1b[2J\\nb\n")


# Names


@pytest.mark.parametrize(("text", "width"), [("", 0), ("abc", 3), ("日本", 4), ("ｱ", 1), ("e\u0301a", 2), ("é", 1)])
def test_wide_characters_take_two_columns_and_accents_none(text: str, width: int):
    assert text_width(text) == width
    assert text_width(pad(text, 9)) == 9
    assert pad(text, 9).rstrip(" ") == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("card", "card"),
        ("1234567890", "1234567890"),
        ("12345678901", "12345…8901"),
        ("card_payment_not_recognised", "card_…ised"),
        ("退款没有显示在账户里", "退款…户里"),
    ],
)
def test_a_long_name_loses_its_middle(text: str, shown: str):
    assert shorten(text, 10) == shown


@given(st.text(), st.integers(1, 20))
def test_a_shortened_name_fits(text: str, width: int):
    shown = shorten(text, width)
    assert text_width(shown) <= width
    assert (shown == text) == (text_width(text) <= width)


def test_few_names_are_listed_whole_and_many_are_counted():
    assert list_names(["neg", "pos"]) == "neg, pos"
    assert list_names([str(i) for i in range(10)]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert list_names([str(i) for i in range(1000)], most=3) == "0, 1, 2, … (1,000 in all)"
