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
from minitext.evaluation.predictor import TOP
from minitext.utils.terminal import printable

TABLE_WORDS = 10
GREEN, PINK = 28, 127  # of a terminal's 256 colors: distinct for color-blind readers, legible on black and on white
# the least fraction of the largest contribution: the style. Bold on a colored background, the same not bold, colored
STYLES = ((0.75, "1;97;48;5;{}"), (0.4, "97;48;5;{}"), (0.15, "38;5;{}"))


def segments(attribution: Attribution) -> Iterator[tuple[str, WordAttribution | None, float]]:
    """Yield the whole text in order: words with their contributions, relative to the largest, and what is between."""
    largest = max((abs(word.contribution) for word in attribution.words), default=0.0) or 1.0
    end = 0
    for word in attribution.words:
        yield attribution.text[end : word.start], None, 0.0
        yield attribution.text[word.start : word.end], word, word.contribution / largest
        end = word.end
    yield attribution.text[end:], None, 0.0


def html_words(attribution: Attribution) -> str:
    """Return the text as an HTML fragment with one `<span class="w">` per word, or `"w unseen"` if not seen.

    The CSS variable `--c` is the relative contribution, from -1 to 1 (positive: for the target class).
    """
    pieces = []
    for piece, word, strength in segments(attribution):
        shown = html.escape(piece)
        if word:
            kind = "w" if word.seen else "w unseen"
            shown = f'<span class="{kind}" style="--c:{round(strength, 2) + 0.0:.2f}">{shown}</span>'  # no "-0.00"
        pieces.append(shown)
    return "".join(pieces)


def format_attribution(attribution: Attribution) -> str:
    """Format an attribution for a terminal: probabilities, colored text, strongest words, and what the numbers mean.

    A terminal shows the TOP most probable classes. Colors are left out where stdout is no terminal or NO_COLOR is set
    (no-color.org).
    """
    names = [printable(name) for name in attribution.class_names]
    ranked = sorted(zip(attribution.probabilities, names, strict=True), key=lambda row: -row[0])
    top = TOP if sys.stdout.isatty() else len(ranked)
    shown = [f"{name} {probability:.1%}" for probability, name in ranked[:top]]
    if others := ranked[top:]:
        rest = sum(probability for probability, _ in others)
        shown.append(f"{len(others):,} other class{'es' if len(others) > 1 else ''} {rest:.1%}")
    lines = [" · ".join(shown)]
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
    pieces = []
    for piece, word, strength in segments(attribution):
        color = GREEN if strength > 0 else PINK
        style = next((style.format(color) for least, style in STYLES if abs(strength) >= least), "")
        if word and not word.seen:
            style = "2"  # dim
        piece = printable(piece, "\n\t")
        pieces.append(f"\x1b[{style}m{piece}\x1b[0m" if style else piece)
    return "".join(pieces)


def word_table(attribution: Attribution) -> list[str]:
    """Return lines with the strongest words, equal ones added up, and the number and sum of the others."""
    found: dict[str, list[float]] = {}
    for word in attribution.words:
        if word.seen:
            text = attribution.text[word.start : word.end].lower()
            found.setdefault(printable(text), []).append(word.contribution)
    ranked = sorted(((sum(values), len(values), text) for text, values in found.items()), key=lambda row: -abs(row[0]))
    lines = []
    for total, count, text in ranked[:TABLE_WORDS]:
        lines.append(f"  {total:+8.3f}  {text}{f' ×{count}' if count > 1 else ''}")
    if others := ranked[TABLE_WORDS:]:
        lines.append(f"  {sum(row[0] for row in others):+8.3f}  {len(others)} other words")
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
