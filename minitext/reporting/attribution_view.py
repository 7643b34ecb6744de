"""An explanation for people: coloured words in a terminal or a page, a table of the strongest, JSON.

In: an `Attribution`. Out: strings; whatever comes from a text is escaped.
"""

import html
import json
import os
import sys
from collections.abc import Iterator

from minitext.evaluation.attribution import COMPLETE, Attribution, Word

STRONGEST = 10  # words in a table
GREEN, PINK = 28, 127  # of a terminal's 256 colours: told apart by colour-blind readers, legible on black and on white
CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def segments(explanation: Attribution) -> Iterator[tuple[str, Word | None]]:
    """The whole text in order: words, and what stands between them."""
    end = 0
    for word in explanation.words:
        yield explanation.text[end : word.start], None
        yield explanation.text[word.start : word.end], word
        end = word.end
    yield explanation.text[end:], None


def strongest(explanation: Attribution) -> float:
    """The largest absolute contribution; 1 where no word contributes."""
    return max((abs(word.contribution) for word in explanation.words), default=0.0) or 1.0


def html_words(explanation: Attribution) -> str:
    """An HTML fragment: the text, escaped, each word in a span of class `w` whose variable `--c` is its contribution as
    a share of the largest, from -1 to 1 (positive: for the target); class `w unseen` is for words that were not seen.
    """
    largest, pieces = strongest(explanation), []
    for piece, word in segments(explanation):
        piece = html.escape(piece)
        if word is None:
            pieces.append(piece)
            continue
        share = round(word.contribution / largest, 2) + 0.0  # no "-0.00"
        pieces.append(f'<span class="{"w" if word.seen else "w unseen"}" style="--c:{share:.2f}">{piece}</span>')
    return "".join(pieces)


def show(explanation: Attribution) -> str:
    """For a person: the probabilities; the text in colours on a terminal (unless NO_COLOR is set, see no-color.org),
    else its strongest words; what the numbers mean.
    """
    order = sorted(range(len(explanation.class_names)), key=lambda c: -explanation.probabilities[c])
    lines = [" · ".join(f"{explanation.class_names[c]} {explanation.probabilities[c]:.1%}" for c in order)]
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    lines += [colored_text(explanation), ""] if coloured else []
    lines += word_table(explanation)
    name = explanation.class_names[explanation.target]
    score = f"log-odds of {name}" if len(order) == 2 else f"logit of {name}, less the other classes' mean"
    lines.append(
        f"+ speaks for {name}, - against: what a word adds to the {score}. "
        f"Without the words {explanation.baseline:+.2f}, with them {explanation.total:+.2f} ({explanation.method})."
    )
    if explanation.gap >= COMPLETE:
        lines.append(f"Not to be trusted: the words add up to {explanation.gap:.1%} more or less than they should.")
    return "\n".join(lines)


def colored_text(explanation: Attribution) -> str:
    """Weak words as they are, then in colour, on colour, on colour and bold; dim: not seen."""
    largest, pieces = strongest(explanation), []
    for piece, word in segments(explanation):
        share = word.contribution / largest if word else 0.0
        colour, strength = GREEN if share > 0 else PINK, abs(share)
        styles = {0.15: f"38;5;{colour}", 0.4: f"97;48;5;{colour}", 0.75: f"1;97;48;5;{colour}"}
        style = "2" if word and not word.seen else next((styles[s] for s in sorted(styles)[::-1] if strength >= s), "")
        piece = piece.translate(CONTROLS)  # a text must not steer the terminal
        pieces.append(f"\x1b[{style}m{piece}\x1b[0m" if style else piece)
    return "".join(pieces)


def word_table(explanation: Attribution) -> list[str]:
    """The strongest words, equal ones together, and how many there are besides."""
    sums: dict[str, list[float]] = {}
    for word in explanation.words:
        if word.seen:
            sums.setdefault(explanation.text[word.start : word.end].lower(), []).append(word.contribution)
    ranked = sorted(sums.items(), key=lambda item: -abs(sum(item[1])))
    largest = abs(sum(ranked[0][1])) if ranked else 0.0
    lines = []
    for text, found in ranked[:STRONGEST]:
        bar = "█" * round(20 * abs(sum(found)) / (largest or 1.0))
        times = f" ×{len(found)}" if len(found) > 1 else ""
        lines.append(f"  {sum(found):+8.3f} {bar:<20} {text.translate(CONTROLS)}{times}")
    if len(ranked) > STRONGEST:
        rest = sum(sum(found) for _, found in ranked[STRONGEST:])
        lines.append(f"  {rest:+8.3f} {'':20} {len(ranked) - STRONGEST} other words")
    if unseen := sum(not word.seen for word in explanation.words):
        lines.append(f"  {unseen} of {len(explanation.words)} words not seen: unknown, or behind the cut")
    return lines or ["  no word in this text"]


def json_explanation(explanation: Attribution) -> str:
    """One JSON object on one line."""
    record = explanation._asdict() | {
        "class": explanation.class_names[explanation.target],
        "probabilities": dict(zip(explanation.class_names, explanation.probabilities, strict=True)),
        "words": [{"word": explanation.text[word.start : word.end]} | word._asdict() for word in explanation.words],
    }
    return json.dumps(record, ensure_ascii=False)
