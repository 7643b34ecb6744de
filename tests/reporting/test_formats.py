"""Scores are formatted with their intervals; tables are aligned, and no cell can hold markup."""

import pytest

from minitext.reporting.formats import (
    code,
    escape,
    folded,
    format_mean,
    format_points,
    format_score,
    markdown_table,
    text_table,
)


def test_an_accuracy_is_formatted_in_percent_with_its_interval():
    assert format_score({"value": 0.741, "low": 0.735, "high": 0.7464}, percent=True) == "74.1 % [73.5, 74.6]"


def test_other_scores_have_three_digits():
    assert format_score({"value": 0.5123, "low": 0.505, "high": 0.5194}, percent=False) == "0.512 [0.505, 0.519]"


def test_an_undefined_score_is_none():
    assert format_score({"value": None, "low": None, "high": None}, percent=False) == "none"


def test_a_score_without_an_interval_is_formatted_alone():
    assert format_score({"value": 1.0, "low": None, "high": None}, percent=False).startswith("1.000")


def test_a_markdown_table_has_a_line_below_its_head():
    assert markdown_table([["", "a"], ["b", "1"]]) == "|  | a |\n| --- | --- |\n| b | 1 |"


def test_a_bar_in_a_class_name_does_not_open_a_column():
    table = markdown_table([["class", "texts"], ["neg|pos", "1"]])
    assert table.splitlines()[2].count("|") == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a|b", "a&#124;b"),
        ("`rm`", "&#96;rm&#96;"),
        ("![](http://host/x.png)", "![]&#40;http://host/x.png)"),
        ("two\nlines\r\n# title", "two lines # title"),
        ("R&D \\<b>", "R&amp;D \\&lt;b&gt;"),
    ],
)
def test_names_and_notes_cannot_hold_markup(text: str, shown: str):
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("command", "shown"), [("a.py --out é", "`a.py --out é`"), ("a.py '`b``c'", "``` a.py '`b``c' ```")]
)
def test_a_command_is_code_whatever_backticks_it_holds(command: str, shown: str):
    assert code(command) == shown


def test_a_text_table_aligns_its_columns():
    assert text_table([["", "a"], ["long", "1"], ["b", "22"]]) == "      a\nlong  1\nb     22"


def test_differences_are_formatted_in_points_with_their_sign():
    assert format_points({"value": 0.005, "low": -0.01, "high": 0.02}) == "+0.5 [-1.0, +2.0]"


def test_a_text_table_aligns_wide_characters():
    assert text_table([["退款", "1"], ["abc", "2"]]) == "退款  1\nabc   2"


def test_a_mean_has_its_standard_deviation():
    assert format_mean(0.84, 0.024, percent=True) == "84.0 % (2.4)"
    assert format_mean(0.3912, 0.0209, percent=False) == "0.391 (0.021)"


def test_what_is_folded_has_an_escaped_title():
    assert folded("All <b>", "| a |") == "<details><summary>All &lt;b&gt;</summary>\n\n| a |\n\n</details>"
