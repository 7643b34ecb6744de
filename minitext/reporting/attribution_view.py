"""Views of an attribution: colored text for a terminal or a page, a table of the strongest words, JSON.

Inputs: an `Attribution`. Outputs: strings. Text is escaped, so that it cannot add HTML tags or control a terminal.
"""

import html
import json
import os
import sys
from collections.abc import Iterator

from minitext.evaluation.attribution import Attribution, WordAttribution
from minitext.evaluation.integrated_gradients import MAX_ERROR

TABLE_WORDS = 10
BAR_WIDTH = 20  # characters of the longest bar
GREEN, PINK = 28, 127  # of a terminal's 256 colors: distinct for color-blind readers, legible on black and on white
# the least share of the largest contribution: the style. Colored text, colored background, the same in bold
STYLES = ((0.75, "1;97;48;5;{}"), (0.4, "97;48;5;{}"), (0.15, "38;5;{}"))
DIM = "2"
CONTROL_CHARACTERS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def segments(attribution: Attribution) -> Iterator[tuple[str, WordAttribution | None]]:
    """Yield the whole text in order: words, and what is between them (with None)."""
    end = 0
    for word in attribution.words:
        yield attribution.text[end : word.start], None
        yield attribution.text[word.start : word.end], word
        end = word.end
    yield attribution.text[end:], None


def max_contribution(attribution: Attribution) -> float:
    """Return the largest absolute contribution, or 1 if no word contributes."""
    return max((abs(word.contribution) for word in attribution.words), default=0.0) or 1.0


def html_words(attribution: Attribution) -> str:
    """Return the text as an HTML fragment with one `<span class="w">` per word.

    The CSS variable `--c` of a span is its contribution divided by the largest one, from -1 to 1 (positive: for the
    target class). Words that the model does not see have the class `w unseen`.
    """
    largest, pieces = max_contribution(attribution), []
    for piece, word in segments(attribution):
        piece = html.escape(piece)
        if word is None:
            pieces.append(piece)
            continue
        strength = round(word.contribution / largest, 2) + 0.0  # no "-0.00"
        pieces.append(f'<span class="{"w" if word.seen else "w unseen"}" style="--c:{strength:.2f}">{piece}</span>')
    return "".join(pieces)


def format_attribution(attribution: Attribution) -> str:
    """Format an attribution for a terminal: probabilities, colored text, strongest words, and what the numbers mean.

    Colors are left out where stdout is no terminal or NO_COLOR is set (no-color.org).
    """
    names = attribution.class_names
    order = sorted(range(len(names)), key=lambda c: -attribution.probabilities[c])
    lines = [" · ".join(f"{names[c]} {attribution.probabilities[c]:.1%}" for c in order)]
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        lines += [colored_text(attribution), ""]
    lines += word_table(attribution)
    name = names[attribution.target]
    score = f"log-odds of {name}" if len(names) == 2 else f"logit of {name} minus the mean of the others"
    lines.append(
        f"contributions to the {score} (+ for, - against {name}); without the words "
        f"{attribution.baseline_margin:+.2f}, with them {attribution.margin:+.2f} ({attribution.method})"
    )
    if attribution.completeness_error >= MAX_ERROR:
        lines.append(f"unreliable: the contributions miss their sum by {attribution.completeness_error:.1%}")
    return "\n".join(lines)


def colored_text(attribution: Attribution) -> str:
    """Return the text with ANSI colors by sign and strength; words that the model does not see are dim."""
    largest, pieces = max_contribution(attribution), []
    for piece, word in segments(attribution):
        strength = word.contribution / largest if word else 0.0
        color = GREEN if strength > 0 else PINK
        style = next((style.format(color) for least, style in STYLES if abs(strength) >= least), "")
        if word and not word.seen:
            style = DIM
        piece = piece.translate(CONTROL_CHARACTERS)
        pieces.append(f"\x1b[{style}m{piece}\x1b[0m" if style else piece)
    return "".join(pieces)


def word_table(attribution: Attribution) -> list[str]:
    """Return lines with the strongest words, equal ones added up, and the number and sum of the others."""
    found: dict[str, list[float]] = {}
    for word in attribution.words:
        if word.seen:
            text = attribution.text[word.start : word.end].lower()
            found.setdefault(text, []).append(word.contribution)
    ranked = sorted(((sum(values), len(values), text) for text, values in found.items()), key=lambda row: -abs(row[0]))
    largest = (abs(ranked[0][0]) if ranked else 0.0) or 1.0
    lines = []
    for total, count, text in ranked[:TABLE_WORDS]:
        bar = "█" * round(BAR_WIDTH * abs(total) / largest)
        times = f" ×{count}" if count > 1 else ""
        lines.append(f"  {total:+8.3f} {bar:<{BAR_WIDTH}} {text.translate(CONTROL_CHARACTERS)}{times}")
    if others := ranked[TABLE_WORDS:]:
        lines.append(f"  {sum(row[0] for row in others):+8.3f} {'':{BAR_WIDTH}} {len(others)} other words")
    if unseen := sum(not word.seen for word in attribution.words):
        lines.append(f"  {unseen} of {len(attribution.words)} words not seen: unknown or truncated")
    return lines or ["  no words in this text"]


def json_attribution(attribution: Attribution) -> str:
    """Return one line of JSON with all fields of the attribution."""
    record = attribution._asdict() | {
        "class": attribution.class_names[attribution.target],
        "probabilities": dict(zip(attribution.class_names, attribution.probabilities, strict=True)),
        "words": [{"word": attribution.text[word.start : word.end]} | word._asdict() for word in attribution.words],
    }
    return json.dumps(record, ensure_ascii=False)
