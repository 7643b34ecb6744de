"""Scores and tables as text, for the terminal and for Markdown.

Inputs: numbers from `scores.json`, rows of strings. Outputs: strings.
"""

import re
from collections.abc import Mapping

from minitext.utils.terminal import pad, text_width

MARKDOWN = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "|": "&#124;"})


def format_score(score: Mapping[str, float | None], percent: bool) -> str:
    """`74.1 % [73.5, 74.6]` or `0.512 [0.505, 0.519]`; the value alone if it has no interval."""
    if score["value"] is None:
        return "none"
    factor, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    numbers = (score.get(key) for key in ("value", "low", "high"))
    value, *ends = (f"{factor * number:.{digits}f}" for number in numbers if number is not None)
    return f"{value}{unit}" + (f" [{', '.join(ends)}]" if ends else "")


def format_points(difference: Mapping[str, float]) -> str:
    """A difference between two accuracies or F1 as `+1.3 [-0.4, +3.0]`."""
    value, low, high = (f"{100 * difference[key]:+.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def format_mean(mean: float, std: float, percent: bool) -> str:
    """`84.0 % (2.4)` or `0.391 (0.021)`: mean and standard deviation over two or more seeds."""
    factor, digits, unit = (100, 1, " %") if percent else (1, 3, "")
    return f"{factor * mean:.{digits}f}{unit} ({factor * std:.{digits}f})"


def text_table(rows: list[list[str]]) -> str:
    """The rows in aligned columns, for a terminal."""
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(pad(cell, width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(rows: list[list[str]]) -> str:
    """The rows as a Markdown table; the first is its header."""
    escaped = [[escape(cell) for cell in row] for row in (rows[0], ["---"] * len(rows[0]), *rows[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def folded(title: str, content: str) -> str:
    """Markdown that a reader opens with a click on its title."""
    return f"<details><summary>{escape(title)}</summary>\n\n{content}\n\n</details>"


def escape(text: str) -> str:
    """Text as one line of Markdown that cannot hold HTML, code, links or the end of a table's cell."""
    return " ".join(text.splitlines()).translate(MARKDOWN).replace("](", "]&#40;")


def code(text: str) -> str:
    """Text as one line of code in Markdown, between more backticks than it holds."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.splitlines())}{space}{fence}"
